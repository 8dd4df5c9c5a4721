"""Drawn pictures compared: the simple feature space, and models that lie on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from trainer.errors import UserError
from trainer.evaluation.pictorial import (
    Pixels,
    features,
    find_scorers,
    likeness_in_pairs,
    likeness_of,
)


def picture(seed: int, width: int = 64, height: int = 64) -> Pixels:
    source = np.random.default_rng(seed)
    return source.integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(colour: tuple[int, int, int], left: int = 20, side: int = 64) -> Pixels:
    pixels = np.full((side, side, 3), 255, dtype=np.uint8)
    pixels[20 * side // 64 : 44 * side // 64, left * side // 64 : (left + 24) * side // 64] = colour
    return pixels


@pytest.mark.parametrize("pixels", [picture(0), picture(1, 100, 37), disc((200, 0, 0))])
def test_equal_pictures_are_alike(pixels: Pixels) -> None:
    assert likeness_of(pixels, pixels) == pytest.approx(1.0)
    assert [vector.shape for vector in features(pixels)] == [(64,), (192,), (128,)]


def test_colour_place_and_size() -> None:
    red, blue = disc((200, 0, 0)), disc((0, 0, 200))
    moved, larger = disc((200, 0, 0), left=36), disc((200, 0, 0), side=128)
    assert likeness_of(red, larger) > 0.97  # resolution does not matter
    assert likeness_of(red, moved) < 0.9
    assert likeness_of(red, blue) < likeness_of(red, disc((190, 10, 10))) <= 1.0 + 1e-9
    colours, layout, _ = (a @ b for a, b in zip(features(red), features(moved), strict=True))
    assert colours == pytest.approx(1.0)
    assert layout < 0.9


def test_flat_pictures_have_no_outlines() -> None:
    flat = np.full((8, 8, 3), 90, dtype=np.uint8)
    assert [float(np.linalg.norm(vector)) for vector in features(flat)] == [pytest.approx(1), 0, 0]


def test_pairs() -> None:
    one, other = picture(0), picture(1)
    assert likeness_in_pairs([one, other], [one, other]) == pytest.approx(1.0)
    assert likeness_in_pairs([one, other], [other, one]) < 0.9
    for drawn, pictures in (([], []), ([one], [])):
        with pytest.raises(ValueError, match="nothing"):
            likeness_in_pairs(drawn, pictures)


SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"image_size": 28, "patch_size": 14}
KINDS = {"clip-small": "CLIP", "dinov2-small": "DINOv2", "dino-small": "DINO"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    clip = CLIPVisionConfig(**SMALL, intermediate_size=16, projection_dim=8)
    CLIPVisionModelWithProjection(clip).save_pretrained(tmp_path / "clip-small")
    Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(tmp_path / "dinov2-small")
    ViTModel(ViTConfig(**SMALL, intermediate_size=16)).save_pretrained(tmp_path / "dino-small")
    return tmp_path


def test_scores_of_all_kinds(models: Path) -> None:
    scorers = find_scorers(models)
    assert {name: scorer.kind for name, scorer in scorers.items()} == KINDS
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
