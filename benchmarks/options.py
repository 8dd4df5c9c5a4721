"""Every optimizer, schedule and kind of adapter that is offered, at its defaults, on three sets.

    python -m benchmarks.options [--steps 300] [--only TEXT …] [--set KEY=VALUE …] [--report]

Trains the built-in model, each row in a process of its own with one thread. Rows that are in the
results already are not measured again, so that it can be stopped and started. ``--report`` writes
the table into docs/notes/optimizers.md and says which rows are worse than what is promised there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.shared import in_a_process, markdown, write_between_marks
from trainer.config.fields import all_fields
from trainer.config.file import apply_overrides, with_values
from trainer.config.schema import TrainingConfig
from trainer.places import DATASETS, PROJECT
from trainer.runs.atomic import write_json

RESULTS = PROJECT / "benchmarks" / "results" / "options.json"
PAGE = PROJECT / "docs" / "notes" / "optimizers.md"
SETS = {
    "police-car": ("police-car", "car"),
    "teddy": ("teddy-and-peacock/teddy", "bear"),
    "flat-paper": ("flat-paper", "emoji"),
}
OPTIONS = ("optimizer.name", "optimizer.schedule", "adapter.kind")
LEAST_LIKENESS, MOST_LEAK = 0.5, 3.0
"""What a row must keep to, as shares of AdamW's likeness and leak on the same set."""


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--only", nargs="+", help="defaults, or options by name")
    parser.add_argument("--set", nargs="+", default=[], help="settings beside the defaults")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(json.loads(options.child))))
    elif options.report:
        report(json.loads(options.out.read_text(encoding="utf-8")))
    else:
        run_all(options)


def run_all(options: argparse.Namespace) -> None:
    """Measures the rows that are missing; each is kept and printed."""
    rows = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else []
    for changed in combinations():
        if options.only and _changed(changed) not in options.only:
            continue
        for name in options.sets:
            row = {"set": name, "steps": options.steps, **changed, "settings": options.set}
            if any(row.items() <= known.items() for known in rows):
                continue
            found = in_a_process("benchmarks.options", "--child", json.dumps(row))
            rows.append({**row, **found})
            write_json(options.out, rows)
            print(json.dumps(rows[-1]), flush=True)


def combinations() -> Iterator[dict[str, str]]:
    """The defaults, and then each choice of one option with the defaults of the others."""
    defaults = {name: str(all_fields()[name].default) for name in OPTIONS}
    yield defaults
    for name in OPTIONS:
        for choice in all_fields()[name].choices:
            if choice != defaults[name]:
                yield {**defaults, name: choice}


def measure(row: dict[str, Any]) -> dict[str, object]:
    """Trains a row in this process.

    Returns:
        The meters at the end; ``drawn`` and ``drawn_without``: likeness of pictures drawn with the
        trigger and without it; ``rates`` as resolved; ``seconds`` a step.
    """
    from trainer.events import StepDone
    from trainer.runs.layout import RunFolder
    from trainer.training.runner import run_training

    folder, class_word = SETS[row["set"]]
    values = {name: row[name] for name in OPTIONS} | {
        "images.path": str(DATASETS / folder),
        "captions.trigger": "ohwx",
        "captions.class_word": class_word,
        "training.steps": row["steps"],
        "previews.every": 0,
        "previews.count": 1,
        "checkpoints.every": 0,
        "evaluation.enabled": False,
    }
    config = apply_overrides(with_values(TrainingConfig(), values), row["settings"])
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        run = RunFolder(Path(place) / "run")
        run_training(
            config,
            run,
            lambda event: seconds.append(event.seconds) if isinstance(event, StepDone) else None,
        )
        return {**_meters(run.path), "seconds": round(sorted(seconds)[len(seconds) // 2], 3)}


def _meters(run: Path) -> dict[str, object]:
    """What is measured of a finished run."""
    import trainer
    from trainer.config.file import read_config

    found = trainer.evaluate(run)
    last, drawn = found.checkpoints[-1].meters, found.pictures
    optimizer = read_config(run / "config.toml").optimizer
    meters = {name: getattr(last, name) for name in ("likeness", "leak", "collateral", "effect")}
    return {
        **{name: None if value is None else round(value, 4) for name, value in meters.items()},
        "drawn": round(drawn.trigger["simple"], 3) if drawn else None,
        "drawn_without": round(drawn.class_word["simple"], 3) if drawn else None,
        "rates": [optimizer.learning_rate, optimizer.text_encoder_learning_rate],
    }


# ----------------------------------------------------------------------------------- the page


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Writes the table; prints the rows that do not keep to what is promised."""
    rows = [row for row in rows if not row["settings"]]
    references = {_same(row): row for row in rows if _changed(row) == "defaults"}
    cells: list[list[object]] = []
    for row in sorted(rows, key=lambda row: (row["settings"], _changed(row))):
        reference = references[_same(row)]
        kept = (
            row["likeness"] >= LEAST_LIKENESS * reference["likeness"]
            and row["leak"] <= MOST_LEAK * reference["leak"]
        )
        if not kept:
            print("not as promised:", json.dumps(row))
        meters = [f"{row[name]:.3f}" for name in ("likeness", "leak", "collateral", "drawn")]
        cells.append(
            [_changed(row), row["set"], row["steps"], *meters, "yes" if kept else "**no**"]
        )
    header = [
        "option",
        "set",
        "steps",
        "likeness",
        "leak",
        "collateral",
        "drawn likeness",
        "as promised",
    ]
    write_between_marks(PAGE, "options", markdown(header, cells))


def _same(row: dict[str, Any]) -> tuple[object, ...]:
    """What rows that are compared have alike."""
    return row["set"], row["steps"], *row["settings"]


def _changed(row: dict[str, Any]) -> str:
    """What a row has that is no default; "defaults" for nothing."""
    found = [row[name] for name in OPTIONS if row[name] != all_fields()[name].default]
    return ", ".join(found) or "defaults"


if __name__ == "__main__":
    main()
