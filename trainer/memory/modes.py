"""The memory modes a run can be in, the order in which they are tried, and a live model's mode.

Each of them gives the same gradients to float precision, those of the weights as they are; they
differ in what is kept for the backward pass, and so in speed. Weights in 8 or 4 bits come last,
whatever their speed: they are another base model, if only slightly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from trainer.config.concepts import preserved_share
from trainer.config.schema import TrainingConfig
from trainer.memory.devices import ROWS, Device
from trainer.memory.layers import lean_layers, plain_layers
from trainer.memory.quantized import Bits, quantize_base
from trainer.models.base import BaseModel
from trainer.models.load import load_base

Mode = Literal["plain", "lean", "feed_forward"]

# Time of a step beside that of the plain path; measured on a CPU, the last one assumed for cards.
_MODE_COST: dict[Mode, float] = {"plain": 1.0, "lean": 1.0, "feed_forward": 1.04}
_WEIGHTS_COST: dict[Bits, float] = {"full": 1.0, "8bit": 1.1, "4bit": 1.2}
_CHECKPOINTING_COST = 1.32
_HALVING_COST = 1.1


@dataclass(frozen=True)
class MemoryMode:
    """One way to compute a training step.

    Attributes:
        mode: what the frozen layers keep.
        checkpointing: full gradient checkpointing as well.
        pictures_at_once: pictures in one forward pass, of a batch of `batch`.
        preserve_apart: whether rows to preserve get a pass of their own.
        share: rows to preserve for each picture; 0: none.
        weights: number format of the frozen weights.
        tiling: whether large pictures go through the VAE in tiles.
    """

    mode: Mode
    checkpointing: bool
    pictures_at_once: int
    preserve_apart: bool
    batch: int
    share: float
    weights: Bits = "full"
    tiling: bool = False

    @property
    def separates(self) -> bool:
        """Whether there are rows to preserve, and they get a pass of their own."""
        return self.preserve_apart and self.share > 0

    @property
    def preserved_rows(self) -> int:
        """Rows to preserve that go with so many pictures."""
        return math.ceil(self.share * self.pictures_at_once)

    @property
    def rows(self) -> int:
        """Rows of the largest forward pass with gradients."""
        if self.preserve_apart:
            return max(self.pictures_at_once, self.preserved_rows)
        return self.pictures_at_once + self.preserved_rows

    @property
    def rows_without_gradients(self) -> int:
        """Rows of the largest pass without gradients: two a picture, as for drawing with guidance.

        It needs less memory than a training step of the pictures, even with full checkpointing.
        """
        return min(ROWS, 2 * self.pictures_at_once)

    @property
    def accumulates(self) -> bool:
        """Whether a step takes several passes even without accumulation."""
        return self.pictures_at_once < self.batch or self.separates

    @property
    def cost(self) -> float:
        """Time of a step beside that of the plain path, about."""
        halvings = (self.batch / self.pictures_at_once - 1) ** 0.5
        time = _MODE_COST[self.mode] * _HALVING_COST ** (halvings + self.separates)
        return time * _WEIGHTS_COST[self.weights] * (_CHECKPOINTING_COST**self.checkpointing)

    def changes(self, before: MemoryMode) -> dict[str, object]:
        """The configuration fields that lead from another mode to this one."""
        now, then = (
            {
                "memory.mode": mode.mode,
                "memory.pictures_at_once": mode.pictures_at_once,
                "memory.preserve_apart": mode.preserve_apart,
                "training.gradient_checkpointing": mode.checkpointing,
                "memory.base_weights": mode.weights,
                "memory.vae_tiling": "on" if mode.tiling else "off",
            }
            for mode in (self, before)
        )
        return {name: value for name, value in now.items() if value != then[name]}


def memory_mode_of(config: TrainingConfig) -> MemoryMode:
    """What a resolved configuration asks for; "auto" begins with lean, which costs nothing."""
    memory, training = config.memory, config.training
    return MemoryMode(
        mode="lean" if memory.mode == "auto" else memory.mode,
        checkpointing=training.gradient_checkpointing,
        pictures_at_once=min(memory.pictures_at_once or training.batch_size, training.batch_size),
        preserve_apart=memory.preserve_apart,
        batch=training.batch_size,
        share=preserved_share(config),
        weights=_weights(config),
        tiling=memory.vae_tiling == "on",
    )


def _weights(config: TrainingConfig) -> Bits:
    return "full" if config.memory.base_weights == "auto" else config.memory.base_weights


def smaller_modes(mode: MemoryMode) -> list[MemoryMode]:
    """Those with the same weights that need less memory than this one, the fastest first."""
    layers = list(_MODE_COST)
    found = [
        replace(
            mode,
            mode=kind,
            checkpointing=checkpointing,
            pictures_at_once=count,
            preserve_apart=apart,
        )
        for kind in layers[layers.index(mode.mode) :]
        for checkpointing in ((True,) if mode.checkpointing else (False, True))
        for count in _halved(mode.pictures_at_once)
        for apart in dict.fromkeys((mode.preserve_apart, mode.preserve_apart or mode.share > 0))
        # Checkpointing makes everything again anyway.
        if not (checkpointing and kind == "feed_forward" and mode.mode != "feed_forward")
    ]
    return sorted((other for other in found if other != mode), key=lambda other: other.cost)


def with_smaller_weights(mode: MemoryMode) -> Iterator[MemoryMode]:
    """The same with weights in fewer bits."""
    bits = list(_WEIGHTS_COST)
    for weights in bits[bits.index(mode.weights) + 1 :]:
        yield replace(mode, weights=weights, tiling=True)


def smallest(mode: MemoryMode) -> MemoryMode:
    """What needs the least memory with the same weights."""
    return replace(
        mode,
        mode="lean" if mode.mode == "plain" else mode.mode,
        checkpointing=True,
        pictures_at_once=1,
        preserve_apart=mode.preserve_apart or mode.share > 0,
        tiling=True,
    )


def _halved(count: int) -> list[int]:
    counts = [count]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // 2))
    return counts


# ---------------------------------------------------------------------------- on a live model


def load_training_base(config: TrainingConfig, device: Device) -> BaseModel:
    """The base model in the number format of a run, its weights as ``memory.base_weights`` says; it
    reads ``captions.max_tokens`` of a prompt.

    Raises:
        UserError: as for `load_base` and `quantize_base`.
    """
    chosen = config.base
    base = load_base(
        chosen.name,
        prediction=chosen.prediction,
        vae=chosen.vae,
        clip_skip=chosen.clip_skip,
        dtype=device.dtype,
    )
    quantize_base(base, _weights(config), device.torch_device)
    base.max_tokens = config.captions.max_tokens
    return base


def with_bounded_rows(device: Device, config: TrainingConfig) -> Device:
    """On a GPU: forward passes without gradients have no more rows than fit where training does."""
    if device.torch_device.type != "cuda":
        return device
    return replace(device, rows=memory_mode_of(config).rows_without_gradients)


def set_mode(base: BaseModel, mode: Mode, checkpointing: bool, *, trains_text: bool) -> None:
    """Sets what the frozen layers keep, on a live base model with an adapter on it.

    Args:
        mode: plain, lean or feed_forward.
        checkpointing: full gradient checkpointing as well.
    """
    for module in (base.unet, *base.text_encoders):
        if mode == "plain":
            plain_layers(module)
        else:
            lean_layers(module, recompute_feed_forward=mode == "feed_forward")
    if checkpointing:
        base.unet.enable_gradient_checkpointing()
    else:
        base.unet.disable_gradient_checkpointing()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # older versions have only these names
        for encoder in base.text_encoders:
            if checkpointing and trains_text:
                encoder.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                encoder.gradient_checkpointing_disable()
