"""Memory: what the predictor says, and whether real steps agree.

    python -m benchmarks.memory predict --out memory.json
    python -m benchmarks.memory measure --base sd15 --resolution 512 --out memory.json
    python -m benchmarks.memory plot --out memory.json

``predict`` prints the tables of docs/notes/speed-and-memory.md. ``measure`` runs real steps of a
model with random weights on the CPU, each in a process of its own, and compares the resident memory
that they took at most with the prediction. Results are kept in the file, by case: a second start
leaves out what is there. ``plot`` draws what was predicted, beside the file.
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
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.memory_plot import bars
from benchmarks.peer_memory import PEERS, peer_parts
from trainer.config.file import with_values
from trainer.config.schema import AdapterConfig, TrainingConfig
from trainer.diffusion import added_conditioning, encode
from trainer.lora.attach import attach
from trainer.memory.architecture import build, find_architecture
from trainer.memory.devices import DTYPES
from trainer.memory.modes import set_mode
from trainer.memory.phases import Workload, optimizer_bytes, step_memory
from trainer.memory.prediction import PHASES, STEP, predict
from trainer.memory.quantized import quantize_base
from trainer.models.base import BaseModel
from trainer.runs.atomic import write_json

GIB = 2**30
BUILT_IN = "tiny-emoji"
Case = tuple[str, dict[str, float]]
MODES = {
    "plain": ("plain", False),
    "lean": ("lean", False),
    "feed_forward": ("feed_forward", False),
    "checkpointing": ("lean", True),
}
# base, resolution, batch size, text encoders trained
PREDICTED = [
    ("sd15", 512, 1, False),
    ("sd15", 512, 1, True),
    ("sd15", 512, 4, True),
    ("sdxl", 1024, 1, False),
    ("sdxl", 1024, 1, True),
]


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["predict", "measure", "plot", "one"])
    parser.add_argument("--out", type=Path, default=Path("memory.json"))
    parser.add_argument("--base", default="sd15")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=list(DTYPES))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--weights", default="full", choices=["full", "8bit", "4bit"])
    parser.add_argument("--text-encoder", action="store_true")
    options = parser.parse_args()
    if options.what == "one":
        for found in measured(options):
            print(json.dumps(found), flush=True)
        return
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.what == "plot":
        options.out.with_suffix(".svg").write_text(bars(results), encoding="utf-8")
        return
    cases = (predictions if options.what == "predict" else partial(measurements, options))(results)
    for name, found in cases:
        results[name] = found
        write_json(options.out, results)
        print(f"{name:<60}", json.dumps(found), flush=True)


def predictions(results: dict[str, object]) -> Iterator[Case]:
    """The tables of the page: GiB of tensors at the peak, without what is assumed."""
    for base, resolution, batch, text in PREDICTED:
        trained = "with text encoders" if text else "UNet only"
        case = f"predicted {base} {resolution} px, batch {batch}, {trained}"
        fixed = {
            "base.name": base,
            "images.resolution": resolution,
            "training.batch_size": batch,
            "adapter.text_encoder": text,
            "preservation.weight": 0.0,
            "images.buckets": False,
        }
        for name, values in _settings(base, text).items():
            if f"{case}, {name}" not in results:
                config = with_values(TrainingConfig(), {**fixed, **values})
                parts = predict(config, 11.0).parts
                yield f"{case}, {name}", {"peak": round(_tensors(parts), 2), **parts}
        for peer in PEERS if not text else ():
            for checkpointing in (False, True):
                name = f"{case}, {peer}{', checkpointing' if checkpointing else ''}"
                if name not in results:
                    found = peer_parts(peer, base, resolution, batch, checkpointing)
                    in_gib = {part: round(size / GIB, 3) for part, size in found.items()}
                    yield name, {"peak": round(sum(in_gib.values()), 2), **in_gib}


def _tensors(parts: dict[str, float]) -> float:
    """The largest phase's GiB of tensors, without what is assumed."""
    return max(sum(parts[name] for name in STEP), *(parts[name] for name in PHASES))


def _settings(base: str, text: bool) -> dict[str, dict[str, object]]:
    """This trainer's settings, by name."""
    found: dict[str, dict[str, object]] = {
        name: {"memory.mode": mode, "training.gradient_checkpointing": checkpointing}
        for name, (mode, checkpointing) in MODES.items()
    }
    if base == "sdxl" and not text:
        found |= {
            f"checkpointing, {bits}": {**found["checkpointing"], "memory.base_weights": bits}
            for bits in ("8bit", "4bit")
        }
    return found


def measurements(options: argparse.Namespace, results: dict[str, object]) -> Iterator[Case]:
    """Measured and predicted GiB of each mode."""
    trained = "with text encoders" if options.text_encoder else "UNet only"
    cases = {
        mode: f"measured {options.base} {options.resolution} px, batch {options.batch_size}, "
        f"{trained}, {options.precision}, weights {options.weights}, {mode}"
        for mode in options.modes
    }
    missing = [mode for mode, case in cases.items() if case not in results]
    if not missing:
        return
    arguments = [
        *("--base", options.base, "--resolution", str(options.resolution)),
        *("--batch-size", str(options.batch_size), "--precision", options.precision),
        *("--weights", options.weights, "--modes", *missing),
        *(["--text-encoder"] if options.text_encoder else []),
    ]
    # Large blocks go back to the system at once, so that resident memory is what is in use.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.memory", "one", *arguments],
        env={**os.environ, **allocator},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        for mode, line in zip(missing, child.stdout, strict=True):
            yield cases[mode], _compared(options, mode, json.loads(line))


def _compared(options: argparse.Namespace, mode: str, found: dict[str, float]) -> dict[str, float]:
    """What was measured of a mode, and what is predicted."""
    step = step_memory(find_architecture(options.base), _workload(options, mode))
    fixed = step.base_weights + step.adapter + optimizer_bytes("adamw", step.adapter)
    predicted = (fixed + step.gradients + step.activations) / GIB
    return found | {
        "predicted": round(predicted, 3),
        "predicted_activations": round(step.activations / GIB, 3),
        "error": round(predicted / found["measured"] - 1, 4),
    }


def _workload(options: argparse.Namespace, name: str) -> Workload:
    config = TrainingConfig()
    mode, checkpointing = MODES[name]
    return Workload(
        width=options.resolution,
        height=options.resolution,
        precision=options.precision,
        adapter=config.adapter.model_copy(update={"text_encoder": options.text_encoder}),
        rows=options.batch_size,
        mode=mode,  # type: ignore[arg-type]
        checkpointing=checkpointing,
        weights=options.weights,
    )


def measured(options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """A step in each mode, with the optimizer's state there from the beginning."""
    torch.manual_seed(0)
    _warm_up(options)
    base = build(find_architecture(options.base), DTYPES[options.precision])
    base.vae = torch.nn.Identity()  # type: ignore[assignment]
    before = _resident()
    for module in (base.unet, *(base.text_encoders if options.text_encoder else [])):
        _fill(module)  # others stay on the meta device
    quantize_base(base, options.weights, torch.device("cpu"))
    attachment = attach(base, _workload(options, "plain").adapter, seed=0)
    base.unet.train()
    parameters = [p for named in attachment.parameters.values() for _, p in named]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for name in options.modes:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        work = _workload(options, name)
        set_mode(base, work.mode, work.checkpointing, trains_text=options.text_encoder)
        gc.collect()
        _reset_peak()
        started = time.perf_counter()
        _step(base, work)
        yield {
            "measured": round((_peak() - before) / GIB, 3),
            "seconds": round(time.perf_counter() - started, 1),
        }


def _warm_up(options: argparse.Namespace) -> None:
    """A step of the built-in model: what libraries take once is none of the larger one's.

    bitsandbytes compiles the kernel for weights in 4 bits when it is first used.
    """
    base = build(find_architecture(BUILT_IN), DTYPES[options.precision])
    _fill(base.unet)
    quantize_base(base, options.weights, torch.device("cpu"))
    adapter = AdapterConfig(text_encoder=False)
    work = replace(_workload(options, "lean"), width=64, height=64, adapter=adapter)
    attach(base, adapter, seed=0)
    _step(base, work)


def _fill(module: torch.nn.Module) -> None:
    """Random weights: a million numbers, over and over, since drawing all takes minutes."""
    module.to_empty(device="cpu")
    numbers = 0.02 * torch.randn(1 << 20)
    for parameter in module.parameters():
        flat = parameter.data.view(-1)
        for part in flat.split(len(numbers)):
            part.copy_(numbers[: len(part)])
    for buffer in module.buffers():
        buffer.zero_()


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
        added_cond_kwargs=added_conditioning(pooled, [(size, size, size) for size in sizes]),
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
