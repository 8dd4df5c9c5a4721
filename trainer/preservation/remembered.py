"""The base model's own predictions, remembered from a few pictures that it draws.

Before training, the base model draws pictures for the preserved prompts in a few large steps. Each
step of a drawing is a point (noised latents, timestep, prompt) just as generation will meet it, and
the prediction made there is what the adapter is to leave alone: nothing is computed twice, and
training needs no second pass of the frozen model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.cache import TensorCache, content_key
from trainer.conditioning import TextSource
from trainer.devices import Device
from trainer.evaluation.predicting import Points
from trainer.lora.attach import disabled
from trainer.models.base import BaseModel
from trainer.models.text import Size, added_conditioning
from trainer.objective import clean_and_noise
from trainer.preservation.prompts import PreservedPrompts
from trainer.preservation.rows import KeptRows, Rhythm
from trainer.sampling import evaluating
from trainer.seeds import derive_seed, derive_uniform

STEPS = 8
GUIDANCE = 3.0
AT_ONCE = 8
EMPTY_EVERY = 4
"""Of every so many drawings, one gives its unconditional predictions as well."""
SPOKEN = 2
"""Further prompts for each row, whose text features are held: nearly free, and they add variety."""


@dataclass(frozen=True)
class Remembered:
    """Points and what the base model predicts there.

    Attributes:
        prompts: N.
        noised, predicted: (N, C, H, W) on the CPU, in the UNet's number format.
        timesteps: (N,) int64.
        size: (height, width) of the pictures in pixels.
    """

    prompts: tuple[str, ...]
    noised: Tensor
    predicted: Tensor
    timesteps: Tensor
    size: Size


class PredictionKeeper:
    """Rows from what is remembered; each point comes up equally often, in a new order each time.

    Args:
        holds_text: whether text features are held too.
        seed: of the order.
    """

    def __init__(
        self,
        remembered: Remembered,
        prompts: PreservedPrompts,
        rhythm: Rhythm,
        holds_text: bool,
        seed: int,
    ) -> None:
        self.remembered, self.prompts = remembered, prompts
        self.rhythm, self.holds_text, self.seed = rhythm, holds_text, seed

    def rows(self, step: int, slots: Sequence[int], total: int) -> KeptRows | None:
        """See `trainer.preservation.rows.Keeper`."""
        numbers = [self.rhythm.number(step, row) for row in self.rhythm.of_slots(slots, total)]
        if not numbers:
            return None
        known = self.remembered
        places = [self._place(number) for number in numbers]
        spoken = [
            self.prompts.choose(number * SPOKEN + turn, seed=self.seed, purpose="spoken")
            for number in numbers
            for turn in range(SPOKEN)
        ]
        points = Points(
            tuple(known.prompts[place] for place in places),
            known.noised[places],
            known.timesteps[places],
            ((known.size, (0, 0), known.size),) * len(places),
        )
        words = tuple(spoken) if self.holds_text else ()
        wanted = known.predicted[places]
        return KeptRows(points, wanted, words, self.rhythm.count(total), self.holds_text)

    def _place(self, number: int) -> int:
        """Row ``number`` of the run, as a place among the points."""
        count = len(self.remembered.prompts)
        pass_over, place = divmod(number, count)
        order = random.Random(derive_seed(self.seed, "remembered", pass_over))
        return order.sample(range(count), count)[place]


def remember(
    base: BaseModel,
    prompts: PreservedPrompts,
    *,
    count: int,
    size: Size,
    seed: int,
    text: TextSource,
    device: Device,
    cache: TensorCache,
    progress: Callable[[int, int], None],
) -> Remembered:
    """Have the base model draw, and keep what it predicts on the way (or find that in the cache).

    UNet and text encoders have to be on the device; an adapter on them is switched off meanwhile.

    Args:
        count: drawings.
        size: of the pictures, (height, width) in pixels.
    """
    parts: list[dict[str, Tensor]] = []
    words: list[str] = []
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        chosen = [prompts.choose(number, seed=seed, purpose="drawn") for number in numbers]
        key = content_key(
            kind="remembered",
            base=base.output_key,
            dtype=str(base.unet.dtype),
            prompts=chosen,
            first=start,
            seed=seed,
            size=list(size),
            settings=[STEPS, GUIDANCE, EMPTY_EVERY],
        )
        kept = cache.get(key)
        if kept is None:
            kept = _draw(base, chosen, start, size=size, seed=seed, text=text, device=device)
            cache.put(key, kept)
        progress(numbers.stop, count)
        parts.append(kept)
        words += _point_prompts(chosen)
    return Remembered(
        prompts=tuple(words),
        noised=torch.cat([part["noised"] for part in parts]),
        predicted=torch.cat([part["predicted"] for part in parts]),
        timesteps=torch.cat([part["timesteps"] for part in parts]),
        size=size,
    )


def _point_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts of the points of some drawings, in the order of `_draw`."""
    return [*prompts, *[""] * len(prompts[::EMPTY_EVERY])] * STEPS


@torch.no_grad()
def _draw(
    base: BaseModel,
    prompts: Sequence[str],
    first: int,
    *,
    size: Size,
    seed: int,
    text: TextSource,
    device: Device,
) -> dict[str, Tensor]:
    """The points of some drawings: deterministic DDIM (arXiv 2010.02502, eq. 12, eta = 0) with
    guidance, at one timestep of each of `STEPS` parts of the schedule."""
    scheduler = base.noise_scheduler()
    alpha_bar = scheduler.alphas_cumprod.to(device.torch_device)
    timesteps = _timesteps(len(alpha_bar), derive_uniform(seed, "remembered offset", first))
    seeds = [derive_seed(seed, "remembered noise", first + n) for n in range(len(prompts))]
    noised = torch.stack([_noise(base, size, drawn) for drawn in seeds])  # (B, C, H, W)
    noised = noised.to(device.torch_device)
    empty = slice(None, None, EMPTY_EVERY)
    features = text.teacher([*prompts, *[""] * len(prompts)])
    sizes = [size] * (2 * len(prompts))
    added = added_conditioning(base, features.pooled, sizes, [(0, 0)] * len(sizes), sizes)
    kept: dict[str, list[Tensor]] = {"noised": [], "predicted": [], "timesteps": []}
    with disabled(base), evaluating(base):
        for place, timestep in enumerate(timesteps):
            step = torch.full((2 * len(prompts),), timestep, device=device.torch_device)
            both = base.unet(
                noised.repeat(2, 1, 1, 1).to(base.unet.dtype),
                step,
                encoder_hidden_states=features.hidden,
                added_cond_kwargs=added,
            ).sample
            named, unnamed = both.chunk(2)
            kept["noised"] += [noised, noised[empty]]
            kept["predicted"] += [named, unnamed[empty]]
            kept["timesteps"] += [step[: len(named) + len(unnamed[empty])]]
            guided = unnamed.float() + GUIDANCE * (named.float() - unnamed.float())
            if place + 1 < len(timesteps):
                clean, noise = clean_and_noise(
                    noised, guided, alpha_bar, step[: len(prompts)], base.prediction_type
                )
                following = alpha_bar[timesteps[place + 1]]
                noised = following.sqrt() * clean + (1 - following).sqrt() * noise
    tensors = {name: torch.cat(pieces).cpu() for name, pieces in kept.items()}
    return {
        name: tensor if name == "timesteps" else tensor.to(base.unet.dtype)
        for name, tensor in tensors.items()
    }


def _timesteps(total: int, offset: float) -> list[int]:
    """One timestep of each of `STEPS` equal parts of a schedule, the noisiest first."""
    return [int((part + offset) * total / STEPS) for part in reversed(range(STEPS))]


def _noise(base: BaseModel, size: Size, seed: int) -> Tensor:
    """(C, H, W) float32 for a picture of ``size`` pixels."""
    factor = base.vae_scale_factor
    channels = int(base.unet.config["in_channels"])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((channels, size[0] // factor, size[1] // factor), generator=generator)
