"""Filling the cache of latents: each picture once, in order, and nothing that is there already."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config
from trainer.data.cache import TensorCache
from trainer.data.gather import read_sets, split_pictures
from trainer.data.images import load_rgb
from trainer.data.latents import LatentSource, encode_pixels
from trainer.data.masks import fit
from trainer.errors import UserError
from trainer.models.load import load_base


def test_fill(tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path / "cache"))
    folder = make_images(tmp_path / "pictures", count=9)
    shutil.copy(folder / "0.png", folder / "same.png")
    base = load_base(str(tiny_base("sd1")))
    config = small_config(tiny_base("sd1"), folder, evaluation__validation=0.0)
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, what: str) -> None:
        told.append((done, total))

    sets = read_sets(config, base.resolution_step, progress=progress)
    pictures, _ = split_pictures(config, sets)
    assert told == [(done, 10) for done in range(1, 11)]

    source = LatentSource(base, TensorCache(tmp_path / "cache", print), "#ffffff")
    told.clear()
    assert source.fill(pictures, (False, True), progress) == 18
    # The copy has the latents of its original, which count as done from the start.
    assert told == [(done, 20) for done in range(2, 21)]
    told.clear()
    assert source.fill(pictures, (False, True), progress) == 0
    assert told == [(20, 20)]

    for picture in (pictures[2], pictures[7]):
        pixels = fit(load_rgb(picture.entry.read(), "#ffffff"), picture.crop, True)
        assert torch.equal(source.latents(picture, True), encode_pixels(base, pixels))

    shutil.rmtree(tmp_path / "cache")
    (folder / "5.png").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"5\.png has been changed"):
        source.fill(pictures, (False,), lambda *_: None)
