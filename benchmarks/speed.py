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
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from benchmarks.random_base import Size, make_base, make_pictures
from benchmarks.shared import Bar, bars, in_a_process, markdown, write_between_marks
from trainer.places import PROJECT
from trainer.runs.atomic import write_json

RESULTS = PROJECT / "benchmarks" / "results" / "speed.json"
SCALE = RESULTS.with_name("scale.json")
PAGE = PROJECT / "docs" / "notes" / "speed-and-memory.md"
PLOT = PROJECT / "docs" / "images" / "speed.svg"
DEFAULT = ("rarebit", "diffusers-like", "kohya-like")
MODELS = {
    "full": "SD 1.5 at full size (860 M), random weights",
    "small": "SD 1.5's layout with a fifth of the channels (34 M), random weights",
    "tiny": "SD 1.5's blocks, as narrow as can be",
}
COLOURS = {"rarebit": "#2f6f4f", "other": "#9aa5b1"}
MIB, GIB = 2**20, 2**30


class Measured(TypedDict):
    """One process.

    Attributes:
        round: processes with the same one took turns.
        warm_up: its first steps, which do not count.
        cpu, wall: seconds from its start to the end of each step.
        losses: of the steps; empty for a script that can't be asked.
        peak: the most resident memory, in bytes.
        file: of the adapter, in bytes.
    """

    contestant: str
    size: str
    resolution: int
    batch_size: int
    precision: str
    round: int
    warm_up: int
    cpu: list[float]
    wall: list[float]
    losses: list[float]
    peak: int
    file: int


# --------------------------------------------------------------------------------- measuring


def read_results(path: Path) -> list[Measured]:
    """The processes measured so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def run_all(options: argparse.Namespace, folder: Path) -> None:
    """Rounds of all contestants, one process at a time; results are written after each."""
    from benchmarks.contestants import Work

    size: Size = options.size
    base = make_base(folder / f"base-{size}", size)
    pictures = folder / f"pictures-{options.resolution}"
    images = make_pictures(pictures, options.pictures, options.resolution * 3 // 2)
    names = list(options.contestants)
    names += ["rarebit, preserving"] if options.preserving else []
    names += ["diffusers"] if options.peer_dir else []
    results = read_results(options.out)
    cases: list[dict[str, Any]] = [
        {
            "contestant": name,
            "size": size,
            "resolution": options.resolution,
            "batch_size": options.batch_size,
            "precision": precision,
            "round": turn,
        }
        for turn in range(options.rounds)
        for precision in options.precision
        for name in names
    ]
    for case in cases:
        if any(case.items() <= one.items() for one in results):
            continue
        name, precision = case["contestant"], case["precision"]
        out = folder / name.replace(", ", "-") / f"{size}-{options.resolution}-{precision}"
        out.mkdir(parents=True, exist_ok=True)
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
        arguments = ("child", name.partition(",")[0], json.dumps(asdict(work)))
        through = shlex.split(options.through)
        cache = str(out / "cache")
        found = in_a_process("benchmarks.speed", *arguments, through=through, RAREBIT_CACHE=cache)
        results.append({**case, "warm_up": options.warm_up, **found})  # type: ignore[typeddict-item]
        write_json(options.out, results)
        print(json.dumps(results[-1]), flush=True)


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


# ---------------------------------------------------------------------------------- the page


def write_docs(speed: Sequence[Measured], scale: Sequence[Mapping[str, Any]]) -> None:
    """Puts the tables into the page, and the plot beside it.

    Args:
        scale: rows of `benchmarks.scale`.
    """
    tables = [f"**{title}**\n\n{table(group)}" for title, group in _groups(speed).items()]
    write_between_marks(PAGE, "speed", "\n\n".join(tables))
    write_between_marks(PAGE, "scale", scale_table(scale))
    PLOT.write_text(plot(speed), encoding="utf-8")


def scale_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each set and start."""
    header = ("pictures", "start", "reading and caching", "at least", "memory grows by", "a step")
    cells = [
        (
            f"{row['pictures']:,}",
            row["start"],
            f"{row['reading'] + row['caching']:.1f} s",
            f"{row['least']:.1f} s" if row["start"] == "first" else "",
            f"{row['grown']:.0f} MiB",
            f"{row['step']:.3f} s",
        )
        for row in rows
    ]
    return markdown(header, cells)


def table(rows: Sequence[Measured]) -> str:
    """One line a contestant and precision; ratios to the first one of diffusers' kind in fp32."""
    header = ("", "CPU s a step", "×", "wall s a step", "CPU s to the first step", "again",
              "peak GiB", "×", "adapter MiB")  # fmt: skip
    by_name = _by_contestant(rows)
    mark = by_name.get("diffusers-like, fp32")
    cells = []
    for name, same in by_name.items():
        peak = median(row["peak"] for row in same)
        first = [row["cpu"][0] for row in same if not row["round"]]
        again = [row["cpu"][0] for row in same if row["round"]]
        cells.append(
            (
                name,
                f"{seconds(same, 'cpu'):.3g}",
                f"{seconds(same, 'cpu') / seconds(mark, 'cpu'):.2f}" if mark else "",
                f"{seconds(same, 'wall'):.3g}",
                f"{first[0]:.1f}" if first else "",
                f"{median(again):.1f}" if again else "",
                f"{peak / GIB:.2f}",
                f"{peak / median(row['peak'] for row in mark):.2f}" if mark else "",
                f"{same[0]['file'] / MIB:.1f}",
            )
        )
    return markdown(header, cells)


def plot(rows: Sequence[Measured]) -> str:
    """Bars of CPU seconds a step."""

    def bar(name: str, same: Sequence[Measured]) -> Bar:
        kind = "rarebit" if name.startswith("rarebit") else "other"
        return name, {kind: seconds(same, "cpu")}

    groups = {
        title: [bar(*one) for one in _by_contestant(group).items()]
        for title, group in _groups(rows).items()
    }
    return bars(groups, COLOURS, " s")


def seconds(rows: Sequence[Measured], clock: str) -> float:
    """A step's seconds: the median over processes of each one's mean."""

    def means() -> Iterator[float]:
        for row in rows:
            moments = row["cpu"] if clock == "cpu" else row["wall"]
            first = max(row["warm_up"], 1) - 1
            yield (moments[-1] - moments[first]) / (len(moments) - 1 - first)

    return median(means())


def _groups(rows: Sequence[Measured]) -> dict[str, list[Measured]]:
    """By model, resolution and batch size."""
    found: dict[str, list[Measured]] = {}
    for row in rows:
        title = f"{MODELS[row['size']]}, {row['resolution']} px, batch {row['batch_size']}"
        found.setdefault(title, []).append(row)
    return found


def _by_contestant(rows: Sequence[Measured]) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for row in rows:
        found.setdefault(f"{row['contestant']}, {row['precision']}", []).append(row)
    return found


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
    run.add_argument("--preserving", action="store_true", help="also with prior preservation")
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


if __name__ == "__main__":
    main()
