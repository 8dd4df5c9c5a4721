"""Which pictures count as nearly the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.corpus.pictures import encode, pattern
from trainer.data import duplicates
from trainer.data.duplicates import difference_hashes, duplicate_findings, near_pairs
from trainer.data.images import inspect_image


def thumbnail(image: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray:
    return inspect_image(encode(image, kind, **options)).thumbnail


def pairs(*images: Image.Image) -> list[tuple[int, int]]:
    return near_pairs(np.stack([thumbnail(image) for image in images]))


ORIGINAL = pattern(200, 150, seed=5)


def recompressed(quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encode(ORIGINAL, "JPEG", quality=quality)))


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(recompressed(30), id="recompressed"),
        pytest.param(ORIGINAL.resize((100, 75)), id="half size"),
        pytest.param(ORIGINAL.crop((1, 1, 199, 149)), id="a pixel cut off"),
        pytest.param(ImageEnhance.Brightness(ORIGINAL).enhance(1.02), id="brightened"),
    ],
)
def test_variants_are_near(variant: Image.Image) -> None:
    assert pairs(ORIGINAL, variant) == [(0, 1)]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(pattern(200, 150, seed=6), id="another"),
        pytest.param(ORIGINAL.transpose(Image.Transpose.ROTATE_180), id="upside down"),
        pytest.param(ORIGINAL.crop((60, 40, 200, 150)), id="a detail"),
        pytest.param(Image.merge("RGB", ORIGINAL.split()[::-1]), id="other colours"),
    ],
)
def test_others_are_not(other: Image.Image) -> None:
    assert pairs(ORIGINAL, other) == []


def test_plain_pictures_differ_by_colour() -> None:
    colours = [Image.new("RGB", (64, 64), name) for name in ("red", "blue", "#0000f8", "white")]
    assert pairs(*colours) == [(1, 2)]


def test_each_picture_is_paired_with_the_first_like_it() -> None:
    shades = [Image.new("L", (64, 64), 100) for _ in range(200)]
    assert pairs(*shades) == [(0, later) for later in range(1, 200)]


def test_hashes_are_of_brightness_to_the_right() -> None:
    rising = np.broadcast_to(np.arange(0, 180, 20, dtype=np.uint8)[:, None], (1, 8, 9, 3))
    assert difference_hashes(rising)[0] == 2**64 - 1
    assert difference_hashes(rising[:, :, ::-1])[0] == 0


def test_noise_on_plain_parts_does_not_hide_a_duplicate() -> None:
    noise = np.random.default_rng(0).integers(0, 5, (6, 8, 9, 3), np.uint8)
    assert near_pairs(100 + noise) == [(0, later) for later in range(1, 6)]


def test_very_large_sets_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_COMPARED", 2)
    same = np.zeros((4, 8, 9, 3), np.uint8)
    findings = duplicate_findings("abcd", ["1", "2", "3", "1"], same)
    assert [finding.severity for finding in findings] == ["warning", "note"]
    assert "not looked for" in findings[1].message


def icon(badge: str, place: tuple[int, int] = (9, 9)) -> Image.Image:
    """A sheet of paper on white, with a badge of six pixels in it."""
    image = Image.new("RGB", (16, 16), "white")
    image.paste("#88a", (2, 0, 14, 16))
    image.paste("#eef", (3, 1, 13, 15))
    image.paste(badge, (*place, place[0] + 6, place[1] + 6))
    return image


def test_icons_of_one_style_are_not_the_same() -> None:
    icons = [icon(colour) for colour in ("#0a0", "#a00", "#00a", "#fa0")]
    assert pairs(*icons, icon("#0a0", (1, 9)), icon("#0a0")) == [(0, 5)]


def test_all_pairs_are_one_finding() -> None:
    rising = np.broadcast_to(np.arange(0, 180, 20, dtype=np.uint8)[:, None], (8, 9, 3))
    shades = np.stack([rising, rising, rising[:, ::-1], rising[:, ::-1], rising, rising])
    findings = duplicate_findings("abcdef", ["1", "2", "3", "4", "5", "1"], shades)
    assert [one.pictures for one in findings] == [("f",), ("b", "d", "e")]
    assert "a = f." in findings[0].message
    assert "a = b, e; c = d." in findings[1].message
