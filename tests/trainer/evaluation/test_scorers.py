"""CLIP and DINO scores from models on the disk, never from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from tests.trainer.evaluation.test_features import disc, picture
from trainer.errors import UserError
from trainer.evaluation.scorers import find_scorers

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    clip = CLIPVisionConfig(**SMALL, intermediate_size=16, projection_dim=8)
    CLIPVisionModelWithProjection(clip).save_pretrained(tmp_path / "clip-small")
    Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(tmp_path / "dinov2-small")
    ViTModel(ViTConfig(**SMALL, intermediate_size=16)).save_pretrained(tmp_path / "dino-small")
    return tmp_path


def test_scores_of_all_kinds(models: Path) -> None:
    scorers = find_scorers(models)
    assert {name: scorer.kind for name, scorer in scorers.items()} == {
        "clip-small": "CLIP",
        "dinov2-small": "DINOv2",
        "dino-small": "DINO",
    }
    assert list(find_scorers(models / "clip-small")) == ["clip-small"]
    red, noise = disc((200, 0, 0)), picture(0, 50, 80)
    for scorer in scorers.values():
        assert scorer.likeness([red], [red]) == pytest.approx(1.0, abs=1e-5)
        assert scorer.likeness([red], [noise]) < 0.9999


def test_what_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_scorers(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model"):
        find_scorers(tmp_path / "empty")
    (models / "clip-small" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="can't be loaded"):
        find_scorers(models / "clip-small")
    (models / "dino-small" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="not a CLIP"):
        find_scorers(models / "dino-small")
