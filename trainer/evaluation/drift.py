"""How far an adapter moves what the model predicts for a prompt.

    drift(prompt) = mean over points of |on - off|^2 / |off|^2

``on`` and ``off`` are the UNet's outputs (noise or velocity, as the model gives them) with the
adapter and without it, each from its own text encoding, at noised versions of pictures that the
base model itself draws for the prompt, with fixed noise, at stratified timesteps. 0 is the base
model exactly; 1 would be a prediction as far away as an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from trainer.data.cache import TensorCache, content_key
from trainer.diffusion import Points, add_noise, predict, stratified_timesteps
from trainer.generation.sampling import Drawing, draw_latents
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.seeds import derive_seed


@dataclass(frozen=True)
class ProbeSettings:
    """How finely drift is measured.

    Attributes:
        pictures: of the base model for each prompt.
        timesteps: strata of the noise schedule; each picture is looked at in all of them.
        inference_steps, guidance: of the pictures.
        seed: of pictures and noise.
    """

    pictures: int = 1
    timesteps: int = 2
    inference_steps: int = 8
    guidance: float = 4.0
    seed: int = 0


@dataclass(frozen=True)
class Probes:
    """Prompts, each with its points, and what the base model predicts there.

    Attributes:
        prompts: without doubles.
        points: those of the first prompt, then those of the second, and so on.
        unmoved: the base model's predictions, (N, C, H, W) float32 on the CPU.
    """

    prompts: tuple[str, ...]
    points: Points
    unmoved: Tensor


def make_probes(
    base: BaseModel,
    prompts: Sequence[str],
    device: Device,
    cache: TensorCache,
    settings: ProbeSettings | None = None,
    *,
    side: int | None = None,
) -> Probes:
    """Draws the base model's pictures for the prompts (or finds them in the cache), and notes what
    it predicts. An adapter that is on the model is switched off meanwhile.

    UNet and text encoders have to be on the device.

    Args:
        side: of the square pictures, in pixels; the base model's own unless given.
    """
    settings = settings or ProbeSettings()
    side = side or base.default_resolution
    unique = tuple(dict.fromkeys(prompts))
    if not unique:
        raise ValueError("no prompts to measure")
    with disabled(base):
        latents = _base_latents(base, unique, device, cache, settings, side)
        points = _points(base, unique, latents, settings, side)
        return Probes(unique, points, predict(base, points, device))


def drift(base: BaseModel, probes: Probes, device: Device) -> dict[str, float]:
    """Each prompt's drift with the adapters as they are on the model now."""
    moved = predict(base, probes.points, device)
    change = (moved - probes.unmoved).pow(2).sum(dim=(1, 2, 3))  # (N,)
    share = change / probes.unmoved.pow(2).sum(dim=(1, 2, 3)).clamp_min(1e-12)
    means = share.view(len(probes.prompts), -1).mean(dim=1)
    return dict(zip(probes.prompts, means.tolist(), strict=True))


def mean_drift(drifts: dict[str, float], prompts: Sequence[str]) -> float | None:
    """The mean over some of the prompts; None where there are none."""
    found = [drifts[prompt] for prompt in dict.fromkeys(prompts)]
    return sum(found) / len(found) if found else None


def _base_latents(
    base: BaseModel,
    prompts: Sequence[str],
    device: Device,
    cache: TensorCache,
    settings: ProbeSettings,
    side: int,
) -> Tensor:
    """(prompts x pictures, C, H, W) float32 on the CPU."""
    drawings = [
        Drawing(
            prompt=prompt,
            negative="",
            seed=derive_seed(settings.seed, "probe picture", number) % 2**31,
            width=side,
            height=side,
            inference_steps=settings.inference_steps,
            guidance=settings.guidance,
        )
        for prompt in prompts
        for number in range(settings.pictures)
    ]
    keys = [
        content_key(kind="probe", base=base.output_key, dtype=device.precision, **asdict(drawing))
        for drawing in drawings
    ]
    kept = [cache.get(key) for key in keys]
    missing = [place for place, found in enumerate(kept) if found is None]
    if missing:
        drawn = draw_latents(base, [drawings[place] for place in missing], device).float().cpu()
        for place, latents in zip(missing, drawn, strict=True):
            kept[place] = {"latents": latents}
            cache.put(keys[place], {"latents": latents})
    return torch.stack([found["latents"] for found in kept if found is not None])


def _points(
    base: BaseModel, prompts: Sequence[str], latents: Tensor, settings: ProbeSettings, side: int
) -> Points:
    scheduler = base.noise_scheduler()
    steps = stratified_timesteps(settings.timesteps, int(scheduler.config["num_train_timesteps"]))
    rows = latents.repeat_interleave(settings.timesteps, dim=0)
    # The same noise for every prompt: what differs between two prompts is then the prompt.
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "probe noise"))
    shape = (settings.pictures * settings.timesteps, *latents.shape[1:])
    noise = torch.randn(shape, generator=generator).repeat(len(prompts), 1, 1, 1)
    timesteps = steps.repeat(len(latents))
    square = (side, side)
    return Points(
        prompts=tuple(
            prompt for prompt in prompts for _ in range(settings.pictures * settings.timesteps)
        ),
        noised=add_noise(rows, noise, scheduler.alphas_cumprod, timesteps),
        timesteps=timesteps,
        sizes=((square, (0, 0), square),) * len(rows),
    )
