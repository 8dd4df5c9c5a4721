"""Thumbnails: our own pixels only, and what training cuts off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.tabs.images import thumbnails
from app.tabs.images.setview import PictureView, look_at
from app.tabs.images.thumbnails import SIDE, box_of, show_crop
from tests.app.sets_for_tests import stored
from tests.corpus.pictures import encode, pattern, quarters
from trainer.data.buckets import CropPlan, plan_crop
from trainer.data.masks import MaskFile, fit


def thumbnail(
    folder: Path,
    read: Callable[[], bytes],
    content: str | None = "id",
    crop: CropPlan | None = None,
    mask: MaskFile | None = None,
) -> Path:
    """That of a picture whose file has some content; None: nothing that can be read."""
    entry: Any = SimpleNamespace(id=content, mask=mask, background=lambda colour: colour)
    picture = PictureView("a", "", entry if content else None, crop, (), read)
    return thumbnails.thumbnail(folder, picture)


def test_nothing_of_the_metadata_is_left(tmp_path: Path) -> None:
    source = pattern(800, 600)
    exif = source.getexif()
    exif[0x010E] = "taken at home"  # ImageDescription
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(source, "JPEG", exif=exif.tobytes(), comment=b"secret"))
    made = thumbnail(tmp_path, path.read_bytes)
    data = made.read_bytes()
    assert b"taken at home" not in data and b"secret" not in data
    with Image.open(made) as small:
        assert small.size == (SIDE, SIDE * 600 // 800) and not small.getexif()


def test_upright(tmp_path: Path) -> None:
    source = quarters(400, 200)
    exif = source.getexif()
    exif[0x0112] = 6  # turned a quarter: red, at the top left, comes to the top right
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(source, "JPEG", exif=exif.tobytes(), quality=95))
    made = thumbnail(tmp_path, path.read_bytes)
    with Image.open(made) as small:
        assert small.width < small.height
        red, green, blue = small.convert("RGB").getpixel((small.width - 9, 9))  # type: ignore[misc]
        assert red > 200 and green < 60 and blue < 60


def test_made_once(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(pattern(), "PNG"))
    first = thumbnail(tmp_path, path.read_bytes)
    path.unlink()
    assert thumbnail(tmp_path, path.read_bytes) == first
    crop = plan_crop(96, 64, 64, 32, buckets=False, upscale=False)
    assert thumbnail(tmp_path, bytes, "id", crop) != first


@pytest.mark.parametrize("data", [b"", b"no picture", encode(pattern(), "PNG")[:80]])
def test_what_cannot_be_opened_gets_a_blank(data: bytes, tmp_path: Path) -> None:
    made = thumbnail(tmp_path, lambda: data)
    blank = thumbnail(tmp_path, lambda: data, None)
    assert made.read_bytes() == blank.read_bytes()


@pytest.mark.parametrize(("width", "height"), [(300, 100), (100, 300), (640, 480), (512, 512)])
def test_the_box_is_what_training_sees(width: int, height: int) -> None:
    """Cutting the box out of the picture gives what `fit` gives, but for the resizing."""
    picture = pattern(width, height)
    crop = plan_crop(width, height, 64, 32, buckets=True, upscale=True)
    kept = picture.crop(box_of(crop, width, height)).resize((crop.width, crop.height))
    difference = np.abs(np.asarray(kept, float) - np.asarray(fit(picture, crop, flip=False), float))
    assert difference.mean() < 6


def test_what_is_cut_off_is_pale() -> None:
    picture = Image.new("RGB", (300, 100), (20, 20, 20))
    crop = plan_crop(300, 100, 64, 32, buckets=False, upscale=True)
    shown = show_crop(picture, crop)
    left, _, right, _ = box_of(crop, 300, 100)
    assert (left, right) == (100, 200)
    assert min(np.asarray(shown)[50, 50]) > 150
    assert shown.getpixel((150, 50)) == (20, 20, 20)
    whole = plan_crop(100, 100, 64, 32, buckets=True, upscale=True)
    square = Image.new("RGB", (100, 100))
    assert show_crop(square, whole) is square


def test_what_a_mask_leaves_out_is_dark(tmp_path: Path) -> None:
    inside = np.zeros((60, 80), dtype=np.uint8)
    inside[:, :40] = 255
    path = tmp_path / "a.mask.png"
    path.write_bytes(encode(Image.fromarray(inside), "PNG"))
    mask = MaskFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), "a.mask.png")
    white = encode(Image.new("RGB", (800, 600), "white"), "PNG")
    plain = thumbnail(tmp_path, lambda: white)
    masked = thumbnail(tmp_path, lambda: white, mask=mask)
    assert plain != masked
    with Image.open(masked) as small:
        pixels = np.asarray(small.convert("L"))
    assert pixels[:, : SIDE // 2 - 9].min() > 240
    assert pixels[:, SIDE // 2 + 9 :].max() < 120
    path.write_bytes(b"changed")
    assert thumbnail(tmp_path, lambda: white, "another", mask=mask).is_file()


@pytest.mark.parametrize(("colour", "below"), [("white", 0), ("black", 255), ("#c00", 255)])
def test_drawings_on_transparency_are_seen(colour: str, below: int, tmp_path: Path) -> None:
    drawing = Image.new("RGBA", (96, 96), (255, 255, 255, 0))
    drawing.paste(colour, (24, 24, 72, 72))
    view = look_at(stored(tmp_path, {"a.png": encode(drawing, "PNG")}).image_set, "sd15")
    with Image.open(thumbnails.thumbnails(view.pictures)[0]) as small:
        pixels = np.asarray(small.convert("RGB")).astype(int)
    assert abs(pixels[4, 48] - below).max() < 12
    assert np.ptp(pixels, axis=(0, 1)).max() > 150
