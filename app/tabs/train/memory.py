"""The line that says whether a training fits the card, as ``fit`` predicts it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from app import client
from app.allowed import check_base
from app.forms import Shown, label_of, read_form
from app.render import quiet, render
from trainer.config.concepts import concepts_of
from trainer.config.fields import all_fields, get_value, shown
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError

NOT_YET = quiet("Memory: not predicted yet.")
_TIMEOUT = 120.0  # seconds; a large model takes about 20


class _Asked:
    """A configuration, equal to all others that need the same memory."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        fields = (field.name for field in all_fields().values() if field.memory)
        places = [concept.path for concept in concepts_of(config)]  # their captions count
        self._key = repr(([get_value(config, name) for name in fields], places))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def line(*values: Shown) -> str:
    """The prediction for what the form shows, as HTML; the quiet line where there is none."""
    try:
        config = read_form(values)
        check_base(config.base.name)
        return _predicted(_Asked(config))
    except UserError:
        return NOT_YET


@lru_cache(maxsize=64)
def _predicted(asked: _Asked) -> str:
    config = asked.config.model_dump(mode="json")
    return describe(client.call("fit", {"config": config}, _TIMEOUT))


def describe(value: dict[str, Any]) -> str:
    """A prediction in one line.

    Args:
        value: what ``fit --json`` prints.
    """
    plan = value["plan"] if value["plan_fits"] else {}
    changes = [f"{label_of(name)} {shown(setting)}" for name, setting in plan.items()]
    return render("train.html", "memory", value, changes)
