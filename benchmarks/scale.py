"""Image sets of 10, 1,000 and 10,000 pictures: does a start, or a step, take longer than it must?

    python -m benchmarks.scale [--counts 10 1000 10000] [--work DIR] [--out FILE.json]

Each set is prepared twice and trained on for some steps, in processes of their own with one thread.
The base model is as narrow as can be and the pictures are small, so that what the trainer itself
adds would stand out. Beside it, what a picture costs to be decoded twice (once to see that it is
whole, once for its latents) and encoded by the VAE, which no trainer can avoid.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.random_base import TRIGGER, make_base, make_pictures
from benchmarks.shared import in_a_process
from trainer.places import PROJECT
from trainer.runs.atomic import write_json

if TYPE_CHECKING:
    from trainer.training.session import Session

SIDE = 128
STEPS = 30
RESULTS = PROJECT / "benchmarks" / "results" / "scale.json"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--work", type=Path, help="folder for base and pictures; else a new one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
    elif options.work:
        run_all(options, options.work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_all(options, Path(folder))


def run_all(options: argparse.Namespace, folder: Path) -> None:
    """First and second start of each set; prints and keeps a row for each."""
    make_base(folder / "base", "tiny")
    rows = []
    for count in options.counts:
        place = folder / str(count)
        make_pictures(place / "pictures", count, SIDE)
        time.sleep(2.5)  # what was written just now is not taken to be settled
        for start in ("first", "second"):
            cache = str(place / "cache")
            found = in_a_process("benchmarks.scale", "--child", str(place), RAREBIT_CACHE=cache)
            rows.append({"pictures": count, "start": start, **found})
            write_json(options.out, rows)
            print(json.dumps(rows[-1]), flush=True)


def measure(place: Path) -> dict[str, float]:
    """Prepares a run and takes some steps in this process.

    Returns:
        CPU seconds: ``other`` (loading the base, the optimizer and so on), ``reading`` and
        ``caching`` the pictures, ``step``; ``wall`` seconds of the whole preparation; ``least``,
        what ``reading`` and ``caching`` take at least, from a hundred pictures; ``grown``: MiB that
        the process grew by while it read and cached; ``told``: how often progress was shown.
    """
    import psutil
    import torch

    from trainer.config.file import with_values
    from trainer.config.schema import TrainingConfig
    from trainer.memory.devices import choose_device
    from trainer.runs.layout import RunFolder
    from trainer.training.session import prepare
    from trainer.training.step import training_step

    torch.set_num_threads(1)
    values = {
        "base.name": str(place.parent / "base"),
        "images.path": str(place / "pictures"),
        "images.resolution": SIDE,
        "captions.trigger": TRIGGER,
        "captions.class_word": "cloud",
        "adapter.rank": 4,
        "training.batch_size": 2,
        "training.steps": STEPS,
        "preservation.method": "none",
        "evaluation.enabled": False,
    }
    process = psutil.Process()
    spent = {"other": 0.0, "reading": 0.0, "caching": 0.0}
    told = 0
    last, before, most = time.process_time(), 0, 0

    def progress(done: int, total: int, what: str) -> None:
        nonlocal told, last, before, most
        now = time.process_time()
        # What comes between the last picture read and the first one cached is the cache's check.
        spent["other" if what == "reading" and done == 1 else what] += now - last
        last = now
        told += 1
        if done % 50 == 0 or done <= 1:
            memory = process.memory_info().rss
            before = before or memory
            most = max(most, memory)

    wall = time.perf_counter()
    session = prepare(
        with_values(TrainingConfig(), values),
        RunFolder(place / "run"),
        choose_device("fp32"),
        lambda _: None,
        progress,
    )
    spent["other"] += time.process_time() - last
    wall = time.perf_counter() - wall

    training_step(session, lambda: False)
    started = time.process_time()
    for _ in range(STEPS - 1):
        training_step(session, lambda: False)
    step = (time.process_time() - started) / (STEPS - 1)

    return {
        **{name: round(seconds, 2) for name, seconds in spent.items()},
        "least": round(least_seconds(session), 2),
        "wall": round(wall, 1),
        "step": round(step, 4),
        "grown": round((most - before) / 2**20, 1),
        "told": told,
    }


def least_seconds(session: Session) -> float:
    """CPU seconds to decode each picture twice and to encode it, from a hundred of them."""
    from trainer.data.images import inspect_image, load_rgb
    from trainer.data.latents import encode_pixels
    from trainer.data.masks import fit

    some = session.pictures[:100]
    started = time.process_time()
    for picture in some:
        data = picture.entry.read()
        inspect_image(data)
        encode_pixels(session.base, fit(load_rgb(data), picture.crop, False))
    return (time.process_time() - started) / len(some) * len(session.pictures)


if __name__ == "__main__":
    main()
