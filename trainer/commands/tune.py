"""``tune``: finds rate, rank, layers, length and preservation weight for an image set."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from trainer.commands.command import command, option, say
from trainer.commands.train import FLAGS, Ray, Sources, take_away
from trainer.config.concepts import check_essentials, run_name
from trainer.config.file import read_config, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import Code, UserError
from trainer.events import Phase, SearchProgress
from trainer.places import RUNS, shown
from trainer.runs.atomic import write_json
from trainer.runs.layout import RunFolder, prepare, run_lock
from trainer.runs.log import EventLog
from trainer.runs.status import own_status, write_status
from trainer.tuning.space import ASKED, searched

if TYPE_CHECKING:
    from trainer.tuning.result import SearchResult


@command(
    "tune",
    "find settings for a folder of pictures, by short trainings of which the better half goes on: "
    "learning rate, rank, layers, steps and preservation weight; what you set yourself stays",
    fields=FLAGS,
)
def tune(
    *,
    run: Annotated[
        Path | None, option("DIR", "Folder of the search; the same command again goes on with it.")
    ] = None,
    sources: Sources,
    ray: Ray = None,
    **fields: object,
) -> "SearchResult":
    """Search, at most six times the work of one run; how it goes is said on stderr.

    Raises:
        UserError: a mistake in the configuration or the images, or nothing is left to search.
    """
    whole = sources.gathered(fields)
    check_essentials(whole, hint="Give --images DIR and --trigger WORD.")
    given = {*fields, *(text.partition("=")[0].strip() for text in sources.overrides or ())}
    names = searched(whole, given)
    folder = RunFolder(run or RUNS / f"{run_name(whole)}-tune")
    made, empty = not folder.path.exists(), not any(folder.path.glob("*"))
    if not empty and not any((folder.path / name).is_file() for name in (ASKED, "search.json")):
        hint = "Give the search another folder with --run DIR."
        raise UserError(f"{folder.path} has something else in it than a search.", hint)
    prepare(folder)
    write_json(folder.search, names)
    try:
        return search(folder, whole, ray)
    finally:  # refused before anything was trained: leave nothing behind
        if empty and not any(folder.path.glob("*/checkpoints/step-*")):
            take_away(folder.path, itself=made)


def search(
    folder: RunFolder, config: TrainingConfig | None = None, ray: str | None = None
) -> "SearchResult":
    """Searches, or goes on with it, in a run folder that ends as the best of its runs.

    Args:
        config: what it begins with; None where it was begun before.
        ray: address of a cluster that trains its runs.

    Raises:
        UserError: the images are at fault, or another process is at work there.
        KeyboardInterrupt: asked to stop; everything is saved.
    """
    say("Loading …", sys.stderr)
    from trainer.tuning.result import write_result
    from trainer.tuning.search import Search

    asked = folder.path / ASKED
    config = config or read_config(asked if asked.is_file() else folder.config, of_run=True)
    if not folder.config.is_file():
        write_config(folder.config, config)
    with run_lock(folder), EventLog(folder.events) as log:

        def tell(text: str) -> None:
            say(text, sys.stderr)
            log.append(SearchProgress(message=text.strip()))
            note("searching", text.strip())

        def note(phase: Phase, message: str, code: Code = "") -> None:
            done = sum(trial.done for trial in found.trials)  # steps of all runs together
            status = own_status(phase, done, int(found.most_steps(found.count)), message)
            write_status(folder, replace(status, code=code))

        place = folder.path.resolve() if ray else folder.path
        found = Search(config, place, json.loads(folder.search.read_bytes()), tell)
        if ray:
            from trainer.training.cluster import reach_on_cluster

            found.ahead = partial(reach_on_cluster, ray)
        try:
            result = write_result(found, found.run())
            if not folder.adapter.is_file():
                adopt(folder, result.best, result.config)
            tell(result.choice.why)
            note("finished", result.choice.why)
            return result
        except KeyboardInterrupt:
            where = f"Everything is saved in {shown(folder.path)}; the same command goes on."
            say(f"\n{where}", sys.stderr)
            note("stopped", where)
            raise
        except UserError as error:
            note("failed", str(error), error.code)
            raise


def adopt(folder: RunFolder, best: RunFolder, settings: Path) -> None:
    """Makes a search's folder a run with the adapter, log and measurements of its best."""
    for name in ("adapter.safetensors", "evaluation.json", "evaluation", "previews"):
        source, target = best.path / name, folder.path / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copyfile(source, target)
    shutil.copyfile(settings, folder.config)
    if best.events.is_file():
        with folder.events.open("ab") as events:
            events.write(best.events.read_bytes())
