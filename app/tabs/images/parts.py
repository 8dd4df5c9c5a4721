"""How the Images tab makes its components and its HTML."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from app.render import render
from app.shared import elem

Part = TypeVar("Part")

html = partial(render, "images.html")
"""The HTML that a macro of the tab's template makes of some values."""


def part(make: Callable[..., Part], thing: str, *args: Any, **options: Any) -> Part:
    """A component of this tab, with its element id."""
    return make(*args, elem_id=elem("images", thing), **options)
