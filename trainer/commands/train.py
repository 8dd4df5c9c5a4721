"""``train`` and ``resume``."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.config.concepts import check_essentials, parse_concept, triggers_of
from trainer.config.file import apply_overrides, read_config, with_values, write_config
from trainer.config.presets import apply_preset
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import StepDone
from trainer.places import RUNS, shown
from trainer.runs.layout import RunFolder, create_run, open_run
from trainer.runs.log import read_events
from trainer.runs.status import ENDED, is_alive, own_status, read_status, write_status

STOPPED = 130
_ESSENTIALS = (
    "Give --images DIR and --trigger WORD, or --concept DIR:TRIGGER:CLASS for each of several; "
    "datasets/ holds three examples."
)


def train(
    *,
    config_file: Path | None,
    preset: str | None,
    flags: Mapping[str, object],
    overrides: Sequence[str],
    concepts: Sequence[str],
    run: Path | None,
    processes: int,
) -> int:
    """Train into a new run folder. Later sources win: file, preset, flags, ``--set``.

    Returns:
        The exit status: 0, or 130 when stopped after saving.

    Raises:
        UserError: a mistake in the configuration or the images; no run folder is left behind.
    """
    config = read_config(config_file) if config_file else TrainingConfig()
    if preset:
        config = apply_preset(config, preset)
    values = dict(flags)
    if concepts:
        values["concepts"] = [parse_concept(text) for text in concepts]
    config = apply_overrides(with_values(config, values, "the command line"), overrides)
    check_essentials(config, hint=_ESSENTIALS)
    if is_follower():
        return _run(config, _shared_run(run), resume=False)
    folder = _new_run(_shared_run(run).path if is_distributed() else run, config)
    write_config(folder.config, config)
    try:
        if processes > 1:
            return _launch(processes, folder, [])
        return _run(config, folder, resume=False)
    finally:
        # Refused or stopped before anything was trained: leave nothing behind.
        if not any(isinstance(event, StepDone) for event in read_events(folder)):
            shutil.rmtree(folder.path, ignore_errors=True)


def resume(path: Path, *, accept_changes: bool, processes: int = 1) -> int:
    """Go on with a run, given by folder or by name."""
    if not path.exists() and (RUNS / path).is_dir():
        path = RUNS / path
    folder = open_run(path)
    if processes > 1:
        flags = ["--resume"] + (["--accept-changes"] if accept_changes else [])
        return _launch(processes, folder, flags)
    return worker(folder.path, resume=True, accept_changes=accept_changes)


def worker(path: Path, *, resume: bool, accept_changes: bool) -> int:
    """Train the run in a folder whose configuration is written already."""
    folder = open_run(path)
    try:
        config = read_config(folder.config)
        return _run(config, folder, resume=resume, accept_changes=accept_changes)
    except UserError as error:
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


def is_distributed() -> bool:
    """Whether some launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_follower() -> bool:
    """Whether another process writes the run folder."""
    return is_distributed() and os.environ.get("RANK", "0") != "0"


def _shared_run(path: Path | None) -> RunFolder:
    if path is None:
        raise UserError(
            "Several processes need one run folder.", "Name it, the same for all, with --run DIR."
        )
    return RunFolder(path)


def _launch(processes: int, folder: RunFolder, flags: list[str]) -> int:
    from trainer.training.processes import launch

    return launch(processes, ["worker", str(folder.path), *flags])


def _new_run(path: Path | None, config: TrainingConfig) -> RunFolder:
    if path is None:
        return create_run(RUNS, "-".join(triggers_of(config)))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"The run folder {path} exists already.",
            f"Go on with it: python launch.py resume {path}. Or give --run another name.",
        )
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def _run(
    config: TrainingConfig, folder: RunFolder, *, resume: bool, accept_changes: bool = False
) -> int:
    if not is_follower():
        print("Loading …", flush=True)
    from trainer.commands.progress import ProgressPrinter
    from trainer.training.runner import run_training

    printer = ProgressPrinter()
    result = run_training(config, folder, printer, resume=resume, accept_changes=accept_changes)
    printer.close()
    where = shown(folder.path)
    if is_follower():
        return 0 if result.finished else STOPPED
    if not result.finished:
        print(f"Stopped after step {result.step}; everything is saved in {where}")
        print(f"Go on with:  python launch.py resume {where}")
        return STOPPED
    if result.adapter is not None:
        _print_result(config, folder, result.adapter.summary)
        if result.assessment is not None:
            print("\n".join(result.assessment.sentences()))
        # The last line of every training: where the file will work.
        print(result.adapter.works[0].upper() + result.adapter.works[1:] + ".")
    return 0


def _print_result(config: TrainingConfig, folder: RunFolder, summary: str) -> None:
    adapter = shown(folder.adapter)
    print(f"Adapter:   {adapter}")
    print(f"Previews:  {shown(folder.previews)}")
    print(f"Report:    {shown(folder.report)}")
    print(summary)
    arguments = ["--base", config.base.name, "--adapter", adapter]
    arguments += ["--prompt", _first_preview_prompt(folder), "--out", "pictures"]
    print("Try it:")
    print(f"  python launch.py generate {shlex.join(arguments)}")


def _first_preview_prompt(folder: RunFolder) -> str:
    """A prompt that the run has drawn itself, trigger word included."""
    latest = folder.preview(folder.preview_steps()[-1])
    return json.loads((latest / "prompts.json").read_text(encoding="utf-8"))[0]["prompt"]
