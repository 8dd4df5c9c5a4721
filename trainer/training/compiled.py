"""The UNet's repeated blocks, compiled for training steps (``training.compile``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from trainer.places import cache_folder

BACKEND = "inductor"
CACHE_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
GRAPHS = 256
"""Most versions of a block: one for each size of its input, with and without preserved rows."""


class CompiledBlocks:
    """Compiled calls of the transformer blocks, adapter included, which `used` puts in place.

    Each size of its input is compiled for itself at its first step; blocks that are alike share it.
    The code is kept in the cache folder for later runs.

    Args:
        wanted: otherwise nothing is compiled.
        graphs: a card starts a block's operations as one CUDA graph (``training.cuda_graphs``).
    """

    def __init__(self, unet: UNet2DConditionModel, wanted: bool, graphs: bool = False) -> None:
        self.calls: dict[nn.Module, Callable[..., Any]] = {}
        self.graphs = wanted and graphs
        if not wanted:
            return
        from torch._dynamo import config
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        # Other libraries have torch choose a temporary folder; one that the user chose stays.
        if os.environ.get(CACHE_FOLDER) in (None, default_cache_dir()):
            os.environ[CACHE_FOLDER] = str(cache_folder() / "compiled")
        cast(Any, config).recompile_limit = cast(Any, config).accumulated_recompile_limit = GRAPHS
        mode = "reduce-overhead" if graphs else None
        unet.compile_repeated_blocks(backend=BACKEND, mode=mode, dynamic=False, fullgraph=True)
        for module in unet.modules():
            if call := getattr(module, "_compiled_call_impl", None):
                self.calls[module] = call
                _set_call(module, None)

    @contextmanager
    def used(self) -> Generator[None]:
        """Compiled forward and backward passes within the block. Drawing and measuring, whose
        sizes are many, stay as they are."""
        if self.graphs and self.calls:  # what the graphs of the pass before gave may be overwritten
            torch.compiler.cudagraph_mark_step_begin()
        try:
            for module, call in self.calls.items():
                _set_call(module, call)
            yield
        finally:
            for module in self.calls:
                _set_call(module, None)

    def again(self) -> None:
        """Compiles anew: what the layers keep has changed (`trainer.memory.layers`)."""
        if self.calls:
            torch.compiler.reset()


def _set_call(module: nn.Module, call: Callable[..., Any] | None) -> None:
    module._compiled_call_impl = call  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
