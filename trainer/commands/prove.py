"""``prove``: three short trainings on your base model and card, as one page for a report."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from trainer import __version__
from trainer.answers import Answer
from trainer.commands.command import command, option, say
from trainer.commands.doctor import Machine, look
from trainer.commands.train import FLAGS, Sources
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import MemoryUsed
from trainer.places import PROJECT, RUNS, shown
from trainer.runs.layout import safe_name
from trainer.runs.log import read_events
from trainer.text import aligned

if TYPE_CHECKING:
    from trainer.tuning.trials import Trial, TrialScores

STEPS = 100
_HEAD = ("run", "verdict", "drawn", "taken", "leak", "listens", "s a step", "GiB", "GiB by fit")
_MEANS = (
    "plain: nothing else is held in place. Drawn: how straight what the trigger word changes leads "
    "to the set, 1 at most. Taken: how far drawings without it have gone there too. Leak: how far "
    "the class word moves, as a share of the effect. Listens: how much scenes change a drawing. "
    "GiB: the most that was in use on the card at once, beside what fit predicts."
)


@dataclass(frozen=True)
class Proven:
    """One training: what was seen, and what it took."""

    run: str
    seen: "TrialScores | None"
    failed: str  # why it could not be trained; empty where it could
    seconds: float | None
    peak_gib: float | None  # None without a GPU
    predicted_gib: float

    def row(self) -> tuple[str, ...]:
        """In the order of the table."""
        seen = self.seen
        found = (seen.drawn, seen.taken, seen.leak, seen.listens) if seen else (None,) * 4
        verdict = seen.verdict.replace("_", " ") if seen else self.failed
        numbers = (*found, self.seconds, self.peak_gib, self.predicted_gib)
        return (self.run, verdict, *("–" if one is None else f"{one:.2f}" for one in numbers))


@dataclass(frozen=True)
class ProofPage(Answer):
    """The result of ``prove``."""

    base: str
    machine: Machine
    runs: list[Proven]
    page: Path

    def as_dict(self) -> dict[str, Any]:
        rows = [dict(zip(_HEAD, one.row(), strict=True)) for one in self.runs]
        return {"base": self.base, "runs": rows, "page": str(self.page)}

    def lines(self) -> Iterator[str]:
        yield from aligned([_HEAD, *(one.row() for one in self.runs)])
        yield f"One page to attach to a report:  {shown(self.page)}"


@command(
    "prove",
    "train a bundled set on your base model and card three times: plain, by default, and with your "
    "settings; measures all alike, and writes one page to attach to a report",
    fields=FLAGS,
)
def prove(
    *,
    run: Annotated[Path | None, option("DIR", "Folder of the runs; must not exist yet.")] = None,
    sources: Sources,
    **fields: object,
) -> ProofPage:
    """Train, measure and write; how it goes is said on stderr. Your pictures are not used.

    Raises:
        UserError: a mistake in the configuration, or the base model can't be loaded.
    """
    yours = sources.gathered(fields)
    arms = dict(arms_of(yours, steps_given="training.steps" in fields))
    folder = run or RUNS / f"prove-{safe_name(Path(yours.base.name).name)}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already.", "Give another folder with --run DIR.")
    say("Loading …", sys.stderr)
    from trainer.memory.prediction import predict
    from trainer.runs.layout import RunFolder
    from trainer.tuning.trials import Trial

    # What can't be recognised or does not go together is said before anything is trained.
    predicted = {name: predict(arm).peak_gib for name, arm in arms.items()}
    found: list[Proven] = []
    trials = [Trial(name, RunFolder(folder / name), arm, {}) for name, arm in arms.items()]
    for trial in trials:
        say(f"{trial.name}: {trial.steps} steps", sys.stderr)
        seen = trial.reach(trial.steps)
        found.append(
            Proven(
                run=trial.name,
                seen=seen,
                failed=trial.failed,
                seconds=trial.pace() if seen else None,
                peak_gib=_peak(trial),
                predicted_gib=predicted[trial.name],
            )
        )
    proof = ProofPage(Path(yours.base.name).name, look(), found, folder / "proof.html")
    _write(proof, trials)
    return proof


def arms_of(
    yours: TrainingConfig, *, steps_given: bool = False
) -> Iterator[tuple[str, TrainingConfig]]:
    """The three trainings on the bundled set; the third where settings are not the defaults."""
    set_: dict[str, object] = {
        "concepts": [],
        "images.path": str(PROJECT / "datasets" / "police-car"),
        "captions.trigger": "ohwx",
        "captions.class_word": "car",
        "training.steps": yours.training.steps if steps_given else STEPS,
        "training.seed": yours.training.seed,
        "previews.every": 0,
        "previews.prompts": [],
        "previews.count": 1,
        "checkpoints.every": 0,
        "evaluation.enabled": True,
        "evaluation.every": 0,
        "tracking.tracker": "none",
        "tracking.webhook": "",
        "output.name": "",
    }
    base = TrainingConfig().model_copy(update={"base": yours.base})
    default, own = with_values(base, set_), with_values(yours, set_)
    yield "plain", with_values(default, {"preservation.method": "none"})
    yield "default", default
    if own != default:
        yield "yours", own


def _peak(trial: "Trial") -> float | None:
    """Of a GPU; without one the counter is the whole process's, of all runs."""
    events = [event for event in read_events(trial.run) if isinstance(event, MemoryUsed)]
    return max((event.peak_gib for event in events if event.device != "cpu"), default=None)


def _write(proof: ProofPage, trials: "list[Trial]") -> None:
    from trainer.runs.board import data_uri, read_png
    from trainer.runs.report import Part, pictures_of, write_study

    machine = proof.machine
    cards = ", ".join(f"{one.name}, {one.memory_gib} GiB" for one in machine.accelerators)
    about = (
        f"Base model {proof.base}, twelve pictures of a police car, {trials[0].steps} steps. "
        f"Rarebit {__version__}, torch {machine.torch}, Python {machine.python}, {machine.system}; "
        f"{cards or f'no GPU, {machine.cores} processor cores'}."
    )
    boards = [(one.name, read_png(one.run.bleed_board)) for one in trials]
    write_study(
        proof.page,
        f"{proof.base} on this machine",
        [about],
        [
            Part("Measured", _MEANS, [_HEAD, *(one.row() for one in proof.runs)]),
            pictures_of("What they draw", [(one.name, one.run) for one in trials]),
            Part(
                "What other prompts became",
                "Only the first line of each board should change from left to right.",
                images=[(name, data_uri(png)) for name, png in boards if png],
            ),
        ],
    )
