"""The VAE in tiles: nearly the same, with less memory, and never mixed up with the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainer.config.file import with_values
from trainer.config.resolve import wants_tiles
from trainer.config.schema import TrainingConfig
from trainer.data.buckets import plan_crop
from trainer.data.cache import TensorCache
from trainer.data.latents import LatentSource, encode_pixels
from trainer.data.sets import Picture, scan_image_set
from trainer.generation.sampling import _decode_all
from trainer.memory.tracking import StorageTracker
from trainer.models import base as models
from trainer.models.base import BaseModel
from trainer.models.load import load_base
from trainer.places import DATASETS


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setattr(models, "TILE", 64)
    return load_base("tiny-emoji")


def picture(side: int) -> np.ndarray:
    """(side, side, 3) uint8."""
    file = next((DATASETS / "police-car").glob("*.png"))
    return np.array(Image.open(file).convert("RGB").resize((side, side)))


def both_ways(base: BaseModel, pixels: np.ndarray) -> list[tuple[Tensor, np.ndarray, int]]:
    """Whole, then in tiles: latents, the picture decoded from the whole's latents, most bytes."""
    found: list[tuple[Tensor, np.ndarray, int]] = []
    for base.tiling in (False, True):
        with StorageTracker() as tracker, torch.no_grad():
            latents = encode_pixels(base, pixels)
            whole = found[0][0] if found else latents
            drawn = _decode_all(base, whole[None])[0]
        found.append((latents, np.asarray(drawn).astype(float), tracker.peak))
    return found


def test_tiles_are_near_the_whole_and_need_less(base: BaseModel) -> None:
    (latents, drawn, peak), (tiled, drawn_tiled, tiled_peak) = both_ways(base, picture(128))
    assert (tiled - latents).norm() < 0.06 * latents.norm()
    assert not torch.equal(tiled, latents)
    assert np.sqrt(np.square(drawn_tiled - drawn).mean()) < 4  # of 255
    assert tiled_peak < 0.4 * peak
    assert not base.vae.use_tiling  # nothing stays switched on


def test_pictures_of_a_tile_and_less_are_never_cut(base: BaseModel) -> None:
    (latents, drawn, _), (tiled, drawn_tiled, _) = both_ways(base, picture(64))
    assert torch.equal(tiled, latents) and np.array_equal(drawn_tiled, drawn)
    assert not base.is_cut(128, 32) and base.is_cut(72, 64)
    base.tiling = False
    assert not base.is_cut(4096, 4096)


def test_the_cache_tells_them_apart(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(picture(128)).save(tmp_path / "images" / "a.png")
    entry = scan_image_set(tmp_path / "images").entries[0]
    large, small = (
        Picture(entry, plan_crop(128, 128, side, 32, False, False)) for side in (128, 64)
    )
    source = LatentSource(base, TensorCache(tmp_path / "cache", print), "#ffffff")
    assert source.fill([large, small], (False,), lambda *_: None) == 2
    base.tiling = True
    assert source.fill([large, small], (False,), lambda *_: None) == 1


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, False),
        ({"images.resolution": 1280}, True),
        ({"memory.base_weights": "8bit"}, True),
        ({"memory.base_weights": "8bit", "memory.vae_tiling": "off"}, False),
        ({"memory.vae_tiling": "on"}, True),
    ],
)
def test_what_is_chosen_where_nothing_is_said(values: dict[str, object], wanted: bool) -> None:
    config = with_values(TrainingConfig(), values)
    assert wants_tiles(config, config.images.resolution or 512) is wanted
