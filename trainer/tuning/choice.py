"""What is recommended after a search, and why: never what chance explains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trainer.tuning.trials import Trial, TrialScores

_BAD = ("dead", "leaks", "overtrained", "wrong_subject")


@dataclass(frozen=True)
class Pair:
    """The same settings with two seeds."""

    seen: tuple[TrialScores, ...]

    @property
    def drawn(self) -> float:
        return sum(one.drawn for one in self.seen) / len(self.seen)

    @property
    def taken(self) -> float:
        return sum(one.taken for one in self.seen) / len(self.seen)

    @property
    def leak(self) -> float:
        return sum(one.leak for one in self.seen) / len(self.seen)

    @property
    def listens(self) -> float | None:
        known = [one.listens for one in self.seen if one.listens is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Choice:
    """What to train with.

    Attributes:
        trial: None: the settings that the search began with are as good.
        found: what it does with both seeds; of the defaults where there is no better trial.
    """

    trial: Trial | None
    found: Pair
    why: str


def choose(
    defaults: Pair,
    finalists: Iterable[tuple[Trial, TrialScores]],
    confirm: Callable[[Trial], TrialScores | None],
) -> Choice:
    """The first of the finalists that is better than the defaults with both seeds together.

    Args:
        defaults: the settings that the search began with.
        finalists: trained to their ends with the first seed, the best first.
        confirm: trains one with the second seed.
    """
    chance = abs(defaults.seen[0].drawn - defaults.seen[1].drawn)
    reasons: list[str] = []
    for trial, first in finalists:
        # One more seed is trained only for what could pass.
        reason = _too_little(Pair((first,)), Pair(defaults.seen[:1]), chance)
        if not reason:
            second = confirm(trial)
            reason = "can't be trained with a second seed"
            if second:
                found = Pair((first, second))
                reason = _too_little(found, defaults, chance) or _worse(found, defaults)
                if not reason:
                    return Choice(trial, found, _better(trial, found, defaults, chance))
        reasons.append(f"{trial.name} {reason}.")
    by_chance = f"A second seed changes what they draw by {chance:.2f}."
    none = "" if reasons else "None of the others was trained to its end."
    why = " ".join(filter(None, ("The defaults are as good.", by_chance, *reasons, none)))
    return Choice(None, defaults, why)


def _too_little(found: Pair, defaults: Pair, chance: float) -> str:
    more = found.drawn - defaults.drawn
    seeds = " with a second seed" if len(found.seen) > 1 else ""
    if more > chance:
        return ""
    if more <= 0:
        return f"draws no more of the set{seeds} ({found.drawn:.2f}, they {defaults.drawn:.2f})"
    return f"draws more of the set{seeds}, but only by {more:.2f}"


def _worse(found: Pair, defaults: Pair) -> str:
    """What is worse than with both of the defaults' seeds; empty where nothing is."""
    for what, value, bound in (
        ("takes more without the trigger word", found.taken, max(s.taken for s in defaults.seen)),
        ("moves the class word more", found.leak, max(s.leak for s in defaults.seen)),
    ):
        if value > max(bound, 0.0):
            return f"draws {found.drawn:.2f} of the set, but {what} ({value:.2f}, they {bound:.2f})"
    heard = [one.listens for one in defaults.seen if one.listens is not None]
    if heard and found.listens is not None and found.listens < min(heard):
        return f"listens less ({found.listens:.2f}, they {min(heard):.2f})"
    usual = {one.verdict for one in defaults.seen}
    bad = [one.verdict for one in found.seen if one.verdict in _BAD and one.verdict not in usual]
    return f"ends as “{bad[0].replace('_', ' ')}”" if bad else ""


def _better(trial: Trial, found: Pair, defaults: Pair, chance: float) -> str:
    more = f"{found.drawn / defaults.drawn - 1:.0%} " if defaults.drawn > 0 else ""
    heard = "" if found.listens is None else f", and listens as well ({found.listens:.2f})"
    return (
        f"{trial.name} draws {more}more of the set than your settings: {found.drawn:.2f} instead "
        f"of {defaults.drawn:.2f}, each the mean of two seeds; another seed changes yours by "
        f"{chance:.2f}. Without the trigger word it draws no more of it ({found.taken:.2f}), and "
        f"moves the class word no farther ({found.leak:.2f}){heard}."
    )
