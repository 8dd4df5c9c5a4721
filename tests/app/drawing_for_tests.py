"""A machine with runs, adapters and pictures, and a worker that draws without a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app import client as service
from trainer import places
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.runs.layout import RunFolder, prepare


class Machine:
    """Folders of its own, and what the worker was asked.

    Attributes:
        asked: (verb, arguments) of each call.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.before: Callable[[int], None] = lambda number: None
        for name in ("RUNS", "ADAPTERS", "PICTURES"):
            monkeypatch.setattr(places, name, root / name.lower())
        monkeypatch.setattr(service, "call", self._call)

    def run(self, name: str, trigger: str = "ohwx", steps: tuple[int, ...] = ()) -> RunFolder:
        """A finished run."""
        run = prepare(RunFolder(places.RUNS / name))
        values = {"captions.trigger": trigger, "captions.class_word": "car"}
        write_config(run.config, with_values(TrainingConfig(), values))
        run.adapter.write_bytes(b"an adapter")
        for step in steps:
            run.checkpoint(step).mkdir(exist_ok=True)
        return run

    def file(self, name: str) -> Path:
        """An adapter file that somebody brought."""
        places.ADAPTERS.mkdir(parents=True, exist_ok=True)
        path = places.ADAPTERS / name
        path.write_bytes(b"an adapter")
        return path

    def _call(self, verb: str, arguments: dict[str, Any], *_: Any) -> dict[str, Any]:
        self.asked.append((verb, arguments))
        self.before(len(self.asked))
        if verb == "adapter.inspect":
            return {"trigger_words": [Path(arguments["file"]).stem]}
        files: list[str] = []
        for number in range(arguments["count"]):
            path = Path(arguments["out"]) / f"{len(self.asked):03d}-{number}.png"
            Image.new("RGB", (8, 8), (len(self.asked), number, 0)).save(path)
            files.append(str(path))
        return {"files": files}

    def forget_pictures(self) -> None:
        """As if somebody had cleared the folder."""
        shutil.rmtree(places.PICTURES, ignore_errors=True)
