"""What the tabs have in common: the state they pass to each other, and how they say things."""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from pydantic import ConfigDict, ValidationError, validate_call

from app.render import plain
from trainer.errors import UserError

logger = logging.getLogger("rarebit")

TABS = {
    "images": "Images",
    "train": "Train",
    "runs": "Runs",
    "generate": "Generate",
    "adapters": "Adapters",
}
"""The tabs by id, in their order, with what they are called."""

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
"""Options of an event that scripts are not promised."""
QUIET: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "show_progress_on": []}
"""Of one that also shows no progress. With nothing to show it on, gradio 6.31 does not tell each
output, three times an event and after a search through all components, that nothing is shown."""
NOW: dict[str, Any] = {**QUIET, "queue": False}
"""Of a quiet one that waits for no other."""
LAST: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
"""Of a quiet one that comes faster than it is answered: the last of several counts."""


def update(**properties: object) -> str:
    """The script of an event that changes its output without asking the server.

    A server's answer can come late, and then undo what was opened meanwhile.
    """
    return f"() => ({json.dumps({**properties, '__type__': 'update'})})"


HIDE = update(visible=False)

REMEMBERED: dict[str, Any] = {"train": {}, "generate": [], "pictures": []}
"""What a browser keeps, with its first value: the two forms, and the names of drawn pictures."""

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Shared:
    """What is chosen in this browser. A tab follows the others through ``shared.trigger.change``.

    Attributes:
        page: the whole page, for ``page.load``.
        tabs: the row of tabs; `go` gives an update that selects one.
        rooms: each tab by id, for ``rooms["runs"].select``.
        training: how far the run that trains is, for scripts; it changes as that does.
        image_set: id of the chosen image set, a folder's name in ``datasets/``; "" for none.
        trigger: the trigger word.
        class_word: the class word.
        base: the base model, as ``base.name`` takes it.
        run: name of the run to show in Runs; set it together with ``tabs`` to go there.
        adapter: an adapter to draw with: a run's name, or the id of an adapter file; ``:0.8``
            after it is the strength.
        settings: (TOML text of a whole configuration, time) to fill the form in Train with.
        preview_prompt: (a prompt, time) to add to those of the previews in Train.
        remembered: what a browser keeps over a reload, by `REMEMBERED`. Outside of the tabs: what
            lies in one is read only once somebody has looked into it.
    """

    page: gr.Blocks
    tabs: gr.Tabs
    rooms: dict[str, gr.Tab]
    training: gr.HTML
    image_set: gr.State
    trigger: gr.State
    class_word: gr.State
    base: gr.State
    run: gr.State
    adapter: gr.State
    settings: gr.State
    preview_prompt: gr.State
    remembered: dict[str, gr.BrowserState]


def go(tab: str) -> gr.Tabs:
    """An update of `Shared.tabs` that selects a tab."""
    return gr.Tabs(selected=tab)


def elem(tab: str, thing: str) -> str:
    """The element id of a component, such as ``train-start``: what tests and scripts look for."""
    return f"{tab}-{thing}"


def says_errors(handler: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """A handler whose errors become messages: a `UserError`'s own words, or one calm sentence.

    What is a defect is written to the terminal, never to the page.
    """

    @functools.wraps(handler)
    def wrapped(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        try:
            return handler(*args, **kwargs)
        except UserError as error:
            title = "That did not work"
            raise gr.Error(str(plain(error)), 20, title=title, print_exception=False) from None
        except gr.Error:
            raise
        except Exception:
            logger.exception("in %s", handler.__qualname__)
            raise gr.Error(
                "This is a fault of Rarebit's. Nothing of yours was changed; the terminal that "
                "Rarebit runs in says more.",
                title="Something went wrong",
                print_exception=False,
            ) from None

    return wrapped


def for_scripts(handler: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """A handler of the API, whose callers may send anything: errors become plain texts.

    Arguments of other types than the handler's are refused by name.
    """
    checked = validate_call(config=ConfigDict(strict=True))(handler)

    @functools.wraps(handler)
    def wrapped(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        try:
            return checked(*args, **kwargs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except ValidationError as error:
            if error.title != handler.__name__:
                raise
            names = list(inspect.signature(handler).parameters)
            wrong = [(one["loc"][0], one["msg"]) for one in error.errors()]
            said = [f"{names[n] if isinstance(n, int) else n}: {what}" for n, what in wrong]
            raise gr.Error("; ".join(said), print_exception=False) from None

    return says_errors(wrapped)
