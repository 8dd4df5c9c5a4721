"""The base model's own predictions, made before training and remembered.

At two kinds of points (noised latents, timestep, prompt):

- of pictures that the base model draws for the preserved prompts in a few large steps: just as
  generation will meet them;
- of the set's own pictures under noise, with captions that lack the trigger: there training and
  preservation meet, and only the trigger may make the difference.

What is predicted there is what the adapter is to leave alone: nothing is computed twice, and
training needs no second pass of the frozen model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.conditioning import TextSource
from trainer.data.cache import TensorCache, content_key
from trainer.diffusion import Points, Size, add_noise, call_unet, clean_and_noise, evaluating
from trainer.events import Progress
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.preservation.prompts import PreservedPrompts
from trainer.preservation.remembered import Remembered
from trainer.seeds import derive_seed, derive_uniform

STEPS = 8
GUIDANCE = 3.0
AT_ONCE = 8
EMPTY_EVERY = 4
"""Of every so many drawings, one gives its unconditional predictions as well."""

Kept = dict[str, Tensor]


@dataclass(frozen=True)
class Teacher:
    """The base model, and what it takes to ask it.

    UNet and text encoders have to be on the device; an adapter on them is switched off meanwhile.

    Attributes:
        size: of all pictures, (height, width) in pixels.
        seed: of everything that is drawn at random.
    """

    base: BaseModel
    text: TextSource
    device: Device
    cache: TensorCache
    size: Size
    seed: int

    def key(self, kind: str, **facts: object) -> str:
        """Of the cache, for what is asked."""
        return content_key(
            kind=kind,
            base=self.base.output_key,
            dtype=str(self.base.unet.dtype),
            size=list(self.size),
            seed=self.seed,
            **facts,
        )

    @property
    def alpha_bar(self) -> Tensor:
        """(T,) on the device."""
        return self.base.noise_scheduler().alphas_cumprod.to(self.device.torch_device)

    def predictor(self, prompts: Sequence[str]) -> Callable[[Tensor, Tensor], Tensor]:
        """The UNet for some prompts: noised latents (B, C, H, W) and timesteps (B,) to its output.

        To be called with the adapters switched off.
        """
        features = self.text.teacher(prompts)
        sizes = ((self.size, (0, 0), self.size),) * len(prompts)

        def predict(noised: Tensor, timesteps: Tensor) -> Tensor:
            points, rows = Points(tuple(prompts), noised, timesteps, sizes), self.device.rows
            parts = [slice(at, at + rows) for at in range(0, len(points), rows)]
            return torch.cat([call_unet(self.base, points[part], features[part]) for part in parts])

        return predict

    def noise(self, purpose: str, *numbers: int) -> Tensor:
        """(C, H, W) float32 on the device."""
        factor = self.base.vae_scale_factor
        channels = int(self.base.unet.config["in_channels"])
        generator = torch.Generator().manual_seed(derive_seed(self.seed, purpose, *numbers))
        shape = (channels, self.size[0] // factor, self.size[1] // factor)
        return torch.randn(shape, generator=generator).to(self.device.torch_device)

    def timesteps(self, purpose: str, first: int) -> list[int]:
        """One timestep of each of `STEPS` equal parts of the schedule, the noisiest first."""
        offset = derive_uniform(self.seed, purpose, first)
        total = len(self.alpha_bar)
        return [int((part + offset) * total / STEPS) for part in reversed(range(STEPS))]


def remember_drawings(
    teacher: Teacher, prompts: PreservedPrompts, count: int, progress: Progress
) -> Remembered:
    """Have the base model draw, and keep what it predicts on the way (or find that in the cache).

    Args:
        count: drawings.
    """
    parts: list[Kept] = []
    words: list[str] = []
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        chosen = [prompts.choose(one, seed=teacher.seed, purpose="drawn") for one in numbers]
        settings = [STEPS, GUIDANCE, EMPTY_EVERY]
        key = teacher.key("remembered", prompts=chosen, first=start, settings=settings)
        parts.append(_cached(teacher.cache, key, lambda: _draw(teacher, chosen, start)))  # noqa: B023
        words += [*chosen, *[""] * len(chosen[::EMPTY_EVERY])] * STEPS
        progress(numbers.stop, count, "remembering")
    return _as_one(parts, words, teacher.size)


def remember_looks(
    teacher: Teacher, looks: Sequence[tuple[Tensor, str]], progress: Progress
) -> Remembered:
    """What the base model predicts at pictures under noise.

    Args:
        looks: latents of a picture, (C, H, W), with the prompt to ask for; each gives `STEPS`
            points.
    """
    parts: list[Kept] = []
    words: list[str] = []
    for start in range(0, len(looks), AT_ONCE):
        chosen = looks[start : start + AT_ONCE]
        clean = torch.stack([latents for latents, _ in chosen])
        prompts = [prompt for _, prompt in chosen]
        pictures = hashlib.sha256(clean.numpy().tobytes()).hexdigest()
        key = teacher.key(
            "looked at", prompts=prompts, pictures=pictures, first=start, settings=[STEPS]
        )
        parts.append(_cached(teacher.cache, key, lambda: _look(teacher, clean, prompts, start)))  # noqa: B023
        words += prompts * STEPS
        progress(start + len(chosen), len(looks), "remembering")
    return _as_one(parts, words, teacher.size)


def _cached(cache: TensorCache, key: str, compute: Callable[[], Kept]) -> Kept:
    kept = cache.get(key)
    if kept is None:
        kept = compute()
        cache.put(key, kept)
    return kept


def _as_one(parts: Sequence[Kept], prompts: Sequence[str], size: Size) -> Remembered:
    return Remembered(
        prompts=tuple(prompts),
        noised=torch.cat([part["noised"] for part in parts]),
        predicted=torch.cat([part["predicted"] for part in parts]),
        timesteps=torch.cat([part["timesteps"] for part in parts]),
        size=size,
    )


@torch.no_grad()
def _draw(teacher: Teacher, prompts: Sequence[str], first: int) -> Kept:
    """The points of some drawings: deterministic DDIM (arXiv 2010.02502, eq. 12, eta = 0) with
    guidance, at one timestep of each of `STEPS` parts of the schedule."""
    base, alpha_bar = teacher.base, teacher.alpha_bar
    timesteps = teacher.timesteps("remembered offset", first)
    noised = torch.stack(
        [teacher.noise("remembered noise", first + n) for n in range(len(prompts))]
    )
    empty = slice(None, None, EMPTY_EVERY)
    kept = _Points(base)
    predict = teacher.predictor([*prompts, *[""] * len(prompts)])
    with disabled(base), evaluating(base):
        for place, timestep in enumerate(timesteps):
            step = torch.full((2 * len(prompts),), timestep, device=noised.device)
            named, unnamed = predict(noised.repeat(2, 1, 1, 1), step).chunk(2)
            kept.add(noised, named, timestep)
            kept.add(noised[empty], unnamed[empty], timestep)
            guided = unnamed.float() + GUIDANCE * (named.float() - unnamed.float())
            if place + 1 < len(timesteps):
                clean, noise = clean_and_noise(
                    noised, guided, alpha_bar, step[: len(prompts)], base.prediction_type
                )
                following = alpha_bar[timesteps[place + 1]]
                noised = following.sqrt() * clean + (1 - following).sqrt() * noise
    return kept.tensors()


@torch.no_grad()
def _look(teacher: Teacher, clean: Tensor, prompts: Sequence[str], first: int) -> Kept:
    """The points of some pictures, (B, C, H, W), at one timestep of each of `STEPS` parts."""
    base, alpha_bar = teacher.base, teacher.alpha_bar
    clean = clean.to(alpha_bar.device)
    kept = _Points(base)
    predict = teacher.predictor(prompts)
    with disabled(base), evaluating(base):
        for timestep in teacher.timesteps("look offset", first):
            step = torch.full((len(prompts),), timestep, device=clean.device)
            numbers = range(first, first + len(prompts))
            noise = torch.stack([teacher.noise("look noise", one, timestep) for one in numbers])
            noised = add_noise(clean, noise, alpha_bar, step)
            kept.add(noised, predict(noised, step), timestep)
    return kept.tensors()


class _Points:
    """Collects points in the UNet's number format."""

    def __init__(self, base: BaseModel) -> None:
        self._dtype = base.unet.dtype
        self._pieces: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, noised: Tensor, predicted: Tensor, timestep: int) -> None:
        steps = torch.full((len(noised),), timestep)
        self._pieces.append((noised, predicted, steps))

    def tensors(self) -> Kept:
        noised, predicted, steps = (
            torch.cat(pieces).cpu() for pieces in zip(*self._pieces, strict=True)
        )
        return {
            "noised": noised.to(self._dtype),
            "predicted": predicted.to(self._dtype),
            "timesteps": steps,
        }
