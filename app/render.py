"""HTML of the page, from the templates in app/templates/: every text in it is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from trainer.data.names import display_name
from trainer.errors import UserError

_TEMPLATES = Path(__file__).with_name("templates")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": _visible, "cut": _cut, "counted": _counted}
    return environment


def render(template: str, macro: str, *values: object) -> str:
    """What a macro of a template makes of some values.

    Filters of our own: ``visible`` shows invisible characters of a stranger's text, ``cut`` keeps
    the first 300 characters (or another number), and ``counted`` gives "1 picture", "2 pictures".
    """
    # A plain str: what jinja2 gives is marked as HTML, and would escape what is joined to it.
    return str(getattr(_environment().get_template(template).module, macro)(*values)).strip()


def refused(error: UserError) -> str:
    """What could not be done, and the way out."""
    return render("refused.html", "refused", error)


def _visible(text: object) -> str:
    return display_name(str(text))


def _cut(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
