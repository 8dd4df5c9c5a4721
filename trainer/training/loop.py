"""The training loop: a step, and the events that it yields."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.diffusion import add_noise, feature_drift, loss_weights, squared_error, target
from trainer.evaluation.predicting import Points, joined
from trainer.evaluation.watching import Evaluated, Validated, Watch
from trainer.memory.devices import repeating
from trainer.memory.modes import set_mode
from trainer.memory.recovery import (
    MemoryUsed,
    SpillWatch,
    describe_step_down,
    memory_used,
    next_rung,
    out_of_memory,
)
from trainer.models.text import TextConditioning, added_conditioning
from trainer.preservation.rows import KeptRows
from trainer.runs.disk import writing
from trainer.seeds import derive_seed
from trainer.training.batches import Batch
from trainer.training.checkpoints import save_checkpoint
from trainer.training.export import keep_adapter
from trainer.training.guard import (
    SETBACK_FACTOR,
    NonFiniteError,
    RolledBack,
    refuse_non_finite,
    roll_back,
)
from trainer.training.optimizers import gradient_norm, set_learning_rates
from trainer.training.previews import draw_previews
from trainer.training.session import Session

Stop = Callable[[], bool]

TEXT_SHARE = 0.1
"""How much the text features count within the preservation loss: measured in benchmarks/."""


@dataclass(frozen=True)
class StepDone:
    """One optimizer step.

    Attributes:
        step: steps done, this one included.
        loss: mean weighted squared error over the step's samples.
        preservation: the same for the preserved prompts; None on a step without them.
        learning_rate: the UNet's present rate (the text encoder's, where only that trains).
        gradient_norm: before shortening.
        seconds: wall time of the step.
    """

    step: int
    loss: float
    preservation: float | None
    learning_rate: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True)
class PreviewSaved:
    """Previews lie in the run folder."""

    step: int
    folder: str


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint lies in the run folder."""

    step: int
    folder: str


@dataclass(frozen=True)
class Warned:
    """Something that the user should know; training goes on."""

    message: str


@dataclass(frozen=True)
class Ended:
    """The loop is over: all steps done, or stopped on request."""

    step: int
    finished: bool


TrainingEvent = (
    StepDone
    | Validated
    | Evaluated
    | PreviewSaved
    | CheckpointSaved
    | MemoryUsed
    | Warned
    | RolledBack
    | Ended
)


def train(session: Session, stop: Stop) -> Iterator[TrainingEvent]:
    """Train from the session's step to the configured number of steps.

    Args:
        stop: asked once a step; the run then saves and ends.

    Raises:
        NonFiniteError: the loss or a gradient is not finite, and going back was not allowed or
            has not helped. The state is still that of the last good step.
    """
    config = session.config
    total = config.training.steps
    on_gpu = session.device.torch_device.type == "cuda"
    if on_gpu:
        yield from dry_step(session)
    if session.step == 0:
        yield from _preview(session, strength=0)
    watch, spill = Watch(session), SpillWatch()
    told = False  # what memory the first step took
    while session.step < total:
        try:
            done, stopping = training_step(session, stop)
        except NonFiniteError as error:
            yield roll_back(session, error)
            watch = Watch(session)
            continue
        except torch.OutOfMemoryError as error:
            yield _step_down(session, error)
            told = False
            continue
        yield done
        if on_gpu and (slowness := spill.notice(done.seconds)):
            yield Warned(slowness)
        last = session.step == total
        if last or not told:
            told = True
            yield memory_used(session.device.torch_device, session.step, session.rung)
        if _is_due(config.previews.every, session.step) or last:
            yield from _preview(session, strength=1)
        early = False
        if config.evaluation.enabled and (_is_due(config.evaluation.every, session.step) or last):
            yield from _evaluate(watch)
            early = _ends_early(watch)
        if _is_due(config.checkpoints.every, session.step) or last or stopping or early:
            yield from save_state(session)
        if early and not last:
            yield Warned(
                f"Training ends after step {session.step}: in the last "
                f"{config.evaluation.early_stop} measurements the likeness has not improved."
            )
            break
        if stopping and not last:
            yield Ended(session.step, finished=False)
            return
    yield Ended(session.step, finished=True)


def dry_step(session: Session) -> Iterator[TrainingEvent]:
    """Forward and backward pass at the largest size, thrown away: what does not fit, or can't be
    repeated exactly, shows at once.

    Nothing that training depends on changes but the memory mode, and how exactly a step repeats.
    """
    while True:
        try:
            _add_gradients(session, session.batches.largest(session.step), _may_preserve(session))
        except torch.OutOfMemoryError as error:
            yield _step_down(session, error)
            continue
        except RuntimeError as error:
            if "deterministic" not in str(error) or not session.exact:
                raise
            session.exact = False
            yield Warned(
                "On this GPU a step of this configuration can't be repeated to the last bit: a "
                f"resumed run will come close to one that never stopped, and no closer ({error})."
            )
            continue
        session.optimizer.zero_grad(set_to_none=True)
        return


def _step_down(session: Session, error: torch.OutOfMemoryError) -> Warned:
    """Go to the next memory mode after a step that did not fit.

    Raises:
        UserError: there is none, the optimizer was moving already, or other processes would not
            know of it.
    """
    before = session.rung
    session.optimizer.zero_grad(set_to_none=True)
    now = next_rung(before)
    if now is None or session.moving or session.device.world > 1:
        raise out_of_memory("for a training step", session.config, before) from error
    session.rung = now
    trains_text = session.config.adapter.text_encoder
    set_mode(session.base, now.mode, now.checkpointing, trains_text=trains_text)
    # The traceback holds on to the failed step's tensors.
    error.__traceback__ = None
    torch.cuda.empty_cache()
    return Warned(describe_step_down(session.step, before, now))


def _may_preserve(session: Session) -> bool:
    return session.keeper is not None


def training_step(session: Session, stop: Stop) -> tuple[StepDone, bool]:
    """One optimizer step over all of its batches.

    Returns:
        What happened, and whether some process was asked to stop.
    """
    started = time.perf_counter()
    step, config = session.step, session.config
    # What draws from torch's own generator (the adapter's dropout) starts anew at every step.
    torch.manual_seed(derive_seed(config.training.seed, step, "dropout", session.device.rank))
    factor = session.schedule(step) * (SETBACK_FACTOR if session.setback else 1.0)
    set_learning_rates(session.optimizer, factor)
    preserves = _may_preserve(session) and _is_due(config.preservation.every, step)

    sums = torch.zeros(2, dtype=torch.float64)  # training and preservation losses
    for batch in session.batches.step(step):
        sums += _add_gradients(session, batch, preserves)
    stopping = _reduce(session, sums, stop())

    session.scaler.unscale_(session.optimizer)
    norm = gradient_norm(session.parameters.values())
    refuse_non_finite(session, sums, norm, lambda batch: _add_gradients(session, batch, preserves))
    limit = config.optimizer.max_gradient_norm
    if limit:
        torch.nn.utils.clip_grads_with_norm_(session.parameters.values(), limit, norm)
    session.moving = True
    session.scaler.step(session.optimizer)
    session.moving = False
    session.scaler.update()
    session.optimizer.zero_grad(set_to_none=True)
    if session.ema:
        session.ema.step(session.parameters.values())
    session.step += 1
    done = StepDone(
        step=session.step,
        loss=sums[0].item(),
        preservation=sums[1].item() if preserves else None,
        learning_rate=session.optimizer.param_groups[0]["lr"],
        gradient_norm=norm.item(),
        seconds=time.perf_counter() - started,
    )
    return done, stopping


def _add_gradients(session: Session, batch: Batch, preserves: bool) -> Tensor:
    """Forward and backward passes of a batch: its training and preservation loss, (2,) float64."""
    session.train_mode()
    sums = torch.zeros(2, dtype=torch.float64)
    for part, trains, keeps in _passes(session, batch, preserves):
        with repeating(session.exact):
            loss, kept = batch_loss(session, part, keeps, trains=trains)
            total = loss + session.config.preservation.weight * kept
            session.scaler.scale(total).backward()
        sums += torch.stack([loss.detach(), kept.detach()]).double().cpu()
    return sums


def _passes(session: Session, batch: Batch, preserves: bool) -> Iterator[tuple[Batch, bool, bool]]:
    """A batch in forward passes that fit the memory mode: pictures, whether they train, whether
    they preserve. The sum of the passes' gradients is that of the whole batch."""
    for part in batch.parts(session.rung.pictures):
        keeps = preserves and _kept_rows(session, part) is not None
        if keeps and session.rung.apart:
            yield part, True, False
            yield part, False, True
        else:
            yield part, True, keeps


def _kept_rows(session: Session, batch: Batch) -> KeptRows | None:
    """What a batch preserves in the present step."""
    slots = [sample.slot for sample in batch.samples]
    return session.keeper.rows(session.step, slots, batch.total) if session.keeper else None


def batch_loss(
    session: Session, batch: Batch, preserves: bool, *, trains: bool = True
) -> tuple[Tensor, Tensor]:
    """Training and preservation loss of a batch, as shares of the whole step's means.

    The preserved rows share the pictures' pass where they have their size.

    Returns:
        Two 0-d tensors with gradients (a plain 0 for what the pass does not do).
    """
    kept = _kept_rows(session, batch) if preserves else None
    noised, wanted = _noised(session, batch)
    own = Points(tuple(batch.captions), noised, batch.timesteps, batch.sizes) if trains else None
    count = len(own) if own else 0
    text = session.text.student([*(own.prompts if own else ()), *(kept.prompts if kept else ())])
    together = None  # B + K rows
    if own and kept and kept.points.noised.shape[1:] == noised.shape[1:]:
        together = joined(own, kept.points)

    loss = preservation = torch.zeros((), device=session.device.torch_device)
    predicted = None
    if own:
        rows = together or own
        predicted = _predict(session, rows, text.rows(0, len(rows)))
        loss = _own_loss(session, batch, predicted[:count], wanted)
    if kept:
        spoken = text.rows(count)
        if together is None or predicted is None:
            held = _predict(session, kept.points, spoken.rows(0, len(kept.points)))
        else:
            held = predicted[count:]
        preservation = _kept_loss(session, kept, held, spoken)
    return loss, preservation


def _noised(session: Session, batch: Batch) -> tuple[Tensor, Tensor]:
    """A batch's noised latents and what the UNet should predict, both (B, C, H, W)."""
    device = session.device.torch_device
    latents, noise = batch.latents.to(device), batch.noise.to(device)
    timesteps = batch.timesteps.to(device)
    wanted = target(latents, noise, session.alpha_bar, timesteps, session.base.prediction_type)
    return add_noise(latents, noise, session.alpha_bar, timesteps), wanted


def _own_loss(session: Session, batch: Batch, predicted: Tensor, wanted: Tensor) -> Tensor:
    """The training loss of a batch."""
    device = session.device.torch_device
    masks = None if batch.masks is None else batch.masks.to(device)
    errors = squared_error(predicted, wanted, masks)
    return (_weights(session, batch.timesteps.to(device)) * errors).sum() / batch.total


def _kept_loss(
    session: Session, kept: KeptRows, predicted: Tensor, text: TextConditioning
) -> Tensor:
    """The preservation loss of a batch: how far its rows, and their text features, have moved.

    Args:
        predicted: (K, C, H, W).
        text: of all the prompts, those that are only spoken included.
    """
    device = session.device.torch_device
    errors = squared_error(predicted, kept.wanted.to(device))
    weights = _weights(session, kept.points.timesteps.to(device))
    loss = (weights * errors).sum() / kept.count
    if kept.holds_text:
        unmoved = session.text.teacher(kept.prompts)
        moved = feature_drift(text.hidden, unmoved.hidden)
        loss = loss + TEXT_SHARE * moved * (len(kept.points) / kept.count)
    return loss


def _weights(session: Session, timesteps: Tensor) -> Tensor:
    """(N,) what each timestep counts."""
    objective = session.config.objective
    return loss_weights(session.alpha_bar, timesteps, session.base.prediction_type, objective)


def _predict(session: Session, points: Points, text: TextConditioning) -> Tensor:
    """The UNet's prediction at points with their text features: (N, C, H, W)."""
    device, unet = session.device.torch_device, session.base.unet
    added = added_conditioning(session.base, text.pooled, *zip(*points.sizes, strict=True))
    return unet(
        points.noised.to(device, session.device.dtype),  # unet.dtype searches all its modules
        points.timesteps.to(device),
        encoder_hidden_states=text.hidden,
        added_cond_kwargs=added,
    ).sample


def _reduce(session: Session, sums: Tensor, stop: bool) -> bool:
    """Add gradients, losses and the wish to stop over all processes, in one exchange."""
    if session.device.world == 1:
        return stop
    parameters = list(session.parameters.values())
    for parameter in parameters:
        if parameter.grad is None:  # this process had no sample in this step
            parameter.grad = torch.zeros_like(parameter)
    extra = torch.cat([sums, torch.tensor([float(stop)])]).to(parameters[0])
    flat = torch.cat([*(p.grad.flatten() for p in parameters if p.grad is not None), extra])
    torch.distributed.all_reduce(flat)
    sizes = [parameter.numel() for parameter in parameters]
    *gradients, extra = flat.split([*sizes, 3])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter)
    sums.copy_(extra[:2])
    return bool(extra[2] > 0)


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _preview(session: Session, strength: int) -> Iterator[TrainingEvent]:
    if not session.device.is_main:
        return
    try:
        with writing(f"the previews of step {session.step}"):
            folder = draw_previews(session, strength=strength)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        yield Warned(
            f"Not enough GPU memory for the previews of step {session.step}: they were left out. "
            "Lower previews.count, or set previews.every = 0."
        )
        return
    yield PreviewSaved(session.step, str(folder.relative_to(session.run.path)))


def _evaluate(watch: Watch) -> Iterator[TrainingEvent]:
    session = watch.session
    if not session.device.is_main:
        return
    try:
        validated, evaluated = watch.measure()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        yield Warned(
            f"Not enough GPU memory to measure at step {session.step}: it was left out. "
            "Set evaluation.enabled = false to train without."
        )
        return
    if validated:
        yield validated
    yield evaluated
    with writing(f"the adapter of step {session.step}"):
        keep_adapter(session, session.run.adapter_at(session.step))


def _ends_early(watch: Watch) -> bool:
    """Only with one process: the others would wait for one that has ended."""
    session = watch.session
    return session.device.world == 1 and watch.exhausted(session.config.evaluation.early_stop)


def save_state(session: Session) -> Iterator[TrainingEvent]:
    """Write a checkpoint, and the adapter as it is now.

    Raises:
        UserError: the adapter has numbers that are not finite, or the disk refuses it.
    """
    if session.device.is_main:
        with writing(f"the checkpoint of step {session.step}"):
            keep_adapter(session, session.run.adapter_at(session.step))
            folder = save_checkpoint(session.run, session.state(), session.config.checkpoints.keep)
        yield CheckpointSaved(session.step, str(folder.relative_to(session.run.path)))
