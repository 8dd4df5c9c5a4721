"""The line that says whether a training fits the card."""

from __future__ import annotations

from app.forms import Shown

NOT_YET = '<p class="quiet">Memory: not predicted yet.</p>'


def line(*shown: Shown) -> str:
    """The prediction for what the form shows, as HTML."""
    return NOT_YET
