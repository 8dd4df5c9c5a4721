"""The live modules, and the pipelines and schedulers made over them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES, TinyName
from trainer.models.load import load_base


@pytest.mark.parametrize("name", TINY_NAMES)
def test_pipeline_shares_the_modules_and_changes_nothing(
    name: TinyName, tiny_base: TinyBase
) -> None:
    base = load_base(str(tiny_base(name)), dtype=torch.bfloat16)
    before = {
        (part, key): (value.data_ptr(), value.dtype, value.device)
        for part, module in base.modules().items()
        for key, value in module.state_dict().items()
    }
    pipeline: Any = base.pipeline()
    for part, module in base.modules().items():
        assert getattr(pipeline, part) is module
    latents = pipeline(
        "a dog", height=32, width=32, num_inference_steps=2, output_type="latent"
    ).images
    assert latents.shape == (1, 4, 16, 16)
    assert before == {
        (part, key): (value.data_ptr(), value.dtype, value.device)
        for part, module in base.modules().items()
        for key, value in module.state_dict().items()
    }
    assert getattr(pipeline, "safety_checker", None) is None


@pytest.mark.parametrize(("name", "prediction"), [("sd1", "epsilon"), ("sd2-v", "v_prediction")])
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


def test_pipelines_scheduler_follows_the_models_prediction(tiny_base: TinyBase) -> None:
    for name, prediction in (("sd2", "epsilon"), ("sd2-v", "v_prediction")):
        config: Any = load_base(str(tiny_base(name))).pipeline().scheduler.config
        assert config["prediction_type"] == prediction
        assert config["timestep_spacing"] == "leading"
        assert config["clip_sample"] is False
