"""A training step on a tiny model, for tests that compare ways to compute it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.schema import AdapterConfig
from trainer.diffusion import Points, call_unet, encode
from trainer.lora.attach import attach
from trainer.memory.quantized import Bits, quantize_base
from trainer.memory.tracking import StorageTracker, bytes_of, tensors_of
from trainer.models.base import BaseModel
from trainer.models.load import load_base

PROMPTS = ("a cat", "the dog")


def rounded_base(folder: Path, bits: Bits, dtype: torch.dtype = torch.float32) -> BaseModel:
    """A base model with its weights in so many bits."""
    base = load_base(str(folder), dtype=dtype)
    quantize_base(base, bits, torch.device("cpu"))
    return base


def adapted(base: BaseModel, **settings: Any) -> list[nn.Parameter]:
    """The parameters of an adapter that is attached and trains."""
    attachment = attach(base, AdapterConfig(rank=4, **settings), seed=0)
    parameters = [p for named in attachment.parameters.values() for _, p in named]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in parameters:  # B too, or A would get no gradient
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    for module in (base.unet, *base.text_encoders):
        module.train()
    return parameters


def follow(base: BaseModel, parameters: list[nn.Parameter], side: int = 16) -> list[int]:
    """The most bytes alive in a step, and in one beside the gradients of it, which stay."""
    torch.manual_seed(8)  # for dropout
    for parameter in parameters:
        parameter.grad = None
    noised = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(6))
    size = (2 * side, 2 * side)
    points = Points(PROMPTS, noised, torch.tensor([5, 600]), ((size, (0, 0), size),) * 2)
    peaks: list[int] = []
    for _ in range(2):
        present = [p.grad for p in parameters if p.grad is not None]
        known = [*tensors_of(base.unet, *base.text_encoders), noised, *present]
        with StorageTracker(known) as tracker:
            predicted = call_unet(base, points, encode(base, PROMPTS, "cpu"))
            predicted.float().square().mean().backward()
        peaks.append(tracker.peak + bytes_of(present))
    return peaks


def gradients(base: BaseModel, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Of all parameters of the adapter, twice those of one step."""
    follow(base, parameters)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
