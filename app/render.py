"""HTML of the page, from the templates in app/templates/.

Every text that a template is given is escaped, and its invisible characters are shown.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.runs.report import templates_in
from trainer.text import counted

_TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, macro: str, *values: object, **named: object) -> str:
    """What a macro of a template makes of some values.

    Filters of our own: ``lines`` keeps the line breaks of a message, ``cut`` keeps the first 300
    characters (or another number), and ``counted`` gives "1 picture", "2 pictures".
    """
    # A plain str: what jinja2 gives is marked as HTML, and would escape what is joined to it.
    found = getattr(_environment().get_template(template).module, macro)
    return str(found(*values, **named)).strip()


def quiet(text: str) -> str:
    return render("page.html", "quiet", text)


def refused(error: UserError) -> str:
    """What could not be done, and the way out."""
    return render("page.html", "refused", error)


def plain(error: UserError) -> Markup:
    """What is wrong and the way out, as HTML without a frame."""
    return _lines(f"{error.message}\n{error.hint}".strip())


def cut(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@cache
def _environment() -> jinja2.Environment:
    environment = templates_in(_TEMPLATES, finalize=_visible)
    environment.filters |= {"lines": _lines, "visible": _visible, "cut": cut, "counted": counted}
    return environment


def _visible(value: object) -> object:
    is_html = hasattr(value, "__html__")
    return escape(display_name(value)) if isinstance(value, str) and not is_html else value


def _lines(text: str) -> Markup:
    """A message with its line breaks: the names in it have been made visible already."""
    return Markup("<br>").join(text.splitlines())
