"""The line that says whether a training fits the card, as ``fit`` predicts it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from app import client as service
from app.shared import escape
from app.tabs.train.forms import Shown, label_of, read_form
from trainer.config.fields import all_fields, get_value, shown
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError

NOT_YET = '<p class="quiet">Memory: not predicted yet.</p>'
_TIMEOUT = 120.0  # seconds; a large model takes about 20
_KEPT = 64

_known: OrderedDict[str, str] = OrderedDict()
_lock = threading.Lock()


def line(*values: Shown) -> str:
    """The prediction for what the form shows, as HTML; the quiet line where there is none."""
    try:
        config = read_form(values)
    except UserError:
        return NOT_YET
    key = _key(config)
    with _lock:
        if key in _known:
            return _known[key]
    try:
        value = service.call("fit", {"config": config.model_dump(mode="json")}, _TIMEOUT)
        said = describe(value)
    except (UserError, TypeError, ValueError, KeyError, AttributeError):
        return NOT_YET
    with _lock:
        _known[key] = said
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    return said


def _key(config: TrainingConfig) -> str:
    """The fields that memory depends on: a change of others asks for no new prediction."""
    values = {name: get_value(config, name) for name, field in all_fields().items() if field.memory}
    return repr((values, len(config.concepts)))


def describe(value: Any) -> str:
    """A prediction in one line.

    Args:
        value: what ``fit --json`` prints: peak_gib, parts, fits, plan, plan_fits, vram_gib and
            vram_source.
    """
    need = f"{float(value['peak_gib']):.1f}"
    card = f"{float(value['vram_gib']):.0f} GiB"
    plan = _way_out(value.get("plan") if value.get("plan_fits", True) else None)
    if value.get("vram_source") != "the GPU of this machine":
        fits = "would fit" if value["fits"] else "would not fit"
        more = "" if value["fits"] else f" {plan}"
        return (
            f'<p class="quiet">There is no GPU here, so the processor trains. On one it would need '
            f"about {need} GiB, as predicted, and {fits} a card with {card}.{more}</p>"
        )
    if value["fits"]:
        return f'<p class="fits">Fits your card: about {need} of {card}, as predicted.</p>'
    return (
        f'<p class="fits not">Does not fit your card: about {need} of {card}, as predicted. '
        f"{plan}</p>"
    )


def _way_out(plan: object) -> str:
    if not isinstance(plan, dict) or not plan:
        return "Choose a lower resolution or a smaller batch."
    changes = ", ".join(f"{label_of(str(name))} {shown(value)}" for name, value in plan.items())
    return f"It would with: {escape(changes)}."
