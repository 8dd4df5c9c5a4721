"""Caches that are damaged or out of date are never trained on (FAULTS 33)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import (
    digest,
    make_images,
    session_for,
    small_config,
    train_small,
)
from trainer.events import Warned
from trainer.runs.atomic import temporary_name


def changed_base(base: Path) -> Path:
    """Its VAE encodes a little differently."""
    path = base / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["encoder.conv_in.bias"] = tensors["encoder.conv_in.bias"] + np.float32(0.01)
    save_file(tensors, path)
    return base


def test_damage_is_computed_again_and_said(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path / "cache"))
    images = make_images(tmp_path / "images", count=2)
    config = small_config(tiny_base("sd1"), images, training__steps=2, adapter__text_encoder=False)
    first, _ = train_small(config, tmp_path / "first")
    entries = sorted((tmp_path / "cache").rglob("*.bin"))
    assert len(entries) > 4  # latents, text embeddings, what preservation remembers
    whole = [path.read_bytes() for path in entries]
    for number, path in enumerate(entries):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1  # one bit
        path.write_bytes(data if number % 2 else data[:-1])
    orphan = temporary_name(entries[0])
    orphan.write_bytes(b"half")
    os.utime(orphan, (0, 0))  # left by a kill, long ago
    second, collected = train_small(config, tmp_path / "second")
    assert not orphan.exists()
    said = [event for event in collected.of(Warned) if "damaged" in event.message]
    assert len(said) == len(entries)
    assert digest(first.run.adapter) == digest(second.run.adapter)
    assert [path.read_bytes() for path in entries] == whole


def test_what_changes_latents_changes_their_key(tiny_base: TinyBase, tmp_path: Path) -> None:
    """An edited picture, another VAE, resolution, direction or colour under transparency."""
    images = make_images(tmp_path / "images", count=1)
    keys: list[str] = []

    def note(base: Path | None = None, flip: bool = False, **changes: Any) -> None:
        changes["preservation__method"] = "none"
        session = session_for(
            base or tiny_base("sd1"), images, tmp_path / f"run-{len(keys)}", **changes
        )
        keys.append(session.batches.source._key(session.pictures[0], flip))

    note()
    note()
    assert keys[0] == keys[1]
    note(flip=True)
    note(images__resolution=48, images__upscale=True)
    note(images__background="#000000")
    note(changed_base(Path(shutil.copytree(tiny_base("sd1"), tmp_path / "base"))))
    pixels = np.asarray(Image.open(images / "0.png")).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(images / "0.png")
    note()
    assert len(set(keys)) == len(keys) - 1
