"""One optimizer step: its forward and backward passes, and its losses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from trainer.config.schema import TrainingConfig
from trainer.diffusion import Points, TextConditioning, add_noise, call_unet, target
from trainer.events import StepDone
from trainer.losses import feature_drift, huber_widths, loss_weights, sample_errors
from trainer.memory.devices import repeating, together
from trainer.models.base import BaseModel
from trainer.preservation.rows import PreservedRows
from trainer.seeds import derive_seed
from trainer.training import heartbeat
from trainer.training.batches import Batch
from trainer.training.guard import SETBACK_FACTOR, refuse_non_finite
from trainer.training.optimizers import gradient_norm, leading_rate, set_learning_rates
from trainer.training.session import Session
from trainer.typed_torch import split

TEXT_SHARE = 0.1
"""How much the text features count within the preservation loss: measured in benchmarks/."""

Stop = Callable[[], bool]


class TextFeatures(Protocol):
    """Gives the features of prompts, (B, L, D)."""

    def student(self, texts: Sequence[str]) -> TextConditioning:
        """As they are in training; with gradients where the text encoders train."""
        ...

    def teacher(self, texts: Sequence[str]) -> TextConditioning:
        """Of the base model's own text encoders, without gradients."""
        ...


class Model(Protocol):
    """What the losses need to know: a session has it, and so has the memory prediction."""

    @property
    def config(self) -> TrainingConfig:
        """Resolved."""
        ...

    @property
    def base(self) -> BaseModel:
        """With the adapter on it."""
        ...

    @property
    def text(self) -> TextFeatures: ...

    @property
    def alpha_bar(self) -> Tensor:
        """(T,) on the device where everything is computed."""
        ...


def training_step(session: Session, stop: Stop) -> tuple[StepDone, bool]:
    """One optimizer step over all of its batches.

    Returns:
        What happened, and whether some process was asked to stop.

    Raises:
        NonFiniteError: the loss or a gradient is not finite; nothing was moved.
    """
    started = time.perf_counter()
    step, config = session.step, session.config
    # What draws from torch's own generator (the adapter's dropout) starts anew at every step.
    torch.manual_seed(derive_seed(config.training.seed, step, "dropout", session.device.rank))
    factor = session.schedule(step) * (SETBACK_FACTOR if session.setback else 1.0)
    set_learning_rates(session.optimizer, factor)
    preserves = session.preservation is not None and step % config.preservation.every == 0

    sums = torch.zeros(2, dtype=torch.float64)  # training and preservation losses
    for batch in session.batches.step(step):
        sums += add_gradients(session, batch, preserves)
    stopping = _reduce(session, sums, stop())

    session.scaler.unscale_(session.optimizer)
    norm = gradient_norm(session.parameters.values())
    refuse_non_finite(session, sums, norm, lambda batch: add_gradients(session, batch, preserves))
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
        learning_rate=leading_rate(config) * factor,
        gradient_norm=norm.item(),
        seconds=time.perf_counter() - started,
    )
    return done, stopping


def add_gradients(session: Session, batch: Batch, preserves: bool) -> Tensor:
    """Forward and backward passes of a batch: its training and preservation loss, (2,) float64."""
    session.train_mode()
    sums = torch.zeros(2, dtype=torch.float64)
    for trained, preserved in _passes(session, batch, preserves):
        once = not (trained and preserved) or _is_one_call(trained, preserved)
        with repeating(session.exact), session.copies.used(once), session.compiled.used():
            loss, preservation = batch_loss(session, trained, preserved)
            total = loss + session.config.preservation.weight * preservation
            session.scaler.scale(total).backward()
        sums += torch.stack([loss.detach(), preservation.detach()]).double().cpu()
    return sums


def _passes(
    session: Session, batch: Batch, preserves: bool
) -> Iterator[tuple[Batch | None, PreservedRows | None]]:
    """A batch in forward passes that fit the memory mode: pictures to train on and rows to
    preserve. The sum of the passes' gradients is that of the whole batch."""
    for part in batch.parts(session.memory_mode.pictures_at_once):
        rows = None
        if preserves and session.preservation:
            rows = session.preservation.rows(session.step, part.slots, part.total)
        # Layers that train by timestep know that of the last call, also in the backward pass.
        by_timestep = session.config.adapter.t_lora_min_rank is not None
        apart = session.memory_mode.preserve_apart
        if rows and (apart or (by_timestep and not _is_one_call(part, rows))):
            yield part, None
            yield None, rows
        else:
            yield part, rows


def _is_one_call(batch: Batch, rows: PreservedRows) -> bool:
    """Whether the UNet is called once for both: it is called for each size of pictures."""
    return batch.latents.shape[1:] == rows.points.noised.shape[1:]


def batch_loss(
    model: Model, batch: Batch | None, preserved: PreservedRows | None
) -> tuple[Tensor, Tensor]:
    """Training and preservation loss of one forward pass, as shares of the whole step's means.

    Returns:
        Two 0-d tensors with gradients; a plain 0 for what is not asked for.
    """
    groups: list[Points] = []
    if batch:
        groups.append(_noised(model, batch))
    if preserved:
        groups.append(preserved.points)
    prompts = [prompt for points in groups for prompt in points.prompts]
    text = model.text.student(prompts)
    predictions = _predict(model.base, groups, text)

    loss = preservation = torch.zeros((), device=model.alpha_bar.device)
    if batch:
        loss = _training_loss(model, batch, predictions[0])
    if preserved:
        own_text = text[len(prompts) - len(preserved.points) :]
        preservation = _preservation_loss(model, preserved, predictions[-1], own_text)
    return loss, preservation


def _noised(model: Model, batch: Batch) -> Points:
    """Where the UNet is asked about a batch's pictures."""
    device = model.alpha_bar.device
    timesteps = batch.timesteps.to(device)
    noise = batch.noise if batch.perturbed is None else batch.perturbed
    noised = add_noise(batch.latents.to(device), noise.to(device), model.alpha_bar, timesteps)
    return Points(batch.captions, noised, timesteps, batch.sizes)


def _predict(base: BaseModel, groups: Sequence[Points], text: TextConditioning) -> list[Tensor]:
    """The UNet's prediction for each group of points: in one call where their size is the same.

    Args:
        text: features of all the groups' prompts, in their order.
    """
    counts = [len(points) for points in groups]
    if len({points.noised.shape[1:] for points in groups}) == 1:
        together = call_unet(base, reduce(Points.joined, groups), text)
        return list(split(together, counts)) if len(counts) > 1 else [together]
    ends = list(accumulate(counts))
    return [
        call_unet(base, points, text[end - len(points) : end])
        for points, end in zip(groups, ends, strict=True)
    ]


def _training_loss(model: Model, batch: Batch, predicted: Tensor) -> Tensor:
    """The training loss of a batch from the UNet's predictions, (B, C, H, W)."""
    device = model.alpha_bar.device
    timesteps = batch.timesteps.to(device)
    wanted = target(
        batch.latents.to(device),
        batch.noise.to(device),
        model.alpha_bar,
        timesteps,
        model.base.prediction_type,
    )
    masks = None if batch.masks is None else batch.masks.to(device)
    objective = model.config.objective
    widths = huber_widths(model.alpha_bar, timesteps, objective)
    errors = sample_errors(
        predicted, wanted, masks, widths, smooth_l1=objective.loss == "smooth_l1"
    )
    weights = _weights(model, timesteps) * batch.weights.to(device)
    return (weights * errors).sum() / batch.total


def _preservation_loss(
    model: Model, preserved: PreservedRows, predicted: Tensor, text: TextConditioning
) -> Tensor:
    """The preservation loss of a batch: how far its rows, and their text features, have moved.

    Args:
        predicted: (K, C, H, W).
        text: of the rows' prompts.
    """
    device = model.alpha_bar.device
    errors = sample_errors(predicted, preserved.wanted.to(device))
    weights = _weights(model, preserved.points.timesteps.to(device))
    loss = (weights * errors).sum() / preserved.count
    if preserved.text_features:
        unmoved = model.text.teacher(preserved.points.prompts)
        moved = feature_drift(text.hidden, unmoved.hidden)
        loss = loss + TEXT_SHARE * moved * (len(preserved.points) / preserved.count)
    return loss


def _weights(model: Model, timesteps: Tensor) -> Tensor:
    """(N,) what each timestep counts."""
    objective = model.config.objective
    return loss_weights(model.alpha_bar, timesteps, model.base.prediction_type, objective)


def _reduce(session: Session, sums: Tensor, stop: bool) -> bool:
    """Add gradients, losses and the wish to stop over all processes, in one exchange."""
    if session.device.world == 1:
        return stop
    parameters = [one for one in session.parameters.values() if one.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:  # this process had no sample in this step
            parameter.grad = torch.zeros_like(parameter)
    extra = torch.cat([sums, torch.tensor([float(stop)])]).to(parameters[0])
    flat = torch.cat([*(p.grad.flatten() for p in parameters if p.grad is not None), extra])
    with together():
        heartbeat.add_up(flat)
    sizes = [parameter.numel() for parameter in parameters]
    *gradients, extra = split(flat, [*sizes, 3])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter)
    sums.copy_(extra[:2])
    return bool(extra[2] > 0)
