"""Everything a run needs, prepared once: the live modules, the data and the optimizer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from trainer.conditioning import TextSource
from trainer.config.adapting import PAIRS
from trainer.config.concepts import concepts_of
from trainer.config.schema import OptimizerConfig, TrainingConfig
from trainer.config.section import number_by_pattern
from trainer.data.cache import TensorCache
from trainer.data.gather import SetsReport, read_sets, split_pictures, with_class_pictures
from trainer.data.latents import LatentSource, MaskSource
from trainer.data.sets import Picture
from trainer.errors import UserError
from trainer.events import ImagesRead, Notice, Progress, RunEvent
from trainer.lora.adapter import Adapter
from trainer.lora.attach import Attachment, attach, check_patterns, chosen_targets
from trainer.lora.joined import joined_layers
from trainer.lora.loading import check_fit, clip_skip_note, plain_on, read_start, taken_over
from trainer.lora.names import ModuleKey, count_layers, count_parts, shorten
from trainer.memory.devices import Device, is_exact
from trainer.memory.modes import MemoryMode, load_training_base, memory_mode_of, set_mode
from trainer.models.base import BaseModel
from trainer.models.text import count_chunks
from trainer.places import cache_folder
from trainer.preservation.prepare import prepare_preservation
from trainer.preservation.rows import Preservation
from trainer.runs.atomic import replacing, writing
from trainer.runs.layout import RunFolder
from trainer.training import optimizers
from trainer.training.batches import Batches, all_captions
from trainer.training.checkpoints import TrainingState, copy_to_cpu
from trainer.training.compiled import CompiledBlocks
from trainer.training.copies import Copies
from trainer.training.resume import image_table
from trainer.triggers.lab import doubt


@dataclass
class Session:
    """A run in memory. Its `state` and `restore` say what has to survive a restart."""

    config: TrainingConfig
    run: RunFolder
    device: Device
    base: BaseModel
    pictures: list[Picture]
    captions: list[str]  # of `pictures`, as they are trained
    held_out: list[tuple[Picture, str]]  # the validation split, with its captions
    batches: Batches
    text: TextSource
    attachment: Attachment
    optimizer: Optimizer
    schedule: optimizers.Schedule
    ema: EMAModel | None
    scaler: torch.amp.GradScaler
    preservation: Preservation | None
    alpha_bar: Tensor  # (T,) of the noise schedule, on the device
    memory_mode: MemoryMode  # the present one
    exact: bool  # gradients are the same bits every time; on a CPU they are so anyway
    copies: Copies  # the adapter's matrices in the base model's number format, for each pass
    compiled: CompiledBlocks  # the UNet's blocks for training steps, where they are to be compiled
    step: int = 0
    setback: int = 0  # the step after which the learning rate was halved; 0: none
    # The state before the first step, where the run may have to go back to it.
    initial: TrainingState | None = None
    moving: bool = False  # the optimizer is at work: a failure now leaves a torn state

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The adapter's parameters by "part/name", in a fixed order."""
        of_layers = {
            f"{part}/{name}": parameter
            for part, named in self.attachment.parameters.items()
            for name, parameter in named
        }
        return of_layers | self.attachment.word_parameters()

    def state(self) -> TrainingState:
        """The training state, copied."""
        parameters = self.parameters
        averages = self.averages()
        return TrainingState(
            step=self.step,
            adapter=copy_to_cpu(parameters),
            ema=copy_to_cpu(dict(zip(parameters, averages, strict=True)) if averages else {}),
            ema_steps=cast(int, self.ema.optimization_step) if self.ema else 0,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            config=self.config.model_dump(mode="json"),
            images=image_table(self.pictures),
            base=self.base.fingerprint,
            setback=self.setback,
        )

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
        _fill(parameters.values(), [state.adapter[name] for name in parameters])
        if self.ema:
            _fill(_shadows(self.ema), [state.ema[name] for name in parameters])
            self.ema.optimization_step = state.ema_steps
        self.optimizer.load_state_dict(state.optimizer)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.step, self.setback = state.step, state.setback

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder's adapter and new tokens learn at the present step."""
        share, steps = self.config.training.stop_text_encoder_after, self.config.training.steps
        return self.config.adapter.learns_text and self.step < round(share * steps)

    def train_mode(self) -> None:
        """Dropout of the adapter on; the frozen modules have none."""
        trains_text = self.trains_text
        encoders = [(encoder, trains_text) for encoder in self.base.text_encoders]
        for module, trains in ((self.base.unet, True), *encoders):
            if module.training != trains:  # switching goes through every layer
                module.train(trains)
        of_text = (one for name, one in self.parameters.items() if not name.startswith("unet/"))
        for parameter in of_text:
            if parameter.requires_grad == trains_text:
                break  # all are alike
            parameter.requires_grad_(trains_text)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """The averages in place of the adapter until the block ends; then it has its own bits."""
        averages, parameters = self.averages(), self.parameters
        if averages is None:
            yield
            return
        own = copy_to_cpu(parameters)
        try:
            _fill(parameters.values(), averages)
            yield
        finally:
            _fill(parameters.values(), own.values())

    def averages(self) -> list[Tensor] | None:
        """What is exported, drawn and measured in place of `parameters`; None: they themselves."""
        if self.ema:
            return _shadows(self.ema)
        if self.config.optimizer.averages:
            return optimizers.own_averages(self.optimizer, self.parameters.values())
        return None


@torch.no_grad()
def _fill(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _shadows(averages: EMAModel) -> list[Tensor]:
    return cast("list[Tensor]", averages.shadow_params)


def prepare(
    config: TrainingConfig,
    run: RunFolder,
    device: Device,
    notice: Notice,
    progress: Progress,
    record: Callable[[RunEvent], None] = lambda _: None,
) -> Session:
    """Load the base, read the pictures, fill the caches, attach the adapter.

    Args:
        notice: is told, in sentences, what the user should know.
        progress: is told of slow work.
        record: is told that the image sets are read.

    Raises:
        UserError: anything that the user can put right.
    """
    start = _start(config, run, device, notice)
    if start:
        config = taken_over(config, start)
    base, config, device = _open_base(config, device)
    if start and (note := clip_skip_note(start, base)):
        notice(note)
    training, trains_text = config.training, config.adapter.learns_text
    sets = _read_sets(base, config, progress)
    record(ImagesRead(sets.summary))
    for warning in sets.warnings():
        notice(warning)
    config = with_class_pictures(config, sets, notice)
    pictures, held_out = split_pictures(config, sets)
    captions = all_captions(base, pictures, config)
    cache = TensorCache(cache_folder(), notice)
    latents = LatentSource(base, cache, config.images.background)
    masks = MaskSource(config.images, base.vae_scale_factor)
    batches = Batches(base, pictures, latents, masks, config, device.rank, device.world)
    shown = [variant for variants in batches.variants for variant in variants]
    _fill_latents(base, latents, [*shown, *held_out], config, device, progress)

    attachment = _attach(base, config, start, device)
    text = TextSource(base, cache, trained=trains_text, device=device)
    mode = memory_mode_of(config)
    set_mode(base, mode.mode, mode.checkpointing, trains_text=trains_text)
    parameters = [parameter for named in attachment.parameters.values() for _, parameter in named]
    parameters += attachment.word_parameters().values()
    decay = 0.0 if config.optimizer.averages else training.ema_decay
    pairs = list(zip(pictures, captions, strict=True))
    class_folders = sets.class_folders() if config.preservation.regularization else []
    session = Session(
        config=config,
        run=run,
        device=device,
        base=base,
        pictures=pictures,
        captions=captions,
        held_out=list(zip(held_out, all_captions(base, held_out, config), strict=True)),
        batches=batches,
        text=text,
        attachment=attachment,
        optimizer=_make_optimizer(config.optimizer, attachment),
        schedule=optimizers.make_schedule(config.optimizer, training.steps),
        ema=EMAModel(parameters, decay=decay) if decay else None,
        scaler=torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == "fp16"),
        preservation=prepare_preservation(
            config, pairs, class_folders, text, latents, notice, progress
        ),
        alpha_bar=base.noise_scheduler().alphas_cumprod.to(device.torch_device),
        memory_mode=mode,
        exact=is_exact(training, device.torch_device.type, notice),
        copies=make_copies(base, attachment, device, mode, training.compile),
        compiled=_compiled(base, config, device, notice),
    )
    if training.non_finite == "halve":
        session.initial = session.state()
    return session


def _compiled(
    base: BaseModel, config: TrainingConfig, device: Device, notice: Notice
) -> CompiledBlocks:
    """Where the adapter's layers compute alike in every call; CUDA graphs on a card of NVIDIA."""
    alike = config.adapter.kind in PAIRS and not config.adapter.t_lora_min_rank
    wanted, graphs = config.training.compile and alike, config.training.cuda_graphs
    if wanted and graphs and device.torch_device.type != "cuda":
        notice("training.cuda_graphs needs an NVIDIA card: this run is compiled without.")
        graphs = False
    return CompiledBlocks(base.unet, wanted, graphs)


def make_copies(
    base: BaseModel, attachment: Attachment, device: Device, mode: MemoryMode, compiled: bool
) -> Copies:
    """Of the A and B of all layers; on a card some layers are joined.

    Args:
        mode: the memory mode. Where blocks are computed again, each has what it needs to itself.
        compiled: likewise.
    """
    named = chain.from_iterable(attachment.parameters.values())
    pairs = [one for name, one in named if ".lora_" in name]
    joins, across = device.torch_device.type != "cpu", not (mode.checkpointing or compiled)
    roots = [base.unet, *base.text_encoders] if joins and mode.mode != "plain" else []
    joined = joined_layers(roots, across=across)
    return Copies(pairs, device.dtype, joined, keep=not device.offload)


def _make_optimizer(config: OptimizerConfig, attachment: Attachment) -> Optimizer:
    """The optimizer over an adapter's parameters.

    Raises:
        UserError: a rate is for what is not adapted.
    """
    parameters = attachment.parameters
    keys: set[ModuleKey] = set()
    for part, named in parameters.items():
        keys.update(ModuleKey(part, name.rpartition(".")[0]) for name, _ in named)
    patterns = [number_by_pattern(line)[0] for line in config.layer_rates]
    check_patterns("optimizer.layer_rates", patterns, sorted(keys))
    if config.text_encoder_2_learning_rate and "text_encoder_2" not in parameters:
        raise UserError(
            "optimizer.text_encoder_2_learning_rate is given, but no second text encoder is "
            "adapted.",
            "Leave it empty; it is for SDXL, which has two.",
        )
    ratio, rates = config.lora_plus_ratio, optimizers.learning_rates(config)
    groups = optimizers.parameter_groups(parameters, rates, ratio, config.layer_rates)
    if vectors := list(attachment.word_parameters().values()):
        rate = config.new_tokens_learning_rate
        facts = {"lr": rate, "initial_lr": rate, "part": "new_tokens", "weight_decay": 0.0}
        groups.append({"params": vectors, **facts})
    return optimizers.make_optimizer(config, groups)


def _attach(
    base: BaseModel, config: TrainingConfig, start: Adapter | None, device: Device
) -> Attachment:
    """The adapter on the base model, and what computes with it on the device."""
    if start:
        check_fit(base, start)
        start = plain_on(base, start)
    triggers = {concept.trigger: concept.class_word for concept in concepts_of(config)}
    seed = config.training.seed
    attachment = attach(base, config.adapter, seed=seed, start=start, triggers=triggers)
    for vectors in attachment.word_parameters().values():
        vectors.data = vectors.data.to(device.torch_device)
    device.put(base.unet)
    if config.adapter.learns_text or not device.offload:
        device.put(*base.text_encoders)
    return attachment


def _read_sets(base: BaseModel, config: TrainingConfig, progress: Progress) -> SetsReport:
    """The image sets, with all that ``check-images`` says of them."""
    return read_sets(
        config,
        base.resolution_step,
        lambda text: count_chunks(base.tokenizers, text),
        progress,
        lambda concept: (
            None  # new tokens stand for it, whatever it meant
            if config.adapter.new_tokens
            else doubt(concept.trigger, base.tokenizers, concept.class_word)
        ),
    )


def _start(
    config: TrainingConfig, run: RunFolder, device: Device, notice: Notice
) -> Adapter | None:
    """The adapter that the run goes on from, if it does; its file is kept in the run's folder.

    Raises:
        UserError: it cannot be gone on from.
    """
    given = config.adapter.start_from
    if given is None:
        return None
    start = read_start(run.start if run.start.is_file() else given.expanduser(), config.adapter)
    if not run.start.is_file() and device.is_main:
        with writing(f"the copy of {given}"), replacing(run.start) as temporary:
            shutil.copyfile(given.expanduser(), temporary)
        parts = count_parts(start.layers)
        words = f", embeddings of {shorten(start.embeddings)}" if start.embeddings else ""
        notice(f"Goes on from {given.name}: {start.size_in_words}, {count_layers(parts)}{words}.")
    return start


def _open_base(config: TrainingConfig, device: Device) -> tuple[BaseModel, TrainingConfig, Device]:
    """`load_training_base`, with the parts that train and those that need not be on the device."""
    base, config, device = load_training_base(config, device)
    adapter = config.adapter
    if (adapter.only or adapter.without) and not adapter.start_from:
        # What patterns leave no layer of does not train.
        parts = {key.part for key in chosen_targets(base, adapter)}
        trained = {"unet": "unet" in parts, "text_encoder": parts != {"unet"}}
        config = config.changed(adapter=trained)
    if not config.adapter.learns_text:
        device.put_away(*base.text_encoders)
    return base, config, device


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
        others = [base.unet, *base.text_encoders]
        latents.fill(pictures, flips, progress, lambda: device.instead([base.vae], others))
    device.put_away(base.vae)
    device.wait_for_everyone()
