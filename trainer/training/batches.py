"""What one optimizer step trains on: a pure function of seed and step.

A step consists of ``accumulation`` batches. Each sample has a slot, counted over the whole step,
and its noise, timestep, flip and caption depend on (seed, step, slot) alone: how the slots are
spread over batches, processes and devices changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.config.concepts import captions_of, concepts_of
from trainer.config.schema import CaptionsConfig, TrainingConfig
from trainer.data.captions import CHUNK_TOKENS, compose_caption, plain_captions, protect_trigger
from trainer.data.latents import LatentSource, MaskSource
from trainer.data.order import SampleOrder, flip_choice, variant_choice, variants_of
from trainer.data.sets import Picture
from trainer.diffusion import Sizes, draw_noise
from trainer.models.base import BaseModel
from trainer.models.text import count_tokens
from trainer.seeds import derive_seed


@dataclass(frozen=True)
class Sample:
    """One picture in one step."""

    slot: int
    picture: Picture
    flip: bool
    caption: str


@dataclass(frozen=True)
class Batch:
    """The tensors of samples of one size, on the CPU."""

    names: tuple[str, ...]  # B, of the pictures
    slots: tuple[int, ...]  # B, counted over the whole step
    captions: tuple[str, ...]  # B
    sizes: tuple[Sizes, ...]  # B, what SDXL is conditioned on
    # latents, noise: (B, C, H, W) float32.
    latents: Tensor
    noise: Tensor
    timesteps: Tensor  # (B,) int64
    total: int  # samples in the whole step, over batches and processes: the loss's denominator
    weights: Tensor  # (B,) float32, what each sample counts
    # (B, 1, H, W) float32, how much each place counts; None where all count alike.
    masks: Tensor | None = None
    # (B, C, H, W) noise that the UNet is shown in place of `noise`, which it has to predict; None:
    # the same.
    perturbed: Tensor | None = None

    def parts(self, size: int) -> Iterator[Batch]:
        """The batch in pieces of at most ``size`` samples; ``total`` stays that of the step."""
        for start in range(0, len(self.slots), size):
            rows = slice(start, start + size)
            own = {
                name: value[rows] for name, value in vars(self).items() if hasattr(value, "__len__")
            }
            yield replace(self, **own)


class Batches:
    """All steps of a run.

    Args:
        rank, world: this process and how many there are; each gets a share of every batch.
    """

    def __init__(
        self,
        base: BaseModel,
        pictures: Sequence[Picture],
        latents: LatentSource,
        masks: MaskSource,
        config: TrainingConfig,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.base = base
        self.pictures = [one for picture in pictures for one in picture.in_each_size]
        images, seed = config.images, config.training.seed
        self.variants = [variants_of(picture, images, seed) for picture in self.pictures]
        self.source, self.masks = latents, masks
        self.config = config
        self.words = [captions_of(config, concept) for concept in concepts_of(config)]
        self.loss_weights = [concept.loss_weight for concept in concepts_of(config)]
        self.rank, self.world = rank, world
        self.timesteps = int(base.scheduler_config.get("num_train_timesteps", 1000))
        training = config.training
        self.order = SampleOrder(
            [picture.crop.size for picture in self.pictures],
            [picture.entry.repeats for picture in self.pictures],
            training.batch_size,
            training.seed,
        )

    def steps_per_epoch(self) -> float:
        """Optimizer steps in one pass over the pictures with their repeats."""
        return self.order.batches_per_epoch / self.config.training.accumulation

    def samples(self, step: int) -> list[list[Sample]]:
        """The samples of a step (counted from 0), batch by batch, of all processes."""
        accumulation, seed = self.config.training.accumulation, self.config.training.seed
        slot = 0
        batches: list[list[Sample]] = []
        for position in range(step * accumulation, (step + 1) * accumulation):
            batch: list[Sample] = []
            for index in self.order.batch(position):
                variants = self.variants[index]
                identity = variants[0].entry.id
                picture = variants[variant_choice(seed, position, identity, len(variants))]
                flip = self.config.images.flip and flip_choice(seed, position, picture.entry.id)
                caption = trained_caption(
                    self.base, picture, self.words[picture.concept], seed=seed, step=position
                )
                batch.append(Sample(slot, picture, flip, caption))
                slot += 1
            batches.append(batch)
        return batches

    def step(self, step: int) -> Iterator[Batch]:
        """This process's batches of a step; an empty one is left out."""
        batches = self.samples(step)
        total = sum(len(batch) for batch in batches)
        seed = self.config.training.seed
        timesteps = draw_timesteps(total, seed=seed, step=step, timesteps=self.timesteps)
        for batch in batches:
            # Contiguous shares: alternating ones would give one process all preserving slots.
            own = [
                sample
                for place, sample in enumerate(batch)
                if place * self.world // len(batch) == self.rank
            ]
            if own:
                yield self._tensors(own, timesteps, total, step)

    def largest(self, step: int) -> Batch:
        """A whole batch of the largest size that comes in training; its content does not matter."""
        picture = max(self.pictures, key=lambda one: one.crop.width * one.crop.height)
        count = -(-self.config.training.batch_size // self.world)
        words = self.words[picture.concept]
        caption = trained_caption(self.base, picture, words, seed=0, step=step)
        samples = [Sample(slot, picture, False, caption) for slot in range(count)]
        return self._tensors(samples, torch.zeros(count, dtype=torch.int64), count, step)

    def _tensors(
        self, samples: Sequence[Sample], timesteps: Tensor, total: int, step: int
    ) -> Batch:
        """Args: timesteps: (total,), of all slots of the step."""
        pictures, flips = zip(*((sample.picture, sample.flip) for sample in samples), strict=True)
        slots = tuple(sample.slot for sample in samples)
        latents = torch.stack(list(map(self.source.latents, pictures, flips)))
        objective, seed = self.config.objective, self.config.training.seed
        shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        kind = {"offset": objective.noise_offset, "multires": objective.multires_noise}
        noise = torch.stack(
            [draw_noise(shape, slot, seed=seed, step=step, **kind) for slot in slots]
        )
        perturbed = None
        if share := objective.input_perturbation:
            seed = derive_seed(seed, "input perturbation")
            more = [draw_noise(shape, slot, seed=seed, step=step) for slot in slots]
            perturbed = noise + share * torch.stack(more)
        return Batch(
            names=tuple(picture.entry.name for picture in pictures),
            slots=slots,
            captions=tuple(sample.caption for sample in samples),
            sizes=tuple(picture.sizes for picture in pictures),
            latents=latents,
            noise=noise,
            timesteps=timesteps[list(slots)],
            total=total,
            weights=torch.tensor([self.loss_weights[one.concept] for one in pictures]),
            masks=self.masks.weights(pictures, flips),
            perturbed=perturbed,
        )


def draw_timesteps(count: int, *, seed: int, step: int, timesteps: int) -> Tensor:
    """Timestep sampling of one optimizer step: uniform, and stratified over the schedule.

    The schedule is cut into ``count`` equal parts and each sample gets one of them, all shifted by
    one uniform offset (low-discrepancy sampling, arXiv 2107.00630, appendix I.1): each timestep
    is uniform, and the loss is less noisy than with independent draws. The parts are shuffled, so
    that a sample's place in the batch says nothing about its noise.

    Args:
        count: samples in the whole step, over batches and processes.
        timesteps: length T of the schedule.

    Returns:
        (count,) int64 in [0, T).
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, step, "timesteps"))
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    places = torch.randperm(count, generator=generator)
    return (((places + offset) / count) * timesteps).long().clamp_(max=timesteps - 1)


def trained_caption(
    base: BaseModel, picture: Picture, config: CaptionsConfig, *, seed: int, step: int
) -> str:
    """The caption of a picture in one step, its trigger within the first chunk that is read."""
    caption = compose_caption(
        picture.entry.caption, config, seed=seed, step=step, image_id=picture.entry.id
    )
    return protect_trigger(
        caption, config.trigger, lambda text: count_tokens(base.tokenizers, text) <= CHUNK_TOKENS
    )


def all_captions(base: BaseModel, pictures: Sequence[Picture], config: TrainingConfig) -> list[str]:
    """Each picture's caption as it is trained, without dropout and shuffling."""
    words = [plain_captions(captions_of(config, concept)) for concept in concepts_of(config)]
    return [
        trained_caption(base, picture, words[picture.concept], seed=0, step=0)
        for picture in pictures
    ]
