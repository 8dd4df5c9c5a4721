"""A run from beginning to end: its folder, its log and its result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from trainer import __version__
from trainer.config.effects import idle_settings
from trainer.config.file import write_config
from trainer.config.schema import TrainingConfig
from trainer.data.captions import caption_lines
from trainer.errors import UserError
from trainer.evaluation.assessment import Assessment, assess_run
from trainer.evaluation.watching import Watch
from trainer.events import Ended, Prepared, Progress, RunEvent, no_progress
from trainer.memory.devices import Device, choose_device
from trainer.memory.recovery import out_of_memory
from trainer.places import cache_folder
from trainer.runs.atomic import OLD, sweep_orphans
from trainer.runs.disk import disk_error, writing
from trainer.runs.layout import RunFolder
from trainer.runs.layout import prepare as prepare_folder
from trainer.runs.lock import run_lock
from trainer.runs.log import EventLog
from trainer.runs.timelapse import write_timelapse
from trainer.runs.wishes import forget_wishes
from trainer.text import how_often
from trainer.training.checkpoints import load_latest
from trainer.training.export import Exported, export_adapter
from trainer.training.interrupt import StopRequest
from trainer.training.loop import save_state, train
from trainer.training.optimizers import rates_in_words
from trainer.training.recorder import Listener, Recorder
from trainer.training.resume import check_resumable
from trainer.training.session import Notice, Session, prepare


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


@dataclass(frozen=True)
class _Start:
    """How a run begins."""

    config: TrainingConfig
    run: RunFolder
    device: Device
    resume: bool
    accept_changes: bool

    def session(
        self,
        notice: Notice,
        progress: Progress,
        record: Callable[[RunEvent], None] = lambda _: None,
    ) -> Session:
        """The prepared session, at the step where it goes on."""
        state = load_latest(self.run, notice) if self.resume else None
        for idle in () if self.resume else idle_settings(self.config):
            notice(str(idle))
        try:
            session = prepare(self.config, self.run, self.device, notice, progress, record)
        except torch.OutOfMemoryError as error:
            raise out_of_memory("to get ready for training", self.config) from error
        if state is not None:
            for change in check_resumable(session, state, self.accept_changes):
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
    start = _Start(config, run, device, resume, accept_changes)
    if not device.is_main:
        return _follow(start)
    with writing(f"the run folder {run.path}"):
        prepare_folder(run)
    with run_lock(run), EventLog(run.events) as log, StopRequest() as stop:
        sweep_orphans(run.path, below=True)
        forget_wishes(run)
        sweep_orphans(cache_folder(), age=OLD, below=True)
        done = max(run.checkpoint_steps(), default=0) if resume else 0
        recorder = Recorder(run, log, config.training.steps, listener, done)
        try:
            session = start.session(recorder.warn, recorder.working, recorder.record)
            # Only now is the configuration known to be sound, and every default filled in.
            write_config(run.config, session.config)
            return _train(session, recorder, stop)
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


def _follow(start: _Start) -> Result:
    """A process that only trains: the main one writes the run folder."""
    session = start.session(lambda _: None, no_progress)
    with StopRequest() as stop:
        stop.defer()
        finished = True
        try:
            for event in train(session, lambda: stop.requested):
                finished = not isinstance(event, Ended)
        except UserError as error:
            if error.code == "process_lost":
                _save_for_the_main_one(session)
            raise
    return Result(session.run, session.step, finished, None)


def _save_for_the_main_one(session: Session) -> None:
    """A checkpoint from a process that only trains, where the main one has ended without it."""
    if session.moving or session.step in (0, *session.run.checkpoint_steps()):
        return
    with suppress(UserError, OSError), run_lock(session.run):  # had by the main one while it lives
        session.device = replace(session.device, rank=0)
        list(save_state(session))


def _train(session: Session, recorder: Recorder, stop: StopRequest) -> Result:
    run, config = session.run, session.config
    summary = f"{session.attachment.summary()}, with {rates_in_words(config)}"
    total = config.training.steps
    recorder.record(Prepared(summary, _arithmetic(session), session.step, total, __version__))
    recorder.phase("training", step=session.step, total_steps=total)
    stop.defer()
    measuring = Watch(session) if config.evaluation.enabled else None
    try:
        for event in train(session, lambda: stop.requested, measuring):
            if isinstance(event, Ended):
                recorder.end(event.reason, event.code, event.message)
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
    with writing(f"the time-lapse {run.timelapse}"):
        write_timelapse(run)
    recorder.end("finished", "", f"{exported.summary}; {exported.works}")
    return Result(run, session.step, True, exported, assessment)


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


def _arithmetic(session: Session) -> str:
    """Pictures, batches and steps, in one line."""
    training, pictures = session.config.training, len(session.pictures)
    repeats = sum(picture.entry.repeats for picture in session.pictures)
    sizes = len(session.config.images.sides)
    seen = sizes * training.steps / session.batches.steps_per_epoch()
    shown = f"{pictures} pictures" + (f" ({repeats} with repeats)" if repeats != pictures else "")
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
        f"each picture is seen about {how_often(seen)}{at_sizes}{several}"
    )
