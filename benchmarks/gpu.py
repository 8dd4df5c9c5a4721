"""Everything that a card is asked, in one go: one JSON, one table.

    python -m benchmarks.gpu --minutes 8 [--peer-dir CHECKOUT …] [--out gpu.json]
    python -m benchmarks.gpu --device cpu --tiny [--peer-dir CHECKOUT …]

Each case runs in a process of its own, the most telling first; those for which no time is left are
named. SD 1.5 and SDXL have full size and random weights: steps (seconds, and the most bytes of
tensors beside what ``fit`` predicts) with torch's usual kernels, with those that repeat to the last
bit, and compiled; the preset ``sdxl-11gb`` to its end, where torch may allocate 10.5 GiB; runs that
are killed and gone on from, with weights as they are, in 8 and in 4 bits; and this trainer beside
the scripts of diffusers and sd-scripts, each as it is in a checkout. ``--tiny`` does it with the
built-in model, in this process, to see that it works: its times are no times of a GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.memory import GIB, REPEATS, Bench, Case, wait_for
from benchmarks.random_base import TRIGGER, make_base, make_pictures, write_sdxl
from benchmarks.shared import in_a_process, markdown, seconds_each
from trainer.config.file import with_values
from trainer.config.presets import PRESETS
from trainer.config.schema import TrainingConfig
from trainer.events import RunEvent, StepDone, Warned
from trainer.lora.joined import joined_layers
from trainer.memory.devices import repeating
from trainer.memory.prediction import predict
from trainer.runs.atomic import write_json
from trainer.runs.layout import RunFolder
from trainer.training import compiled
from trainer.training.copies import Copies
from trainer.training.runner import run_training

LIMIT_GIB, OPTIMIZER = 10.5, "optimizer.safetensors"
NO_GPU = "Times of a processor: they say nothing of a GPU."
COLUMNS = {
    "case": "case", "what": "what", "seconds": "s a step", "gib": "GiB", "predicted": "predicted",
    "remark": "remark",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A case of one of `KINDS`: its base model, preset, weights or trainer, and where it writes."""

    kind: str
    subject: str
    device: str
    tiny: bool
    folder: str
    batch: int = 1
    peer: str = ""  # a checkout; empty: this trainer

    def row(self, what: str, **found: object) -> dict[str, Any]:
        """A line of the table."""
        name = f"{self.kind} {self.subject}" + f", batch {self.batch}" * (self.kind == "step")
        name += f" ({Path(self.peer).name or 'rarebit'})" * (self.kind == "peer")
        return {"case": name, "what": what, **found}


def jobs(options: argparse.Namespace, folder: str) -> Iterator[Job]:
    """All that is measured, the most telling first."""
    first = Job("step", "sd15", options.device, options.tiny, folder)
    bases = ("tiny-emoji",) if options.tiny else ("sd15", "sdxl")
    yield from (replace(first, subject=base) for base in bases)
    yield replace(first, kind="run", subject="sdxl-11gb")
    yield from (replace(first, kind="resume", subject=bits) for bits in ("full", "8bit", "4bit"))
    if not options.tiny:
        yield from (replace(first, subject=base, batch=4) for base in bases)
    peers = ["", *options.peer_dir] if options.peer_dir else []
    yield from (
        replace(first, kind="peer", subject=base, peer=peer) for base in bases for peer in peers
    )


def steps(job: Job) -> list[dict[str, Any]]:
    """Single steps of the UNet's adapter: memory, and time by kernels."""
    side = {"sd15": 512, "sdxl": 1024}.get(job.subject, 64)
    precision = "fp32" if job.device == "cpu" else "bf16"
    case = Case(job.subject, side, ("lean",), rows=job.batch, precision=precision)
    bench = Bench(case, torch.device(job.device))
    memory, repeats = bench.memory("lean"), 1 if job.tiny else REPEATS
    joined = joined_layers([bench.base.unet]) if job.device == "cuda" else ()
    copies = Copies(bench.parameters, bench.base.unet.dtype, joined)
    blocks = compiled.CompiledBlocks(bench.base.unet, False)

    def step() -> None:
        with copies.used(), blocks.used():
            bench.gradients()
        bench.optimizer.step()
        bench.optimizer.zero_grad(set_to_none=True)
        wait_for(bench.device)

    def row(what: str, **more: object) -> dict[str, Any]:
        return job.row(what, seconds=median(seconds_each(step, repeats)), **more)

    step()
    rows = [row("usual kernels", gib=memory["measured"], predicted=memory["predicted"])]
    with repeating(True):
        rows.append(row("exact kernels"))
    if job.tiny:
        compiled.BACKEND = "eager"  # the real one takes minutes on a processor
    for what, graphs in (("compiled", False), ("compiled, CUDA graphs", True)):
        if graphs and job.device != "cuda":
            continue
        torch.compiler.reset()
        blocks = compiled.CompiledBlocks(bench.base.unet, True, graphs)
        try:
            first = seconds_each(step, 1)[0]
            rows.append(row(what, remark=f"first step {first:.1f} s"))
        except Exception as error:
            rows.append(job.row(what, remark=f"failed: {str(error).splitlines()[0]}"))
    return rows


def whole_run(job: Job) -> list[dict[str, Any]]:
    """The preset to its end, with previews, a checkpoint and the measuring, in few steps."""
    folder, cuda = Path(job.folder), job.device == "cuda"
    place = "tiny-emoji" if job.tiny else str(write_sdxl(folder / "sdxl", torch.device(job.device)))
    if cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT_GIB * GIB / total))
        torch.cuda.reset_peak_memory_stats()
    values = {**PRESETS[job.subject].values, "base.name": place, "evaluation.board": 0}
    values |= {"training.steps": 2 if job.tiny else 12, "evaluation.enabled": not job.tiny}
    config = _config(job, values)
    seen: list[RunEvent] = []
    result = run_training(config, RunFolder(folder / "run"), seen.append)
    said = [event.message for event in seen if isinstance(event, Warned)]
    return [
        job.row(
            "to its end" if result.finished else "stopped",
            seconds=median(event.seconds for event in seen if isinstance(event, StepDone)),
            gib=round(torch.cuda.max_memory_reserved() / GIB, 2) if cuda else "",
            predicted=predict(config, LIMIT_GIB).peak_gib,
            remark=" ".join(one for one in said if "memory" in one),
        )
    ]


def resumed(job: Job) -> list[dict[str, Any]]:
    """Whether a run that was killed and gone on from leaves the bytes of one that was not."""
    values = {"training.steps": 2, "checkpoints.every": 1, "evaluation.enabled": False}
    config = _config(job, {**values, "memory.base_weights": job.subject, "training.batch_size": 1})
    runs = [RunFolder(Path(job.folder) / f"{job.subject}-{name}") for name in ("whole", "parts")]

    def kill(event: RunEvent) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            raise KeyboardInterrupt

    run_training(config, runs[0], lambda _: None)
    with suppress(KeyboardInterrupt):
        run_training(config, runs[1], kill)
    run_training(config, runs[1], lambda _: None, resume=True)
    files = [run.adapter for run in runs], [run.checkpoint(2) / OPTIMIZER for run in runs]
    same = all(one.read_bytes() == other.read_bytes() for one, other in files)
    return [job.row("resumed", remark="the same bytes" if same else "OTHER BYTES")]


def peer(job: Job) -> list[dict[str, Any]]:
    """A trainer's own script, or this trainer: the UNet's attention layers, no preservation."""
    from benchmarks.contestants import Clock, Work, rarebit
    from benchmarks.peer_scripts import BASE, Task, trainer_in

    place, device = Path(job.folder) / job.subject, torch.device(job.device)
    base = {"sd15": lambda: make_base(place, "full"), "sdxl": lambda: write_sdxl(place, device)}
    side, count = {"sd15": 512, "sdxl": 1024}.get(job.subject, 64), 3 if job.tiny else 20
    images = make_pictures(Path(job.folder) / f"pictures-peer-{side}", 4, side)
    out, clock = Path(tempfile.mkdtemp(dir=job.folder)), Clock()
    precision = "fp32" if device.type == "cpu" else "bf16"
    found = base.get(job.subject, lambda: BASE)()
    train = trainer_in(Path(job.peer)) if job.peer else None
    if job.peer and not train:
        raise ValueError(f"{job.peer} is no checkout that is known")
    if train:
        pictures, captioned = out / "pictures", out / "captioned" / f"10_{TRIGGER}"
        for folder in (pictures, captioned):
            folder.mkdir(parents=True)
            for file in images.glob("*.jpg"):
                shutil.copy(file, folder)
                if folder == captioned:
                    (folder / f"{file.stem}.txt").write_text(f"{TRIGGER}, cloud", encoding="utf-8")
        train(
            Task(
                job.peer, str(out), str(pictures), str(captioned.parent), "", TRIGGER, "cloud",
                with_class_pictures=False, unet_rate=1e-4, text_rate=0.0, rank=16, batch_size=1,
                steps=count, side=side, seed=0, base=str(found), sdxl=job.subject == "sdxl",
                precision="no" if precision == "fp32" else precision,
            ),
            clock,
        )  # fmt: skip
    else:
        rarebit(Work(str(found), str(images), str(out), side, 1, count, precision), clock)
    each = [later - earlier for earlier, later in zip(clock.wall, clock.wall[1:], strict=False)]
    gib = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else clock.peak / GIB
    return [job.row("its own script", seconds=median(each[len(each) // 4 :]), gib=round(gib, 2))]


KINDS: Mapping[str, Callable[[Job], list[dict[str, Any]]]] = {
    "step": steps, "run": whole_run, "resume": resumed, "peer": peer
}  # fmt: skip


def _config(job: Job, values: Mapping[str, object]) -> TrainingConfig:
    side = 1024 if job.kind == "run" and not job.tiny else 64
    images = make_pictures(Path(job.folder) / f"pictures-{side}", 5, side)
    own = {"images.path": str(images), "images.resolution": side, "captions.trigger": TRIGGER}
    own |= {"captions.class_word": "cloud", "preservation.pictures": 2, "previews.count": 1}
    own |= {"previews.prompts": ["{trigger}"], "previews.inference_steps": 2}
    return with_values(TrainingConfig(), {**values, **own})


def run_all(options: argparse.Namespace, folder: str) -> None:
    """Case after case while there is time; the JSON is written after each."""
    cuda, started = options.device == "cuda", time.monotonic()
    machine = torch.cuda.get_device_name() if cuda else "a processor"
    found: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "rows": []}
    found |= {"left_out": [], "note": "" if cuda else NO_GPU}
    for job in jobs(options, folder):
        left = 60 * options.minutes - (time.monotonic() - started)
        if left < 5:
            found["left_out"].append(job.row("")["case"])
            continue
        try:
            child = ("benchmarks.gpu", "--child", json.dumps(asdict(job)))
            rows = KINDS[job.kind](job) if job.tiny else in_a_process(*child, timeout=left)["rows"]
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            rows = [job.row("failed", remark=type(error).__name__)]
        found["rows"] += rows
        write_json(options.out, found)
    write_json(options.out, found)
    print(f"{machine}. {found['note']}\n\n{table(found['rows'])}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    found = [[row.get(name, "") for name in COLUMNS] for row in rows]
    cells = [[f"{one:.3g}" if isinstance(one, float) else one for one in line] for line in found]
    return markdown(list(COLUMNS.values()), cells)


def main(arguments: Sequence[str]) -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the built-in model, to try the script")
    parser.add_argument(
        "--peer-dir", action="append", default=[], help="a checkout of diffusers or sd-scripts"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        job = Job(**json.loads(options.child))
        print(json.dumps({"rows": KINDS[job.kind](job)}))
        return 0
    if not (options.tiny if options.device == "cpu" else torch.cuda.is_available()):
        parser.error("without CUDA the script can only be tried: --device cpu --tiny")
    from benchmarks.peer_scripts import trainer_in

    for checkout in options.peer_dir:
        if trainer_in(Path(checkout)) is None:
            parser.error(f"--peer-dir {checkout} is no checkout of diffusers or sd-scripts")
    with tempfile.TemporaryDirectory() as folder:
        run_all(options, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
