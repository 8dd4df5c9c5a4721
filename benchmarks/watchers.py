"""Whether a run goes slower while people watch it.

    python -m benchmarks.watchers --clients 20

Starts the page and a run on the built-in base model, lets clients watch it in every second window
of time, and compares the seconds of a step. What the processes of the page and of the run take of
the processor is printed too: on a machine that is busy with other things, it says more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from gradio_client import Client

from tests.browser.serving import Server
from tests.browser.watchers import Watcher
from trainer.events import StepDone
from trainer.runs.log import read_events

SETTINGS = "\n".join(
    (
        "previews.every=0",
        "previews.count=1",
        "previews.inference_steps=2",
        "checkpoints.every=100",
        "training.steps=100000",
        "evaluation.enabled=false",
    )
)


@dataclass(frozen=True)
class Window:
    """What happened in some seconds; times in seconds of one processor core."""

    watched: bool
    seconds: float
    steps: int
    step_seconds: float
    step_cpu: float
    page_cpu: float
    answers: int


def main() -> None:
    """Prints each window, and the two kinds compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            server.start()
            windows = measure(server, options.clients, options.windows, options.seconds)
        finally:
            server.close()
    for kind in (False, True):
        own = [window for window in windows if window.watched == kind]
        print(
            f"{'watched by ' + str(options.clients) if kind else 'unwatched':14}"
            f" {median(w.step_seconds for w in own):.3f} s/step,"
            f" {median(w.step_cpu for w in own):.3f} CPU s/step,"
            f" page {sum(w.page_cpu for w in own) / sum(w.seconds for w in own):.3f} CPU s/s,"
            f" {sum(w.answers for w in own) / sum(w.seconds for w in own):.1f} answers/s"
        )


def measure(server: Server, clients: int, count: int, seconds: float) -> list[Window]:
    """Windows in turns, unwatched first, after the run has become even."""
    run = Client(server.url, verbose=False).predict(
        "police-car", "ohwx", "car", settings=SETTINGS, api_name="/start_training"
    )
    while server.status(run).step < 10:
        time.sleep(0.5)
    return [_window(server, run, clients * (at % 2), seconds) for at in range(count)]


def _window(server: Server, run: str, clients: int, seconds: float) -> Window:
    trains = psutil.Process(server.status(run).pid)
    watchers = [Watcher(server.url, rounds=10**6) for _ in range(clients)]
    for watcher in watchers:
        watcher.start()
    before, started = (_cpu(trains), _cpu(server.process)), time.time()
    time.sleep(seconds)
    ended, after = time.time(), (_cpu(trains), _cpu(server.process))
    for watcher in watchers:
        watcher.leave()
    for watcher in watchers:
        watcher.join()
        if watcher.fault:
            raise RuntimeError(watcher.fault)
    steps = [
        event.seconds
        for event in read_events(server.run(run))
        if isinstance(event, StepDone) and started <= event.time <= ended
    ]
    window = Window(
        watched=clients > 0,
        seconds=ended - started,
        steps=len(steps),
        step_seconds=median(steps),
        step_cpu=(after[0] - before[0]) / len(steps),
        page_cpu=after[1] - before[1],
        answers=sum(len(watcher.answers) for watcher in watchers),
    )
    print(window, flush=True)
    return window


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
