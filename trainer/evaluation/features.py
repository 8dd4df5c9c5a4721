"""How alike two pictures are, in a simple stated feature space.

A picture becomes three vectors: the square roots of its shares of 4 x 4 x 4 colours (R, G, B in
four equal ranges each); its pixels averaged to 8 x 8, less their mean; and for each of 4 x 4 fields
the shares of 8 gradient directions, weighed by the gradients' lengths. The likeness of two pictures
is the mean of the three cosines, at most 1: colour, layout and outline count a third each. Nothing
is learned, nothing is loaded; style, faces and meaning are beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Vector = NDArray[np.float64]

SIDE = 64


def features(pixels: Pixels) -> list[Vector]:
    """The three vectors of a picture (H, W, 3), each of length 1 (or 0 where it is flat)."""
    small = _shrunk(pixels.astype(np.float64) / 255.0, SIDE)  # (64, 64, 3)
    return [_unit(vector) for vector in (_colours(small), _layout(small), _outlines(small))]


def likeness_of(one: Pixels, other: Pixels) -> float:
    """The mean of the three cosines of two pictures."""
    pairs = zip(features(one), features(other), strict=True)
    return float(np.mean([np.dot(first, second) for first, second in pairs]))


def likeness_in_pairs(drawn: Sequence[Pixels], pictures: Sequence[Pixels]) -> float:
    """The mean likeness of each drawn picture to the picture whose caption it was drawn by.

    In pairs, since captions name backgrounds and places: any other pairing measures those.

    Raises:
        ValueError: there are none, or not as many.
    """
    if not drawn or len(drawn) != len(pictures):
        raise ValueError("nothing to compare")
    return float(np.mean([likeness_of(*pair) for pair in zip(drawn, pictures, strict=True)]))


def _shrunk(picture: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(H, W, 3) averaged to (side, side, 3), each cell over the pixels that begin in it."""
    for axis in (0, 1):
        size = picture.shape[axis]
        if size < side:
            picture = picture.take(np.arange(side) * size // side, axis=axis)
            continue
        starts = np.arange(side) * size // side
        counts = np.diff(np.append(starts, size)).astype(np.float64)
        sums = np.add.reduceat(picture, starts, axis=axis)
        picture = sums / np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
    return picture


def _colours(small: NDArray[np.float64]) -> Vector:
    places = np.minimum((small * 4).astype(int), 3).reshape(-1, 3) @ np.array([16, 4, 1])
    return np.sqrt(np.bincount(places, minlength=64) / len(places))


def _layout(small: NDArray[np.float64]) -> Vector:
    cells = _shrunk(small, 8)
    return (cells - cells.mean()).ravel()


def _outlines(small: NDArray[np.float64]) -> Vector:
    rows, columns = np.gradient(small.mean(axis=2))
    length = np.hypot(rows, columns)
    turn = np.mod(np.arctan2(rows, columns), np.pi)  # light to dark or dark to light: no matter
    direction = np.minimum((turn / np.pi * 8).astype(int), 7)
    field = (np.arange(SIDE) // (SIDE // 4))[:, None] * 4 + np.arange(SIDE) // (SIDE // 4)
    bins = np.bincount((field * 8 + direction).ravel(), length.ravel(), minlength=128)
    return bins.astype(np.float64)


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-9 else np.zeros_like(vector)
