"""Memory: what the predictor says, and whether real steps agree.

    python -m benchmarks.memory predict --out memory.json
    python -m benchmarks.memory measure --base sd15 --resolution 512 --out memory.json

``predict`` prints the table of docs/speed-and-memory.md. ``measure`` runs real training steps of a
model with random weights on the CPU, each in a process of its own, and compares the resident memory
that they took at most with the prediction for the same step. Results are kept in the file, by
case: a second start leaves out what is there.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from trainer.config import TrainingConfig
from trainer.configfile import with_values
from trainer.lora.attach import attach
from trainer.memory.architecture import build, find_architecture
from trainer.memory.modes import set_mode
from trainer.memory.phases import DTYPES, Workload, optimizer_bytes, step_memory
from trainer.memory.prediction import predict, tensors_gib
from trainer.models.base import BaseModel
from trainer.models.text import added_conditioning, encode
from trainer.runs.atomic import write_json

GIB = 2**30
Case = tuple[str, dict[str, float]]
MODES = {
    "plain": ("plain", False),
    "lean": ("lean", False),
    "feed_forward": ("feed_forward", False),
    "checkpointing": ("lean", True),
}
# base, resolution, batch size, text encoders trained, precision
PREDICTED = [
    ("sd15", 512, 1, False),
    ("sd15", 512, 1, True),
    ("sd15", 512, 4, True),
    ("sd2-v", 768, 1, True),
    ("sdxl", 1024, 1, False),
    ("sdxl", 1024, 1, True),
]


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["predict", "measure", "one"])
    parser.add_argument("--out", type=Path, default=Path("memory.json"))
    parser.add_argument("--base", default="sd15")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=list(DTYPES))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--text-encoder", action="store_true")
    options = parser.parse_args()
    if options.what == "one":
        print(json.dumps(measured(options)))
        return
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    cases = predictions() if options.what == "predict" else measurements(options, results)
    for name, found in cases:
        results[name] = found
        write_json(options.out, results)
        print(f"{name:<60}", json.dumps(found), flush=True)


def predictions() -> Iterator[Case]:
    """The table of goals: GiB of tensors at the peak, without what is assumed."""
    for base, resolution, batch, text in PREDICTED:
        for name, (mode, checkpointing) in MODES.items():
            values = {
                "base.name": base,
                "images.resolution": resolution,
                "training.batch_size": batch,
                "adapter.text_encoder": text,
                "memory.mode": mode,
                "training.gradient_checkpointing": checkpointing,
                "preservation.weight": 0.0,
                "images.buckets": False,
            }
            parts = predict(with_values(TrainingConfig(), values), 11.0).parts
            trained = "with text encoders" if text else "UNet only"
            yield (
                f"predicted {base} {resolution} px, batch {batch}, {trained}, {name}",
                {"peak": round(tensors_gib(parts), 2), **parts},
            )


def measurements(options: argparse.Namespace, results: dict[str, object]) -> Iterator[Case]:
    """Measured and predicted GiB of each mode."""
    for name in options.modes:
        trained = "with text encoders" if options.text_encoder else "UNet only"
        case = (
            f"measured {options.base} {options.resolution} px, batch {options.batch_size}, "
            f"{trained}, {options.precision}, {name}"
        )
        if case in results:
            continue
        arguments = [
            *("--base", options.base, "--resolution", str(options.resolution)),
            *("--batch-size", str(options.batch_size), "--precision", options.precision),
            *("--modes", name, *(["--text-encoder"] if options.text_encoder else [])),
        ]
        # Large blocks go back to the system at once, so that resident memory is what is in use.
        allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", "one", *arguments],
            env={**os.environ, **allocator},
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        work = _workload(options, name)
        step = step_memory(find_architecture(options.base), work)
        fixed = step.base_weights + step.adapter + optimizer_bytes("adamw", step.adapter)
        predicted = (fixed + step.gradients + step.activations) / GIB
        found |= {
            "predicted": round(predicted, 3),
            "predicted_activations": round(step.activations / GIB, 3),
            "error": round(predicted / found["measured"] - 1, 4),
        }
        yield case, found


def _workload(options: argparse.Namespace, name: str) -> Workload:
    config = TrainingConfig()
    mode, checkpointing = MODES[name]
    return Workload(
        width=options.resolution,
        height=options.resolution,
        precision=options.precision,
        adapter=config.adapter.model_copy(update={"text_encoder": options.text_encoder}),
        rows=options.batch_size,
        kept_rows=0,
        accumulates=False,
        mode=mode,  # type: ignore[arg-type]
        checkpointing=checkpointing,
    )


def measured(options: argparse.Namespace) -> dict[str, float]:
    """Two steps with random weights: the second one has the optimizer's state there."""
    torch.manual_seed(0)
    work = _workload(options, options.modes[0])
    base = build(find_architecture(options.base), DTYPES[options.precision])
    base.vae = torch.nn.Identity()  # type: ignore[assignment]
    before = _resident()
    modules = [base.unet, *(base.text_encoders if options.text_encoder else [])]
    for module in modules:
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            parameter.data.normal_(std=0.02)
        for buffer in module.buffers():
            buffer.zero_()
    if not options.text_encoder:
        base.text_encoders = []
    attachment = attach(base, work.adapter, seed=0)
    set_mode(base, work.mode, work.checkpointing, trains_text=options.text_encoder)
    base.unet.train()
    parameters = [p for named in attachment.parameters.values() for _, p in named]
    optimizer = torch.optim.AdamW(parameters)
    seconds = []
    gc.collect()
    _reset_peak()
    for _ in range(2):
        started = time.perf_counter()
        _step(base, work)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    return {
        "measured": round((_peak() - before) / GIB, 3),
        "seconds": round(min(seconds), 2),
    }


def _step(base: BaseModel, work: Workload) -> None:
    rows, side = work.rows, base.vae_scale_factor
    dtype = base.unet.dtype
    latents = torch.randn(rows, 4, work.height // side, work.width // side)
    pooled = None
    if work.adapter.text_encoder:
        text = encode(base, ["x"] * rows, "cpu")
        hidden, pooled = text.hidden, text.pooled
    else:
        hidden = torch.randn(rows, 77, base.unet.config["cross_attention_dim"]).to(dtype)
        if base.family.name == "sdxl":
            pooled = torch.randn(rows, 1280).to(dtype)
    sizes = [(1024, 1024)] * rows
    predicted = base.unet(
        latents.to(dtype),
        torch.full((rows,), 500),
        encoder_hidden_states=hidden,
        added_cond_kwargs=added_conditioning(base, pooled, sizes, sizes, sizes),
    ).sample
    (predicted.float() - latents).square().mean().backward()


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    """Bytes of a field of Linux' status file of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}: this works on Linux only")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
