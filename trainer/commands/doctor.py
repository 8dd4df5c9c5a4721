"""What this machine has, what will be used, and whether it works."""

import importlib.metadata
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from packaging.requirements import Requirement

from trainer.answers import Answer
from trainer.commands.command import command
from trainer.places import PROJECT, RUNS, shown
from trainer.runs.atomic import write_bytes

if TYPE_CHECKING:
    from trainer.memory.devices import Device

GIB = 2**30
ENOUGH_DISK_GIB = 5.0


@dataclass(frozen=True)
class Accelerator:
    """A GPU, as torch sees it; memory in GiB."""

    name: str
    memory_gib: float
    free_gib: float


@dataclass(frozen=True)
class Machine:
    """What is there; memory and disk in GiB."""

    system: str
    python: str
    torch: str
    accelerators: tuple[Accelerator, ...]
    cores: int
    memory_gib: float
    free_memory_gib: float
    runs_folder: str
    free_disk_gib: float


@dataclass(frozen=True)
class Package:
    """A requirement and what is installed of it; `installed` is empty where it is missing."""

    name: str
    wanted: str
    installed: str

    @property
    def fits(self) -> bool:
        """Whether exactly the wanted version is there (a build such as +cpu is the same one)."""
        return self.installed.split("+")[0] == self.wanted


@dataclass(frozen=True)
class Check:
    """One part of the self-test."""

    name: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class Diagnosis(Answer):
    """Everything that `doctor` says of a machine."""

    machine: Machine
    device: str  # what a run would use, such as "cuda:0"
    precision: str  # what ``training.precision = "auto"`` means here
    packages: tuple[Package, ...]
    checks: tuple[Check, ...]
    advice: tuple[str, ...]  # what is worth changing, one sentence each

    beside = ("passed",)

    @property
    def passed(self) -> bool:
        """Whether all parts of the self-test did."""
        return all(check.passed for check in self.checks)

    @property
    def exit_status(self) -> int:
        """1 where a part of the self-test failed."""
        return int(not self.passed)

    def lines(self) -> Iterator[str]:
        machine = self.machine
        memory = f"{machine.free_memory_gib} of {machine.memory_gib} GiB free"
        yield f"system     {machine.system}, Python {machine.python}, torch {machine.torch}"
        yield f"processor  {machine.cores} cores, {memory}"
        for gpu in machine.accelerators:
            yield f"GPU        {gpu.name}, {gpu.free_gib} of {gpu.memory_gib} GiB free"
        if not machine.accelerators:
            yield "GPU        none that this torch can use"
        yield f"disk       {machine.free_disk_gib} GiB free for {machine.runs_folder}"
        yield f"used       {self.device} in {self.precision}"
        others = [package for package in self.packages if not package.fits]
        count = len(self.packages)
        yield f"packages   {count - len(others)} of {count} as pinned"
        for package in others:
            installed = package.installed or "missing"
            yield f"           {package.name}: {installed}, not {package.wanted}"
        for part in self.checks:
            word = "passed" if part.passed else "FAILED"
            yield f"self-test  {word}: {part.name} ({part.detail}; {part.seconds} s)"
        for sentence in self.advice:
            yield f"advice     {sentence}"


@command("doctor", "say what this machine has, and test it")
def diagnose() -> Diagnosis:
    """Looks at the machine and runs the self-test."""
    from trainer.memory.devices import choose_device

    device, machine = choose_device(), look()
    packages = tuple(installed_packages(PROJECT / "requirements.txt"))
    checks = (
        check("one LoRA step", lambda: lora_step(device)),
        check("a file written and read", lambda: file_round_trip(RUNS)),
    )
    return Diagnosis(
        machine=machine,
        device=str(device.torch_device),
        precision=device.precision,
        packages=packages,
        checks=checks,
        advice=tuple(_advice(machine, packages)),
    )


def look() -> Machine:
    import torch

    memory = psutil.virtual_memory()
    # A run folder that is not there yet would lie on the disk of the nearest one that is.
    folder = next(folder for folder in (RUNS, *RUNS.parents) if folder.exists())
    return Machine(
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        python=platform.python_version(),
        torch=torch.__version__,
        accelerators=tuple(_accelerators()),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        memory_gib=round(memory.total / GIB, 1),
        free_memory_gib=round(memory.available / GIB, 1),
        runs_folder=shown(RUNS),
        free_disk_gib=round(shutil.disk_usage(folder).free / GIB, 1),
    )


def installed_packages(file: Path) -> Iterator[Package]:
    """The pinned requirements that hold for this Python, with what is installed."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        requirement = Requirement(text) if text else None
        if requirement is None or (requirement.marker and not requirement.marker.evaluate()):
            continue
        wanted = str(requirement.specifier).removeprefix("==")
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = ""
        yield Package(requirement.name, wanted, installed)


def check(name: str, work: Callable[[], str]) -> Check:
    """Runs a part of the self-test; whatever it raises is its result."""
    start = time.perf_counter()
    try:
        detail, passed = work(), True
    except Exception as error:
        detail, passed = f"{type(error).__name__}: {error}", False
    return Check(name, passed, detail, round(time.perf_counter() - start, 2))


def lora_step(device: "Device") -> str:
    """Trains a small adapter for one step on random tensors, as a run would.

    Raises:
        ArithmeticError: the loss is not finite, the adapter did not move, or the base did.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    model = torch.nn.ModuleDict({"to_q": torch.nn.Linear(64, 64)}).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=4, target_modules=["to_q"]), model.to(device.dtype))
    model.to(device.torch_device)
    parameters = dict(model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.AdamW([p for p in parameters.values() if p.requires_grad], lr=1e-2)
    inputs = torch.randn(8, 64, device=device.torch_device, dtype=device.dtype)
    loss = model["to_q"](inputs).float().square().mean()
    loss.backward()
    optimizer.step()
    if not math.isfinite(loss.item()):
        raise ArithmeticError(f"the loss is {loss.item()}")
    for name, parameter in parameters.items():
        # B starts at zero, so the first step moves B and not yet A.
        moved = not torch.equal(before[name], parameter)
        if moved != ("lora_B" in name) and "lora_A" not in name:
            raise ArithmeticError(f"{name} {'has changed' if moved else 'has not moved'}")
    return f"{device.torch_device} in {device.precision}, loss {loss.item():.3f}"


def file_round_trip(folder: Path) -> str:
    """Writes a file where runs lie, and reads it back.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = os.urandom(4096)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as temporary:
        path = Path(temporary, "test")
        write_bytes(path, data)
        if path.read_bytes() != data:
            raise OSError("what was read is not what was written")
    return f"in {shown(folder)}"


def _advice(machine: Machine, packages: tuple[Package, ...]) -> Iterator[str]:
    if not machine.accelerators:
        if shutil.which("nvidia-smi"):
            yield (
                "There is an NVIDIA driver, but this torch cannot use it: set TORCH_INDEX_URL to "
                "the package index of a CUDA build and start again."
            )
        yield "Without a GPU, train the built-in model; Stable Diffusion takes many hours."
    if machine.free_disk_gib < ENOUGH_DISK_GIB:
        yield f"Only {machine.free_disk_gib} GiB of disk are free: make room for checkpoints."
    if any(not package.fits for package in packages):
        yield "Start with `python launch.py` to get the versions that were tested together."


def _accelerators() -> Iterator[Accelerator]:
    import torch

    for kind in (torch.cuda, torch.xpu):
        for index in range(kind.device_count()):
            free, total = kind.mem_get_info(index)
            name = kind.get_device_name(index)
            yield Accelerator(name, round(total / GIB, 1), round(free / GIB, 1))
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        yield Accelerator("Apple GPU", round(total / GIB, 1), round(free / GIB, 1))
