"""The training loop: step after step, the events that it yields, and its previews."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import torch

from trainer import events
from trainer.config.concepts import concepts_of, subject_of
from trainer.config.file import with_values, write_config
from trainer.data.captions import fill_words, without_word
from trainer.errors import UserError
from trainer.generation.sampling import BATCH, Drawing, draw, save_picture
from trainer.lora.attach import disabled
from trainer.memory import modes
from trainer.memory.devices import NO_CLOSER, empty_cache
from trainer.runs.atomic import building_folder, write_json, writing
from trainer.runs.wishes import gives_room, is_wished, take_back, wished_values
from trainer.scenes import in_scene, scenes_for
from trainer.training.checkpoints import save_checkpoint
from trainer.training.export import keep_adapter
from trainer.training.guard import NonFiniteError, roll_back
from trainer.training.session import Session, make_copies
from trainer.training.step import Stop, add_gradients, training_step

PAUSE_SECONDS = 0.5  # how long a paused run waits before it looks again


class Measuring(Protocol):
    """Measures a session while it trains. The runner brings it: the loop knows no meter."""

    def measure(self) -> Sequence[events.Validated | events.Evaluated | None]:
        """What is measured at the session's present step."""
        ...

    def exhausted(self, patience: int) -> bool:
        """Whether the last so many measurements brought no better likeness; never for 0."""
        ...


def train(
    session: Session, stop: Stop, measuring: Measuring | None = None
) -> Iterator[events.RunEvent]:
    """Train from the session's step to the configured number of steps.

    Args:
        stop: asked once a step; the run then saves, and its last event is `Ended`.
        measuring: what measures at the configured steps.

    Raises:
        NonFiniteError: the loss or a gradient is not finite, and going back was not allowed or
            has not helped. The state is still that of the last good step.
    """
    config = session.config
    total = config.training.steps
    on_gpu = session.device.torch_device.type != "cpu"
    if on_gpu:
        yield from dry_step(session)
    if session.step == 0:
        yield from _preview(session, strength=0)
    spill = modes.SpillWatch()
    memory_said = False
    while session.step < total:
        yield from _heed_wishes(session, stop)
        config = session.config
        try:
            done, stopping = training_step(session, stop)
        except NonFiniteError as error:
            yield roll_back(session, error)
            continue
        except torch.OutOfMemoryError as error:
            yield _step_down(session, error)
            memory_said = False
            continue
        except Exception as error:
            yield _without_compiling(session, error)
            continue
        yield done
        if on_gpu and (slowness := spill.notice(done.seconds)):
            yield events.Warned(slowness)
        last = session.step == total
        if last or not memory_said:
            memory_said = True
            yield modes.memory_used(session.device.torch_device, session.step, session.memory_mode)
        if last or _is_due(config.previews.every, session.step):
            yield from _preview(session, strength=1)
        early = False
        if measuring and (last or _is_due(config.evaluation.every, session.step)):
            yield from _measure(session, measuring)
            # With several processes the others would wait for one that has ended.
            patience = config.evaluation.early_stop
            early = session.device.world == 1 and measuring.exhausted(patience)
        if last or stopping or early or _is_due(config.checkpoints.every, session.step):
            yield from save_state(session)
        if early and not last:
            yield events.Warned(
                f"Training ends after step {session.step}: in the last "
                f"{config.evaluation.early_stop} measurements the likeness has not improved."
            )
            break
        if stopping and not last:
            message = f"stopped at step {session.step}"
            yield events.Ended(session.step, "stopped", "user_stop", message)
            return


def _heed_wishes(session: Session, stop: Stop) -> Iterator[events.RunEvent]:
    """Does what was asked of the run since the step before (`trainer.runs.wishes`)."""
    run = session.run
    if not session.device.is_main or not run.wishes.is_dir():
        return
    if is_wished(run, "previews"):
        changes = wished_values(run, "previews")
        take_back(run, "previews")
        try:
            values = {f"previews.{name}": value for name, value in changes.items()}
            session.config = with_values(session.config, values)
            write_config(run.config, session.config)
            yield events.Warned("The next previews draw other prompts, as was asked.")
        except UserError as error:
            yield events.Warned(f"The previews stay as they are: {error.message}")
    if is_wished(run, "draw"):
        take_back(run, "draw")
        if session.step not in run.preview_steps():
            yield from _preview(session, strength=1 if session.step else 0)
    if is_wished(run, "pause") and session.device.world > 1:
        take_back(run, "pause")
        yield events.Warned("A training of several processes can't be paused: stop and resume it.")
    if session.device.world > 1:
        take_back(run, "room")
    while (is_wished(run, "pause") or gives_room(run)) and not stop():
        yield events.Working("paused", phase="paused")
        time.sleep(PAUSE_SECONDS)


def dry_step(session: Session) -> Iterator[events.RunEvent]:
    """Forward and backward pass at the largest size, thrown away: what does not fit, or can't be
    repeated exactly, shows at once.

    Nothing that training depends on changes but the memory mode, and how exactly a step repeats.
    """
    while True:
        try:
            batch = session.batches.largest(session.step)
            add_gradients(session, batch, session.preservation is not None)
        except torch.OutOfMemoryError as error:
            yield _step_down(session, error)
            continue
        except Exception as error:
            if session.compiled.calls:
                yield _without_compiling(session, error)
                continue
            if "deterministic" not in str(error) or not session.exact:
                raise
            if session.config.training.exact == "on":
                raise UserError(
                    "training.exact is on, but on this GPU a step of this configuration can't be "
                    f"repeated to the last bit ({error}).",
                    "Set training.exact to auto or off.",
                ) from error
            session.exact = False
            yield events.Warned(f"With this configuration {NO_CLOSER} ({error}).")
            continue
        session.optimizer.zero_grad(set_to_none=True)
        return


def _step_down(session: Session, error: torch.OutOfMemoryError) -> events.Warned:
    """Go to the next memory mode after a step that did not fit.

    Raises:
        UserError: there is none, the optimizer was moving already, or other processes would not
            know of it.
    """
    before = session.memory_mode
    session.optimizer.zero_grad(set_to_none=True)
    now = modes.next_smaller(before)
    if now is None or session.moving or session.device.world > 1:
        raise modes.too_small_a_card("for a training step", session.config, before) from error
    session.memory_mode = now
    rows = min(session.device.rows, now.rows_without_gradients)
    session.device = replace(session.device, rows=rows)  # previews and measuring step down too
    trains_text = session.config.adapter.learns_text
    modes.set_mode(session.base, now.mode, now.checkpointing, trains_text=trains_text)
    session.compiled.again()
    session.copies = make_copies(
        session.base, session.attachment, session.device, now, bool(session.compiled.calls)
    )
    # The traceback holds on to the failed step's tensors.
    error.__traceback__ = None
    empty_cache()
    return events.Warned(modes.describe_step_down(session.step, before, now))


def _without_compiling(session: Session, error: Exception) -> events.Warned:
    """Goes on as if ``training.compile`` were off: compilers fail in many ways.

    Raises:
        Exception: the error, where nothing was compiled.
    """
    if session.moving or isinstance(error, UserError) or not session.compiled.calls:
        raise error
    session.compiled.calls.clear()
    session.optimizer.zero_grad(set_to_none=True)
    cause = getattr(error, "inner_exception", error)  # what a backend of torch.compile met
    reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
    return events.Warned(f"The UNet could not be compiled; training goes on without. ({reason})")


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _preview(session: Session, strength: int) -> Iterator[events.RunEvent]:
    if not session.device.is_main:
        return
    yield events.Working("previews", phase="previewing")
    try:
        with writing(f"the previews of step {session.step}"):
            folder = draw_previews(session, strength=strength)
    except torch.OutOfMemoryError:
        empty_cache()
        yield events.Warned(
            f"Not enough GPU memory for the previews of step {session.step}: they were left out. "
            "Lower previews.count, or set previews.every = 0."
        )
        return
    yield events.PreviewSaved(session.step, str(folder.relative_to(session.run.path)))


def _measure(session: Session, measuring: Measuring) -> Iterator[events.RunEvent]:
    if not session.device.is_main:
        return
    yield events.Working("measuring", phase="measuring")
    try:
        measured = measuring.measure()
    except torch.OutOfMemoryError:
        empty_cache()
        yield events.Warned(
            f"Not enough GPU memory to measure at step {session.step}: it was left out. "
            "Set evaluation.enabled = false to train without."
        )
        return
    yield from (event for event in measured if event)
    with writing(f"the adapter of step {session.step}"):
        keep_adapter(session, session.run.adapter_at(session.step))


def save_state(session: Session) -> Iterator[events.RunEvent]:
    """Write a checkpoint, and the adapter as it is now.

    Raises:
        UserError: the adapter has numbers that are not finite, or the disk refuses it.
    """
    if session.device.is_main:
        with writing(f"the checkpoint of step {session.step}"):
            keep_adapter(session, session.run.adapter_at(session.step))
            folder = save_checkpoint(session.run, session.state(), session.config.checkpoints.keep)
        yield events.CheckpointSaved(session.step, str(folder.relative_to(session.run.path)))


def preview_prompts(session: Session) -> list[str]:
    """The prompts of a run's previews, each once.

    The user's own, with ``{trigger}`` and ``{class}`` replaced (by those of each concept in turn);
    or else the first caption of each concept, with the trigger and without it, and a scene that no
    caption names: whether the subject still listens.
    """
    config = session.config
    prompts = [
        " ".join(fill_words(prompt, concept.trigger, concept.class_word).split())
        for prompt in config.previews.prompts
        for concept in concepts_of(config)
    ]
    if not prompts:
        for number, concept in enumerate(concepts_of(config)):
            pairs = zip(session.pictures, session.captions, strict=True)
            captions = [text for picture, text in pairs if picture.concept == number]
            prompts += [captions[0], without_word(captions[0], concept.trigger)]
            word = concept.class_word
            scenes = scenes_for(word, captions, 1)
            prompts += [in_scene(subject_of(concept), word, scene) for scene in scenes]
    return list(dict.fromkeys(prompts))


def draw_previews(session: Session, *, strength: int) -> Path:
    """Draw and save the previews of the present step.

    Args:
        strength: 1 for the adapter as it is, 0 for the base model alone.

    Returns:
        The folder, with PNG files and ``prompts.json``.
    """
    config, base = session.config, session.base
    side = config.images.resolution or base.default_resolution
    settings = config.previews
    drawings = [
        Drawing(
            prompt=prompt,
            negative=settings.negative,
            seed=settings.seed + number,
            width=side,
            height=side,
            inference_steps=settings.inference_steps,
            guidance=settings.guidance,
        )
        for prompt in preview_prompts(session)
        for number in range(settings.count)
    ]
    with session.averaged(), disabled(base) if strength == 0 else nullcontext():
        at_once = min(BATCH, session.memory_mode.pictures_at_once)
        pictures = draw(base, drawings, session.device, at_once=at_once)
    folder = session.run.preview(session.step)
    records: list[dict[str, object]] = []
    with building_folder(folder) as temporary:
        for number, (drawing, picture) in enumerate(zip(drawings, pictures, strict=True)):
            name = f"{number:02d}.png"
            save_picture(picture, temporary / name, drawing, session.config.base)
            records.append({"file": name, "strength": strength, **asdict(drawing)})
        write_json(temporary / "prompts.json", records)
        # Of this step already: the run was killed after its previews, before its checkpoint.
        shutil.rmtree(folder, ignore_errors=True)
    return folder
