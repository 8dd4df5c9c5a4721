"""Seeds are functions of their parts, the same on every machine and for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.seeds import derive_seed, derive_uniform

PARTS = st.lists(st.one_of(st.integers(), st.text()), max_size=4)


@given(seed=st.integers(), parts=PARTS)
def test_a_seed_has_63_bits(seed: int, parts: list[int | str]) -> None:
    assert 0 <= derive_seed(seed, *parts) < 2**63
    assert 0.0 <= derive_uniform(seed, *parts) < 1.0


def test_golden_values() -> None:
    # These must never change: old runs could not be resumed.
    assert derive_seed(0) == 7520536977032167579
    assert derive_seed(7, 3, "noise", 2) == 7377803393770895082


def test_the_parts_are_told_apart() -> None:
    calls: list[tuple[int, tuple[int | str, ...]]] = [
        (1, ()),
        (1, (1,)),
        (1, ("1",)),
        (1, ("ab", "c")),
        (1, ("a", "bc")),
        (1, ("a", "b", "c")),
        (11, ()),
        (1, ('"', ",")),
        (1, ('","',)),
    ]
    assert len({derive_seed(seed, *parts) for seed, parts in calls}) == len(calls)


def test_uniform_numbers_are_even() -> None:
    numbers = [derive_uniform(5, "dropout", step) for step in range(4000)]
    for tenth in range(10):
        share = sum(tenth <= number * 10 < tenth + 1 for number in numbers) / len(numbers)
        assert abs(share - 0.1) < 0.02
