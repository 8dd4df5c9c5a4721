"""Configurations of a model folder that would fill the memory, take hours or draw black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.models.conftest import CopyOf, edit
from trainer.errors import UserError
from trainer.models.identify import identify
from trainer.models.load import load_base
from trainer.models.noise import read_schedule

UNET, TEXT, VAE = "unet/config.json", "text_encoder/config.json", "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"

UNFIT: dict[str, tuple[str, dict[str, Any]]] = {
    "a million layers": (UNET, {"layers_per_block": 10**6}),
    "a million layers in a list": (UNET, {"transformer_layers_per_block": [1, 10**6]}),
    "a million layers of text": (TEXT, {"num_hidden_layers": 10**6}),
    "a million blocks": (UNET, {"block_out_channels": [32] * 10**6}),
    "wide": (UNET, {"block_out_channels": [10**9, 10**9]}),
    "wide VAE": (VAE, {"latent_channels": 10**9}),
    "endless text": (TEXT, {"max_position_embeddings": 10**11}),
    "huge pictures": (UNET, {"sample_size": 10**9}),
    "far below zero": (UNET, {"cross_attention_dim": -(10**12)}),
    "NaN": (TEXT, {"layer_norm_eps": float("nan")}),
    "deep inside": (UNET, {"x": {"y": [{"z": 10**30}]}}),
    "factor in words": (VAE, {"scaling_factor": "0.18"}),
    "factor 0": (VAE, {"scaling_factor": 0}),
    "timesteps": (SCHEDULER, {"num_train_timesteps": 10**12}),
    "timesteps in words": (SCHEDULER, {"num_train_timesteps": "1000"}),
    "no noise": (SCHEDULER, {"beta_start": float("nan")}),
    "more than noise": (SCHEDULER, {"beta_end": 1.5}),
    "unknown schedule": (SCHEDULER, {"beta_schedule": "evil"}),
    "two betas": (SCHEDULER, {"trained_betas": [0.1, 0.2]}),
}


@pytest.mark.parametrize("case", UNFIT)
def test_the_field_is_named_before_anything_is_built(copy_of: CopyOf, case: str) -> None:
    file, changes = UNFIT[case]
    folder = copy_of("sd1")
    edit(folder / file, **changes)
    with pytest.raises(UserError) as caught:
        identify(str(folder))
    assert str(folder / file) in caught.value.message
    assert "can't be right" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_tokenizer_without_a_length_is_refused(copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length="x")
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        load_base(str(folder))


def test_what_schedulers_leave_out_or_empty_is_well() -> None:
    read_schedule(Path("x"), {})
    read_schedule(Path("x"), {"trained_betas": None, "beta_schedule": None})
    read_schedule(Path("x"), {"num_train_timesteps": 2, "trained_betas": [0.1, 0.2]})
