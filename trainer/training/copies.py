"""Copies of an adapter's matrices in the base model's number format, all made in one launch.

A and B are float32; what computes with them needs them in the format of its inputs. Cast one by
one, forward and their gradients back, they were a fifth of all that a step starts on a card.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from trainer.lora.product import COPY


class Copies:
    """Copies of parameters, which a forward and a backward pass use in their place.

    Args:
        parameters: float32; those of the adapter's layers.
        dtype: of the frozen weights; in float32 nothing is copied.
    """

    def __init__(self, parameters: Iterable[Parameter], dtype: torch.dtype) -> None:
        self.parameters: list[Tensor] = []
        if dtype != torch.float32:
            self.parameters += parameters
        self.copies = [torch.empty_like(one, dtype=dtype) for one in self.parameters]

    @contextmanager
    def used(self, wanted: bool = True) -> Generator[None]:
        """Within the block layers find the copies; afterwards their gradients are the parameters'.

        Each layer may be called once in it: gradients of several calls would be added up in the
        copies' number format.
        """
        if not wanted or not self.parameters:
            yield
            return
        with torch.no_grad():
            torch._foreach_copy_(self.copies, self.parameters)  # pyright: ignore[reportPrivateUsage]
        try:
            for parameter, copy in zip(self.parameters, self.copies, strict=True):
                setattr(parameter, COPY, copy.requires_grad_(parameter.requires_grad))
            yield
            self._give_back()
        finally:
            for parameter, copy in zip(self.parameters, self.copies, strict=True):
                copy.grad = None
                delattr(parameter, COPY)

    @torch.no_grad()
    def _give_back(self) -> None:
        new: list[Tensor] = []
        found: list[Tensor] = []
        sums: list[Tensor] = []
        added: list[Tensor] = []
        for parameter, copy in zip(self.parameters, self.copies, strict=True):
            if copy.grad is None:
                continue
            gradient = torch.empty_like(parameter)
            new.append(gradient)
            found.append(copy.grad)
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                sums.append(parameter.grad)
                added.append(gradient)
        if new:
            torch._foreach_copy_(new, found)  # pyright: ignore[reportPrivateUsage]
        if sums:
            torch._foreach_add_(sums, added)  # pyright: ignore[reportPrivateUsage]
