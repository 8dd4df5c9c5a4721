"""What the meters say, in plain words.

The bounds lie between good and bad adapters of the built-in model, see docs/measuring.md. All
are shares, so that they hold for other pictures, ranks and base models: none is a loss or a drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.events import Meters

Code = Literal[
    "dead", "works", "weak", "harmful", "leaks", "keeps", "neighbours", "moves", "still",
    "overtrained", "unmeasured",
]  # fmt: skip

WEAK_LIKENESS = 0.03
"""Below it the pictures are hardly better predicted than by the base model."""
CLASS_SHARE = 0.5
"""Of the likeness: as much without the trigger is a leak to the class word.

It was above 0.85 where nothing or little was held, below 0.25 where the class visibly stayed."""
CLASS_LEAK = 0.75
"""Of the effect: the class word moves nearly as far as the trigger."""
NEIGHBOUR_LEAK = 1.0
COLLATERAL = 0.7
GAP_SHARE = 0.4
"""Of the trained pictures' likeness: more than this missing on held-out ones is overtraining."""
LOSS_AGAIN = 0.1
"""Of the best likeness: having lost more than this since an earlier step is overtraining."""


@dataclass(frozen=True)
class Finding:
    """One thing that the meters say.

    Attributes:
        code: which, for programs.
        says: the same as a sentence.
        good: whether it is as it should be.
    """

    code: Code
    says: str
    good: bool


def findings(
    meters: Meters, *, dead: bool = False, earlier: Sequence[Meters] = ()
) -> list[Finding]:
    """Whether the trigger works, whether it leaks, what else moved, and whether it is overtrained.

    Args:
        dead: whether the file's layers are all zero.
        earlier: of the same run, at earlier steps.
    """
    if dead or meters.effect == 0:
        return [Finding("dead", "The adapter is dead: it changes nothing at all.", False)]
    found = [_works(meters), _leaks(meters), _moves(meters), _overtrained(meters, earlier)]
    return [finding for finding in found if finding is not None]


def _works(meters: Meters) -> Finding:
    if meters.likeness is None:
        return Finding(
            "unmeasured",
            "How like the pictures it draws was not measured: give the image set with --images.",
            True,
        )
    better = f"{abs(meters.likeness):.0%}"
    which = "held-out pictures" if meters.held_out else "the pictures"
    if meters.likeness < 0:
        return Finding(
            "harmful",
            f"The adapter is broken: with the trigger word {which} of the set are predicted "
            f"{better} worse than by the base model.",
            False,
        )
    if meters.likeness < WEAK_LIKENESS:
        return Finding(
            "weak",
            f"The trigger word hardly works: {which} of the set are predicted only {better} "
            "better than by the base model. Train longer, or at a higher rate.",
            False,
        )
    return Finding(
        "works",
        f"The trigger word works: {which} of the set are predicted {better} better than by the "
        "base model.",
        True,
    )


def _leaks(meters: Meters) -> Finding | None:
    taken = class_share(meters)
    leak = meters.class_leak
    if taken is None and leak is None:
        return None
    if (taken or 0) > CLASS_SHARE or (taken is None and (leak or 0) > CLASS_LEAK):
        how = (
            f"without the trigger word the captions bring {taken:.0%} of the likeness"
            if taken is not None
            else f"the class word moves {leak:.0%} as far as the trigger word"
        )
        return Finding(
            "leaks", f"It leaks: {how}. Raise preservation.weight, or preserve oftener.", False
        )
    if (meters.neighbour_leak or 0) > NEIGHBOUR_LEAK:
        return Finding(
            "neighbours",
            f"Things like the class word move {meters.neighbour_leak:.0%} as far as the trigger "
            "word. Name them in preservation.prompts.",
            False,
        )
    how = (
        f"without the trigger word the captions bring {max(taken, 0):.0%} of the likeness"
        if taken is not None
        else f"the class word moves {leak:.0%} as far as the trigger word"
    )
    return Finding("keeps", f"It keeps to the trigger word: {how}.", True)


def _moves(meters: Meters) -> Finding | None:
    if meters.collateral is None:
        return None
    share = f"{meters.collateral:.0%} as far as the trigger word"
    if meters.collateral > COLLATERAL:
        return Finding("moves", f"Much else changed: unrelated prompts move {share}.", False)
    return Finding("still", f"What else changed: unrelated prompts move {share}.", True)


def _overtrained(meters: Meters, earlier: Sequence[Meters]) -> Finding | None:
    best = max((one.likeness for one in earlier if one.likeness is not None), default=None)
    if best and best > 0 and meters.likeness is not None:
        lost = (best - meters.likeness) / best
        if lost > LOSS_AGAIN:
            return Finding(
                "overtrained",
                f"It is overtrained: it has lost {min(lost, 1):.0%} of the likeness that it had "
                "at an earlier step.",
                False,
            )
    if meters.gap is not None and meters.likeness_trained and meters.likeness_trained > 0:
        share = meters.gap / meters.likeness_trained
        if share > GAP_SHARE:
            return Finding(
                "overtrained",
                f"It is overtrained: {min(share, 1):.0%} of what it learned of the trained "
                "pictures does not hold for held-out ones. Train for fewer steps, or on more "
                "pictures.",
                False,
            )
    return None


def class_share(meters: Meters) -> float | None:
    """How much of the likeness the captions bring without the trigger word; None without pictures,
    or without likeness to share."""
    if meters.likeness_without is None or meters.likeness is None:
        return None
    if meters.likeness < WEAK_LIKENESS:
        return None
    return meters.likeness_without / meters.likeness
