"""Which size a picture is trained at, and how it is cut to it.

Pictures of a batch must have one size. A bucket is such a size: sides that are multiples of a
step, an area of at most resolution², and one of several aspect ratios.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from trainer.data.findings import ImageProblem

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of width and height."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class Focus(NamedTuple):
    """How a picture is seen, and what matters most in it.

    It is turned, mirrored and cut to a box, in this order; what is left is fitted to a bucket.
    """

    # across, down: the place that matters most in what is left, as shares from the top left.
    across: float = 0.5
    down: float = 0.5
    turns: int = 0  # quarter turns, clockwise, 0 to 3
    mirrored: bool = False  # left and right are exchanged
    box: Box = WHOLE  # of the turned and mirrored picture; `WHOLE` leaves it whole

    @property
    def is_plain(self) -> bool:
        """Whether the picture is seen as it is: only where it is cut is chosen."""
        return self[2:] == _PLAIN

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what is left of a picture, in pixels."""
        if self.turns % 2:
            width, height = height, width
        left, top, right, bottom = pixels_of(self.box, width, height)
        return right - left, bottom - top

    def turned(self) -> Focus:
        """A quarter turn clockwise further: everything stays in its place in the picture."""
        left, top, right, bottom = self.box
        # The picture is turned before it is mirrored, so what was mirrored turns the other way.
        turns = (self.turns + (3 if self.mirrored else 1)) % 4
        box = (1 - bottom, left, 1 - top, right)
        return Focus(1 - self.down, self.across, turns, self.mirrored, box)

    def flipped(self) -> Focus:
        """Left and right exchanged: everything stays in its place in the picture."""
        left, top, right, bottom = self.box
        box = (1 - right, top, 1 - left, bottom)
        return Focus(1 - self.across, self.down, self.turns, not self.mirrored, box)


_PLAIN = (0, False, WHOLE)


def pixels_of(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """A box in pixels of a picture, at least one wide and high."""
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    return left, top, max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)


MAX_PICTURE_ASPECT = 4.0
MAX_BUCKET_ASPECT = 2.0
_LEAST_ENLARGED = 8
_MIN_BUCKET_AREA = 0.75  # of resolution²: smaller ones would waste what the resolution allows


@dataclass(frozen=True)
class CropPlan:
    """Resize to (resize_width, resize_height), then cut out width × height at (left, top).

    All in pixels; width and height are multiples of the step. Rotation, brightness and hue are of
    versions of a picture (`trainer.data.order`).
    """

    resize_width: int
    resize_height: int
    left: int
    top: int
    width: int
    height: int
    # In degrees, before resizing, anticlockwise; corners without picture are cut off.
    rotation: float = 0.0
    brightness: float = 1.0  # factor of all pixels
    hue: float = 0.0  # by how much hues are turned, in degrees
    # turns, mirrored, box: of the picture, before all else; see `Focus`.
    turns: int = 0
    mirrored: bool = False
    box: Box = WHOLE

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of what is trained on."""
        return self.width, self.height

    @property
    def cut_off(self) -> float:
        """The share of the picture's area that training does not see."""
        left, top, right, bottom = self.box
        kept = self.width * self.height / (self.resize_width * self.resize_height)
        return 1 - kept * (right - left) * (bottom - top)


@lru_cache(maxsize=64)
def make_buckets(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    """The (width, height) that pictures are sorted into, narrow to wide.

    The square, and for each width and each height the longest other side that keeps the area
    within resolution² and the aspect ratio within `MAX_BUCKET_ASPECT`, where that leaves at least
    three quarters of resolution² and no other bucket is both wider and taller.

    Args:
        resolution, step: in pixels; resolution at least step.
    """
    longest = int(resolution * MAX_BUCKET_ASPECT)
    sizes = _longest_sides((longest, longest), resolution, step)
    enough = _MIN_BUCKET_AREA * resolution**2
    large = {size for size in sizes if size[0] * size[1] >= enough}
    best = {
        (width, height)
        for width, height in large
        if not any(wider > width and taller > height for wider, taller in large)
    }
    square = _floor(resolution, step)
    return tuple(sorted(best | {(square, square)}, key=lambda size: (size[0] / size[1], size)))


def plan_crop(
    width: int,
    height: int,
    resolution: int,
    step: int,
    buckets: bool,
    upscale: bool,
    focus: Focus | None = None,
) -> CropPlan:
    """How a picture is fitted: the bucket nearest to its aspect ratio, filled, and cut centrally.

    A picture smaller than its bucket goes into the largest smaller one of its shape that needs no
    enlarging, unless ``upscale``.

    Args:
        width, height: of what is left of the upright picture (`Focus.size`), in pixels.
        resolution, step: in pixels; resolution a multiple of step.
        buckets: False: cut everything to a square.
        upscale: enlarge pictures that are smaller than their bucket.
        focus: what is to come as near to the middle of the cut as the picture's edges let it.

    Raises:
        ImageProblem: a side is shorter than one step (of 8 pixels where it is enlarged), or the
            sides differ more than 4 : 1.
    """
    _check_shape(width, height, step, upscale)
    if buckets:
        target = _nearest(width / height, make_buckets(resolution, step))
        if not upscale and (target[0] > width or target[1] > height):
            smaller = _longest_sides((width, height), resolution, step)
            target = _nearest(width / height, smaller)
    else:
        side = resolution if upscale else min(resolution, width, height)
        target = (_floor(side, step), _floor(side, step))
    crop = _fill(width, height, *target)
    if focus is None:
        return crop
    centred = _centred(crop, focus)
    return replace(centred, turns=focus.turns, mirrored=focus.mirrored, box=focus.box)


def _check_shape(width: int, height: int, step: int, upscale: bool) -> None:
    if max(width, height) > MAX_PICTURE_ASPECT * min(width, height):
        raise ImageProblem(
            f"It is {width} × {height} pixels: too narrow (one side is more than "
            f"{MAX_PICTURE_ASPECT:.0f} times the other).",
            "Cut it closer to a square.",
        )
    least = min(step, _LEAST_ENLARGED) if upscale else step
    if min(width, height) < least:
        enlarge = "" if upscale else "set images.upscale to enlarge it, "
        raise ImageProblem(
            f"It is {width} × {height} pixels: too small (at least {least} × {least} are needed).",
            f"Use a larger version of it, {enlarge}or leave it out.",
        )


def _longest_sides(limits: tuple[int, int], resolution: int, step: int) -> set[tuple[int, int]]:
    """For each width the greatest height, and for each height the greatest width.

    Within ``limits`` (width, height), an area of resolution², and the greatest aspect. Never empty
    where the limits and the resolution are at least a step.
    """

    aspect = MAX_BUCKET_ASPECT

    def along(first_limit: int, second_limit: int) -> Iterator[tuple[int, int]]:
        for first in range(step, min(first_limit, int(resolution * aspect)) + 1, step):
            second = _floor(min(second_limit, resolution**2 / first, first * aspect), step)
            if second and first <= second * aspect:
                yield first, second

    wide = {(width, height) for height, width in along(limits[1], limits[0])}
    return wide | set(along(*limits))


def _nearest(aspect: float, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The size of the most similar aspect ratio; the larger one of equals."""

    def distance(size: tuple[int, int]) -> tuple[float, int, int]:
        unlike = round(abs(math.log(size[0] / size[1] / aspect)), 9)
        return unlike, -size[0] * size[1], size[0]

    return min(sizes, key=distance)


def _fill(width: int, height: int, across: int, down: int) -> CropPlan:
    """Resize so that the target is covered and nothing is stretched; cut in the middle."""
    scale = max(across / width, down / height)
    resize_width = max(across, round(width * scale))
    resize_height = max(down, round(height * scale))
    left, top = (resize_width - across) // 2, (resize_height - down) // 2
    return CropPlan(resize_width, resize_height, left, top, across, down)


def _centred(crop: CropPlan, focus: Focus) -> CropPlan:
    def start(length: int, cut: int, share: float) -> int:
        return min(max(0, round(share * length - cut / 2)), length - cut)

    return replace(
        crop,
        left=start(crop.resize_width, crop.width, focus[0]),
        top=start(crop.resize_height, crop.height, focus[1]),
    )


def crop_facts(crop: CropPlan) -> dict[str, object]:
    """A cut for cache keys. What is not used is not named, so that plain cuts keep their keys."""
    unused: dict[str, object] = {"rotation": 0.0, "brightness": 1.0, "hue": 0.0}
    unused |= {"turns": 0, "mirrored": False, "box": WHOLE}
    return {key: value for key, value in asdict(crop).items() if unused.get(key) != value}


def _floor(length: float, step: int) -> int:
    return int(length // step) * step
