"""Masked loss in training: what lies outside a mask counts less, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import (
    digest,
    make_images,
    session_for,
    small_config,
    train_small,
)
from trainer.errors import UserError
from trainer.events import RunEvent, StepDone, Warned
from trainer.losses import sample_errors
from trainer.runs.layout import RunFolder
from trainer.runs.status import read_status
from trainer.training.resume import image_table
from trainer.training.runner import run_training


def masked_images(folder: Path) -> Path:
    """Four pictures with masks whose left half is white."""
    make_images(folder)
    for file in sorted(folder.glob("*.png")):
        with Image.open(file) as image:
            pixels = np.zeros((image.height, image.width), dtype=np.uint8)
        pixels[:, : pixels.shape[1] // 2] = 255
        Image.fromarray(pixels).save(file.with_suffix(".mask.png"))
    return folder


def test_the_mean_is_over_what_counts() -> None:
    predicted, wanted = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    wanted[:, :, :, :2] = 2.0
    wanted[:, :, :, 2:] = 10.0
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, :, :, :2] = 1.0
    masks[1] = 1.0
    assert sample_errors(predicted, wanted, masks).tolist() == [4.0, 52.0]
    assert sample_errors(predicted, wanted).tolist() == [52.0, 52.0]


@pytest.mark.parametrize("flip", [False, True])
def test_masks_of_a_batch_follow_its_flips(tiny_base: TinyBase, tmp_path: Path, flip: bool) -> None:
    images = masked_images(tmp_path / "images")
    session = session_for(
        tiny_base("sd1"),
        images,
        tmp_path / "run",
        images__masks="files",
        images__mask_outside=0.25,
        images__flip=flip,
        preservation__method="none",
    )
    flips = set()
    for step in range(8):
        drawn = session.batches.samples(step)
        for samples, batch in zip(drawn, session.batches.step(step), strict=True):
            assert batch.masks is not None
            assert batch.masks.shape == (len(samples), 1, *batch.latents.shape[2:])
            for sample, mask in zip(samples, batch.masks, strict=True):
                half = mask.shape[2] // 2
                inside = mask[0, :, half:] if sample.flip else mask[0, :, :half]
                outside = mask[0, :, :half] if sample.flip else mask[0, :, half:]
                assert (inside == 1).all()
                assert (outside == 0.25).all()
                flips.add(sample.flip)
    assert flips == ({False, True} if flip else {False})


def test_a_white_mask_changes_nothing_and_a_mask_does(tiny_base: TinyBase, tmp_path: Path) -> None:
    plain = make_images(tmp_path / "plain")
    masked = masked_images(tmp_path / "masked")
    white = make_images(tmp_path / "white")
    for file in sorted(white.glob("*.png")):
        with Image.open(file) as image:
            Image.new("L", image.size, 255).save(file.with_suffix(".mask.png"))

    def losses(images: Path, masks: str) -> list[float]:
        config = small_config(tiny_base("sd1"), images, images__masks=masks, training__steps=2)
        _, collected = train_small(config, tmp_path / f"{images.name}-{masks}-losses")
        return [event.loss for event in collected.of(StepDone)]

    unmasked = losses(plain, "none")
    assert losses(white, "files") == pytest.approx(unmasked, rel=1e-4)
    assert losses(masked, "files") != pytest.approx(unmasked, rel=1e-3)
    assert losses(masked, "none") == pytest.approx(unmasked, rel=1e-6)


def test_a_changed_mask_is_a_changed_image_set(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = masked_images(tmp_path / "images")
    config = small_config(tiny_base("sd1"), images, images__masks="files", training__steps=1)
    train_small(config, tmp_path / "run")
    with Image.open(images / "0.png") as image:
        Image.new("L", image.size, 255).save(images / "0.mask.png")
    longer = small_config(tiny_base("sd1"), images, images__masks="files", training__steps=2)
    with pytest.raises(UserError, match=r"other mask: 0\.png"):
        train_small(longer, tmp_path / "run", resume=True)


def test_a_picture_whose_mask_is_black_is_left_out(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = masked_images(tmp_path / "images")
    with Image.open(images / "0.png") as image:
        Image.new("L", image.size, 0).save(images / "0.mask.png")
    config = small_config(tiny_base("sd1"), images, images__masks="files", training__steps=1)
    _, collected = train_small(config, tmp_path / "run")
    assert any("black all over" in event.message for event in collected.of(Warned))


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_mask_that_goes_during_a_run_ends_it_whole(
    tiny_base: TinyBase, tmp_path: Path, damage: str
) -> None:
    """What was learned is saved, the file is named, and the run goes on when it is back."""
    images = masked_images(tmp_path / "images")
    options = {"images__masks": "files", "training__steps": 3, "training__batch_size": 1}
    config = small_config(tiny_base("sd1"), images, preservation__method="none", **options)
    train_small(config, tmp_path / "whole")
    kept = {path: path.read_bytes() for path in images.glob("*.mask.png")}

    def spoil(event: RunEvent) -> None:
        for path in kept if isinstance(event, StepDone) and event.step == 1 else ():
            path.unlink() if damage == "removed" else path.write_bytes(b"x")

    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"\d\.mask\.png: ") as caught:
        run_training(config, run, spoil)
    assert caught.value.code == "images_changed"
    assert run.checkpoint_steps() == [1]
    status = read_status(run)
    assert status and status.code == "images_changed"
    for path, data in kept.items():
        path.write_bytes(data)
    train_small(config, run.path, resume=True)
    assert digest(run.adapter) == digest(RunFolder(tmp_path / "whole").adapter)


def test_equal_pictures_keep_their_own_masks(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", count=1)
    (images / "same.png").write_bytes((images / "0.png").read_bytes())
    Image.new("L", (32, 32), 255).save(images / "0.mask.png")
    Image.new("L", (32, 32), 51).save(images / "same.mask.png")
    options = {"images__masks": "files", "images__mask_outside": 0.5}
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", **options)
    masks = session.batches.masks
    weights = {
        picture.entry.name: masks.weights([picture], [False]) for picture in session.pictures
    }
    assert {name: mask is not None and mask.max().item() for name, mask in weights.items()} == {
        "0.png": 1.0,
        "same.png": pytest.approx(0.6),
    }
    before = image_table(session.pictures)
    Image.new("L", (32, 32), 60).save(images / "0.mask.png")
    again = session_for(tiny_base("sd1"), images, tmp_path / "run", **options)
    assert before != image_table(again.pictures)
