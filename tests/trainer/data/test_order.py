"""The sample order is a pure function of seed and position."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.order import (
    FEWEST,
    MOST,
    SampleOrder,
    balanced_repeats,
    flip_choice,
    validation_count,
    validation_ids,
)

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
