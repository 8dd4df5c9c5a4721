"""The simple feature space: equal is 1, other is less, and each part sees what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.evaluation.features import Pixels, features, likeness_in_pairs, likeness_of


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
