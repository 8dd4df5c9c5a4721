"""Small image sets and runs for tests of training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.evaluation import assessment, board, drift, listening, meters, pictorial
from trainer.evaluation.drift import ProbeSettings
from trainer.events import RunEvent
from trainer.memory.devices import choose_device
from trainer.runs.layout import RunFolder
from trainer.training.runner import Result, run_training
from trainer.training.session import Session, prepare


def make_images(folder: Path, count: int = 4, side: int = 32, captions: bool = True) -> Path:
    """A folder of random pictures, some of them wide, with captions that lack the trigger."""
    folder.mkdir(parents=True, exist_ok=True)
    source = np.random.default_rng(7)
    for number in range(count):
        width = side * 2 if number % 3 == 2 else side
        pixels = source.integers(0, 256, (side, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        if captions:
            (folder / f"{number}.txt").write_text(f"picture {number}, of a thing, red, blue")
    return folder


SMALL: dict[str, Any] = {
    "captions.trigger": "ohwx",
    "captions.class_word": "thing",
    "images.resolution": 32,
    "training.steps": 4,
    "training.batch_size": 2,
    "adapter.rank": 2,
    "optimizer.learning_rate": 1e-2,
    "optimizer.text_encoder_learning_rate": 1e-2,
    "optimizer.warmup": 0.0,
    "preservation.pictures": 2,
    "previews.every": 0,
    "previews.count": 1,
    "previews.inference_steps": 2,
    "checkpoints.every": 0,
    "evaluation.enabled": False,
    "output.precision": "fp32",
}


AVERAGING: list[dict[str, Any]] = [
    {"training__ema_decay": 0.5},
    {"optimizer__name": "adamw_schedule_free"},
]
"""Ways in which what is drawn, measured and exported differs from what trains, or does not."""


def small_config(base: Path, images: Path, **changes: Any) -> TrainingConfig:
    """A configuration that trains in a second; changes by dotted name with "__" for the dot."""
    values = {**SMALL, "base.name": str(base), "images.path": str(images)}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return with_values(TrainingConfig(), values)


def measure_quickly(patch: pytest.MonkeyPatch) -> None:
    """From now on all that is measured is, but on fewer pictures, by drawings of one step."""
    settings = ProbeSettings(timesteps=1, inference_steps=1)
    patch.setattr(drift, "ProbeSettings", lambda **_: settings)
    for drawing in (board, pictorial, listening):
        patch.setattr(drawing, "HOW", (1, 4.0))
    patch.setattr(pictorial, "_DRAWN", 2)
    patch.setattr(listening, "SEEDS", listening.SEEDS[:1])
    patch.setattr(assessment, "COMPARED", 2)
    patch.setattr(meters, "PICTURES", 2)


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs after it."""


def never() -> bool:
    """Nobody asks the run to stop."""
    return False


def session_for(base: Path, images: Path, run: Path, **changes: Any) -> Session:
    """A prepared session of `small_config`, into a folder that need not exist."""
    run.mkdir(parents=True, exist_ok=True)
    config = small_config(base, images, **changes)
    device = choose_device(config.training.precision)
    return prepare(config, RunFolder(run), device, print, lambda *_: None)


class Collected:
    """A listener that keeps all events."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def __call__(self, event: RunEvent) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def train_small(
    config: TrainingConfig, run: Path, *, resume: bool = False, accept_changes: bool = False
) -> tuple[Result, Collected]:
    """Train into a folder."""
    collected = Collected()
    result = run_training(
        config, RunFolder(run), collected, resume=resume, accept_changes=accept_changes
    )
    return result, collected


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
