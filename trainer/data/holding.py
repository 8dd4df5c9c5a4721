"""Which pictures are kept out of training: a pure function of seed and content."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.seeds import derive_seed

FEWEST = 8
"""A smaller set is trained on whole: each of its pictures counts for more than a measurement."""
MOST = 8
"""More held-out pictures would only make each measurement slower."""


def held_out_count(pictures: int, share: float) -> int:
    """How many of a set's pictures are kept out of training."""
    if pictures < FEWEST or share <= 0:
        return 0
    return min(MOST, max(1, round(share * pictures)))


def held_out_ids(ids: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """The ids of the pictures that are kept out of training.

    Neither names nor order matter. Equal pictures have equal ids, and stay out together.

    Args:
        ids: of all pictures of one concept.
        share: to keep out, 0 to 1; see `held_out_count`.
    """
    unique = sorted(set(ids))
    ranked = sorted(unique, key=lambda identifier: derive_seed(seed, "held out", identifier))
    return frozenset(ranked[: held_out_count(len(unique), share)])
