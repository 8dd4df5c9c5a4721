"""How far an adapter moves what the model predicts for a prompt.

    drift(prompt) = mean over points of |on - off|^2 / |off|^2

``on`` and ``off`` are the UNet's outputs (noise or velocity, as the model gives them) with the
adapter and without it, each from its own text encoding, at noised versions of pictures that the
base model itself draws for the prompt, with fixed noise, at stratified timesteps. 0 is the base
model exactly; 1 would be a prediction as far away as an empty one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor

from trainer import typed_torch
from trainer.data.cache import TensorCache, content_key
from trainer.diffusion import Points, add_noise, predict, stratified_timesteps
from trainer.generation.sampling import Drawing, draw_latents
from trainer.lora.adapter import Adapter
from trainer.lora.attach import detach, disabled
from trainer.lora.loading import load_into
from trainer.memory.devices import GREATEST_SIDE, Device
from trainer.models.base import BaseModel
from trainer.seeds import derive_seed

EDITED_PROMPTS = ("", "a picture of a house", "a drawing of a dog")
"""An edited adapter is compared on these, besides its own words."""
EDITED_TIMESTEPS = 3


@dataclass(frozen=True)
class ProbeSettings:
    """How finely drift is measured."""

    pictures: int = 1  # of the base model for each prompt
    timesteps: int = 2  # strata of the noise schedule; each picture is measured in all of them
    # inference_steps, guidance: of the pictures.
    inference_steps: int = 8
    guidance: float = 4.0
    seed: int = 0  # of pictures and noise


@dataclass(frozen=True)
class Probes:
    """Prompts, each with its points, and what the base model predicts there."""

    prompts: tuple[str, ...]  # without doubles
    points: Points  # those of the first prompt, then those of the second, and so on
    unmoved: Tensor  # the base model's predictions, (N, C, H, W) float32 on the CPU


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
        points = _probe_points(base, unique, latents, settings, side)
        return Probes(unique, points, predict(base, points, device))


def drift(base: BaseModel, probes: Probes, device: Device) -> dict[str, float]:
    """Each prompt's drift with the adapters as they are on the model now."""
    moved = predict(base, probes.points, device)
    change = (moved - probes.unmoved).pow(2).sum(dim=(1, 2, 3))  # (N,)
    share = change / probes.unmoved.pow(2).sum(dim=(1, 2, 3)).clamp_min(1e-12)
    means = share.view(len(probes.prompts), -1).mean(dim=1)
    return dict(zip(probes.prompts, cast("list[float]", means.tolist()), strict=True))


def mean_drift(drifts: dict[str, float], prompts: Sequence[str]) -> float | None:
    """The mean over some of the prompts; None where there are none."""
    found = [drifts[prompt] for prompt in dict.fromkeys(prompts)]
    return sum(found) / len(found) if found else None


@contextmanager
def on_model(
    base: BaseModel, adapters: Mapping[str, Adapter], strength: float = 1.0
) -> Generator[None]:
    """Adapters on the base model by name, until the block ends.

    Raises:
        UserError: one does not fit the base.
    """
    with ExitStack() as stack:
        for name, adapter in adapters.items():
            load_into(base, adapter, name, strength)
            stack.callback(detach, base, name)
        yield


def prediction_difference(
    base: BaseModel, before: Adapter, after: Adapter, words: Sequence[str], device: Device
) -> float:
    """The change of all predictions by editing an adapter, relative to what it changes in them.

        ‖after − before‖ / ‖before − base‖

    over predictions for the adapter's words and for `EDITED_PROMPTS`, at noise and at stratified
    timesteps that are the same every time. 0: predicts the same; 1: as far from the adapter as the
    base is. UNet and text encoders have to be on the device.

    Returns:
        Infinity where the first adapter changes nothing and the second does.

    Raises:
        UserError: an adapter does not fit the base.
    """
    points = _noise_points(base, [*dict.fromkeys([*words, *EDITED_PROMPTS])])

    def with_adapter(adapter: Adapter) -> Tensor:
        with on_model(base, {"edited": adapter}):
            return predict(base, points, device)

    plain, one, other = predict(base, points, device), with_adapter(before), with_adapter(after)
    size = float(typed_torch.vector_norm((one - plain).double()))
    moved = float(typed_torch.vector_norm((other - one).double()))
    if size == 0:
        return 0.0 if moved == 0 else float("inf")
    return moved / size


def _noise_points(base: BaseModel, prompts: Sequence[str]) -> Points:
    """`EDITED_TIMESTEPS` points of pure noise for each prompt."""
    total = int(base.noise_scheduler().config["num_train_timesteps"])
    side = min(base.default_resolution, GREATEST_SIDE)
    latent_side, count = side // base.vae_scale_factor, len(prompts) * EDITED_TIMESTEPS
    shape = (int(base.unet.config["in_channels"]), latent_side, latent_side)
    seeds = [derive_seed(0, "edited", number) for number in range(count)]
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return Points(
        prompts=tuple(prompt for prompt in prompts for _ in range(EDITED_TIMESTEPS)),
        noised=torch.stack(noise),
        timesteps=stratified_timesteps(EDITED_TIMESTEPS, total).repeat(len(prompts)),
        sizes=(((side, side), (0, 0), (side, side)),) * count,
    )


def _base_latents(
    base: BaseModel,
    prompts: Sequence[str],
    device: Device,
    cache: TensorCache,
    settings: ProbeSettings,
    side: int,
) -> Tensor:
    """(prompts x pictures, C, H, W) float32 on the CPU."""
    seeds = [
        derive_seed(settings.seed, "probe picture", number) % 2**31
        for number in range(settings.pictures)
    ]
    steps, guidance = settings.inference_steps, settings.guidance
    drawings = [
        Drawing(prompt, "", seed, side, side, steps, guidance)
        for prompt in prompts
        for seed in seeds
    ]
    keys = [
        content_key(kind="probe", base=base.output_key, dtype=device.precision, **asdict(drawing))
        for drawing in drawings
    ]
    cached = [cache.get(key) for key in keys]
    missing = [place for place, found in enumerate(cached) if found is None]
    if missing:
        drawn = draw_latents(base, [drawings[place] for place in missing], device).float().cpu()
        for place, latents in zip(missing, drawn, strict=True):
            cached[place] = {"latents": latents}
            cache.put(keys[place], {"latents": latents})
    return torch.stack([found["latents"] for found in cached if found is not None])


def _probe_points(
    base: BaseModel, prompts: Sequence[str], latents: Tensor, settings: ProbeSettings, side: int
) -> Points:
    scheduler = base.noise_scheduler()
    steps = stratified_timesteps(settings.timesteps, int(scheduler.config["num_train_timesteps"]))
    rows = latents.repeat_interleave(settings.timesteps, dim=0)
    # The same noise for every prompt: what differs between two prompts is then the prompt.
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "probe noise"))
    each = settings.pictures * settings.timesteps
    noise = torch.randn((each, *latents.shape[1:]), generator=generator)
    timesteps = steps.repeat(len(latents))
    return Points(
        prompts=tuple(prompt for prompt in prompts for _ in range(each)),
        noised=add_noise(
            rows, noise.repeat(len(prompts), 1, 1, 1), scheduler.alphas_cumprod, timesteps
        ),
        timesteps=timesteps,
        sizes=(((side, side), (0, 0), (side, side)),) * len(rows),
    )
