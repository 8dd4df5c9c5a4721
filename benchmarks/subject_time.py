"""What a step of each arm costs, in CPU seconds of one thread, beside one of plain training.

    python -m benchmarks.subject_time --set FOLDER

All arms are trained in turns, four steps at a time, so that a busy machine slows all of them; the
first turns, which still compute what is remembered afterwards, are left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.subject import configuration
from trainer.memory.devices import choose_device
from trainer.runs.layout import RunFolder
from trainer.training.session import Session, prepare
from trainer.training.step import training_step

ARMS: dict[str, tuple[str, dict[str, object]]] = {
    "plain": ("plain", {}),
    "plain, the default's layers": ("plain", {"adapter.targets": "feed-forward"}),
    "default": ("default", {}),
    "default, preserving every second step": ("default", {"preservation.every": 2}),
    "default, attention alone": ("default", {"adapter.targets": "attention"}),
    "plain, without text encoder": ("plain", {"adapter.text_encoder": False}),
    "default, without text encoder": ("default", {"adapter.text_encoder": False}),
}
TURNS, LEFT_OUT, STEPS = 14, 2, 4


def main() -> None:
    """Prints milliseconds of a step, and the median share of plain training's in the same turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", type=Path, required=True, help="Of the subject cat.")
    images = parser.parse_args().set
    torch.set_num_threads(1)
    sessions: dict[str, Session] = {}
    for name, (arm, values) in ARMS.items():
        line = {"arm": arm, "set": "cat", "seed": 0, "values": values}
        run, device = RunFolder(Path(tempfile.mkdtemp())), choose_device("fp32")
        config = configuration(line, images)
        sessions[name] = prepare(config, run, device, lambda _: None, lambda *_: None)
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(TURNS):
        for name, session in sessions.items():
            started = time.process_time()
            for _ in range(STEPS):
                training_step(session, lambda: False)
            seconds[name].append((time.process_time() - started) / STEPS)
    plain = seconds["plain"][LEFT_OUT:]
    for name, found in seconds.items():
        shares = [one / other for one, other in zip(found[LEFT_OUT:], plain, strict=True)]
        each = 1000 * statistics.median(found[LEFT_OUT:])
        print(f"{name}: {each:.0f} ms, {statistics.median(shares):.2f}")


if __name__ == "__main__":
    main()
