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

from trainer.lora.joined import OneInput
from trainer.lora.product import COPY


class Copies:
    """Copies of parameters, which a forward and a backward pass use in their place.

    Args:
        parameters: float32; those of the adapter's layers.
        dtype: of the frozen weights; in float32 nothing is copied.
        joined: layers of these parameters that are computed together; not in float32.
        keep: what joined layers lie in stays between passes, when nothing moves them.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        dtype: torch.dtype,
        joined: Iterable[OneInput] = (),
        keep: bool = True,
    ) -> None:
        self.keep = keep
        self.joined = list(joined) if dtype != torch.float32 else []
        self.in_joined: list[Tensor] = [one for some in self.joined for one in some.parameters]
        others = {id(one) for one in self.in_joined}
        self.parameters: list[Tensor] = []
        if dtype != torch.float32:
            self.parameters += [one for one in parameters if id(one) not in others]
        self.copies = [torch.empty_like(one, dtype=dtype) for one in self.parameters]

    @contextmanager
    def used(self, wanted: bool = True) -> Generator[None]:
        """Within the block layers find the copies; afterwards their gradients are the parameters'.

        Each layer may be called once in it: gradients of several calls would be added up in the
        copies' number format.
        """
        if not wanted or not (self.parameters or self.joined):
            yield
            return
        gradients: list[Tensor | None] = []
        try:
            with torch.no_grad():
                places = [place for some in self.joined for place in some.open()]
                all_parameters = [*self.parameters, *self.in_joined]
                torch._foreach_copy_([*self.copies, *places], all_parameters)  # pyright: ignore[reportPrivateUsage]
            for parameter, copy in zip(self.parameters, self.copies, strict=True):
                setattr(parameter, COPY, copy.requires_grad_(parameter.requires_grad))
            yield
            gradients += [copy.grad for copy in self.copies]
        finally:
            for parameter, copy in zip(self.parameters, self.copies, strict=True):
                copy.grad = None
                vars(parameter).pop(COPY, None)
            of_joined = [one for some in self.joined for one in some.close(self.keep)]
        _give([*self.parameters, *self.in_joined], [*gradients, *of_joined])


@torch.no_grad()
def _give(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Adds gradients in another number format to those of the parameters."""
    pairs = zip(parameters, gradients, strict=True)
    given = [(parameter, one) for parameter, one in pairs if one is not None]
    if not given:
        return
    new = [torch.empty_like(parameter) for parameter, _ in given]
    torch._foreach_copy_(new, [one for _, one in given])  # pyright: ignore[reportPrivateUsage]
    sums: list[tuple[Tensor, Tensor]] = []
    for (parameter, _), gradient in zip(given, new, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            sums.append((parameter.grad, gradient))
    if sums:
        torch._foreach_add_(*map(list, zip(*sums, strict=True)))  # pyright: ignore[reportPrivateUsage]
