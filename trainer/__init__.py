"""Rarebit's library: everything that works without a browser; docs/python.md shows it at work.

The names below are loaded when they are first used: ``import trainer`` loads nothing heavy and
changes nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from trainer.api import evaluate, generate, judge_trigger, resume, train
    from trainer.config.schema import TrainingConfig
    from trainer.lora.reading import read_adapter
    from trainer.models.load import load_base

_PLACES = {
    "TrainingConfig": "trainer.config.schema",
    "load_base": "trainer.models.load",
    "read_adapter": "trainer.lora.reading",
    **dict.fromkeys(("evaluate", "generate", "judge_trigger", "resume", "train"), "trainer.api"),
}

__all__ = [
    "TrainingConfig",
    "__version__",
    "evaluate",
    "generate",
    "judge_trigger",
    "load_base",
    "read_adapter",
    "resume",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
