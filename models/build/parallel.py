"""Gradients of a batch in parts, each on its own thread.

On a few shared cores this beats threads inside every operation: nobody waits for the slowest core
after each convolution. Parts are added in order, so the result does not depend on timing.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn


class Workers:
    """A pool of `count` threads with one core each."""

    def __init__(self, count: int | None = None) -> None:
        torch.set_num_threads(1)
        # On a CPU the fused attention's backward pass is slower than plain matrix products.
        torch.backends.cuda.enable_flash_sdp(False)
        self.pool = ThreadPoolExecutor(count or os.cpu_count() or 1)

    def accumulate(
        self, losses: Sequence[Callable[[], Tensor]], parameters: Sequence[nn.Parameter]
    ) -> float:
        """Leaves the gradient of the mean of `losses` in the parameters; returns that mean."""

        def part(loss_of: Callable[[], Tensor]) -> tuple[float, Sequence[Tensor | None]]:
            loss = loss_of() / len(losses)
            return loss.item(), torch.autograd.grad(loss, parameters, allow_unused=True)

        results = list(self.pool.map(part, losses))
        for parameter, *parts in zip(parameters, *(grads for _, grads in results), strict=True):
            present = [gradient for gradient in parts if gradient is not None]
            total = sum(present[1:], start=present[0]) if present else None
            parameter.grad = total.to_dense() if total is not None and total.is_sparse else total
        return sum(loss for loss, _ in results)
