"""How an edited adapter predicts, against the one that it was made of, at fixed points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.diffusion import Points, predict, stratified_timesteps
from trainer.lora.adapter import Adapter
from trainer.lora.attach import detach
from trainer.lora.loading import load_into
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.seeds import derive_seed

PROMPTS = ("", "a picture of a house", "a drawing of a dog")
"""Asked besides the adapter's own words."""
TIMESTEPS = 3
_GREATEST_SIDE = 512
_NAME = "edited"


def prediction_difference(
    base: BaseModel, before: Adapter, after: Adapter, words: Sequence[str], device: Device
) -> float:
    """The change of all predictions by editing, relative to what the adapter changes in them.

        ‖after − before‖ / ‖before − base‖

    over predictions for the adapter's words and for `PROMPTS`, at noise and at stratified timesteps
    that are the same every time. 0: predicts the same; 1: as far from the adapter as the base is.
    UNet and text encoders have to be on the device.

    Returns:
        Infinity where the first adapter changes nothing and the second does.

    Raises:
        UserError: an adapter does not fit the base.
    """
    points = _points(base, [*dict.fromkeys([*words, *PROMPTS])])
    plain = predict(base, points, device)
    one, other = (_with(base, adapter, points, device) for adapter in (before, after))
    size = float(torch.linalg.vector_norm((one - plain).double()))
    moved = float(torch.linalg.vector_norm((other - one).double()))
    if size == 0:
        return 0.0 if moved == 0 else float("inf")
    return moved / size


def _with(base: BaseModel, adapter: Adapter, points: Points, device: Device) -> Tensor:
    load_into(base, adapter, _NAME)
    try:
        return predict(base, points, device)
    finally:
        detach(base, _NAME)


def _points(base: BaseModel, prompts: Sequence[str]) -> Points:
    total = int(base.noise_scheduler().config["num_train_timesteps"])
    steps = stratified_timesteps(TIMESTEPS, total)
    side = min(base.default_resolution, _GREATEST_SIDE)
    latent_side = side // base.vae_scale_factor
    channels = int(base.unet.config["in_channels"])
    count = len(prompts) * TIMESTEPS
    noised = torch.stack(
        [
            torch.randn(
                (channels, latent_side, latent_side),
                generator=torch.Generator().manual_seed(derive_seed(0, "edited", number)),
            )
            for number in range(count)
        ]
    )
    size = (side, side)
    return Points(
        prompts=tuple(prompt for prompt in prompts for _ in range(TIMESTEPS)),
        noised=noised,
        timesteps=steps.repeat(len(prompts)),
        sizes=tuple([(size, (0, 0), size)] * count),
    )
