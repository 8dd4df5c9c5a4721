"""Bucket arithmetic: what holds for every size of picture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.buckets import make_buckets, plan_crop
from trainer.data.images import ImageProblem

STEPS = st.sampled_from([8, 32, 64])
SIDES = st.integers(1, 20_000)


@given(step=STEPS, multiple=st.integers(1, 40))
def test_buckets_keep_to_step_area_and_aspect(step: int, multiple: int) -> None:
    resolution = step * multiple
    buckets = make_buckets(resolution, step)
    assert (resolution, resolution) in buckets
    assert len(set(buckets)) == len(buckets)
    for width, height in buckets:
        assert width % step == height % step == 0
        assert 0 < width * height <= resolution**2
        assert 0.5 <= width / height <= 2
        assert (height, width) in buckets


def test_golden_buckets() -> None:
    assert make_buckets(64, 32) == ((64, 64),)
    assert make_buckets(512, 64) == (
        *((320, 640), (384, 640), (448, 576), (512, 512), (576, 448), (640, 384), (640, 320)),
    )


@given(
    width=SIDES,
    height=SIDES,
    step=STEPS,
    multiple=st.integers(1, 20),
    buckets=st.booleans(),
    upscale=st.booleans(),
)
def test_every_plan_can_be_cut(
    width: int, height: int, step: int, multiple: int, buckets: bool, upscale: bool
) -> None:
    resolution = step * multiple
    narrow = max(width, height) > 4 * min(width, height)
    if narrow or min(width, height) < (8 if upscale else step):
        with pytest.raises(ImageProblem, match="too narrow" if narrow else "too small"):
            plan_crop(width, height, resolution, step, buckets, upscale)
        return
    plan = plan_crop(width, height, resolution, step, buckets, upscale)
    assert plan.width % step == plan.height % step == 0
    assert 0 < plan.width * plan.height <= resolution**2
    assert 0 <= plan.left <= plan.resize_width - plan.width
    assert 0 <= plan.top <= plan.resize_height - plan.height
    # Nothing is stretched: both sides are resized by the same factor, to half a pixel; and one
    # of them is used whole.
    assert plan.resize_width == plan.width or plan.resize_height == plan.height
    factor = max(plan.resize_width / width, plan.resize_height / height)
    assert abs(plan.resize_width - width * factor) <= 1
    assert abs(plan.resize_height - height * factor) <= 1
    if not upscale:
        assert plan.resize_width <= width
        assert plan.resize_height <= height
    if not buckets:
        assert plan.width == plan.height


@pytest.mark.parametrize(
    ("size", "upscale", "expected"),
    [
        ((512, 512), False, (512, 512)),
        ((4000, 3000), False, (576, 448)),
        ((3000, 4000), False, (448, 576)),
        ((2000, 1000), False, (640, 320)),
        ((1200, 300), False, (512, 256)),
        ((300, 200), False, (256, 192)),
        ((300, 200), True, (640, 384)),
        ((511, 511), False, (448, 448)),
        ((64, 64), False, (64, 64)),
        ((64, 64), True, (512, 512)),
        ((16, 16), True, (512, 512)),  # icons
        ((8, 8), True, (512, 512)),
        ((16, 32), True, (320, 640)),
        ((40, 30), True, (576, 448)),
    ],
)
def test_the_nearest_bucket_is_chosen(
    size: tuple[int, int], upscale: bool, expected: tuple[int, int]
) -> None:
    plan = plan_crop(*size, 512, 64, True, upscale)
    assert (plan.width, plan.height) == expected


def test_the_cut_lies_in_the_middle() -> None:
    plan = plan_crop(1000, 500, 512, 64, False, False)
    assert (plan.resize_width, plan.resize_height) == (896, 448)
    assert (plan.left, plan.top, plan.width, plan.height) == (224, 0, 448, 448)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1, 60_000), "1 × 60000 pixels: too narrow .* Cut it closer to a square"),
        ((8, 8), "8 × 8 pixels: too small .at least 64 × 64"),
        ((63, 100), "63 × 100 pixels: too small"),
    ],
)
def test_refusals_name_the_size_and_the_way_out(size: tuple[int, int], message: str) -> None:
    with pytest.raises(ImageProblem, match=message):
        plan_crop(*size, 512, 64, True, False)
