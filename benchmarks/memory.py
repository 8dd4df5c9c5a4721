"""What single training steps of full-size models take: predicted, and measured on the device here.

    python -m benchmarks.memory predict --out memory.json
    python -m benchmarks.memory measure [--device cuda] [--cases sdxl] [--out memory.jsonl]

``predict`` prints the tables of docs/notes/speed-and-memory.md and draws them as bars beside the
file. ``measure`` runs real steps, random weights, rank 16. For each case and memory mode:
the most bytes of tensors (on a CPU: of resident memory) beside the prediction, and seconds a step.
For each case besides, whether the same step gives the same bits again and how long the card works,
with torch's usual kernels and with those of training (`trainer.memory.devices.repeating`).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# Read when cuBLAS starts: without it products may differ from one time to the next.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.peer_memory import PEERS, peer_parts
from benchmarks.shared import bars, resident_memory, seconds_each
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.diffusion import Points, TextConditioning, call_unet, encode
from trainer.lora.attach import attach
from trainer.memory.devices import DTYPES, repeating
from trainer.memory.modes import set_mode
from trainer.memory.phases import build
from trainer.memory.prediction import STEP, predict
from trainer.memory.quantized import quantize_base
from trainer.models.base import BaseModel
from trainer.models.identify import read_facts
from trainer.runs.atomic import write_json
from trainer.training.optimizers import make_optimizer

GIB = 2**30
REPEATS = 8
MODES = {
    "plain": ("plain", False),
    "lean": ("lean", False),
    "feed_forward": ("feed_forward", False),
    "checkpointing": ("lean", True),
}
ALL = tuple(MODES)
LEGEND = {
    "base model's weights": "#4c78a8",
    "adapter, its gradients, optimizer": "#f58518",
    "activations": "#54a24b",
    "VAE and text encoders at rest": "#9d9da1",
}
# On a CPU: large blocks go back to the system at once, so that resident memory is what is in use.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


@dataclass(frozen=True)
class Case:
    """A base model and what of it is trained how.

    Attributes:
        modes: of `MODES`.
        weights: as ``memory.base_weights`` has them.
    """

    base: str
    side: int
    modes: tuple[str, ...] = ALL
    rows: int = 1
    text: bool = False
    weights: str = "full"
    optimizer: str = "adamw"
    precision: str = "bf16"

    @property
    def name(self) -> str:
        """For people."""
        more = ["text encoders trained"] if self.text else []
        more += [] if self.weights == "full" else [f"{self.weights}, {self.optimizer}"]
        return ", ".join([self.base, f"{self.side} px", f"batch {self.rows}", *more])

    def config(self, mode: str) -> TrainingConfig:
        """The configuration of a run without preserved prompts."""
        kind, checkpointing = MODES[mode]
        values = {
            "base.name": self.base,
            "images.resolution": self.side,
            "images.buckets": False,
            "training.batch_size": self.rows,
            "training.precision": self.precision,
            "training.gradient_checkpointing": checkpointing,
            "adapter.targets": "attention",
            "adapter.rank": 16,
            "adapter.text_encoder": self.text,
            "preservation.weight": 0.0,
            "memory.mode": kind,
            "memory.base_weights": self.weights,
            "optimizer.name": self.optimizer,
        }
        return with_values(TrainingConfig(), values)

    def predicted(self, mode: str) -> dict[str, float]:
        """GiB of tensors at the peak of a step, by part; without what is assumed."""
        parts = predict(self.config(mode), 11.0).parts
        return {name: parts[name] for name in STEP}


CASES = (
    Case("sd15", 512),
    Case("sd15", 512, ("lean", "checkpointing"), text=True),
    Case("sd15", 512, ("plain", "lean", "checkpointing"), rows=4),
    Case("sdxl", 1024),
    Case("sd15", 512, ("lean",), weights="8bit", optimizer="adamw8bit"),
    Case("sd15", 512, ("lean",), weights="4bit"),
    Case("sdxl", 1024, ("lean", "checkpointing"), text=True),
)
PREDICTED = (
    Case("sd15", 512),
    Case("sd15", 512, text=True),
    Case("sd15", 512, rows=4, text=True),
    Case("sdxl", 1024),
    Case("sdxl", 1024, text=True),
    Case("sdxl", 1024, ("checkpointing",), weights="8bit"),
    Case("sdxl", 1024, ("checkpointing",), weights="4bit"),
)


def predictions() -> Iterator[tuple[str, dict[str, float]]]:
    """GiB by part of this trainer's settings, and of others' where the UNet alone trains."""
    for case in PREDICTED:
        for mode in case.modes:
            yield f"{case.name}, {mode}", case.predicted(mode)
        for peer in PEERS if case.modes == ALL and not case.text else ():
            for checkpointing in (False, True):
                found = peer_parts(peer, case.base, case.side, case.rows, checkpointing)
                name = f"{case.name}, {peer}{', checkpointing' if checkpointing else ''}"
                yield name, {part: round(size / GIB, 3) for part, size in found.items()}


def plot(found: dict[str, dict[str, float]]) -> str:
    """The predictions with the UNet only, as bars."""
    rows = []
    for name, parts in found.items():
        if "text encoders" not in name:
            adapter = parts["adapter"] + parts["gradients"] + parts["optimizer"]
            sizes = (parts["base_weights"], adapter, parts["activations"], parts.get("idle", 0.0))
            rows.append((name, dict(zip(LEGEND, sizes, strict=True))))
    return bars({"": rows}, LEGEND, " GiB")


class Bench:
    """A case on the device, with its optimizer's state there from the beginning."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        self.before = allocated(device)
        dtype = DTYPES[case.precision]  # type: ignore[index]
        self.base = build(read_facts(case.base), dtype)
        self.base.vae = nn.Identity()  # type: ignore[assignment]
        for module in (self.base.unet, *(self.base.text_encoders if case.text else [])):
            fill(module.to(dtype), device)  # others stay on the meta device
            module.train()
        quantize_base(self.base, case.weights, device)  # type: ignore[arg-type]
        config = case.config("plain")
        attachment = attach(self.base, config.adapter, seed=0)
        self.parameters = [p for named in attachment.parameters.values() for _, p in named]
        with torch.no_grad():
            for parameter in self.parameters:  # B is 0 at first, and A would have no gradients
                parameter.add_(0.01)
        groups = [{"params": self.parameters, "lr": 1e-4, "initial_lr": 1e-4}]
        self.optimizer = make_optimizer(config.optimizer, groups)
        self.points, self.text = inputs(self.base, case, device)
        self.step()

    def gradients(self) -> None:
        """Forward and backward pass."""
        text = self.text
        if self.case.text:
            text = encode(self.base, self.points.prompts, self.device)
        predicted = call_unet(self.base, self.points, text)
        (predicted.float() - self.points.noised).square().mean().backward()

    def step(self) -> None:
        """A whole step, until the device has done it."""
        self.gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        wait_for(self.device)

    def set_mode(self, mode: str) -> None:
        """A memory mode of `MODES`."""
        kind, checkpointing = MODES[mode]
        set_mode(self.base, kind, checkpointing, trains_text=self.case.text)  # type: ignore[arg-type]

    def memory(self, mode: str) -> dict[str, object]:
        """The peak of whole steps, and their median time."""
        self.set_mode(mode)
        gc.collect()
        forget_peak(self.device)
        times = seconds_each(self.step, REPEATS if self.device.type == "cuda" else 1)
        measured = (peak(self.device) - self.before) / GIB
        predicted = sum(self.case.predicted(mode).values())
        return {
            "mode": mode,
            "measured": round(measured, 3),
            "predicted": round(predicted, 3),
            "error": round(predicted / measured - 1, 4),
            "seconds": round(statistics.median(times), 4),
        }

    def repeats(self, exact: bool) -> dict[str, object]:
        """Whether the gradients are the same bits, and how long the card works for them."""
        self.set_mode("lean")
        found: list[Tensor] = []
        with repeating(exact):
            for _ in range(REPEATS):
                self.gradients()
                flat = [p.grad.flatten() for p in self.parameters if p.grad is not None]
                found.append(torch.cat(flat).clone())
                self.optimizer.zero_grad(set_to_none=True)
            on_gpu = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
            with profile(activities=[ProfilerActivity.CPU, *on_gpu]) as seen:
                self.gradients()
                wait_for(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        apart = [float((other - found[0]).norm() / found[0].norm()) for other in found]
        events = [one for one in seen.key_averages() if one.device_type.name == "CUDA"]
        card_ms = sum(one.self_device_time_total for one in events) / 1e3
        same = all(torch.equal(found[0], other) for other in found)
        return {"exact": exact, "repeats": same, "apart": max(apart), "card_ms": card_ms}


def inputs(base: BaseModel, case: Case, device: torch.device) -> tuple[Points, TextConditioning]:
    """Where the UNet is asked, and random text features."""
    generator, side = torch.Generator().manual_seed(1), case.side // base.vae_scale_factor

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    rows, size = case.rows, (case.side, case.side)
    points = Points(
        prompts=("x",) * rows,
        noised=random(rows, 4, side, side),
        timesteps=torch.full((rows,), 500, device=device),
        sizes=((size, (0, 0), size),) * rows,
    )
    hidden = random(rows, 77, base.unet.config["cross_attention_dim"]).to(base.unet.dtype)
    pooled = random(rows, 1280).to(base.unet.dtype) if base.family.name == "sdxl" else None
    return points, TextConditioning(hidden, pooled)


@torch.no_grad()
def fill(module: nn.Module, device: torch.device) -> None:
    """Values of a sensible size, in place: products keep the size of what goes in, norms are 1."""
    module.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for layer in module.modules():
        for name, value in layer.named_parameters(recurse=False):
            if isinstance(layer, (nn.GroupNorm, nn.LayerNorm)) or name == "bias":
                value.fill_(1.0 if name == "weight" else 0.0)
            else:
                fan_in = value[0].numel() if value.dim() > 1 else value.numel()
                size = 0.02 if isinstance(layer, nn.Embedding) else 0.6 / math.sqrt(fan_in)
                value.normal_(0, size, generator=generator)
        for buffer in layer.buffers(recurse=False):
            places = torch.arange(buffer.numel(), device=device)  # CLIP's position ids
            buffer.copy_(places.view(buffer.shape) * (not buffer.is_floating_point()))


# ------------------------------------------------------------- bytes on a GPU, or of a process


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocated(device: torch.device) -> int:
    """Bytes of tensors on a GPU; on a CPU the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return resident_memory(peak=False)


def peak(device: torch.device) -> int:
    """The most of them since `forget_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_memory(peak=True)


def forget_peak(device: torch.device) -> None:
    """Begin anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def measurements(case: Case, device: torch.device) -> Iterator[dict[str, object]]:
    """All of a case, one row each."""
    bench = Bench(case, device)
    yield from map(bench.memory, case.modes)
    yield from map(bench.repeats, (False, True))


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["predict", "measure"])
    parser.add_argument("--out", type=Path, help="Rows go there as well.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cases", default="", help="Those with this text in their names.")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    options = parser.parse_args()
    if options.what == "predict":
        found = dict(predictions())
        for name, parts in found.items():
            print(f"{name:<60} {sum(parts.values()):.2f} GiB {json.dumps(parts)}")
        if options.out:
            write_json(options.out, found)
            options.out.with_suffix(".svg").write_text(plot(found), encoding="utf-8")
        return
    if options.device == "cpu" and not ALLOCATOR.items() <= os.environ.items():
        os.environ.update(ALLOCATOR)  # read when the process starts
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:]])
    for case in (one for one in CASES if options.cases in one.name):
        case = replace(case, precision=options.precision)
        for row in measurements(case, torch.device(options.device)):
            line = json.dumps({"case": case.name, **row})
            print(line, flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        gc.collect()


if __name__ == "__main__":
    main()
