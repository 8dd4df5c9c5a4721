"""The line that says whether a training fits the card, as ``fit`` predicts it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from app import service
from app.forms import Shown, read_form
from app.shared import escape
from trainer.config import TrainingConfig
from trainer.errors import UserError
from trainer.places import PROJECT

NOT_YET = '<p class="quiet">Memory: not predicted yet.</p>'
_TIMEOUT = 120.0  # seconds; a large model takes about 20
_KEPT = 64
# What changes nothing about memory; a change of it asks for no new prediction.
_NO_MATTER = ("captions", "previews", "checkpoints", "output", "objective")

_PREDICTS = (PROJECT / "trainer" / "memory").is_dir()

_known: OrderedDict[str, str] = OrderedDict()
_lock = threading.Lock()


def line(*shown: Shown) -> str:
    """The prediction for what the form shows, as HTML; the quiet line where there is none."""
    if not _PREDICTS:
        return NOT_YET
    try:
        config = read_form(shown)
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
    return config.model_dump_json(exclude=dict.fromkeys(_NO_MATTER, True))


def describe(value: Any) -> str:
    """A prediction in one line.

    Args:
        value: what ``fit --json`` prints: peak_gib, parts, fits, plan and, where the card is
            known, vram_gib.
    """
    peak = float(value["peak_gib"])
    card = value.get("vram_gib")
    need = f"about {peak:.1f} GiB" if peak < 99.95 else f"about {peak:.0f} GiB"
    if not isinstance(card, (int, float)) or isinstance(card, bool):
        return f'<p class="quiet">Needs {need} of memory, as predicted.</p>'
    if value.get("fits"):
        return f'<p class="fits">Fits your card: needs {need} of {card:.1f}, as predicted.</p>'
    return (
        f'<p class="fits not">Does not fit your card: needs {need} of {card:.1f}, as predicted. '
        f"{_way_out(value.get('plan') if value.get('plan_fits', True) else None)}</p>"
    )


def _way_out(plan: object) -> str:
    if not isinstance(plan, dict) or not plan:
        return "Choose a lower resolution or a smaller batch."
    changes = ", ".join(f"{name} = {value}" for name, value in plan.items())
    return f"It would with: {escape(changes)}."
