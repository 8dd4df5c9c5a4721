"""``evaluate``: does the trigger word work, does it leak, what else changed, what to use."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands.command import (
    FileBase,
    FileClassWord,
    FileTrigger,
    command,
    option,
    say,
    say_progress,
)
from trainer.config.fields import field_help
from trainer.errors import UserError

if TYPE_CHECKING:
    from trainer.evaluation.assessment import Assessment


@command("evaluate", "measure whether an adapter works, whether it leaks, and what to use")
def evaluate(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_ADAPTER", help="A run's folder or name, or an adapter file."
        ),
    ],
    *,
    base: FileBase = None,
    trigger: FileTrigger = None,
    class_word: FileClassWord = None,
    images: Annotated[Path | None, option("DIR", "Its image set, to measure likeness by.")] = None,
    scorers: Annotated[Path | None, option("DIR", field_help("evaluation.scorers"))] = None,
) -> "Assessment":
    """Measure a run or an adapter file; how far it is, it says on stderr.

    A run keeps it: ``evaluation.json``, the board in ``evaluation/`` and the report.

    Raises:
        UserError: there is nothing to measure, or no trigger word is known.
    """
    from trainer.evaluation.assessment import assess, write_assessment
    from trainer.evaluation.target import find_target, load_target
    from trainer.runs.report import write_report

    given = {"base": base, "trigger": trigger, "class_word": class_word}
    if images and not images.exists():
        raise UserError(f"The image folder {images} does not exist.", "Check the path.")
    model, target, device, cache = load_target(find_target(place, **given, images=images))
    own = target.run is not None and not any((*given.values(), images))
    if own and target.run and not os.access(target.run.path, os.W_OK):
        say(f"{target.run.path} can't be written to: what is measured is not kept.", sys.stderr)
        own = False
    board = target.run.bleed_board if target.run and own else None
    scorers = scorers or target.config.evaluation.scorers
    found = assess(
        model, target, device, cache, board=board, scorers=scorers, progress=say_progress
    )
    if target.run and own:
        write_assessment(found, target.run)
        write_report(target.run)
    return found
