"""A run from beginning to end: its folder, its log and its result.

Everything that the page and scripts see of a run is written here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainer import __version__
from trainer.config.file import write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import Code, UserError
from trainer.evaluation.assessment import Assessment, assess_run
from trainer.evaluation.watching import Watch
from trainer.events import (
    Ended,
    Phase,
    Prepared,
    Reason,
    RolledBack,
    RunEvent,
    StepDone,
    Warned,
    Working,
)
from trainer.memory.devices import Device, choose_device
from trainer.memory.recovery import out_of_memory
from trainer.places import cache_folder
from trainer.runs.atomic import sweep_old_orphans, sweep_orphans
from trainer.runs.disk import DiskError, disk_error, writing
from trainer.runs.layout import RunFolder
from trainer.runs.layout import prepare as prepare_folder
from trainer.runs.lock import run_lock
from trainer.runs.log import EventLog
from trainer.runs.report import write_report
from trainer.runs.status import Status, own_status, write_status
from trainer.training.checkpoints import load_latest
from trainer.training.export import Exported, export_adapter
from trainer.training.interrupt import StopRequest
from trainer.training.loop import save_state, train
from trainer.training.resume import check_resumable
from trainer.training.session import Session, prepare

STATUS_INTERVAL = 1.0


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        finished: False when it was stopped on request.
        adapter: the exported file and what was found of it; None when stopped.
        assessment: what was measured of it; None when stopped or where nothing was measured.
    """

    run: RunFolder
    step: int
    finished: bool
    adapter: Exported | None
    assessment: Assessment | None = None


Listener = Callable[[RunEvent], None]


class Recorder:
    """Writes a run's log and status while it goes on, in the main process."""

    def __init__(self, run: RunFolder, log: EventLog, total_steps: int, listener: Listener) -> None:
        self.run, self.log, self.listener = run, log, listener
        self.status = own_status("preparing", total_steps=total_steps)
        self.last_written = 0.0
        self.pace: float | None = None
        write_status(run, self.status)

    def phase(self, phase: Phase, **changes: Any) -> None:
        """Enter a phase, and write it at once."""
        self._write(replace(self.status, phase=phase, **changes), at_once=True)

    def warn(self, message: str) -> None:
        """Record and pass on something that the user should know."""
        self.record(Warned(message))

    def working(self, done: int, total: int, what: str) -> None:
        """Progress of slow work before training."""
        phase: Phase = "caching" if what == "caching" else "preparing"
        self.record(Working(what, done, total, phase))

    def record(self, event: RunEvent) -> None:
        """Record one event in the log and the status, and pass it on."""
        if isinstance(event, Warned):
            event = replace(event, step=self.status.step)
        if isinstance(event, Working):
            status = replace(self.status, phase=event.phase)
            self._write(status, at_once=event.phase != self.status.phase)
        else:
            self.log.append(event)
        if isinstance(event, StepDone):
            self._pace(event)
        elif isinstance(event, RolledBack):
            self.status = replace(self.status, step=event.step)
        self.listener(event)

    def _pace(self, event: StepDone) -> None:
        self.pace = event.seconds if self.pace is None else 0.9 * self.pace + 0.1 * event.seconds
        left = (self.status.total_steps - event.step) * self.pace
        status = replace(self.status, phase="training", step=event.step, eta_seconds=round(left, 1))
        self._write(status, at_once=False)

    def _write(self, status: Status, at_once: bool) -> None:
        self.status = status
        now = time.monotonic()
        if at_once or now - self.last_written >= STATUS_INTERVAL:
            write_status(self.run, status)
            self.last_written = now


def run_training(
    config: TrainingConfig,
    run: RunFolder,
    listener: Listener,
    *,
    resume: bool = False,
    accept_changes: bool = False,
) -> Result:
    """Train into a run folder, or go on with it.

    Args:
        resume: go on from the newest whole checkpoint.
        accept_changes: resume although the image set has changed.

    Raises:
        UserError: anything that the user can put right; the run's log says it too.
        KeyboardInterrupt: stopped before the first step.
    """
    device = choose_device(config.training.precision, offload=config.memory.offload)
    if not device.is_main:
        return _follow(config, run, device, resume, accept_changes)
    with writing(f"the run folder {run.path}"):
        prepare_folder(run)
    with run_lock(run), EventLog(run.events) as log, StopRequest() as stop:
        for folder in (
            run.path,
            run.checkpoints,
            run.previews,
            run.adapters,
            run.bleed_board.parent,
        ):
            sweep_orphans(folder)
        sweep_old_orphans(cache_folder(), below=True)
        recorder = Recorder(run, log, config.training.steps, listener)
        try:
            session = _prepare(config, run, device, resume, accept_changes, recorder)
            return _train(session, recorder, stop)
        except KeyboardInterrupt:
            _end(recorder, "stopped", "user_stop", "stopped before the first step")
            raise
        except UserError as error:
            _end(recorder, "failed", error.code, str(error))
            raise
        except OSError as error:
            trouble = disk_error(error, "the run")
            _end(recorder, "failed", trouble.code, str(trouble))
            raise trouble from error
        except Exception as error:
            _end(recorder, "failed", "defect", f"{type(error).__name__}: {error}")
            raise


def _prepare(
    config: TrainingConfig,
    run: RunFolder,
    device: Device,
    resume: bool,
    accept_changes: bool,
    recorder: Recorder,
) -> Session:
    state = load_latest(run, recorder.warn) if resume else None
    try:
        session = prepare(config, run, device, recorder.warn, recorder.working)
    except torch.OutOfMemoryError as error:
        raise out_of_memory("to load the base model", config) from error
    if state is not None:
        for change in check_resumable(session, state, accept_changes):
            recorder.warn(change)
        session.restore(state)
    # Only now is the configuration known to be sound, and every default filled in.
    write_config(run.config, session.config)
    return session


def _train(session: Session, recorder: Recorder, stop: StopRequest) -> Result:
    run, total = session.run, session.config.training.steps
    summary, arithmetic = session.attachment.summary(), _arithmetic(session)
    recorder.record(Prepared(summary, arithmetic, session.step, total, __version__))
    recorder.phase("training", step=session.step, total_steps=total)
    stop.defer()
    try:
        for event in train(session, lambda: stop.requested, measuring(session)):
            if isinstance(event, Ended):
                _end(recorder, event.reason, event.code, event.message)
                return Result(run, event.step, False, None)
            recorder.record(event)
    except (UserError, OSError):
        _save_what_is_learned(session, recorder)
        raise
    recorder.phase("saving", step=session.step)
    exported = export_adapter(session, run.adapter)
    if not exported.exact:
        recorder.warn(f"The adapter file is not what was trained: {exported.summary}")
    assessment = _assess(session, recorder)
    _end(recorder, "finished", "", f"{exported.summary}; {exported.works}")
    return Result(run, session.step, True, exported, assessment)


def measuring(session: Session) -> Watch | None:
    """What measures a session while it trains; None where that is switched off."""
    return Watch(session) if session.config.evaluation.enabled else None


def _save_what_is_learned(session: Session, recorder: Recorder) -> None:
    """A checkpoint before a run fails, where the state is whole and the disk lets it."""
    if session.moving or session.step in (0, *session.run.checkpoint_steps()):
        return
    with suppress(UserError, OSError):
        for event in save_state(session):
            recorder.record(event)


def _assess(session: Session, recorder: Recorder) -> Assessment | None:
    """The measurements at the end; a run whose adapter is safe does not fail for them."""
    if not session.config.evaluation.enabled:
        return None
    recorder.phase("measuring")
    try:
        return assess_run(session)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        recorder.warn("Not enough GPU memory to measure the adapter at the end.")
    except UserError as error:
        recorder.warn(f"The adapter was not measured at the end: {error.message}")
    return None


def _follow(
    config: TrainingConfig, run: RunFolder, device: Device, resume: bool, accept_changes: bool
) -> Result:
    """A process that only trains: the main one writes the run folder."""
    state = load_latest(run, lambda _: None) if resume else None
    session = prepare(config, run, device, lambda _: None, lambda *_: None)
    if state is not None:
        check_resumable(session, state, accept_changes)
        session.restore(state)
    with StopRequest() as stop:
        stop.defer()
        finished = not any(
            isinstance(event, Ended)
            for event in train(session, lambda: stop.requested, measuring(session))
        )
    return Result(run, session.step, finished, None)


def _end(recorder: Recorder, reason: Reason, code: Code, message: str) -> None:
    """The last words of a run, each as far as the disk takes them if it has failed anyway."""
    step = recorder.status.step
    event = Ended(step, reason, code, message)
    last_words: list[Callable[[], object]] = [
        lambda: recorder.record(event),
        lambda: recorder.phase(reason, eta_seconds=None, message=message, code=code),
    ]
    if step:
        last_words.append(lambda: write_report(recorder.run))
    for say in last_words:
        try:
            say()
        except (DiskError, OSError):
            if reason != "failed":
                raise


def _arithmetic(session: Session) -> str:
    training = session.config.training
    pictures = len(session.pictures)
    repeats = sum(picture.entry.repeats for picture in session.pictures)
    epochs = training.steps / session.batches.steps_per_epoch()
    shown = f"{pictures} pictures" + (f" ({repeats} with repeats)" if repeats != pictures else "")
    if session.held_out:
        shown += f" and {len(session.held_out)} kept out of training to measure by"
    more = f" x {training.accumulation}" if training.accumulation > 1 else ""
    return (
        f"{shown}, {training.steps} steps of {training.batch_size}{more}: "
        f"each picture is seen about {epochs:.0f} times"
    )
