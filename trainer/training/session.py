"""Everything a run needs, prepared once: the live modules, the data and the optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from trainer.conditioning import TextSource
from trainer.config.concepts import concepts_of
from trainer.config.resolve import resolve
from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.gather import gather_pictures
from trainer.data.latents import LatentSource, MaskSource
from trainer.data.sets import Picture
from trainer.errors import UserError
from trainer.events import Progress
from trainer.lora.attach import Attachment, attach
from trainer.lora.names import Part
from trainer.memory.devices import Device
from trainer.memory.modes import (
    MemoryMode,
    load_training_base,
    memory_mode_of,
    set_mode,
    with_bounded_rows,
)
from trainer.models.base import BaseModel
from trainer.places import cache_folder
from trainer.preservation.keepers import make_keeper
from trainer.preservation.rows import Keeper
from trainer.runs.layout import RunFolder
from trainer.training.batches import Batches, all_captions
from trainer.training.checkpoints import TrainingState, copy_to_cpu
from trainer.training.optimizers import Schedule, make_optimizer, make_schedule, parameter_groups
from trainer.triggers.lab import doubt

Notice = Callable[[str], None]


@dataclass
class Session:
    """A run in memory. Its `state` and `restore` say what has to survive a restart.

    `held_out` are the pictures that are kept out of training, with their captions. `setback` is
    the step after which the learning rate was halved, 0 for none; `initial` the state before the
    first step, where the run may need to go back to it.
    """

    config: TrainingConfig
    run: RunFolder
    device: Device
    base: BaseModel
    pictures: list[Picture]
    captions: list[str]
    held_out: list[tuple[Picture, str]]
    batches: Batches
    text: TextSource
    attachment: Attachment
    optimizer: Optimizer
    schedule: Schedule
    ema: EMAModel | None
    scaler: torch.amp.GradScaler
    keeper: Keeper | None
    alpha_bar: Tensor
    memory_mode: MemoryMode
    exact: bool  # gradients are the same bits every time; on a CPU they are so anyway
    step: int = 0
    setback: int = 0
    initial: TrainingState | None = None
    moving: bool = False  # the optimizer is at work: a failure now leaves a torn state

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The adapter's parameters by "part/name", in a fixed order."""
        return {
            f"{part}/{name}": parameter
            for part, named in self.attachment.parameters.items()
            for name, parameter in named
        }

    def state(self) -> TrainingState:
        """The training state, copied."""
        parameters = self.parameters
        averages = dict(zip(parameters, self.ema.shadow_params, strict=True)) if self.ema else {}
        return TrainingState(
            step=self.step,
            adapter=copy_to_cpu(parameters),
            ema=copy_to_cpu(averages),
            ema_steps=self.ema.optimization_step if self.ema else 0,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            config=self.config.model_dump(mode="json"),
            images=image_table(self.pictures),
            base=self.base.fingerprint,
            setback=self.setback,
        )

    def first_captions(self) -> list[str]:
        """The caption of the first picture of each concept."""
        first: dict[int, str] = {}
        for picture, caption in zip(self.pictures, self.captions, strict=True):
            first.setdefault(picture.concept, caption)
        return [first[number] for number in sorted(first)]

    def train_mode(self) -> None:
        """Dropout of the adapter on; the frozen modules have none."""
        trains_text = self.config.adapter.text_encoder
        encoders = [(encoder, trains_text) for encoder in self.base.text_encoders]
        for module, trains in ((self.base.unet, True), *encoders):
            if module.training != trains:  # switching goes through every layer
                module.train(trains)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The running averages in place of the adapter, until the block ends."""
        if self.ema is None:
            yield
            return
        parameters = list(self.parameters.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    @torch.no_grad()
    def restore(self, state: TrainingState) -> None:
        """Go back to a saved state.

        Raises:
            UserError: it belongs to another adapter; missing and unexpected names are listed.
        """
        parameters = self.parameters
        if parameters.keys() != state.adapter.keys():
            missing = sorted(parameters.keys() - state.adapter.keys())[:5]
            unexpected = sorted(state.adapter.keys() - parameters.keys())[:5]
            raise UserError(
                f"The checkpoint is of another adapter: it lacks {missing}, and has {unexpected}.",
                "Resume with the base model and the rank that the run began with.",
            )
        for name, parameter in parameters.items():
            parameter.copy_(state.adapter[name])
        if self.ema:
            for shadow, name in zip(self.ema.shadow_params, parameters, strict=True):
                shadow.copy_(state.ema[name])
            self.ema.optimization_step = state.ema_steps
        self.optimizer.load_state_dict(state.optimizer)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.step, self.setback = state.step, state.setback


def prepare(
    config: TrainingConfig,
    run: RunFolder,
    device: Device,
    notice: Notice,
    progress: Progress,
) -> Session:
    """Load the base, read the pictures, fill the caches, attach the adapter.

    Args:
        notice: is told, in sentences, what the user should know.
        progress: is told of slow work.

    Raises:
        UserError: anything that the user can put right.
    """
    base, config, device = _opened(config, device, notice)
    pictures, held_out = gather_pictures(config, base.resolution_step, notice, progress)
    captions = all_captions(base, pictures, config)

    cache = TensorCache(cache_folder(), notice)
    latents = LatentSource(base, cache, config.images.background)
    _fill_latents(base, latents, [*pictures, *held_out], config, device, progress)

    attachment = attach(base, config.adapter, seed=config.training.seed)
    device.put(base.unet)
    if config.adapter.text_encoder or not device.offload:
        device.put(*base.text_encoders)
    text = TextSource(
        base,
        cache,
        trained=config.adapter.text_encoder,
        device=device,
    )
    mode = memory_mode_of(config)
    set_mode(base, mode.mode, mode.checkpointing, trains_text=config.adapter.text_encoder)
    trained = [parameter for named in attachment.parameters.values() for _, parameter in named]
    decay = config.training.ema_decay
    session = Session(
        config=config,
        run=run,
        device=device,
        base=base,
        pictures=pictures,
        captions=captions,
        held_out=list(zip(held_out, all_captions(base, held_out, config), strict=True)),
        batches=Batches(
            base,
            pictures,
            latents,
            MaskSource(config.images, base.vae_scale_factor),
            config,
            device.rank,
            device.world,
        ),
        text=text,
        attachment=attachment,
        optimizer=_optimizer(attachment, config),
        schedule=make_schedule(
            config.optimizer.schedule, config.optimizer.warmup, config.training.steps
        ),
        ema=EMAModel(trained, decay=decay) if decay else None,
        scaler=torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == "fp16"),
        keeper=make_keeper(
            base,
            config,
            pictures,
            captions,
            text=text,
            latents=latents,
            device=device,
            cache=cache,
            notice=notice,
            progress=progress,
        ),
        alpha_bar=base.noise_scheduler().alphas_cumprod.to(device.torch_device),
        memory_mode=mode,
        exact=device.torch_device.type == "cuda",
    )
    if config.training.non_finite == "halve":
        session.initial = session.state()
    return session


def _opened(
    config: TrainingConfig, device: Device, notice: Notice
) -> tuple[BaseModel, TrainingConfig, Device]:
    """The base model with all that follows from it: settings, rows at a time, doubtful triggers."""
    on_cpu = device.torch_device.type == "cpu"
    base = load_training_base(config, device)
    config = resolve(config, base)
    base.tiling = config.memory.vae_tiling == "on"
    device = with_bounded_rows(device, config)
    if not (config.adapter.text_encoder or (on_cpu and config.captions.shuffle_tags)):
        device.put_away(*base.text_encoders)  # read again for each new caption
    _judge_triggers(config, base, notice)
    return base, config, device


def _judge_triggers(config: TrainingConfig, base: BaseModel, notice: Notice) -> None:
    for concept in concepts_of(config):
        doubtful = doubt(concept.trigger, base.tokenizers, concept.class_word)
        if concept.trigger and doubtful:
            notice(doubtful)


def _optimizer(attachment: Attachment, config: TrainingConfig) -> Optimizer:
    rates = learning_rates(config)
    groups = parameter_groups(attachment.parameters, rates, config.optimizer.lora_plus_ratio)
    return make_optimizer(config.optimizer, groups)


def learning_rates(config: TrainingConfig) -> dict[Part, float]:
    """Peak rate of each part's adapter, from a resolved configuration."""
    optimizer = config.optimizer
    if optimizer.learning_rate is None or optimizer.text_encoder_learning_rate is None:
        raise ValueError("the configuration has to be resolved first")
    text = optimizer.text_encoder_learning_rate
    return {"unet": optimizer.learning_rate, "text_encoder": text, "text_encoder_2": text}


def image_table(pictures: list[Picture]) -> dict[str, list[Any]]:
    """What is trained on: for each picture its name, the hash of its caption, repeats and mask.

    The key is the picture's id; one that shows several concepts has a key for each.
    """
    table: dict[str, list[Any]] = {}
    for picture in pictures:
        entry = picture.entry
        caption = hashlib.sha256((entry.caption or "").encode()).hexdigest()[:16]
        key = f"{entry.id}+{picture.concept}" if picture.concept else entry.id
        mask = entry.mask.digest if entry.mask else ""
        table[key] = [entry.name, caption, entry.repeats, mask]
    return table


def _fill_latents(
    base: BaseModel,
    latents: LatentSource,
    pictures: list[Picture],
    config: TrainingConfig,
    device: Device,
    progress: Progress,
) -> None:
    """One process computes, the others wait; then the VAE leaves the device."""
    flips = (False, True) if config.images.flip else (False,)
    if device.is_main:
        latents.fill(
            pictures,
            flips,
            progress,
            lambda: _vae_at_work(base, device),
        )
    device.put_away(base.vae)
    device.wait_for_everyone()


@contextmanager
def _vae_at_work(base: BaseModel, device: Device) -> Iterator[None]:
    with device.instead([base.vae], [base.unet, *base.text_encoders]):
        yield
