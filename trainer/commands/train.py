"""``train`` and ``resume``, and ``worker``, which is what the page and ``--processes`` start."""

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands.command import Options, command, option, say
from trainer.commands.progress import ProgressPrinter
from trainer.config.concepts import check_essentials, parse_concept, run_name
from trainer.config.fields import all_fields
from trainer.config.file import apply_overrides, read_config, with_values, write_config
from trainer.config.presets import apply_preset
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import StepDone
from trainer.places import RUNS, shown
from trainer.runs.atomic import remove
from trainer.runs.layout import RunFolder, create_run, open_run
from trainer.runs.log import read_events
from trainer.runs.status import ENDED, is_alive, lengthen, own_status, read_status, write_status
from trainer.text import capital
from trainer.training.processes import Group, check_launcher, end_with_launcher, launch

if TYPE_CHECKING:
    from trainer.training.runner import Result


STOPPED = 130
_ESSENTIALS = (
    "Give --images DIR and --trigger WORD, or --concept DIR:TRIGGER:CLASS for each of several; "
    "datasets/ holds three examples."
)

Concepts = Annotated[
    list[str] | None,
    option(
        "DIR:TRIGGER[:CLASS]",
        "One of several concepts for one adapter, in place of --images, --trigger and "
        "--class-word; give it once for each.",
        "--concept",
    ),
]
Ray = Annotated[
    str | None,
    option("ADDRESS", "Train on a Ray cluster whose machines share the folders, one run a card."),
]
Accept = Annotated[
    bool, typer.Option("--accept-changes", help="Go on although the image set has changed since.")
]


FLAGS = [field for field in all_fields().values() if field.flag]
"""The fields of the configuration that have an option of their own."""


@dataclass(frozen=True, kw_only=True)
class Sources(Options):
    """Where a configuration comes from, beside the options of fields."""

    config: Annotated[
        Path | None,
        option("FILE", "Start from a configuration file (TOML); presets and options win over it."),
    ] = None
    presets: Annotated[
        list[str] | None,
        option("NAME", "Start from a preset; of several, a later one wins.", "--preset"),
    ] = None
    overrides: Annotated[
        list[str] | None,
        option(
            "section.key=value",
            "Set any field of the configuration (docs/configuration.md). Can be repeated.",
            "--set",
        ),
    ] = None

    def gathered(self, fields: Mapping[str, object]) -> TrainingConfig:
        """The configuration from all of them; later ones win: file, preset, fields, ``--set``.

        Raises:
            UserError: all mistakes of one source.
        """
        config = read_config(self.config) if self.config else TrainingConfig()
        for name in self.presets or ():
            config = apply_preset(config, name)
        config = with_values(config, fields, "the command line")
        return apply_overrides(config, self.overrides or ())


@dataclass(frozen=True, kw_only=True)
class Machines(Options):
    """What a run is trained on: processes and machines together, or one card of a cluster."""

    processes: Annotated[
        int,
        option(
            "N",
            "Train with N processes on this machine, one a GPU, that share each batch. A "
            "run may be resumed with another number.",
        ),
    ] = 1
    nodes: Annotated[
        int,
        option("N", "Train on N machines: run the same command on each, with its own --node-rank."),
    ] = 1
    node_rank: Annotated[
        int, option("K", "Which machine this is, from 0; 0 is the main one, which writes the run.")
    ] = 0
    main: Annotated[
        str | None,
        option("ADDRESS[:PORT]", "The main machine, as the others reach it (port 29500)."),
    ] = None
    ray: Ray = None

    def group(self) -> Group:
        """The processes that train together.

        Raises:
            UserError: the options contradict each other.
        """
        group = Group(self.processes, self.nodes, self.node_rank, self.main)
        if self.ray and group.is_several:
            raise UserError(
                "--ray trains each run on one card; --processes and --nodes train one on several.",
                "Leave out one of them.",
            )
        return group


@command("train", "train an adapter from a folder of pictures", fields=FLAGS)
def train(
    *,
    concepts: Concepts = None,
    run: Annotated[Path | None, option("DIR", "Run folder; must not exist yet.")] = None,
    sources: Sources,
    machines: Machines,
    **fields: object,
) -> int:
    """Train into a new run folder.

    Returns:
        The exit status: 0, or 130 when stopped after saving.

    Raises:
        UserError: a mistake in the configuration or the images; no run folder is left behind.
    """
    group, ray = machines.group(), machines.ray
    if concepts:
        fields["concepts"] = [parse_concept(text) for text in concepts]
    whole = sources.gathered(fields)
    check_essentials(whole, hint=_ESSENTIALS)
    if _is_follower():
        return _run(whole, _shared_run(run), resume=False)
    if group.rank:
        return _help(group, whole, RunFolder(run or RUNS / run_name(whole)), [])
    given = run is not None and run.is_dir()
    folder = _new_run(_shared_run(run).path if _is_distributed() else run, whole)
    write_config(folder.config, whole)
    try:
        if group.is_several:
            return _launch(group, folder, [])
        return worker(folder.path, ray=ray) if ray else _run(whole, folder, resume=False)
    finally:
        # Refused or stopped before anything was trained: leave nothing behind.
        if not any(isinstance(event, StepDone) for event in read_events(folder)):
            take_away(folder.path, itself=not given)


def take_away(folder: Path, *, itself: bool) -> None:
    """Removes what a run has written; its folder too, unless it was there before."""
    for path in folder.iterdir() if folder.is_dir() else ():
        remove(path)
    if itself:
        shutil.rmtree(folder, ignore_errors=True)


@command("resume", "go on exactly where a run stopped")
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, or its name.")],
    *,
    steps: Annotated[
        int | None, option("N", "Steps in all; with more of them a finished run is trained longer.")
    ] = None,
    accept_changes: Accept = False,
    machines: Machines,
) -> int:
    """Go on with a run; one of which nothing was saved starts again.

    Raises:
        UserError: anything that the user can put right.
    """
    group = machines.group()
    folder = open_run(RUNS / run if not run.exists() and (RUNS / run).is_dir() else run)
    if steps is not None:
        lengthen(folder, steps)
    going_on = bool(folder.checkpoint_steps())
    if not going_on and not folder.search.is_file():
        say(f"{shown(folder.path)} has no checkpoint: it starts again, with its settings.")
    flags = ["--resume"] * going_on + ["--accept-changes"] * accept_changes
    if group.rank:
        return _help(group, read_config(folder.config, of_run=True), folder, flags)
    if group.is_several:
        return _launch(group, folder, flags)
    return worker(folder.path, resume=going_on, accept_changes=accept_changes, ray=machines.ray)


@command("worker", "train the run in a folder whose configuration is written already", hidden=True)
def worker(
    run: Path,
    *,
    resume: Annotated[bool, typer.Option("--resume")] = False,
    accept_changes: Accept = False,
    settings: Annotated[
        Path | None, option("FILE", "Its configuration, on a helping machine.")
    ] = None,
    ray: Ray = None,
) -> int:
    """Train the run in a folder whose configuration is written already, or go on searching."""
    folder = RunFolder(run) if settings else open_run(run)
    if folder.search.is_file():
        from trainer.commands.tune import search

        say("\n".join(search(folder, ray=ray).lines()))
        return 0
    try:
        config = read_config(settings or folder.config, of_run=True)
        if ray:
            from trainer.training.cluster import train_on_cluster

            status = train_on_cluster(ray, folder, accept_changes=accept_changes)
            say(f"Stopped: {shown(folder.path)}" if status else f"Done: {shown(folder.adapter)}")
            return status
        return _run(config, folder, resume=resume, accept_changes=accept_changes)
    except UserError as error:
        if settings is None:
            note_failure(folder, error)
        raise


def note_failure(folder: RunFolder, error: UserError) -> None:
    """Say in the status what refused a run before its own record of it began."""
    status = read_status(folder)
    if status and status.pid == os.getpid() and status.phase in ENDED:
        return  # the run has said it itself
    if status and status.pid != os.getpid() and is_alive(status):
        return  # another process is at work here
    before = (status.step, status.total_steps) if status else (0, 0)
    failed = own_status("failed", *before, message=str(error))
    write_status(folder, replace(failed, code=error.code))


def _is_distributed() -> bool:
    """Whether some launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _is_follower() -> bool:
    """Whether another process writes the run folder."""
    return _is_distributed() and os.environ.get("RANK", "0") != "0"


def _shared_run(path: Path | None) -> RunFolder:
    if path is None:
        raise UserError(
            "Several processes need one run folder.", "Name it, the same for all, with --run DIR."
        )
    return RunFolder(path)


def _launch(group: Group, folder: RunFolder, flags: list[str]) -> int:
    if group.nodes > 1:
        place, rank = "{}, port {}".format(*group.endpoint), group.rank
        say(f"Machine {rank} of 0 to {group.nodes - 1}; they meet at {place}.")
    return launch(group, ["worker", str(folder.path), *flags])


def _help(group: Group, config: TrainingConfig, folder: RunFolder, flags: list[str]) -> int:
    """Trains beside the main machine, which alone writes the run.

    Its folder is used here only where that one is lost, and to resume from.
    """
    with TemporaryDirectory(prefix="rarebit-") as temporary:
        settings = Path(temporary) / "config.toml"
        write_config(settings, config)
        status = _launch(group, folder, [*flags, "--settings", str(settings)])
    if not status:
        say("Done. The run's folder is on the main machine.")
    return status


def _new_run(path: Path | None, config: TrainingConfig) -> RunFolder:
    if path is None:
        return create_run(RUNS, run_name(config))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        is_run = (path / "config.toml").is_file()
        hint = f"Go on with it: python launch.py resume {path}. Or give" if is_run else "Give"
        raise UserError(f"The run folder {path} exists already.", f"{hint} --run another name.")
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def _run(
    config: TrainingConfig, folder: RunFolder, *, resume: bool, accept_changes: bool = False
) -> int:
    check_launcher()
    if not _is_follower():
        say("Loading …")
    from trainer.training.runner import run_training

    end_with_launcher()
    printer = ProgressPrinter()
    result = run_training(config, folder, printer, resume=resume, accept_changes=accept_changes)
    printer.close()
    for line in () if _is_follower() else _lines(config, result):
        say(line)
    return 0 if result.finished else STOPPED


def _lines(config: TrainingConfig, result: "Result") -> list[str]:
    """What a run says at its end. The last line of every training: where the file will work."""
    run, where = result.run, shown(result.run.path)
    if not result.finished:
        return [
            f"Stopped after step {result.step}; everything is saved in {where}",
            f"Go on with:  python launch.py resume {where}",
        ]
    if result.adapter is None:
        return []

    # A prompt that the run has drawn itself, trigger word included.
    latest = run.preview(run.preview_steps()[-1]) / "prompts.json"
    prompt = json.loads(latest.read_text(encoding="utf-8"))[0]["prompt"]
    tried = ["--base", config.base.name, "--adapter", shown(run.adapter), "--prompt", prompt]
    works = result.adapter.works
    return [
        f"Adapter:   {shown(run.adapter)}",
        f"Previews:  {shown(run.previews)}",
        f"Report:    {shown(run.report)}",
        f"{capital(result.adapter.summary)}.",
        "Try it:",
        f"  python launch.py generate {shlex.join([*tried, '--out', 'pictures'])}",
        *(result.assessment.sentences() if result.assessment else ()),
        f"{capital(works)}.",
    ]
