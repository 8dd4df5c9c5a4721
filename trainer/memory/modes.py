"""The memory modes a run can be in, the order in which they are tried, and a live model's mode.

Each of them gives the same gradients to float precision, those of the weights as they are; they
differ in what is kept for the backward pass, and so in speed. Weights in 8 or 4 bits come last,
whatever their speed: they are another base model, if only slightly.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch

from trainer.config.concepts import preserved_share
from trainer.config.mistakes import shown_value
from trainer.config.resolve import resolve
from trainer.config.schema import TrainingConfig
from trainer.config.sections import CHECKPOINTING_COST
from trainer.errors import UserError, out_of_memory
from trainer.events import MemoryUsed
from trainer.memory.devices import ROWS, Device, peak_bytes
from trainer.memory.layers import lean_layers, plain_layers
from trainer.memory.quantized import Bits, quantize_base
from trainer.models.base import BaseModel
from trainer.models.load import load_base

Mode = Literal["plain", "lean", "feed_forward"]

# Time of a step beside that of the plain path; measured on a CPU, the last one assumed for cards.
_MODE_COST: dict[Mode, float] = {"plain": 1.0, "lean": 1.0, "feed_forward": 1.04}
_WEIGHTS_COST: dict[Bits, float] = {"full": 1.0, "8bit": 1.1, "4bit": 1.2}
_HALVING_COST = 1.1


@dataclass(frozen=True)
class MemoryMode:
    """One way to compute a training step."""

    mode: Mode  # what the frozen layers keep
    checkpointing: bool  # full gradient checkpointing as well
    pictures_at_once: int  # pictures in one forward pass, of a batch of `batch`
    preserve_apart: bool  # whether rows to preserve get a pass of their own
    batch: int
    share: float  # rows to preserve for each picture; 0: none
    weights: Bits = "full"  # number format of the frozen weights
    tiling: bool = False  # whether large pictures go through the VAE in tiles

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
        return time * _WEIGHTS_COST[self.weights] * (CHECKPOINTING_COST**self.checkpointing)

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


def load_training_base(
    config: TrainingConfig, device: Device
) -> tuple[BaseModel, TrainingConfig, Device]:
    """The base model of a run, with what follows from it: resolved settings and rows at a time.

    Its weights are as ``memory.base_weights`` says; of a prompt ``captions.max_tokens`` are read.

    Raises:
        UserError: as for `load_base` and `quantize_base`.
    """
    base = load_base(**config.base.model_dump(), dtype=device.dtype)
    quantize_base(base, _weights(config), device.torch_device)
    base.max_tokens = config.captions.max_tokens
    config = resolve(config, base)
    base.tiling = config.memory.vae_tiling == "on"
    # On a GPU passes without gradients have no more rows than fit where training does.
    if device.torch_device.type != "cpu":
        device = replace(device, rows=memory_mode_of(config).rows_without_gradients)
    return base, config, device


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


GIB = 2**30


def memory_used(device: torch.device, step: int, mode: MemoryMode) -> MemoryUsed:
    """Reads the counters."""
    peak = _process_peak() if device.type == "cpu" else peak_bytes(device)
    return MemoryUsed(
        step=step,
        peak_gib=round(peak / GIB, 3),
        device=device.type,
        mode=mode.mode,
        rows=mode.rows,
        checkpointing=mode.checkpointing,
    )


def _process_peak() -> int:
    """Bytes of main memory that the process took at most."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset"))  # noqa: B009 (only there)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def next_smaller(mode: MemoryMode) -> MemoryMode | None:
    """The fastest way to compute a step that needs less memory than this one."""
    return next(iter(smaller_modes(mode)), None)


def describe_step_down(step: int, before: MemoryMode, now: MemoryMode) -> str:
    """What happened, what changes, and what to set for the next time."""
    changes = ", ".join(
        f"{name} = {shown_value(value)}" for name, value in now.changes(before).items()
    )
    slower = round(100 * (now.cost / before.cost - 1))
    pace = f"about {slower} % slower" if slower > 0 else "at the same speed"
    return (
        f"The GPU's memory ran out in step {step + 1}. Training goes on after step {step} with "
        f"{changes}: {pace}, and the result stays the same. Set this to start with it next time."
    )


def too_small_a_card(
    doing: str, config: TrainingConfig, mode: MemoryMode | None = None
) -> UserError:
    """The error for a card that is too small, with the three cheapest remedies.

    Args:
        doing: what ran out, such as "for a training step".
        mode: the memory mode; None before training.
    """
    remedies = ["close other programs that use the GPU"]
    below = next_smaller(mode) if mode else None
    if mode and below:
        changes = below.changes(mode)
        remedies += [f"set {name} = {shown_value(value)}" for name, value in changes.items()]
    if not config.memory.offload:
        remedies.append("set memory.offload = true")
    if below is None and config.memory.base_weights in ("auto", "full"):
        remedies.append('set memory.base_weights = "8bit" in a new run')
    sides = ", ".join(map(str, config.images.sides))
    field = "images.resolutions" if config.images.resolutions else "images.resolution"
    remedies.append(f"lower {field} (now {sides})" if sides else f"lower {field}")
    if config.adapter.text_encoder:
        remedies.append("set adapter.text_encoder = false")
    remedies.append(f"lower adapter.rank (now {config.adapter.rank})")
    first, second, third = remedies[:3]
    ways_out = f"{first[0].upper()}{first[1:]}; or {second}; or {third}."
    return out_of_memory(
        doing, f"{ways_out} python launch.py fit shows what a configuration needs."
    )


class SpillWatch:
    """Recognises steps that have become many times slower, as when GPU memory is swapped out.

    Drivers on Windows move GPU memory into main memory instead of failing; a step then takes
    minutes, without a word.
    """

    FACTOR, NEEDED, IN_A_ROW = 6.0, 10, 3
    """How many times slower is too slow, steps that tell what is usual, and slow ones that tell."""

    def __init__(self) -> None:
        self.usual: deque[float] = deque(maxlen=50)
        self.slow = 0
        self.said = False

    def notice(self, seconds: float) -> str | None:
        """What to say after a step of so many seconds; mostly nothing, and a thing once."""
        if len(self.usual) < self.NEEDED:
            self.usual.append(seconds)
            return None
        usual = median(self.usual)
        if seconds < self.FACTOR * usual:
            self.usual.append(seconds)
            self.slow = 0
            return None
        self.slow += 1
        if self.said or self.slow < self.IN_A_ROW:
            return None
        self.said = True
        return (
            f"Steps have become {seconds / usual:.0f} times slower ({usual:.2g} s before, "
            f"{seconds:.2g} s now). GPU memory has probably spilled into main memory: close other "
            "programs that use the GPU. If that does not help, stop, and start a new run with "
            "training.gradient_checkpointing = true."
        )
