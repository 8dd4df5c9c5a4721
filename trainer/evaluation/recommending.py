"""Which checkpoint to use, at which strength: a trade-off with its reason, never one score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.events import Meters

AS_GOOD = 0.95
"""A checkpoint with this share of the best likeness is as good by eye."""
CALMER = 0.85
"""Side effects have to fall to this share, or the later checkpoint or full strength stays."""


@dataclass(frozen=True)
class Candidate:
    """A file at a strength, and its meters.

    Attributes:
        file: its name in the run folder.
        step: after how many steps it was written; None for a file that does not say.
    """

    file: str
    step: int | None
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


def best_checkpoint(candidates: Sequence[Candidate]) -> Candidate:
    """Of those that are as like the pictures as the best, the one that moves the rest least.

    A later one is given up only for clearly smaller side effects. Without pictures to compare
    with, it is the last.
    """
    likeness = [one.meters.likeness for one in candidates if one.meters.likeness is not None]
    if not likeness:
        return candidates[-1]
    return _calmest([one for one in candidates if _as_good(one, max(likeness))])


def best_strength(candidates: Sequence[Candidate]) -> Candidate:
    """The same for one file at several strengths, the full one last."""
    return best_checkpoint(candidates)


def recommend(
    checkpoints: Sequence[Candidate], strengths: Sequence[Candidate], *, dead: bool = False
) -> Recommendation:
    """Puts the choice in words.

    Args:
        checkpoints: all that were measured at full strength, in their order.
        strengths: the best of them (see `best_checkpoint`) at several strengths, rising.
    """
    chosen = best_strength(strengths)
    meters = chosen.meters
    if dead or meters.effect == 0:
        return Recommendation(None, "Nothing to recommend: the adapter changes nothing.")
    if meters.likeness is None:
        return Recommendation(chosen, "There were no pictures to judge it by.")
    if meters.likeness <= 0:
        return Recommendation(
            None, "Nothing to recommend: the base model alone predicts the pictures better."
        )
    return Recommendation(chosen, _why(chosen, checkpoints))


def _why(chosen: Candidate, checkpoints: Sequence[Candidate]) -> str:
    best = max(one.meters.likeness or 0.0 for one in checkpoints)
    parts = [f"{(chosen.meters.likeness or 0.0) / best:.0%} of the best likeness found"]
    last = checkpoints[-1]
    if (chosen.file, chosen.strength) != (last.file, last.strength) and last.side_effects > 0:
        share = chosen.side_effects / last.side_effects
        change = f"{1 - share:.0%} less" if share <= 1 else f"{share - 1:.0%} more"
        parts.append(f"the rest moves {change} than with the last checkpoint at full strength")
    elif len(checkpoints) > 1:
        parts.append("no earlier checkpoint and no lower strength is as like and clearly calmer")
    text = "; ".join(parts)
    return f"{text}."


def _as_good(one: Candidate, best: float) -> bool:
    if one.meters.likeness is None:
        return False
    return one.meters.likeness >= (AS_GOOD * best if best > 0 else best)


def _calmest(candidates: Sequence[Candidate]) -> Candidate:
    chosen = candidates[-1]
    for one in reversed(candidates[:-1]):
        if one.side_effects < CALMER * chosen.side_effects:
            chosen = one
    return chosen
