"""Which device and number format a run uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from accelerate import PartialState
from torch import nn

from trainer.errors import UserError
from trainer.events import Notice

if TYPE_CHECKING:
    from trainer.config.schema import TrainingSection
    from trainer.models.base import BaseModel

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

ROWS = 16
GREATEST_SIDE = 512
"""Pixels of a side at which a base model is asked what it makes of prompts and pictures."""

NO_CLOSER = "a resumed run comes close to one that never stopped, but not to the last bit"


@dataclass(frozen=True)
class Device:
    """Where and how this process computes."""

    torch_device: torch.device  # of this process
    # Number format of the frozen weights, in which the adapter computes as well: mixed precision
    # without autocast, as the adapter's own weights are float32 (`trainer.lora.product`).
    precision: Precision
    # rank, world: this process and how many train together.
    rank: int = 0
    world: int = 1
    # Modules that are not in use wait in main memory; on a CPU this changes nothing.
    offload: bool = False
    rows: int = ROWS  # most rows of a forward pass without gradients

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the frozen weights."""
        return DTYPES[self.precision]

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def put(self, *modules: nn.Module) -> None:
        """Moves modules onto the device, where they are not there yet."""
        for module in modules:
            self._move(module, self.torch_device)

    def put_away(self, *modules: nn.Module) -> None:
        """Moves modules into main memory, where `offload` is on."""
        for module in modules if self.offload else ():
            self._move(module, torch.device("cpu"))

    def _move(self, module: nn.Module, place: torch.device) -> None:
        if self.torch_device.type != "cpu":  # there all are where they belong
            nn.Module.to(module, place)  # diffusers' own has types of its own

    def wait_for_everyone(self) -> None:
        """A barrier over all processes; nothing with one.

        Raises:
            UserError: one of them has ended.
        """
        with together():
            PartialState().wait_for_everyone()

    @contextmanager
    def instead(self, wanted: Iterable[nn.Module], others: Iterable[nn.Module]) -> Generator[None]:
        """Modules on the device within the block, and afterwards where they were.

        Args:
            others: where `offload` is on, these are put away meanwhile.
        """
        wanted, others = list(wanted), list(others) if self.offload else []
        before = [(module, _place(module)) for module in (*wanted, *others)]
        try:
            self.put_away(*others)
            self.put(*wanted)
            yield
        finally:
            for module, place in before:  # what came leaves before the others come back
                self._move(module, place)

    @contextmanager
    def reading(self, base: BaseModel) -> Generator[None]:
        """The text encoders on the device; where they wait elsewhere, in the UNet's place."""
        where = {_place(encoder).type for encoder in base.text_encoders}
        if where == {self.torch_device.type}:
            yield
            return
        with self.instead(base.text_encoders, [base.unet]):
            yield


@contextmanager
def together() -> Generator[None]:
    """Around whatever waits for the other processes of a run.

    Raises:
        UserError: one of them has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or int(os.environ.get("WORLD_SIZE", "1")) < 2:
            raise
        raise UserError(
            "One of this run's processes has ended unexpectedly.",
            "What was learned until then is saved: go on with resume.",
            "process_lost",
        ) from error


def _place(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def is_exact(training: TrainingSection, kind: str, notice: Notice) -> bool:
    """Whether gradients are computed by kernels that are chosen for repeating to the last bit.

    Args:
        kind: of the device; a CPU repeats with all its kernels.
        notice: is told where a resumed run is not byte for byte the same.

    Raises:
        UserError: it is demanded where it can't be.
    """
    why = ""
    if training.compile:
        why = "With training.compile"
    elif kind != "cpu" and training.exact == "off":
        why = "With training.exact off"
    elif kind not in ("cpu", "cuda"):
        why = f"On this kind of GPU ({kind})"
    if why and training.exact == "on":
        raise UserError(
            f"{why} {NO_CLOSER}, which training.exact = on demands.",
            "Set training.exact to auto or off.",
        )
    if why:
        notice(f"{why} {NO_CLOSER}.")
    return kind == "cuda" and not why


@contextmanager
def repeating(wanted: bool) -> Generator[None]:
    """Within the block, if this is wanted, a GPU computes the same bits every time.

    Without it a step of SD 1.5 differed from itself by 0.2 % of its gradients (H200, bf16):
    attention adds them up in the order in which the card's parts end.

    Raises:
        RuntimeError: an operation has no such way.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    # Memory that nothing has written yet is not read here; to fill it would only take time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def _has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bf16 (Apple's from macOS 14 on)."""
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    supported: Callable[[], bool] = getattr(torch, device.type).is_bf16_supported
    return supported()


def empty_cache() -> None:
    """Gives memory that torch keeps for later back to the GPU, of whatever kind."""
    if kind := torch.accelerator.current_accelerator(check_available=True):
        getattr(torch, kind.type).empty_cache()


def card_bytes() -> int | None:
    """Memory of this machine's GPU, of whatever kind; None where there is none."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return None
    if kind.type == "mps":
        return torch.mps.recommended_max_memory()
    return cast(int, getattr(torch, kind.type).get_device_properties(0).total_memory)


def peak_bytes(device: torch.device) -> int:
    """Most memory of a GPU that was in use at once; Apple's tells only what is in use now."""
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return cast(int, getattr(torch, device.type).max_memory_allocated(device))


def forget_peak(device: torch.device) -> None:
    """Lets `peak_bytes` count from here: several runs of one process each have their own."""
    if device.type not in ("cpu", "mps"):
        getattr(torch, device.type).reset_peak_memory_stats(device)


def choose_device(
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto", *, offload: bool = False
) -> Device:
    """The device that accelerate gives this process, and the precision that suits it.

    Under ``accelerate launch`` or ``train --processes N`` this joins the process group.

    Args:
        offload: see `Device`.

    Raises:
        UserError: fp16 on a CPU, where it is a hundred times slower than fp32, or bf16 on a GPU
            without it.
    """
    # Without being told that it is on a CPU, accelerate would not join several processes there.
    with together():
        state = PartialState(cpu=not torch.accelerator.is_available())
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != expected:
        raise RuntimeError(
            f"this is one of {expected} processes, but accelerate joined {state.num_processes}"
        )
    device = torch.device(cast("torch.device | None", state.device) or "cpu")
    if device.type == "cuda":
        # Read when cuBLAS starts: with it products are the same every time (`repeating`).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    on_cpu = device.type == "cpu"
    has_bf16 = on_cpu or _has_bf16(device)
    usual: Precision = "fp32" if on_cpu else "bf16" if has_bf16 else "fp16"
    chosen = usual if precision == "auto" else precision
    if chosen == "fp16" and on_cpu:
        raise UserError(
            "training.precision fp16 can't be used on a CPU: it would be a hundred times slower.",
            "Use fp32 or bf16.",
        )
    if chosen == "bf16" and not has_bf16:
        raise UserError(
            f"training.precision bf16 is not supported by this machine's GPU ({device.type}).",
            "Use fp16.",
        )
    return Device(
        device,
        chosen,
        cast(int, state.process_index),
        cast(int, state.num_processes),
        offload=offload,
    )
