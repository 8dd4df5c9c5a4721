"""A run from beginning to end: its folder, its log and status, and its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from trainer import __version__, events
from trainer.config.effects import idle_settings
from trainer.config.fields import public_values
from trainer.config.file import read_config, write_config
from trainer.config.schema import TrainingConfig
from trainer.data.captions import caption_lines
from trainer.errors import Code, UserError
from trainer.evaluation.assessment import Assessment, assess_run
from trainer.evaluation.watching import Watch
from trainer.memory.devices import Device, choose_device, empty_cache, forget_peak
from trainer.memory.modes import too_small_a_card
from trainer.places import cache_folder
from trainer.runs.atomic import OLD, DiskError, disk_error, sweep_orphans, writing
from trainer.runs.layout import RunFolder, run_lock
from trainer.runs.layout import prepare as prepare_folder
from trainer.runs.log import EventLog
from trainer.runs.report import write_report
from trainer.runs.status import Status, own_status, running_mean, write_status
from trainer.runs.timelapse import write_timelapse
from trainer.runs.wishes import forget_wishes
from trainer.text import how_often
from trainer.training import heartbeat
from trainer.training.checkpoints import load_latest
from trainer.training.export import Exported, export_adapter
from trainer.training.loop import save_state, train
from trainer.training.optimizers import rates_in_words
from trainer.training.processes import StopRequest
from trainer.training.resume import check_resumable
from trainer.training.session import Session, prepare
from trainer.training.tracking import Telling, check_tracking

STATUS_INTERVAL = 1.0  # seconds between two writings of the status while its phase stays the same

Listener = Callable[[events.RunEvent], None]


class Recorder:
    """Writes what happens in a run, in the main process, and passes it on to a listener."""

    def __init__(
        self, run: RunFolder, log: EventLog, total_steps: int, listener: Listener, step: int = 0
    ) -> None:
        self.run, self.log, self.listeners = run, log, [listener]
        self.status = own_status("preparing", step, total_steps)
        self._last_written = 0.0
        self._pace: float | None = None
        write_status(run, self.status)

    def phase(self, phase: events.Phase, **changes: Any) -> None:
        """Enter a phase, and write it at once."""
        self._write(replace(self.status, phase=phase, **changes), at_once=True)

    def warn(self, message: str) -> None:
        """Record something that the user should know."""
        self.record(events.Warned(message))

    def working(self, done: int, total: int, what: str) -> None:
        """Record the progress of slow work before training."""
        phase: events.Phase = "caching" if what == events.CACHING else "preparing"
        self.record(events.Working(what, done, total, phase))

    def record(self, event: events.RunEvent) -> None:
        """Record one event in the log and the status, and pass it on."""
        if isinstance(event, events.Warned):
            event = replace(event, step=self.status.step)
        if isinstance(event, events.Working):
            self._write(replace(self.status, phase=event.phase))
        else:
            self.log.append(event)
        if isinstance(event, events.StepDone):
            self._pace = running_mean(self._pace, event.seconds)
            left = round((self.status.total_steps - event.step) * self._pace, 1)
            status = replace(self.status, phase="training", step=event.step, eta_seconds=left)
            self._write(status)
        elif isinstance(event, events.RolledBack):
            self.status = replace(self.status, step=event.step)
        for listener in self.listeners:
            listener(event)

    def end(
        self,
        reason: events.Reason,
        code: Code,
        message: str,
        works_in: tuple[str, ...] | None = None,
    ) -> None:
        """The last words of a run, each as far as the disk takes them if it has failed anyway."""
        step = self.status.step
        last_words: list[Callable[[], object]] = [
            lambda: self.record(events.Ended(step, reason, code, message, works_in)),
            lambda: self.phase(reason, eta_seconds=None, message=message, code=code),
        ]
        if step:
            last_words.append(lambda: write_report(self.run))
        for say in last_words:
            try:
                say()
            except (DiskError, OSError):
                if reason != "failed":
                    raise

    def _write(self, status: Status, at_once: bool = False) -> None:
        at_once = at_once or status.phase != self.status.phase
        self.status = status
        now = time.monotonic()
        if at_once or now - self._last_written >= STATUS_INTERVAL:
            write_status(self.run, status)
            self._last_written = now


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    run: RunFolder
    step: int
    finished: bool  # False when it was stopped on request
    adapter: Exported | None  # the exported file and what was found of it; None when stopped
    # What was measured of it; None when stopped or where nothing was measured.
    assessment: Assessment | None = None
    asked_to_stop: bool = False  # by the user, perhaps too late for it


@dataclass(frozen=True)
class Pause:
    """Where a run stops by itself; it is resumed as one that was stopped."""

    step: int  # after which its state is saved; before the last one
    # Is given the session then. Nothing that it does to it is saved.
    look: Callable[[Session], None] = lambda _: None


def _begun(
    config: TrainingConfig,
    run: RunFolder,
    device: Device,
    resume: bool,
    accept_changes: bool,
    notice: events.Notice = lambda _: None,
    progress: events.Progress = events.no_progress,
    record: Listener = lambda _: None,
) -> Session:
    """The prepared session, at the step where it goes on."""
    state = load_latest(run, notice) if resume else None
    for idle in () if resume else idle_settings(config):
        notice(str(idle))
    try:
        session = prepare(config, run, device, notice, progress, record)
    except torch.OutOfMemoryError as error:
        raise too_small_a_card("to get ready for training", config) from error
    if state is not None:
        for change in check_resumable(session, state, accept_changes):
            notice(change)
        session.restore(state)
    return session


def run_training(
    config: TrainingConfig,
    run: RunFolder,
    listener: Listener,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    pause: Pause | None = None,
) -> Result:
    """Train into a run folder, or go on with it.

    Args:
        resume: go on from the newest whole checkpoint.
        accept_changes: resume although the image set has changed.
        pause: where to stop before the end; None: nowhere. The schedule is that of the whole run.

    Raises:
        UserError: anything that the user can put right; the run's log says it too.
        KeyboardInterrupt: stopped before the first step.
    """
    device = choose_device(config.training.precision, offload=config.memory.offload)
    forget_peak(device.torch_device)
    heartbeat.begin(device.rank, device.world)
    begun = partial(_begun, config, run, device, resume, accept_changes)
    if not device.is_main:
        return _follow(begun())
    with writing(f"the run folder {run.path}"):
        prepare_folder(run)
    with run_lock(run), EventLog(run.events) as log, StopRequest(run.stop_request) as stop:
        sweep_orphans(run.path, below=True)
        forget_wishes(run)
        sweep_orphans(cache_folder(), age=OLD, below=True)
        done = max(run.checkpoint_steps(), default=0) if resume else 0
        recorder = Recorder(run, log, config.training.steps, listener, done)
        try:
            check_tracking(config)
            recorder.listeners.append(Telling(config, run, recorder.warn, done))
            session = begun(recorder.warn, recorder.working, recorder.record)
            # Only now is the configuration known to be sound, and every default filled in.
            write_config(run.config, session.config)
            return _train(session, recorder, stop, pause)
        except KeyboardInterrupt:
            before = f"step {done + 1}" if done else "the first step"
            recorder.end("stopped", "user_stop", f"stopped before {before}")
            raise
        except UserError as error:
            recorder.end("failed", error.code, str(error))
            raise
        except OSError as error:
            trouble = disk_error(error, "the run")
            recorder.end("failed", trouble.code, str(trouble))
            raise trouble from error
        except Exception as error:
            recorder.end("failed", "defect", f"{type(error).__name__}: {error}")
            raise


def _follow(session: Session) -> Result:
    """A process that only trains: the main one writes the run folder."""
    with StopRequest() as stop:
        stop.defer()
        finished = True
        try:
            for event in train(session, lambda: stop.requested):
                finished = not isinstance(event, events.Ended)
        except UserError as error:
            if error.code == "process_lost" and session.step:
                _save_for_the_main_one(session)
            raise
    return Result(session.run, session.step, finished, None)


def _save_for_the_main_one(session: Session) -> None:
    """A checkpoint where the main process may be lost; it has the lock otherwise."""
    with suppress(UserError, OSError):
        prepare_folder(session.run)  # on a machine that only helped it is not there yet
        if not session.run.config.exists():
            write_config(session.run.config, session.config)
        if public_values(read_config(session.run.config)) != public_values(session.config):
            return  # another run of this name
        with run_lock(session.run):
            session.device = replace(session.device, rank=0)
            _save_what_is_learned(session)


def _train(session: Session, recorder: Recorder, stop: StopRequest, pause: Pause | None) -> Result:
    run, config = session.run, session.config
    summary = f"{session.attachment.summary()}, with {rates_in_words(config)}"
    total = config.training.steps
    recorder.record(
        events.Prepared(summary, _arithmetic(session), session.step, total, __version__)
    )
    recorder.phase("training", step=session.step, total_steps=total)
    stop.defer()
    measuring = Watch(session) if config.evaluation.enabled else None
    try:
        for event in _until(session, stop, pause, measuring):
            if isinstance(event, events.Ended):
                if pause and session.step >= pause.step:
                    pause.look(session)
                recorder.end(event.reason, event.code, event.message)
                return Result(run, event.step, False, None, asked_to_stop=stop.requested)
            recorder.record(event)
    except (UserError, OSError):
        _save_what_is_learned(session, recorder.record)
        raise
    recorder.phase("saving", step=session.step)
    exported = export_adapter(session, run.adapter)
    if not exported.exact:
        recorder.warn(f"The adapter file is not what was trained: {exported.summary}")
    assessment = _assess(session, recorder)
    with writing(f"the time-lapse {run.timelapse}"):
        write_timelapse(run)
    recorder.end("finished", "", f"{exported.summary}; {exported.works}", exported.tools)
    return Result(run, session.step, True, exported, assessment, stop.requested)


def _until(
    session: Session, stop: StopRequest, pause: Pause | None, measuring: Watch | None
) -> Iterator[events.RunEvent]:
    """The events of the training, up to where it is to pause."""
    last = pause.step if pause else session.config.training.steps + 1
    if session.step >= last:  # killed after it was saved there
        yield events.Ended(session.step, "stopped", "user_stop", f"stopped at step {session.step}")
        return
    yield from train(session, lambda: stop.requested or session.step + 1 >= last, measuring)


def _save_what_is_learned(session: Session, record: Listener = lambda _: None) -> None:
    """A checkpoint before a run fails, where the state is whole and the disk lets it."""
    if session.moving or session.step in (0, *session.run.checkpoint_steps()):
        return
    with suppress(UserError, OSError):
        for event in save_state(session):
            record(event)


def _assess(session: Session, recorder: Recorder) -> Assessment | None:
    """The measurements at the end; a run whose adapter is safe does not fail for them."""
    if not session.config.evaluation.enabled:
        return None
    recorder.phase("measuring")
    try:
        return assess_run(session)
    except torch.OutOfMemoryError:
        empty_cache()
        recorder.warn("Not enough GPU memory to measure the adapter at the end.")
    except UserError as error:
        recorder.warn(f"The adapter was not measured at the end: {error.message}")
    return None


def _arithmetic(session: Session) -> str:
    """Pictures, batches and steps, in one line."""
    training, pictures = session.config.training, len(session.pictures)
    sizes = len(session.config.images.sides)
    each = [picture.entry.repeats for picture in session.pictures]
    repeats = sum(each)
    seen = sizes * training.steps / session.batches.steps_per_epoch()
    often = how_often(seen * min(each))
    if min(each) < max(each):
        often += f" to {how_often(seen * max(each))}"
    # The shares of several subjects are repeats, too, which nobody has set.
    counted = repeats != pictures and len(session.config.concepts) < 2
    shown = f"{pictures} pictures" + f" ({repeats} with repeats)" * counted
    if session.held_out:
        shown += f" and {len(session.held_out)} kept out of training"
        measured = session.config.evaluation.enabled
        unmeasured = ", though nothing is measured (evaluation.validation = 0 trains on all)"
        shown += " to measure by" if measured else unmeasured
    at_sizes = f", at {sizes} resolutions in turn" if sizes > 1 else ""
    more = f" x {training.accumulation}" if training.accumulation > 1 else ""
    captions = sum(len(caption_lines(picture.entry.caption)) for picture in session.pictures)
    several = f", with one of {captions} captions at a time" if captions > pictures else ""
    return (
        f"{shown}, {training.steps} steps of {training.batch_size}{more}: "
        f"each picture is seen about {often}{at_sizes}{several}"
    )
