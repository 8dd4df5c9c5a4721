"""Successive halving over short runs, within a budget, and what it comes to.

The settings that the search begins with ("the defaults") are trained with two seeds: what the
second one changes is what others have to exceed. Optuna proposes those (TPE, arXiv 2304.11127), and
decides which half of them goes on (successive halving, arXiv 1502.07943) after a quarter and after
half of the steps. The best is trained to its end, and where it is better with the second seed too.
Every run has the schedule of its whole length; one that goes on is resumed.

Nothing is kept of a search but its runs. It is played again from them, with the same proposals.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.fields import get_value
from trainer.config.file import read_config, with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.runs.atomic import write_text
from trainer.runs.layout import RunFolder
from trainer.seeds import derive_seed
from trainer.text import counted, duration
from trainer.tuning.space import ASKED, changes, distributions, guesses
from trainer.tuning.trials import (
    Tell,
    Trial,
    TrialScores,
    end_cost,
    look_cost,
    run_cost,
    step_cost,
    trial_config,
)

if TYPE_CHECKING:
    import optuna


BUDGET = 6.0
"""At most so many times the cost of one run with the settings that the search begins with."""
MOST = 8  # settings that are tried beside them
_PROBE = 4  # steps whose time tells how long all will take


class Search:
    """A search, and how far it has come.

    Args:
        config: what it begins with.
        folder: where its runs lie, and what it was asked.
        names: what is searched; see `trainer.tuning.space.searched`.
        tell: is told, in sentences, how it goes.
        make: makes a trial.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        names: list[str],
        tell: Tell,
        make: Callable[..., Trial] = Trial,
    ) -> None:
        self.config, self.folder, self.names, self.tell = config, folder, names, tell
        self.trials: list[Trial] = []
        self._make = make
        # Trains several on, each to a step; what is still missing then is done one by one here.
        self.ahead: Callable[[Sequence[tuple[Trial, int]]], object] = len
        self.interval = max(1, config.training.steps // 4)
        self.defaults = self._trial("defaults", config, {})

    def run(self) -> Choice:
        """Searches, from where it was stopped.

        Raises:
            UserError: the defaults can't be trained, or anything else that the user can put right.
            KeyboardInterrupt: stopped by the user; everything is saved.
        """
        self._begin()
        for step in (self.interval, 2 * self.interval):
            self._reach(self.defaults, step)
        both = [self.defaults, self._with_other_seed(self.defaults)]
        self.ahead([(trial, trial.steps) for trial in both])
        pair = [self._reach(trial) for trial in both]
        seen = tuple(one for one in pair if one)
        if len(seen) < 2:
            raise UserError(f"Your settings can't be trained: {self.defaults.failed}")
        finalists = self._halved()
        finished = [(trial, end) for trial in finalists if (end := self._end_of(trial))]
        return choose(Pair(seen), finished, lambda trial: self._reach(self._with_other_seed(trial)))

    # ------------------------------------------------------------------------------ its cost

    @cached_property
    def budget(self) -> float:
        """In forward passes, as all costs."""
        return BUDGET * run_cost(self.measured)

    @property
    def measured(self) -> TrainingConfig:
        """What the search begins with; measuring is not left out."""
        return with_values(self.config, {"evaluation.enabled": True})

    def planned(self, count: int) -> float:
        """The most that a search of so many settings costs."""
        config, looks = self.defaults.config, 2 + count + ceil(count / 2)
        looking = looks * look_cost(config) + 4 * end_cost(config)
        return self.most_steps(count) * step_cost(config) + looking

    def most_steps(self, count: int) -> float:
        """The most steps of all runs together: of yours, of the halving, and of the best."""
        steps, halving = self.config.training.steps, (count + ceil(count / 2)) * self.interval
        longest = 1.5 * steps if "length" in self.names else steps
        return 2 * steps + halving + 2 * longest - 2 * self.interval

    @property
    def count(self) -> int:
        """So many settings fit the budget."""
        fitting = (count for count in range(2, MOST + 1) if self.planned(count) <= self.budget)
        return max(fitting, default=2)

    @property
    def spent(self) -> float:
        """What all runs have cost so far."""
        return sum(self._cost_to(trial, trial.done) for trial in self.trials)

    def _cost_to(self, trial: Trial, step: int) -> float:
        looks = sum(trial.looked_at(look) for look in (self.interval, 2 * self.interval))
        passes = step * step_cost(trial.config) + looks * look_cost(trial.config)
        return passes + (end_cost(trial.config) if step == trial.steps else 0)

    # ------------------------------------------------------------------------------ its steps

    def _begin(self) -> None:
        asked, pictures = self.folder / ASKED, self.folder / "pictures.sha256"
        content = _content_of(self.config.images.path)
        if asked.is_file():
            if read_config(asked, of_run=True) != self.config:
                raise UserError(
                    f"{self.folder} is a search with other settings.",
                    "Give --run another name, or the same settings to go on with it.",
                )
            if pictures.is_file() and pictures.read_text(encoding="ascii") != content:
                raise UserError(
                    f"The image set has changed since the search {self.folder.name} began.",
                    "Put it back as it was, or search anew.",
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(pictures, content)
            write_config(asked, self.config)
        self.ahead([(self.defaults, self.interval)])
        if not self.defaults.done:
            self.defaults.train(min(_PROBE, self.interval), self.tell, look=False)
        most, training = self.planned(self.count), self.config.training
        seconds = most / step_cost(self.defaults.config) * self.defaults.pace()
        self.tell(
            f"{counted(self.count, 'setting')} beside yours: {self.interval} steps of each, as "
            f"many again of the better half, and the best to its end; that and yours with two "
            f"seeds. At most {BUDGET * most / self.budget:.1f} times the work of one run of "
            f"{training.steps} steps of {training.batch_size}, measuring counted: about "
            f"{duration(seconds, rough=True)}, by the time of the first steps."
        )

    def _trial(self, name: str, config: TrainingConfig, changed: dict[str, object]) -> Trial:
        run = RunFolder(self.folder / name)
        trial = self._make(name, run, trial_config(config, self.interval), changed)
        self.trials.append(trial)
        return trial

    def _with_other_seed(self, trial: Trial) -> Trial:
        seed = (self.config.training.seed + 1) % 2**31
        config = with_values(self.begun, {**trial.changed, "training.seed": seed})
        return self._trial(f"{trial.name}-again", config, trial.changed)

    @cached_property
    def begun(self) -> TrainingConfig:
        """What the search begins with, with what the base model recommends filled in."""
        run = read_config(self.defaults.run.config, of_run=True)
        filled = {name: getattr(run, name) for name in ("adapter", "images", "optimizer")}
        return self.config.model_copy(update=filled)

    def _reach(self, trial: Trial, step: int | None = None) -> TrialScores | None:
        step = min(step or trial.steps, trial.steps)
        if seen := trial.seen(step):
            return seen
        what = ", ".join(f"{name} {value}" for name, value in trial.changed.items())
        self.tell(f"{trial.name}{f' ({what})' if what else ''}: to step {step} of {trial.steps}")
        self.ahead([(trial, step)])
        seen = trial.reach(step)
        self.tell(f"  {seen}" if seen else f"  can't be trained: {trial.failed}")
        return seen

    def _halved(self) -> list[Trial]:
        """The proposals that are left after two halvings, the best first."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize")
        for params in guesses(self.begun, self.names):
            study.enqueue_trial(params)
        proposed: list[tuple[optuna.Trial, Trial]] = []
        for number in range(1, self.count + 1):
            # A seed for each proposal: a search that goes on proposes what it would have proposed.
            seed = derive_seed(self.config.training.seed, number, "tune") % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)
            asked = study.ask(distributions(self.names))
            changed = changes(self.begun, asked.params)
            new = {
                key: value for key, value in changed.items() if value != get_value(self.begun, key)
            }
            proposed.append(
                (asked, self._trial(f"trial-{number}", with_values(self.begun, changed), new))
            )
        self.ahead([(trial, self.interval) for _, trial in proposed])
        going = [one for pair in proposed for one in self._report(study, *pair, self.interval)]
        going = _better_half(study, going, self.interval)
        self.ahead([(trial, 2 * self.interval) for _, trial in going])
        later = [one for pair in going for one in self._report(study, *pair, 2 * self.interval)]
        return [trial for _, trial in reversed(_better_half(study, later, self.interval))]

    def _report(
        self, study: optuna.Study, asked: optuna.Trial, trial: Trial, step: int
    ) -> list[tuple[optuna.Trial, Trial]]:
        """The trial, once it was seen; none where it can't be trained."""
        from optuna.trial import TrialState

        seen = self._reach(trial, step)
        if seen is None:
            study.tell(asked, state=TrialState.FAIL)
            return []
        trial.value = seen.value(self.defaults.seen(step))
        asked.report(trial.value, step)
        return [(asked, trial)]

    def _end_of(self, trial: Trial) -> TrialScores | None:
        """Trains to the end, if the plan has room for it with a second seed too."""
        whole = self._cost_to(trial, trial.steps)
        more = 2 * whole - self._cost_to(trial, trial.done)
        if trial.done < trial.steps and self.spent + more > self.planned(self.count):
            return None
        return self._reach(trial)


def _content_of(path: Path) -> str:
    """SHA-256 of all files of an image set, with their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        with suppress(OSError):  # folders, and what reading the set will complain of
            content = file.read_bytes()
            digest.update(os.fsencode(f"{file.relative_to(path)}\n{len(content)}\n") + content)
    return digest.hexdigest()


def _better_half(
    study: optuna.Study, going: list[tuple[optuna.Trial, Trial]], first: int
) -> list[tuple[optuna.Trial, Trial]]:
    """Those that go on, rising by their value.

    Optuna's halving is asynchronous: whoever asks first goes on. Asked from the worst to the best,
    with none let through before half of them have asked, it keeps the better half.
    """
    import optuna

    study.pruner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=first, reduction_factor=2, bootstrap_count=len(going) // 2
    )
    kept: list[tuple[optuna.Trial, Trial]] = []
    for asked, trial in sorted(going, key=lambda pair: pair[1].value):
        if asked.should_prune():
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            kept.append((asked, trial))
    return kept


# -------------------------------------------------------------------------------------- the choice


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
    """What to train with."""

    trial: Trial | None  # None: the settings that the search began with are as good
    found: Pair  # what it does with both seeds; of the defaults where there is no better trial
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
