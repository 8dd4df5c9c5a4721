"""The sample order is a pure function of seed and position."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.corpus.pictures import pattern
from tests.trainer.data.folders_for_tests import picture, put
from trainer.config.schema import ImagesConfig
from trainer.data.buckets import CropPlan, crop_facts, plan_crop
from trainer.data.masks import fit
from trainer.data.order import (
    FEWEST,
    MOST,
    SampleOrder,
    balanced_repeats,
    flip_choice,
    validation_count,
    validation_ids,
    variant_choice,
    variants_of,
)
from trainer.data.report import fit_pictures
from trainer.data.sets import Picture, scan_image_set

BUCKETS = st.sampled_from([(64, 64), (64, 96), (96, 64)])
ENTRIES = st.lists(st.tuples(BUCKETS, st.integers(1, 4)), min_size=1, max_size=30)
SEEDS = st.integers(0, 2**31 - 1)


def make(entries: list[tuple[tuple[int, int], int]], batch_size: int, seed: int) -> SampleOrder:
    buckets, repeats = zip(*entries, strict=True)
    return SampleOrder(buckets, repeats, batch_size, seed)


@given(entries=ENTRIES, batch_size=st.integers(1, 7), seed=SEEDS, epoch=st.integers(0, 50))
def test_an_epoch_shows_every_picture_as_often_as_it_repeats(
    entries: list[tuple[tuple[int, int], int]], batch_size: int, seed: int, epoch: int
) -> None:
    order = make(entries, batch_size, seed)
    first = epoch * order.batches_per_epoch
    positions = range(first, first + order.batches_per_epoch)
    shown: Counter[int] = Counter()
    for position in positions:
        batch = order.batch(position)
        assert 1 <= len(batch) <= batch_size
        assert len({entries[index][0] for index in batch}) == 1
        assert order.epoch(position) == epoch
        shown.update(batch)
    assert shown == {index: repeats for index, (_, repeats) in enumerate(entries)}


@given(entries=ENTRIES, seed=SEEDS, positions=st.lists(st.integers(0, 500), max_size=12))
def test_a_batch_depends_on_seed_and_position_alone(
    entries: list[tuple[tuple[int, int], int]], seed: int, positions: list[int]
) -> None:
    order = make(entries, 3, seed)
    for position in positions:
        assert order.batch(position) == make(entries, 3, seed).batch(position)


def epoch_of(order: SampleOrder, epoch: int) -> list[tuple[int, ...]]:
    count = order.batches_per_epoch
    return [order.batch(position) for position in range(epoch * count, (epoch + 1) * count)]


def test_epochs_and_seeds_differ() -> None:
    entries = [((64, 64), 1)] * 50
    first, other = make(entries, 4, 1), make(entries, 4, 2)
    assert epoch_of(first, 0) != epoch_of(first, 1)
    assert epoch_of(first, 0) != epoch_of(other, 0)


def test_buckets_take_turns() -> None:
    order = make([((64, 64), 1)] * 40 + [((64, 96), 1)] * 40, 4, 0)
    kinds = [batch[0] < 40 for batch in epoch_of(order, 0)]
    assert sum(a != b for a, b in pairwise(kinds)) > 3


def test_repeats_are_spread_over_the_epoch() -> None:
    order = make([((64, 64), 10)] * 12, 4, 3)
    twice = sum(len(set(batch)) < len(batch) for batch in epoch_of(order, 0))
    assert twice < order.batches_per_epoch / 3  # drawn freely it is about two fifths


def test_golden_order() -> None:
    # This must never change: old runs could not be resumed.
    order = make([((64, 64), 1)] * 6 + [((64, 96), 2)] * 2, 3, 7)
    assert epoch_of(order, 0) == GOLDEN_EPOCH


GOLDEN_EPOCH = [(7, 6, 7), (6,), (2, 5, 0), (1, 3, 4)]


def test_flips_are_fair_and_pure() -> None:
    flips = [flip_choice(1, step, "a") for step in range(2000)]
    assert flips == [flip_choice(1, step, "a") for step in range(2000)]
    assert 900 < sum(flips) < 1100
    assert flips != [flip_choice(1, step, "b") for step in range(2000)]
    assert flips != [flip_choice(2, step, "a") for step in range(2000)]


@pytest.mark.parametrize(
    ("repeats", "shares", "totals"),
    [
        ([[1, 1, 1]], [5], [3]),  # a single concept stays as it is
        ([[1] * 8, [1] * 8], [1, 1], [8, 8]),
        ([[1] * 3, [1] * 10], [1, 1], [10, 10]),
        ([[1] * 3, [1] * 10], [1, 2], [5, 10]),
        ([[5, 5], [1] * 3], [1, 1], [10, 10]),
        ([[1], [1] * 100, [2, 1]], [1, 1, 1], [100, 100, 100]),
        ([[3, 1], [1] * 6], [1, 1], [6, 6]),
    ],
)
def test_concepts_get_their_shares(
    repeats: list[list[int]], shares: list[int], totals: list[int]
) -> None:
    balanced = balanced_repeats(repeats, shares)
    assert [sum(own) for own in balanced] == totals
    for own, least_own in zip(balanced, repeats, strict=True):
        assert all(count >= least for count, least in zip(own, least_own, strict=True))
        # Pictures with the same repeats differ by one at most.
        for value in set(least_own):
            same = [count for count, least in zip(own, least_own, strict=True) if least == value]
            assert max(same) - min(same) <= 1
    assert balanced_repeats([[1] * 4, [1] * 6], [1, 1])[0] == [2, 1, 2, 1]


# -- what is kept out of training

IDS = [f"{number:032x}" for number in range(24)]


@pytest.mark.parametrize(
    ("pictures", "share", "expected"),
    [
        (0, 0.125, 0),
        (FEWEST - 1, 0.5, 0),
        (FEWEST, 0.125, 1),
        (FEWEST, 0.01, 1),
        (12, 0.125, 2),
        (28, 0.125, 4),
        (28, 0.0, 0),
        (10_000, 0.5, MOST),
    ],
)
def test_count(pictures: int, share: float, expected: int) -> None:
    assert validation_count(pictures, share) == expected


def test_order_and_copies_do_not_matter() -> None:
    chosen = validation_ids(IDS, 0.25, seed=1)
    assert len(chosen) == 6
    assert chosen == validation_ids([*reversed(IDS), *IDS], 0.25, seed=1)


def test_seeds_choose_differently() -> None:
    assert len({validation_ids(IDS, 0.25, seed=seed) for seed in range(5)}) == 5


def test_one_more_picture_changes_little() -> None:
    """A set that grows keeps most of what was held out."""
    before, after = validation_ids(IDS[:-1], 0.25, seed=0), validation_ids(IDS, 0.25, seed=0)
    assert len(before - after) <= 1


ALL = {"random_crop": 0.5, "rotation": 10.0, "brightness": 0.2, "hue": 30.0}


def images(**values: Any) -> ImagesConfig:
    return ImagesConfig.model_validate({"resolution": 64, **values})


@pytest.fixture
def shown(tmp_path: Path) -> Picture:
    """128 x 96 pixels, of which 64 x 64 or so are trained on."""
    folder = put(tmp_path, {"a.png": picture(1, width=128, height=96)})
    return fit_pictures(scan_image_set(folder), images(), 32).fitted[0]


@pytest.mark.parametrize("one", ALL)
def test_each_kind_changes_what_it_says_and_nothing_else(one: str, shown: Picture) -> None:
    first, *others = (
        picture.crop for picture in variants_of(shown, images(**{one: ALL[one]}), seed=1)
    )
    assert (first, len(others)) == (shown.crop, 7)
    plain_facts = crop_facts(first)
    for crop in others:
        assert crop.size == first.size
        changed = {key for key, value in crop_facts(crop).items() if plain_facts.get(key) != value}
        cut = {"resize_width", "resize_height", "left", "top"}
        assert changed and changed <= ({one} if one != "random_crop" else cut)
        assert 0 <= crop.left <= crop.resize_width - crop.width
        assert 0 <= crop.top <= crop.resize_height - crop.height
        assert crop.resize_width <= 128 and crop.resize_height <= 96
        assert first.resize_width / crop.resize_width > 0.5 - 0.02
        assert abs(crop.rotation) <= 10 and 0.8 <= crop.brightness <= 1.2 and abs(crop.hue) <= 30
    assert len(set(others)) == 7


def test_versions_depend_on_seed_and_picture_alone(shown: Picture) -> None:
    config = images(**ALL, variants=5)
    assert variants_of(shown, config, 1) == variants_of(shown, config, 1)
    assert len(variants_of(shown, config, 1)) == 5
    assert variants_of(shown, config, 1)[1:] != variants_of(shown, config, 2)[1:]
    assert variants_of(shown, images(), 1) == [shown]
    chosen = [variant_choice(1, step, "a", 4) for step in range(200)]
    assert chosen == [variant_choice(1, step, "a", 4) for step in range(200)]
    assert set(chosen) == {0, 1, 2, 3}


def test_keys_of_plain_cuts_are_those_of_before() -> None:
    plan = plan_crop(128, 96, 64, 32, buckets=True, upscale=False)
    assert list(crop_facts(plan)) == [
        "resize_width", "resize_height", "left", "top", "width", "height",
    ]  # fmt: skip


WHOLE = (64, 64, 0, 0, 64, 64)


@pytest.mark.parametrize("degrees", [-45.0, -7.0, 3.0, 45.0])
@pytest.mark.parametrize("size", [(100, 100), (200, 60), (61, 150)])
def test_rotation_leaves_no_empty_corner(degrees: float, size: tuple[int, int]) -> None:
    white = Image.new("RGB", size, "white")
    assert fit(white, CropPlan(*WHOLE, rotation=degrees), False).min() >= 254


def test_rotation_turns_picture_and_mask_alike() -> None:
    grey = pattern(100, 80).convert("L")
    plan = CropPlan(*WHOLE, rotation=20.0, brightness=0.5, hue=90.0)
    mask = fit(grey, plan, True)
    picture = fit(Image.merge("RGB", (grey,) * 3), CropPlan(*WHOLE, rotation=20.0), True)
    assert np.array_equal(mask, picture[..., 0])
    assert not np.array_equal(mask, fit(grey, CropPlan(*WHOLE), True))


@pytest.mark.parametrize(
    ("colour", "changes", "expected"),
    [
        ((100, 50, 20), {"brightness": 1.5}, (150, 75, 30)),
        ((255, 0, 0), {"hue": 120.0}, (0, 255, 0)),
        ((0, 0, 255), {"hue": -120.0}, (0, 255, 0)),
        ((90, 90, 90), {"hue": 77.0}, (90, 90, 90)),
    ],
)
def test_colours(
    colour: tuple[int, int, int], changes: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    found = fit(Image.new("RGB", (64, 64), colour), CropPlan(*WHOLE, **changes), False)
    assert np.abs(found.astype(int) - expected).max() <= 6


def test_a_version_without_what_counts_is_left_as_it_was(tmp_path: Path) -> None:
    mask = Image.new("L", (256, 64), 0)
    mask.paste(255, (124, 0, 132, 64))  # in the very middle alone
    mask.save(tmp_path / "a.mask.png")
    put(tmp_path, {"a.png": picture(1, width=256, height=64)})
    config = images(masks="files", random_crop=0.5, buckets=False, variants=64, resolution=32)
    (shown,) = fit_pictures(scan_image_set(tmp_path), config, 32).fitted
    found = variants_of(shown, config, 1)
    unmasked = variants_of(shown, config.model_copy(update={"masks": "none"}), 1)
    assert found.count(shown) > 1 == unmasked.count(shown)
    assert any(one != shown for one in found)
