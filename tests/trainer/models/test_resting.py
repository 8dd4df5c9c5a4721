"""Parts that let their weights go, and read them again: the same, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import TinyBase
from tests.tiny_models import TinyName
from tests.trainer.models.conftest import CopyOf
from tests.trainer.models.original_layout import write_original
from tests.trainer.runs_for_tests import assert_offload_changes_nothing
from trainer.config.schema import AdapterConfig
from trainer.errors import UserError
from trainer.lora.attach import attach
from trainer.memory.devices import choose_device
from trainer.memory.quantized import quantize_base
from trainer.models import resting
from trainer.models.load import BaseModel, load_base
from trainer.models.resting import is_resting, rest, wake


@pytest.fixture(autouse=True)
def worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny parts too."""
    monkeypatch.setattr(resting, "WORTH_BYTES", 0)


def tensors(base: BaseModel) -> dict[str, Tensor]:
    """Every parameter and buffer, copied."""
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in base.modules().items()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def changed(base: BaseModel, bits: str) -> BaseModel:
    """Rounded as a run may keep it, and with an adapter."""
    quantize_base(base, bits, torch.device("cpu"))  # type: ignore[arg-type]
    attach(base, AdapterConfig(rank=2), seed=0)
    return base


@pytest.mark.parametrize("bits", ["full", "half", "8bit"])
@pytest.mark.parametrize(("name", "in_one_file"), [("sd1", False), ("sdxl", False), ("sd1", True)])
def test_weights_come_back(
    name: TinyName,
    in_one_file: bool,
    bits: str,
    tiny_base: TinyBase,
    tiny_configs: Path,
    tmp_path: Path,
) -> None:
    place = tiny_base(name)
    if in_one_file:
        place = write_original(place, tmp_path / "model.safetensors")
    base = changed(load_base(str(place)), bits)
    before = tensors(base)
    for module in base.modules().values():
        rest(module)
        assert is_resting(module)
        left = [name for name, tensor in module.named_parameters() if not tensor.is_meta]
        assert all(".lora_" in name for name in left)
    assert any(".lora_" in name for name, _ in base.unet.named_parameters())
    for module in base.modules().values():
        wake(module)
    after = tensors(base)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    trained = [name for name, value in base.unet.named_parameters() if value.requires_grad]
    assert trained and all(".lora_" in name for name in trained)


def test_small_parts_and_those_of_no_file_stay(
    tiny_base: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny_base("sd1")))
    monkeypatch.setattr(resting, "WORTH_BYTES", 2**20)
    alone = torch.nn.Linear(1024, 1024)
    for module in (base.vae, alone):
        rest(module)
        assert not is_resting(module)


@pytest.mark.parametrize("change", ["other weights", "gone"])
def test_other_weights_are_refused(change: str, copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    base = load_base(str(folder))
    rest(base.vae)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    if change == "other weights":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"has changed, or is gone|has no weights"):
        wake(base.vae)


def test_a_run_is_the_same(tiny_base: TinyBase, tmp_path: Path) -> None:
    """With previews, which need what rests."""
    assert_offload_changes_nothing(
        tiny_base("sd1"),
        tmp_path,
        adapter__text_encoder=False,
        training__steps=1,
        previews__every=1,
    )


def test_what_waits_on_a_cpu(tiny_base: TinyBase) -> None:
    base, device = load_base(str(tiny_base("sd1"))), choose_device("fp32", offload=True)
    device.put_away(base.vae, *base.text_encoders)
    with device.instead([base.vae], [base.unet]):
        assert is_resting(base.unet) and not is_resting(base.vae)
    assert is_resting(base.vae) and not is_resting(base.unet)
    with device.reading(base):
        assert not is_resting(base.text_encoders[0]) and not is_resting(base.unet)
    assert is_resting(base.text_encoders[0])
    device.put(base.vae)
    assert not is_resting(base.vae)
    stays = choose_device("fp32")
    stays.put_away(base.vae)
    assert not is_resting(base.vae)
