"""The live modules, and the pipelines and schedulers made over them."""

from __future__ import annotations

import json
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES, TinyName
from tests.trainer.models.conftest import CopyOf, edit
from trainer.diffusion import encode
from trainer.errors import UserError
from trainer.generation.sampling import Drawing, draw
from trainer.lora.layers import find_targets
from trainer.memory.devices import choose_device
from trainer.models.load import load_base


@pytest.mark.parametrize("name", TINY_NAMES)
def test_pipeline_shares_the_modules_and_changes_nothing(
    name: TinyName, tiny_base: TinyBase
) -> None:
    base = load_base(str(tiny_base(name)), dtype=torch.bfloat16)

    def places() -> dict[tuple[str, str], tuple[Any, ...]]:
        return {
            (part, key): (value.data_ptr(), value.dtype, value.device)
            for part, module in base.modules().items()
            for key, value in module.state_dict().items()
        }

    before = places()
    pipeline: Any = base.pipeline()
    for part, module in base.modules().items():
        assert getattr(pipeline, part) is module
    latents = pipeline(
        "a dog", height=32, width=32, num_inference_steps=2, output_type="latent"
    ).images
    assert latents.shape == (1, 4, 16, 16)
    assert before == places()
    assert getattr(pipeline, "safety_checker", None) is None


@pytest.mark.parametrize(
    ("name", "prediction"), [("sd1", "epsilon"), ("sd2", "epsilon"), ("sd2-v", "v_prediction")]
)
def test_noise_schedule_is_stable_diffusions(
    name: str, prediction: str, tiny_base: TinyBase
) -> None:
    base = load_base(str(tiny_base(name)))
    scheduler = base.noise_scheduler()
    assert scheduler is not base.noise_scheduler()
    assert scheduler.config["prediction_type"] == prediction
    assert scheduler.config["num_train_timesteps"] == 1000
    # Scaled linear (arXiv 2112.10752): beta_t = (sqrt(a) + t (sqrt(b) - sqrt(a)))^2.
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    expected = torch.cumprod(1 - roots.square(), dim=0)
    assert torch.allclose(scheduler.alphas_cumprod.double(), expected, rtol=1e-4)
    drawing: Any = base.pipeline().scheduler.config
    assert drawing["prediction_type"] == prediction
    assert drawing["timestep_spacing"] == "leading" and drawing["clip_sample"] is False


SCHEDULERS: dict[str, dict[str, Any]] = {
    "cosine": {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"},
    "linear": {"_class_name": "PNDMScheduler", "beta_schedule": "linear", "beta_end": 0.02},
    "half as long": {"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 500},
    "trained betas": {"_class_name": "UniPCMultistepScheduler"}
    | {"num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.4]},
    "what Heun has by default": {"_class_name": "HeunDiscreteScheduler"}
    | {"beta_start": None, "beta_end": None},
    "ends in noise": {"_class_name": "DDIMScheduler"}
    | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_noise_schedules_are_those_that_diffusers_makes(case: str, copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    place = folder / "scheduler" / "scheduler_config.json"
    edit(place, **SCHEDULERS[case])
    config = json.loads(place.read_text())
    wanted = getattr(diffusers, config["_class_name"]).from_config(config).alphas_cumprod
    base = load_base(str(folder))
    torch.testing.assert_close(base.noise_scheduler().alphas_cumprod, wanted)
    torch.testing.assert_close(base.sampling_scheduler().alphas_cumprod, wanted)


def test_latents_are_scaled_by_the_vaes_statistics_as_sdxl_pipelines_do(copy_of: CopyOf) -> None:
    folder = copy_of("sdxl")
    means = {"latents_mean": [-1.5, 0.5, 2.0, 0.0], "latents_std": [2.0, 0.5, 1.0, 3.0]}
    edit(folder / "vae" / "config.json", **means)
    base = load_base(str(folder))
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn((1, 4, 16, 16), generator=generator)
    torch.testing.assert_close(base.unscaled(base.scaled(latents)), latents)
    pipeline: Any = base.pipeline()
    drawn = pipeline(
        "a dog", height=32, width=32, num_inference_steps=2, guidance_scale=1.0, latents=latents
    ).images[0]
    ours = draw(base, [Drawing("a dog", "", 3, 32, 32, 2, 1.0)], choose_device("fp32"))[0]
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(ours)).max() <= 1


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_reads_an_earlier_layer(clip_skip: int, tiny_base: TinyBase) -> None:
    """As if the text encoder had fewer layers: the final norm still follows."""
    base = load_base(str(tiny_base("sd1")), clip_skip=clip_skip)
    shorter: Any = load_base(str(tiny_base("sd1")))
    layers = shorter.text_encoders[0].encoder.layers
    shorter.text_encoders[0].encoder.layers = layers[: len(layers) - clip_skip + 1]
    expected = encode(shorter, ["a dog"], "cpu").hidden
    torch.testing.assert_close(encode(base, ["a dog"], "cpu").hidden, expected)
    plain = load_base(str(tiny_base("sd1")))
    assert (plain.fingerprint == base.fingerprint) == (clip_skip == 1)
    unread = set(find_targets(plain)) - set(find_targets(base))
    assert all(key.path.startswith("text_model.encoder.layers.1.") for key in unread)
    assert len(unread) == (0 if clip_skip == 1 else 4)


@pytest.mark.parametrize(("name", "clip_skip"), [("sdxl", 2), ("sd1", 3)])
def test_clip_skip_is_refused_where_it_means_nothing(
    name: str, clip_skip: int, tiny_base: TinyBase
) -> None:
    with pytest.raises(UserError, match=f"clip_skip is {clip_skip}, .* {clip_skip - 1} at most"):
        load_base(str(tiny_base(name)), clip_skip=clip_skip)
