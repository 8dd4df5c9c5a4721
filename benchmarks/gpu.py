"""What single training steps of full-size models take on the GPU at hand.

    python -m benchmarks.gpu [--out FILE.jsonl] [--device cuda]

Random weights in bf16, AdamW, rank 16. For each case and memory mode: the most bytes of tensors
(torch's allocator) beside the prediction, and seconds a step. For each case besides, whether the
same step gives the same bits again, with torch's usual kernels and with those that training takes
(`trainer.memory.devices.repeating`), and how long the card works for each.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Read when cuBLAS starts: without it products may differ from one time to the next.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.memory import GIB, MODES
from trainer.config.schema import OptimizerConfig, TrainingConfig
from trainer.diffusion import added_conditioning, encode
from trainer.lora.attach import attach
from trainer.memory.architecture import build, find_architecture
from trainer.memory.devices import repeating
from trainer.memory.modes import set_mode
from trainer.memory.phases import Workload, optimizer_bytes, step_memory
from trainer.memory.quantized import quantize_base
from trainer.models.base import BaseModel
from trainer.training.optimizers import make_optimizer

REPEATS = 8


@dataclass(frozen=True)
class Case:
    """A base model and what of it is trained how.

    Attributes:
        modes: of `benchmarks.memory.MODES`.
        weights: as ``memory.base_weights`` has them.
    """

    base: str
    side: int
    modes: tuple[str, ...]
    rows: int = 1
    text: bool = False
    weights: str = "full"
    optimizer: str = "adamw"

    @property
    def name(self) -> str:
        """For people."""
        more = ["text encoders trained"] if self.text else []
        more += [] if self.weights == "full" else [f"{self.weights}, {self.optimizer}"]
        return ", ".join([self.base, f"{self.side} px", f"batch {self.rows}", *more])

    def work(self, mode: str) -> Workload:
        """The same for the predictor."""
        adapter = TrainingConfig().adapter.model_copy(update={"text_encoder": self.text})
        kind, checkpointing = MODES[mode]
        return Workload(
            width=self.side,
            height=self.side,
            precision="bf16",
            adapter=adapter,
            rows=self.rows,
            mode=kind,  # type: ignore[arg-type]
            checkpointing=checkpointing,
            weights=self.weights,  # type: ignore[arg-type]
        )

    def predicted(self, mode: str) -> float:
        """GiB of tensors."""
        step = step_memory(find_architecture(self.base), self.work(mode))
        fixed = step.base_weights + step.adapter + optimizer_bytes(self.optimizer, step.adapter)
        return (fixed + step.gradients + step.activations) / GIB


ALL = tuple(MODES)
CASES = (
    Case("sd15", 512, ALL),
    Case("sd15", 512, ("lean", "checkpointing"), text=True),
    Case("sd15", 512, ("plain", "lean", "checkpointing"), rows=4),
    Case("sdxl", 1024, ALL),
    Case("sd15", 512, ("lean",), weights="8bit", optimizer="adamw8bit"),
    Case("sd15", 512, ("lean",), weights="4bit"),
    Case("sdxl", 1024, ("lean", "checkpointing"), text=True),
)


class Bench:
    """A case on the device, with its optimizer's state there from the beginning."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        self.before = allocated(device)
        self.base = build(find_architecture(case.base), torch.bfloat16)
        self.base.vae = nn.Identity()  # type: ignore[assignment]
        for module in (self.base.unet, *(self.base.text_encoders if case.text else [])):
            fill(module.to(torch.bfloat16), device)  # others stay on the meta device
            module.train()
        quantize_base(self.base, case.weights, device)  # type: ignore[arg-type]
        attachment = attach(self.base, case.work("plain").adapter, seed=0)
        self.parameters = [p for named in attachment.parameters.values() for _, p in named]
        with torch.no_grad():
            for parameter in self.parameters:  # B is 0 at first, and A would have no gradients
                parameter.add_(0.01)
        groups = [{"params": self.parameters, "lr": 1e-4, "initial_lr": 1e-4}]
        config = OptimizerConfig.model_validate({"name": case.optimizer})
        self.optimizer = make_optimizer(config, groups)
        self.latents, self.hidden, self.pooled = inputs(self.base, case, device)
        self.gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> None:
        """Forward and backward pass."""
        hidden, pooled = self.hidden, self.pooled
        rows = len(self.latents)
        if self.case.text:
            text = encode(self.base, ["x"] * rows, self.device)
            hidden, pooled = text.hidden, text.pooled
        sizes = [(1024, 1024)] * rows
        predicted = self.base.unet(
            self.latents.to(self.base.unet.dtype),
            torch.full((rows,), 500, device=self.device),
            encoder_hidden_states=hidden,
            added_cond_kwargs=added_conditioning(pooled, [(size, size, size) for size in sizes]),
        ).sample
        (predicted.float() - self.latents).square().mean().backward()

    def set_mode(self, mode: str) -> None:
        """A memory mode of `benchmarks.memory.MODES`."""
        kind, checkpointing = MODES[mode]
        set_mode(self.base, kind, checkpointing, trains_text=self.case.text)  # type: ignore[arg-type]

    def memory(self, mode: str) -> dict[str, object]:
        """The peak of whole steps, and their median time."""
        self.set_mode(mode)
        gc.collect()
        forget_peak(self.device)
        times: list[float] = []
        for _ in range(REPEATS):
            started = now(self.device)
            self.gradients()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            times.append(now(self.device) - started)
        measured, predicted = (peak(self.device) - self.before) / GIB, self.case.predicted(mode)
        return {
            "mode": mode,
            "measured": round(measured, 3),
            "predicted": round(predicted, 3),
            "error": round(predicted / measured - 1, 4) if measured > 0 else None,
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
                now(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        apart = [float((other - found[0]).norm() / found[0].norm()) for other in found]
        card = sum(
            one.self_device_time_total
            for one in seen.key_averages()
            if one.device_type.name == "CUDA"
        )
        same = all(torch.equal(found[0], other) for other in found)
        return {"exact": exact, "repeats": same, "apart": max(apart), "card_ms": card / 1e3}


def inputs(
    base: BaseModel, case: Case, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Latents (B, 4, H, W) float32, text features (B, 77, E), pooled ones for SDXL (B, 1280)."""
    generator, side = torch.Generator().manual_seed(1), case.side // base.vae_scale_factor
    dtype = base.unet.dtype

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    latents = random(case.rows, 4, side, side)
    hidden = random(case.rows, 77, base.unet.config["cross_attention_dim"]).to(dtype)
    pooled = random(case.rows, 1280).to(dtype) if base.family.name == "sdxl" else None
    return latents, hidden, pooled


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


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def allocated(device: torch.device) -> int:
    """Bytes of tensors on a GPU; elsewhere 0, which torch does not count."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak(device: torch.device) -> int:
    """The most of them since `forget_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def forget_peak(device: torch.device) -> None:
    """Begin anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def measurements(case: Case, device: torch.device) -> Iterator[dict[str, object]]:
    """All of a case, one row each."""
    bench = Bench(case, device)
    yield from map(bench.memory, case.modes)
    yield from map(bench.repeats, (False, True))


def main() -> None:
    """Prints what was measured, a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Rows go there as well.")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    for case in CASES:
        for row in measurements(case, torch.device(options.device)):
            line = json.dumps({"case": case.name, **row})
            print(line, flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        gc.collect()


if __name__ == "__main__":
    main()
