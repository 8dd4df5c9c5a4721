"""Predictions at fixed points: noised latents, a timestep and a prompt each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.generation.sampling import evaluating
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.models.text import Size, TextConditioning, added_conditioning, encode


@dataclass(frozen=True)
class Points:
    """Where the model is asked for a prediction; all of one size.

    Attributes:
        prompts: N, the text of each.
        noised: (N, C, H, W) float32 on the CPU.
        timesteps: (N,) int64.
        sizes: N times (original size, top left corner of the crop, size of what is shown), each
            (height, width) in pixels: what SDXL is told of a picture.
    """

    prompts: tuple[str, ...]
    noised: Tensor
    timesteps: Tensor
    sizes: tuple[tuple[Size, Size, Size], ...]

    def __len__(self) -> int:
        return len(self.prompts)


def joined(one: Points, other: Points) -> Points:
    """The points of both, of one size, on the device of the first."""
    device = one.noised.device
    return Points(
        one.prompts + other.prompts,
        torch.cat([one.noised, other.noised.to(device, one.noised.dtype)]),
        torch.cat([one.timesteps.to(device), other.timesteps.to(device)]),
        one.sizes + other.sizes,
    )


@torch.no_grad()
def predict(base: BaseModel, points: Points, device: Device) -> Tensor:
    """What the UNet predicts at the points, with the base model's adapters as they are now.

    The text is encoded by the same model, so that what an adapter of the text encoder does counts.
    The same points give the same batches: two calls differ by the adapters alone.

    Returns:
        (N, C, H, W) float32 on the CPU: noise or velocity, as the model was trained to give.
    """
    with evaluating(base):
        with device.reading(base):
            texts = _encode_each(base, list(dict.fromkeys(points.prompts)), device)
        parts = [
            _predict_batch(base, points, slice(start, start + device.rows), texts, device)
            for start in range(0, len(points), device.rows)
        ]
    return torch.cat(parts)


def stratified_timesteps(count: int, total: int) -> Tensor:
    """The middles of ``count`` equal parts of a schedule of ``total`` timesteps, (count,) int64."""
    return torch.tensor([int((place + 0.5) / count * total) for place in range(count)])


def _encode_each(
    base: BaseModel, prompts: Sequence[str], device: Device
) -> dict[str, TextConditioning]:
    found: dict[str, TextConditioning] = {}
    for start in range(0, len(prompts), device.rows):
        part = prompts[start : start + device.rows]
        text = encode(base, part, device.torch_device)
        for place, prompt in enumerate(part):
            pooled = None if text.pooled is None else text.pooled[place]
            found[prompt] = TextConditioning(text.hidden[place], pooled, 0)
    return found


def _predict_batch(
    base: BaseModel,
    points: Points,
    part: slice,
    texts: dict[str, TextConditioning],
    device: Device,
) -> Tensor:
    chosen = [texts[prompt] for prompt in points.prompts[part]]
    pooled = [text.pooled for text in chosen if text.pooled is not None]
    original, corners, shown = zip(*points.sizes[part], strict=True)
    added = added_conditioning(
        base, torch.stack(pooled) if pooled else None, original, corners, shown
    )
    return (
        base.unet(
            points.noised[part].to(device.torch_device, base.unet.dtype),
            points.timesteps[part].to(device.torch_device),
            encoder_hidden_states=torch.stack([text.hidden for text in chosen]),
            added_cond_kwargs=added,
        )
        .sample.float()
        .cpu()
    )
