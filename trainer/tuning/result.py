"""What a search has found: a table, a page with pictures, and a configuration to train with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.answers import Answer
from trainer.config.concepts import run_name
from trainer.config.fields import shown as in_words
from trainer.config.file import with_values, write_config
from trainer.places import shown
from trainer.runs.atomic import write_json
from trainer.runs.layout import RunFolder
from trainer.runs.report import Part, pictures_of, trade_off, write_study
from trainer.text import aligned
from trainer.tuning.search import Choice, Search
from trainer.tuning.trials import Trial, TrialScores, run_cost

_HEAD = ("run", "settings", "steps", "drawn", "taken", "leak", "listens")
_MEANS = (
    "Drawn: how directly the trigger word turns drawings towards the set, at most 1. Taken: how "
    "far drawings without it have gone there too. Leak: how far the class word moves, a share of "
    "the effect. Listens: how much scenes change a drawing. Compare runs of equally many steps."
)


@dataclass(frozen=True)
class SearchResult(Answer):
    """The result of ``tune``."""

    choice: Choice
    best: RunFolder
    runs: list[tuple[Trial, int, TrialScores]]
    config: Path  # the file of the recommended settings
    report: Path  # the page
    times: float  # the work of all runs, as a multiple of one run with the settings to begin with

    def as_dict(self) -> dict[str, object]:
        """Also for ``tune.json`` in its folder."""
        trial = self.choice.trial
        return {
            "recommended": {
                "run": trial.name if trial else "defaults",
                "settings": trial.changed if trial else {},
                "better": trial is not None,
                "why": self.choice.why,
                "config": str(self.config),
                "adapter": str(trial.run.adapter) if trial else None,
            },
            "times": round(self.times, 2),
            "report": str(self.report),
            "runs": [
                {
                    "run": one.name,
                    "folder": str(one.run.path),
                    "settings": one.changed,
                    "steps": one.steps,
                    "done": step,
                    **asdict(seen),
                }
                for one, step, seen in self.runs
            ],
        }

    def lines(self) -> list[str]:
        trial = self.choice.trial
        ready = [f"Its adapter is ready:  {shown(trial.run.adapter)}"] if trial else []
        return [
            *aligned([_HEAD, *table(self.runs)]),
            "",
            self.choice.why,
            *ready,
            f"Train with it:  {self.command}",
            f"Report:  {shown(self.report)}",
        ]

    @property
    def command(self) -> str:
        """That trains with what is recommended."""
        return f"python launch.py train --config {shown(self.config)}"


def table(runs: list[tuple[Trial, int, TrialScores]]) -> list[tuple[str, ...]]:
    """A line for each run."""
    return [
        (
            trial.name,
            settings_of(trial),
            f"{step} of {trial.steps}",
            *(f"{value:.2f}" for value in (seen.drawn, seen.taken, seen.leak)),
            "" if seen.listens is None else f"{seen.listens:.2f}",
        )
        for trial, step, seen in runs
    ]


def settings_of(trial: Trial) -> str:
    """What differs from what the search began with, in words."""
    changed = trial.changed.items()
    return ", ".join(f"{name.partition('.')[2]} {in_words(value)}" for name, value in changed)


def write_result(search: Search, choice: Choice) -> SearchResult:
    """Writes ``recommended.toml``, ``tune.json`` and ``report.html`` into the search's folder."""
    folder, chosen = search.folder, choice.trial
    seen = [(one, *last) for one in search.trials if (last := _last_seen(one, search.interval))]
    config = with_values(search.begun, chosen.changed if chosen else {})
    recommended, report = folder / "recommended.toml", folder / "report.html"
    write_config(recommended, config)
    times = search.spent / run_cost(search.measured)
    tuned = SearchResult(choice, (chosen or search.defaults).run, seen, recommended, report, times)
    best = chosen.name if chosen else "defaults"
    ends = [(one, last) for one, step, last in seen if step == one.steps]
    ranked = sorted(seen, key=lambda row: (row[1] == row[0].steps, row[1], row[2].drawn))[::-1]
    points = [(one.name, 100 * last.taken, last.drawn, one.name == best) for one, last in ends]
    write_json(folder / "tune.json", tuned.as_dict())
    write_study(
        report,
        f"Settings for {run_name(search.config)}",
        [choice.why],
        [
            Part("All runs", _MEANS, [_HEAD, *table(seen)], best),
            Part(
                "The trade-off",
                "Upwards: drawn like the set. To the right: drawn without the trigger word too. "
                "Runs that went to their end.",
                chart=trade_off(points, "taken, %"),
            ),
            pictures_of("The three best", [(one.name, one.run) for one, *_ in ranked[:3]]),
        ],
        tuned.command,
    )
    return tuned


def _last_seen(trial: Trial, interval: int) -> tuple[int, TrialScores] | None:
    for step in (trial.steps, 2 * interval, interval):
        if seen := trial.seen(step):
            return step, seen
    return None
