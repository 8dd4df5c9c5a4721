"""The base model as teacher: what it predicts, computed before training and cached.

At two kinds of points (noised latents, timestep, prompt):

- on the way to pictures that the base model draws for the preserved prompts in a few large steps,
  just as generation will meet them;
- at the set's own pictures under noise, with captions that lack the trigger: there training and
  preservation meet, and only the trigger may make the difference.

What is predicted there is what the adapter is to leave alone. Training needs no second pass of the
frozen model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer import diffusion
from trainer.conditioning import TextSource
from trainer.data.cache import content_key
from trainer.events import Progress
from trainer.lora.attach import disabled
from trainer.models.base import BaseModel
from trainer.preservation.prompts import PreservedPrompts
from trainer.preservation.rows import Predictions
from trainer.seeds import derive_seed, derive_uniform

STEPS = 8
GUIDANCE = 3.0
AT_ONCE = 8
EMPTY_EVERY = 4  # of every so many drawings, one gives its unconditional predictions as well


@dataclass(frozen=True)
class Teacher:
    """The base model, and what it takes to ask it.

    UNet and text encoders have to be on the device; an adapter on them is switched off meanwhile.
    """

    text: TextSource
    size: diffusion.Size  # of all pictures, (height, width) in pixels
    seed: int  # of everything that is drawn at random

    @property
    def base(self) -> BaseModel:
        """What is asked."""
        return self.text.base

    def predictions(
        self,
        prompts: PreservedPrompts,
        count: int,
        pictures: Sequence[tuple[Tensor, str]],
        progress: Progress,
    ) -> Predictions:
        """What the base model predicts on the way to its own drawings, and at given pictures.

        Args:
            count: drawings.
            pictures: latents of each, (C, H, W), and the prompt to ask with.
        """
        total = count + len(pictures)
        found: list[dict[str, Tensor]] = []
        words: list[str] = []
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            chosen = [prompts.choose(one, seed=self.seed, purpose="drawn") for one in numbers]
            found.append(self._of_drawings(chosen, start))
            words += [*chosen, *[""] * len(chosen[::EMPTY_EVERY])] * STEPS
            progress(numbers.stop, total, "predictions of the base model")
        for start in range(0, len(pictures), AT_ONCE):
            some = pictures[start : start + AT_ONCE]
            chosen = [prompt for _, prompt in some]
            found.append(self._of_pictures(torch.stack([one for one, _ in some]), chosen, start))
            words += chosen * STEPS
            progress(count + start + len(some), total, "predictions of the base model")
        noised, timesteps, predicted = (
            torch.cat([part[name] for part in found])
            for name in ("noised", "timesteps", "predicted")
        )
        sizes = ((self.size, (0, 0), self.size),) * len(words)
        return Predictions(diffusion.Points(tuple(words), noised, timesteps, sizes), predicted)

    def _of_drawings(self, prompts: Sequence[str], first: int) -> dict[str, Tensor]:
        """At the points of some drawings: deterministic DDIM (arXiv 2010.02502, eq. 12, eta = 0)
        with guidance, at one timestep of each of `STEPS` parts of the schedule."""

        def compute() -> dict[str, Tensor]:
            timesteps = self._timesteps("remembered offset", first)
            noised = torch.stack(
                [self._noise("remembered noise", first + n) for n in range(len(prompts))]
            )
            text = self.text.teacher([*prompts, *[""] * len(prompts)])
            pieces: list[tuple[Tensor, Tensor, int]] = []
            for place, timestep in enumerate(timesteps):
                named, unnamed = self._ask(noised.repeat(2, 1, 1, 1), timestep, text).chunk(2)
                pieces += [
                    (noised, named, timestep),
                    (noised[::EMPTY_EVERY], unnamed[::EMPTY_EVERY], timestep),
                ]
                guided = unnamed.float() + GUIDANCE * (named.float() - unnamed.float())
                if place + 1 < len(timesteps):
                    clean, noise = diffusion.clean_and_noise(
                        noised,
                        guided,
                        self._alpha_bar,
                        torch.full((len(prompts),), timestep, device=noised.device),
                        self.base.prediction_type,
                    )
                    following = self._alpha_bar[timesteps[place + 1]]
                    noised = following.sqrt() * clean + (1 - following).sqrt() * noise
            return self._collected(pieces)

        settings = [STEPS, GUIDANCE, EMPTY_EVERY]
        key = self._key("remembered", prompts=prompts, first=first, settings=settings)
        return self.text.cache.get_or_make(key, compute)

    def _of_pictures(self, clean: Tensor, prompts: list[str], first: int) -> dict[str, Tensor]:
        """At pictures under noise, (B, C, H, W), at one timestep of each of `STEPS` parts."""
        pictures = hashlib.sha256(clean.numpy().tobytes()).hexdigest()

        def compute() -> dict[str, Tensor]:
            text = self.text.teacher(prompts)
            own = clean.to(self._alpha_bar.device)
            pieces: list[tuple[Tensor, Tensor, int]] = []
            for timestep in self._timesteps("look offset", first):
                numbers = range(first, first + len(prompts))
                noise = torch.stack([self._noise("look noise", n, timestep) for n in numbers])
                step = torch.full((len(prompts),), timestep, device=own.device)
                noised = diffusion.add_noise(own, noise, self._alpha_bar, step)
                pieces.append((noised, self._ask(noised, timestep, text), timestep))
            return self._collected(pieces)

        key = self._key(
            "looked at", prompts=prompts, pictures=pictures, first=first, settings=[STEPS]
        )
        return self.text.cache.get_or_make(key, compute)

    @torch.no_grad()
    def _ask(self, noised: Tensor, timestep: int, text: diffusion.TextConditioning) -> Tensor:
        """The UNet's output without the adapter, (N, C, H, W) on the device."""
        count, rows = len(noised), self.text.device.rows
        sizes = ((self.size, (0, 0), self.size),) * count
        points = diffusion.Points(("",) * count, noised, torch.full((count,), timestep), sizes)
        parts = [slice(at, at + rows) for at in range(0, count, rows)]
        with disabled(self.base), diffusion.evaluating(self.base):
            return torch.cat(
                [diffusion.call_unet(self.base, points[part], text[part]) for part in parts]
            )

    def _collected(self, pieces: Sequence[tuple[Tensor, Tensor, int]]) -> dict[str, Tensor]:
        """Noised latents, predictions and timesteps, on the CPU in the UNet's number format."""
        dtype = self.base.unet.dtype
        return {
            "noised": torch.cat([noised for noised, _, _ in pieces]).cpu().to(dtype),
            "predicted": torch.cat([predicted for _, predicted, _ in pieces]).cpu().to(dtype),
            "timesteps": torch.cat([torch.full((len(n),), step) for n, _, step in pieces]),
        }

    def _key(self, kind: str, **facts: object) -> str:
        return content_key(
            kind=kind,
            base=self.base.output_key,
            dtype=str(self.base.unet.dtype),
            size=list(self.size),
            seed=self.seed,
            **facts,
        )

    @property
    def _alpha_bar(self) -> Tensor:
        """(T,) on the device."""
        return self.base.noise_scheduler().alphas_cumprod.to(self.text.device.torch_device)

    def _noise(self, purpose: str, *numbers: int) -> Tensor:
        """(C, H, W) float32 on the device."""
        factor = self.base.vae_scale_factor
        channels = int(self.base.unet.config["in_channels"])
        generator = torch.Generator().manual_seed(derive_seed(self.seed, purpose, *numbers))
        shape = (channels, self.size[0] // factor, self.size[1] // factor)
        return torch.randn(shape, generator=generator).to(self.text.device.torch_device)

    def _timesteps(self, purpose: str, first: int) -> list[int]:
        """One timestep of each of `STEPS` equal parts of the schedule, the noisiest first."""
        offset = derive_uniform(self.seed, purpose, first)
        total = len(self._alpha_bar)
        return [int((part + offset) * total / STEPS) for part in reversed(range(STEPS))]
