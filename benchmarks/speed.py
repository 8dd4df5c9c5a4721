"""Speed: this trainer and others on the same work, each in a process of its own, taking turns.

    python -m benchmarks.speed run --size small --resolution 256 [--precision fp32 bf16]
    python -m benchmarks.speed run --size full --resolution 512 --steps 4 --rounds 1
    python -m benchmarks.speed write-docs

``run`` adds to the results file: a round that is there is not run again, so that it can be stopped
and started. One thread each; CPU seconds are what is compared, since they depend less than wall
time on what else a machine does. ``write-docs`` puts tables and a plot into
docs/notes/speed-and-memory.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.random_base import Size, make_base, make_pictures
from benchmarks.speed_report import MODELS, Measured, write_docs
from trainer.places import PROJECT
from trainer.runs.atomic import write_json

RESULTS = PROJECT / "benchmarks" / "results" / "speed.json"
SCALE = RESULTS.with_name("scale.json")
DEFAULT = ("rarebit", "diffusers-like", "kohya-like")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    child = commands.add_parser("child")
    child.add_argument("name")
    child.add_argument("work")
    commands.add_parser("write-docs")
    run = commands.add_parser("run")
    run.add_argument("--size", default="small", choices=list(MODELS))
    run.add_argument("--resolution", type=int, default=256)
    run.add_argument("--batch-size", type=int, default=1)
    run.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    run.add_argument("--steps", type=int, default=12, help="of each process")
    run.add_argument("--warm-up", type=int, default=2, help="steps that do not count")
    run.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    run.add_argument("--pictures", type=int, default=4)
    run.add_argument("--contestants", nargs="+", default=list(DEFAULT))
    run.add_argument("--preserving", action="store_true", help="also with the rest held still")
    run.add_argument("--peer-dir", default="", help="a checkout of diffusers: its own script too")
    run.add_argument("--through", default="", help="a command that starts each process")
    run.add_argument("--work", type=Path, help="folder for bases and pictures; else a new one")
    run.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.command == "child":
        print(json.dumps(measure(options.name, options.work)))
    elif options.command == "write-docs":
        write_docs(read_results(RESULTS), json.loads(SCALE.read_text(encoding="utf-8")))
    elif options.work:
        run_all(options, options.work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_all(options, Path(folder))


def read_results(path: Path) -> list[Measured]:
    """The processes measured so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def run_all(options: argparse.Namespace, folder: Path) -> None:
    """Rounds of all contestants, one process at a time; results are kept after each."""
    from benchmarks.contestants import Work

    size: Size = options.size
    base = make_base(folder / f"base-{size}", size)
    images = make_pictures(
        folder / f"pictures-{options.resolution}", options.pictures, options.resolution * 3 // 2
    )
    names = list(options.contestants)
    names += ["rarebit, preserving"] if options.preserving else []
    names += ["diffusers"] if options.peer_dir else []
    results = read_results(options.out)
    for turn in range(options.rounds):
        for precision in options.precision:
            for name in names:
                case = {
                    "contestant": name,
                    "size": size,
                    "resolution": options.resolution,
                    "batch_size": options.batch_size,
                    "precision": precision,
                    "round": turn,
                }
                if any(case.items() <= one.items() for one in results):
                    continue
                out = folder / name.replace(", ", "-") / f"{size}-{options.resolution}-{precision}"
                work = Work(
                    base=str(base),
                    images=str(images),
                    out=str(out),
                    resolution=options.resolution,
                    batch_size=options.batch_size,
                    steps=options.steps,
                    precision=precision,
                    preserves="preserving" in name,
                    peer=options.peer_dir,
                )
                found = in_a_process(name.partition(",")[0], work, options.through)
                results.append({**case, "warm_up": options.warm_up, **found})  # type: ignore[typeddict-item]
                write_json(options.out, results)
                print(json.dumps(results[-1]), flush=True)


def in_a_process(name: str, work: object, through: str) -> dict[str, object]:
    """What `measure` gives, in a new process with one thread."""
    work = replace(work)  # type: ignore[type-var]
    Path(work.out).mkdir(parents=True, exist_ok=True)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [
            *shlex.split(through),
            *(sys.executable, "-m", "benchmarks.speed", "child", name, json.dumps(asdict(work))),
        ],
        env={**os.environ, **one_thread, "RAREBIT_CACHE": f"{work.out}/cache"},
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, work: str) -> dict[str, object]:
    """Lets one contestant do its work in this process.

    Returns:
        ``cpu`` and ``wall``: seconds from the start of the process to the end of each step;
        ``peak``: the most resident memory until then, in bytes; ``file``: of the adapter, in bytes.
    """
    import psutil
    import torch

    from benchmarks.contestants import CONTESTANTS, Clock, Work

    started = psutil.Process().create_time()
    torch.set_num_threads(1)
    clock = Clock()
    CONTESTANTS[name](Work(**json.loads(work)), clock)
    return {
        "cpu": [round(seconds, 3) for seconds in clock.cpu],
        "wall": [round(moment - started, 3) for moment in clock.wall],
        "losses": [round(loss, 5) for loss in clock.losses],
        "peak": clock.peak,
        "file": Path(clock.adapter).stat().st_size,
    }


if __name__ == "__main__":
    main()
