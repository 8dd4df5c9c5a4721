"""What the meters say, in plain words, and which checkpoint to use at which strength.

The bounds lie between good and bad adapters of the built-in model, see docs/notes/measuring.md. All
are shares, so that they hold for other pictures, ranks and base models: none is a loss or a drift.
What to use is a trade-off with its reason, never one score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.events import GAPS, WEAK_LIKENESS, Meters
from trainer.text import counted

FindingCode = Literal[
    "dead", "works", "weak", "harmful", "leaks", "keeps", "neighbours", "moves", "still",
    "overtrained", "few_held_out", "unmeasured", "listens", "deaf", "swallowed",
]  # fmt: skip

CLASS_SHARE = 0.5
"""Of the likeness: as much without the trigger is a leak to the class word.

It was above 0.85 where little was preserved, below 0.25 where the class visibly stayed."""
CLASS_LEAK = 0.75  # of the effect: the class word moves nearly as far as the trigger
NEIGHBOUR_LEAK = 1.0
LEAST_EFFECT = 1e-3  # chosen, not measured; after six steps of the README it was 0.014
COLLATERAL = 0.7
FEW = 0.2  # of these shares: those of good adapters lie below it
HELD_OUT = 3  # with fewer pictures held out a gap is chance
GAP_SHARE = 0.4
"""Of the trained pictures' likeness: more than this missing on held-out ones is overtraining."""
LOSS_AGAIN = 0.1
"""Of the best likeness: having lost more than this since an earlier step is overtraining."""
GAP_WORDS = (
    "there is little noise, which decides details",
    "there is some noise, which decides parts",
    "there is much noise, which decides the whole picture",
)
AS_GOOD = 0.95  # a checkpoint with this share of the best likeness is as good by eye
CALMER = 0.85
"""Side effects have to fall to this share, or the later checkpoint or full strength stays."""


@dataclass(frozen=True)
class AdapterFinding:
    """One thing that the meters say."""

    code: FindingCode  # which, for programs
    says: str  # the same as a sentence
    good: bool  # whether it is as it should be


@dataclass(frozen=True)
class Candidate:
    """An adapter file at a strength, and its meters."""

    file: str  # its name in the run folder
    step: int | None  # after how many steps it was written; None for a file that does not say
    strength: float
    meters: Meters

    @property
    def side_effects(self) -> float:
        """The largest drift of what should not move: class word, neighbours or unrelated things."""
        meters = self.meters
        drifts = (meters.class_drift, meters.neighbour_drift, meters.unrelated_drift)
        return max((value for value in drifts if value is not None), default=0.0)


@dataclass(frozen=True)
class Recommendation:
    """What to use, and why; None where nothing is worth using."""

    candidate: Candidate | None
    why: str


def findings(
    meters: Meters, *, dead: bool = False, earlier: Sequence[Meters] = ()
) -> list[AdapterFinding]:
    """Whether the trigger works, whether it leaks, what else moved, and whether it is overtrained.

    Args:
        dead: whether the file's layers are all zero.
        earlier: of the same run, at earlier steps.
    """
    if dead or meters.effect == 0:
        return [AdapterFinding("dead", "The adapter is dead: it changes nothing at all.", False)]
    # Shares of an effect that is itself next to nothing say nothing.
    sides = [] if meters.effect < LEAST_EFFECT else [*_leaks(meters), *_moves(meters)]
    found = [_works(meters), *sides, *_overtrained(meters, earlier)]
    good = ("unmeasured", "works", "keeps", "still", "few_held_out")
    return [AdapterFinding(code, says, code in good) for code, says in found]


_Said = tuple[FindingCode, str]


def _works(meters: Meters) -> _Said:
    if meters.likeness is None:
        return (
            "unmeasured",
            "How like the pictures it draws was not measured: give the image set with --images.",
        )
    better = f"{abs(meters.likeness):.0%}"
    which = "pictures it never saw" if meters.held_out else "the pictures of the set"
    if meters.likeness < 0:
        return (
            "harmful",
            f"It is broken: with the trigger word it fits {which} worse than the base model "
            f"does (by {better}).",
        )
    if meters.likeness < WEAK_LIKENESS:
        return (
            "weak",
            f"It has learned next to nothing yet: with the trigger word it fits {which} hardly "
            f"better than the base model does (by {better}). Train longer, or at a higher rate.",
        )
    return (
        "works",
        f"It has learned from the pictures: with the trigger word it fits {which} better than "
        f"the base model does (by {better}).",
    )


def _leaks(meters: Meters) -> Iterator[_Said]:
    taken, leak, near = meters.likeness_taken, meters.class_leak, meters.neighbour_leak
    if taken is None and leak is None:
        return
    shows, moved = taken or 0.0, leak or 0.0
    much = "less than half" if shows <= CLASS_SHARE else "more than half"
    much, changed = "next to nothing" if shows < FEW else much, _changed(moved, CLASS_LEAK)
    if leak is None:
        how = f"without it, {much} of that shows ({shows:.0%})"
    elif taken is None:
        how = f"what the class word draws {changed} ({moved:.0%} as much)"
    else:
        how = (
            f"without it, {much} of that shows ({shows:.0%}), and what the class word draws "
            f"{changed} ({moved:.0%} as much)"
        )
    if shows > CLASS_SHARE or moved > CLASS_LEAK:
        yield "leaks", f"It does not keep to the trigger word: {how}."
    elif near is not None and near > NEIGHBOUR_LEAK:
        yield (
            "neighbours",
            f"Things like the class word changed more than the trigger word ({near:.0%} as much). "
            "Name them among the prompts to preserve (preservation.prompts).",
        )
    else:
        said = f"It keeps to the trigger word: {how}."
        if max(shows, moved) >= FEW:
            said = f"It mostly keeps to the trigger word: {how}."
        yield "keeps", said


def _changed(share: float, bound: float) -> str:
    few = "hardly changed" if share < FEW else "changed somewhat"
    return few if share <= bound else "changed very much"


def _moves(meters: Meters) -> Iterator[_Said]:
    if meters.collateral is None:
        return
    code: FindingCode = "moves" if meters.collateral > COLLATERAL else "still"
    share = f"{meters.collateral:.0%} as much as with the trigger word"
    yield code, f"What other prompts draw {_changed(meters.collateral, COLLATERAL)} ({share})."


def _overtrained(meters: Meters, earlier: Sequence[Meters]) -> Iterator[_Said]:
    now, before = compared_likeness(meters), [compared_likeness(one) for one in earlier]
    best = max((value for value in before if value is not None), default=0.0)
    lost = (best - now) / best if best > 0 and now is not None else 0.0
    trained = meters.likeness_trained or 0.0
    missing = meters.gap / trained if meters.gap is not None and trained > 0 else 0.0
    if lost > LOSS_AGAIN:
        yield (
            "overtrained",
            f"It is overtrained: it has lost {min(lost, 1):.0%} of the likeness that it had "
            "at an earlier step.",
        )
    elif missing > GAP_SHARE and meters.held_out < HELD_OUT:
        yield (
            "few_held_out",
            "Whether it has learned the pictures by heart can't be told from "
            f"{counted(meters.held_out, 'picture')} kept out of training.",
        )
    elif missing > GAP_SHARE:
        yield (
            "overtrained",
            f"It is overtrained: {min(missing, 1):.0%} of what it learned of the trained "
            f"pictures does not hold for those kept out of training{_where_it_opens(meters)}. "
            "Train for fewer steps, or on more pictures.",
        )


def _where_it_opens(meters: Meters) -> str:
    """At how much noise the trained pictures are ahead most; empty where that is not known."""
    gaps = {words: getattr(meters, name) for name, words in zip(GAPS, GAP_WORDS, strict=True)}
    known = {words: gap for words, gap in gaps.items() if gap is not None}
    return f"; most where {max(known, key=known.__getitem__)}" if known else ""


def compared_likeness(meters: Meters) -> float | None:
    """The likeness that steps and strengths are compared by.

    Of held-out pictures where there are enough of them. One or two tell more of themselves than of
    the adapter: then it is that of trained pictures.
    """
    if 0 < meters.held_out < HELD_OUT and meters.likeness_trained is not None:
        return meters.likeness_trained
    return meters.likeness


def best_candidate(candidates: Sequence[Candidate]) -> Candidate:
    """Of those that are as like the pictures as the best, the one that moves the rest least.

    A later one (or one at a higher strength) is given up only for clearly smaller side effects.
    Without pictures to compare with, it is the last.
    """
    values = [compared_likeness(one.meters) for one in candidates]
    likeness = [value for value in values if value is not None]
    if not likeness:
        return candidates[-1]
    best = max(likeness)
    bound = AS_GOOD * best if best > 0 else best
    pairs = zip(candidates, values, strict=True)
    *others, chosen = (one for one, value in pairs if value is not None and value >= bound)
    for one in reversed(others):
        if one.side_effects < CALMER * chosen.side_effects:
            chosen = one
    return chosen


def recommend(
    checkpoints: Sequence[Candidate],
    strengths: Sequence[Candidate],
    *,
    dead: bool = False,
    refused: str = "",
) -> Recommendation:
    """Puts the choice in words.

    Args:
        refused: why nothing is to be used, whatever the meters prefer; empty: something may be.
        checkpoints: all that were measured at full strength, in their order.
        strengths: the best of them (see `best_candidate`) at several strengths, rising.
    """
    chosen = best_candidate(strengths)
    likeness = compared_likeness(chosen.meters)
    if dead or chosen.meters.effect == 0:
        return Recommendation(None, "Nothing to recommend: the adapter changes nothing.")
    if refused:
        return Recommendation(None, f"Nothing to recommend: {refused}")
    if likeness is None:
        return Recommendation(chosen, "There were no pictures to judge it by.")
    if likeness <= 0:
        return Recommendation(
            None, "Nothing to recommend: the base model alone predicts the pictures better."
        )
    best = max(compared_likeness(one.meters) or 0.0 for one in checkpoints)
    why, last = f"{likeness / best:.0%} of the best likeness found", checkpoints[-1]
    if (chosen.file, chosen.strength) != (last.file, last.strength) and last.side_effects > 0:
        share = chosen.side_effects / last.side_effects
        change = f"{1 - share:.0%} less" if share <= 1 else f"{share - 1:.0%} more"
        why += f"; the rest moves {change} than with the last adapter at full strength"
    elif len(checkpoints) > 1:
        why += "; no earlier adapter and no lower strength is as like and clearly calmer"
    return Recommendation(chosen, f"{why}.")
