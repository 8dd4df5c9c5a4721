"""When the card's memory runs out, or spills into main memory, while a run goes on."""

from __future__ import annotations

import sys
from collections import deque
from statistics import median

import torch

from trainer.config.mistakes import shown_value
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import MemoryUsed
from trainer.memory.modes import MemoryMode, smaller_modes

GIB = 2**30


def memory_used(device: torch.device, step: int, mode: MemoryMode) -> MemoryUsed:
    """Reads the counters."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _process_peak()
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


def out_of_memory(doing: str, config: TrainingConfig, mode: MemoryMode | None = None) -> UserError:
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
    return UserError(
        f"The GPU's memory is not enough {doing}.",
        f"{first[0].upper()}{first[1:]}; or {second}; or {third}. "
        "python launch.py fit shows what a configuration needs.",
        "out_of_memory",
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
            "programs that use the GPU, or stop, and resume with a smaller batch or "
            "training.gradient_checkpointing = true."
        )
