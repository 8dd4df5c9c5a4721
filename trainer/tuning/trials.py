"""The runs of a search: ordinary run folders, trained to a step, looked at, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.config.concepts import preserved_share
from trainer.config.file import read_config, with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.evaluation.pictorial import score_pictures
from trainer.evaluation.watching import Watch, history
from trainer.events import RunEvent, StepDone, Warned, no_progress
from trainer.runs.atomic import write_json
from trainer.runs.layout import RunFolder
from trainer.runs.log import last_of, read_events
from trainer.runs.status import read_status
from trainer.training.loop import draw_previews
from trainer.training.runner import Pause, run_training
from trainer.training.session import Session

TRAINED = 3
DENOISING = 15 * 2  # passes of one drawing that is measured: 15 steps with guidance
DRAWN = 4
"""Captions of the set that are drawn: with the trigger word, without it, and by the base model."""
_MEASUREMENT = 51  # docs/measuring.md
_LISTENING = 3 * 7 * 2 * DENOISING  # three ways, at most seven prompts, two seeds
_BOARD = 13  # cells
_PREVIEWS = 3  # prompts that are drawn where none are given


def step_cost(config: TrainingConfig) -> float:
    """One optimizer step, with what is preserved."""
    training = config.training
    rows = training.batch_size * training.accumulation
    return TRAINED * rows * (1 + preserved_share(config) / config.preservation.every)


def look_cost(config: TrainingConfig) -> float:
    """Meters, drawings and previews at one step of a run that is searched with."""
    return _MEASUREMENT + 3 * DRAWN * DENOISING + _preview_cost(config)


def end_cost(config: TrainingConfig) -> float:
    """What is measured and drawn at the end of a run, and its first previews."""
    strengths = 3 * _MEASUREMENT
    board = _BOARD * config.evaluation.board * DENOISING
    drawings = 3 * DRAWN * DENOISING + _LISTENING
    measured = strengths + drawings + board if config.evaluation.enabled else 0
    return measured + 2 * _preview_cost(config)


def run_cost(config: TrainingConfig) -> float:
    """A whole run, as `train` does it."""
    steps, previews, evaluation = config.training.steps, config.previews, config.evaluation
    between = (steps - 1) // previews.every * _preview_cost(config) if previews.every else 0
    if evaluation.enabled and evaluation.every:
        between += (steps - 1) // evaluation.every * _MEASUREMENT
    return steps * step_cost(config) + between + end_cost(config)


def _preview_cost(config: TrainingConfig) -> float:
    previews = config.previews
    passes = previews.inference_steps * (2 if previews.guidance > 1 else 1)
    return (len(previews.prompts) or _PREVIEWS) * previews.count * passes


Tell = Callable[[str], None]


@dataclass(frozen=True)
class TrialScores:
    """What a run draws at one step, or at its end."""

    # How straight what the trigger word changes in the drawings leads to the set, to 1.
    drawn: float
    # How far the drawings without the trigger word have gone to the set; 1: all the way.
    taken: float
    leak: float  # how far the class word or things like it move, as a share of the effect
    # How much scenes change the drawing; None before the end, and without a class word that the
    # base model knows.
    listens: float | None = None
    verdict: str = ""  # the verdict's code at the end; empty before

    def __str__(self) -> str:
        heard = "" if self.listens is None else f", listens {self.listens:.2f}"
        return f"drawn {self.drawn:.2f}, taken {self.taken:.2f}, leak {self.leak:.2f}{heard}"

    def value(self, reference: TrialScores | None) -> float:
        """What the search raises: `drawn`, less what leaks more than in the reference."""
        if reference is None:
            return self.drawn
        more = (self.taken - max(reference.taken, 0.0), self.leak - reference.leak)
        return self.drawn - sum(max(0.0, excess) for excess in more)


def trial_config(config: TrainingConfig, interval: int) -> TrainingConfig:
    """A configuration for a run that is searched with: few previews, measured when looked at.

    Args:
        interval: steps between two measurements.
    """
    previews = config.previews
    return with_values(
        config,
        {
            "previews.every": 0,
            "previews.count": 1,
            "previews.inference_steps": min(previews.inference_steps, 15),
            "checkpoints.every": 0,
            "evaluation.enabled": True,
            "evaluation.every": interval,
            "evaluation.early_stop": 0,
            "evaluation.board": 0,
            "tracking.tracker": "none",
            "tracking.webhook": "",
        },
    )


@dataclass
class Trial:
    """One run of the search, under a name that says which."""

    name: str
    run: RunFolder
    config: TrainingConfig
    changed: dict[str, object]  # the fields that differ from what the search began with
    failed: str = ""  # why it can't be trained; empty where it can
    value: float = 0.0  # what the search goes by, as last seen

    @property
    def done(self) -> int:
        """The last step whose state was saved."""
        return max(self.run.checkpoint_steps(), default=0)

    def looked_at(self, step: int) -> bool:
        """Whether it was looked at there on its way."""
        return step < self.steps and self.seen(step) is not None

    @property
    def steps(self) -> int:
        """How many it has in all."""
        return self.config.training.steps

    def seen(self, step: int) -> TrialScores | None:
        """What was seen at a step before, or at the end; None where it has not come so far."""
        if step < self.steps:
            looks = _read(self._looks)
            return TrialScores(**looks[str(step)]) if str(step) in looks else None
        found, details = _read(self.run.evaluation), _read(self._looks.with_name("details.json"))
        if not found or not self.run.adapter.is_file():
            return None
        drawn = details.get("pictures") or {"learned": 0.0, "taken": 0.0}  # none of a dead one
        listening = found["listening"] or {"listens": None}
        return TrialScores(
            drawn["learned"],
            drawn["taken"],
            found["leak"] or 0.0,
            listening["listens"],
            found["verdict"]["code"],
        )

    def reach(self, step: int) -> TrialScores | None:
        """Trains on to a step and looks; what was done before a stop is not done again.

        Returns:
            What was seen; None where these settings can't be trained, see `failed`.

        Raises:
            UserError: anything else that the user can put right.
            KeyboardInterrupt: asked to stop; everything is saved.
        """
        if seen := self.seen(step):
            return seen
        status = read_status(self.run)
        if status and status.phase == "failed" and status.code in _OF_SETTINGS:
            self.failed = status.message
            return None
        try:
            self.train(step)
        except UserError as error:
            if error.code not in _OF_SETTINGS:
                raise
            self.failed = error.message
            return None
        return self.seen(step)

    def train(self, step: int, tell: Tell = lambda _: None, *, look: bool = True) -> None:
        """Trains on to a step.

        Args:
            tell: is told what the user should know.
            look: whether the run is looked at there; at its end it always is.
        """
        going_on = bool(self.run.checkpoint_steps())
        # What else must not change, resuming checks.
        if going_on and read_config(self.run.config, of_run=True).training.steps != self.steps:
            raise UserError(
                f"{self.run.path} was begun with other settings.",
                "Begin anew with --run another name.",
            )
        if not going_on:
            self.run.path.mkdir(parents=True, exist_ok=True)
            write_config(self.run.config, self.config)

        def listen(event: RunEvent) -> None:
            if isinstance(event, Warned) and not going_on:
                tell(f"Note: {event.message}")

        pause = Pause(step, self._look if look else lambda _: None) if step < self.steps else None
        result = run_training(self.config, self.run, listen, resume=going_on, pause=pause)
        if result.asked_to_stop:
            raise KeyboardInterrupt

    def pace(self) -> float:
        """Seconds of a step, as the run's log has them: the middle one, the first left out."""
        done = list(last_of(read_events(self.run), StepDone).values())
        seconds = sorted(event.seconds for event in done[1:] or done)
        return seconds[len(seconds) // 2]

    @property
    def _looks(self) -> Path:
        return self.run.bleed_board.with_name("looks.json")

    def _look(self, session: Session) -> None:
        concept = Watch(session).bench.concepts[0]
        with session.averaged():
            drawn = score_pictures(session.base, concept, session.device, DRAWN, None, no_progress)
        draw_previews(session, strength=1)
        leak = history(read_events(self.run), session.step)[session.step].leak or 0.0
        learned, taken = (drawn.learned, drawn.taken) if drawn else (0.0, 0.0)
        seen = TrialScores(learned, taken, leak)
        self._looks.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._looks, {**_read(self._looks), str(session.step): asdict(seen)})


_OF_SETTINGS = ("non_finite", "out_of_memory")


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that this program has written; empty where there is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
