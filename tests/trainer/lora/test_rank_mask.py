"""T-LoRA: how much of the rank trains at a timestep, in every way in which layers are computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import TinyBase
from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import adapter_config, nudge, random_tensor
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.config.effects import idle_settings
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.diffusion import Points, TextConditioning, call_unet
from trainer.lora.attach import Attachment, attach
from trainer.lora.rank_mask import active_rank
from trainer.lora.reading import read_adapter
from trainer.memory.modes import set_mode
from trainer.models.base import BaseModel

RANK = 4
MODES = [("plain", False), ("lean", False), ("lean", True)]


@pytest.mark.parametrize(
    ("timestep", "rank", "least", "expected"),
    [
        (0, 16, 1, 16), (1, 16, 1, 15), (500, 16, 1, 8), (999, 16, 1, 1), (999, 16, 8, 8),
        (0, 4, 9, 4), (999, 4, 9, 4), (250, 1, 1, 1),
    ],
)  # fmt: skip
def test_the_rank_at_a_timestep(timestep: int, rank: int, least: int, expected: int) -> None:
    """⌊(r - r_min) (T - t) / T⌋ + r_min, and all of a rank that is not above r_min."""
    assert active_rank(torch.tensor([timestep]), rank, least, 1000).tolist() == [expected]


def adapted(base: BaseModel, **values: object) -> Attachment:
    config = adapter_config(
        rank=RANK, t_lora_min_rank=1, targets="convolution", text_encoder=False, **values
    )
    attachment = attach(base, config, seed=0)
    nudge(base)
    base.unet.train()
    return attachment


def predicted(base: BaseModel, *timesteps: int) -> Tensor:
    """For one and the same picture at each timestep."""
    count = len(timesteps)
    points = Points(
        ("",) * count, random_tensor(3, 1, 4, 8, 8).repeat(count, 1, 1, 1),
        torch.tensor(timesteps), (((32, 32), (0, 0), (32, 32)),) * count,
    )  # fmt: skip
    width = int(base.unet.config["cross_attention_dim"])
    text = TextConditioning(random_tensor(2, 1, 7, width).repeat(count, 1, 1), None)
    return call_unet(base, points, text)


@pytest.mark.parametrize(("mode", "checkpointing"), MODES)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_is_masked_gets_no_gradient(
    base_of: BaseOf, mode: str, checkpointing: bool, dropout: float
) -> None:
    base = base_of("sd1")
    attachment = adapted(base, dropout=dropout)
    set_mode(base, mode, checkpointing, trains_text=False)  # type: ignore[arg-type]
    for timestep, trained in ((999, 1), (0, RANK)):
        predicted(base, timestep).square().sum().backward()
        for name, parameter in attachment.parameters["unet"]:
            gradient = parameter.grad
            assert gradient is not None
            by_direction = gradient if name.endswith("lora_A") else gradient.transpose(0, 1)
            reached = [bool(one.any()) for one in by_direction]
            assert reached == [True] * trained + [False] * (RANK - trained), name
            parameter.grad = None


@pytest.mark.parametrize("mode", ["plain", "lean"])
def test_each_row_has_its_timestep_and_what_is_drawn_the_whole_rank(
    base_of: BaseOf, mode: str
) -> None:
    base = base_of("sd1")
    attachment = adapted(base)
    set_mode(base, mode, False, trains_text=False)  # type: ignore[arg-type]
    with torch.no_grad():
        together = predicted(base, 999, 400, 0)
        apart = torch.cat([predicted(base, timestep) for timestep in (999, 400, 0)])
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
        base.unet.eval()
        whole = predicted(base, 999)
        base.unet.train()
        assert (whole - together[:1]).norm() > 0.01 * whole.norm()
        for name, parameter in attachment.parameters["unet"]:  # as if masked
            (parameter if name.endswith("lora_A") else parameter.transpose(0, 1))[1:] = 0
        base.unet.eval()
        torch.testing.assert_close(predicted(base, 999), together[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_passes_that_are_computed_again_know_their_timesteps(
    tiny_base: TinyBase, tmp_path: Path
) -> None:
    """Pictures and rows to preserve of two sizes are two calls of the UNet."""
    images = make_images(tmp_path / "images")
    results = []
    for checkpointing in (False, True):
        config = small_config(
            tiny_base("sd1"), images, adapter__t_lora_min_rank=1, adapter__rank=8,
            training__steps=3, training__gradient_checkpointing=checkpointing,
            images__resolutions=[32, 64], images__upscale=True, preservation__every=1,
        )  # fmt: skip
        train_small(config, tmp_path / f"run-{checkpointing}")
        results.append(read_adapter(tmp_path / f"run-{checkpointing}" / "adapter.safetensors"))
    plain, again = results
    for key, layer in plain.layers.items():
        torch.testing.assert_close(layer.up, again.layers[key].up, atol=1e-5, rtol=1e-3)


def test_no_lower_rank_is_named() -> None:
    values = {"adapter.rank": 8, "adapter.t_lora_min_rank": 8}
    (idle,) = idle_settings(with_values(TrainingConfig(), values))
    assert str(idle).startswith("adapter.t_lora_min_rank: 8 has no effect, since adapter.rank is 8")
