"""What the tabs are laid out with: components with their element ids, and questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from app.shared import HIDE, QUIET, elem

Part = TypeVar("Part")
Choices = Sequence[str | tuple[str, str]]
"""Of a list: values, or labels with their values."""
Span = tuple[float, float, float]
"""The least, the most, and the step between two."""
Info = str | None


class Kit:
    """Makes the components of a tab; what comes first is the element's id without the tab's name.

    Called, it makes a component of any other kind.
    """

    def __init__(self, tab: str) -> None:
        self._tab = tab

    def __call__(self, make: Callable[..., Part], thing: str, *args: Any, **options: Any) -> Part:
        return make(*args, elem_id=elem(self._tab, thing), **options)

    def html(self, thing: str, value: str | None = None, **options: Any) -> gr.HTML:
        return self(gr.HTML, thing, value, **options)

    def button(self, thing: str, label: str = "", **options: Any) -> gr.Button:
        return self(gr.Button, thing, label, **options)

    def row(self, labels: Mapping[str, str], bright: str = "", **options: Any) -> list[gr.Button]:
        """Small buttons beside each other, by their ids; `bright` is what is usually pressed."""
        common: dict[str, Any] = {"size": "sm", "min_width": 90, **options}
        with gr.Row():
            return [
                self.button(
                    thing, label, variant="primary" if thing == bright else "secondary", **common
                )
                for thing, label in labels.items()
            ]

    def text(
        self, thing: str, label: str, info: Info = None, value: str = "", **options: Any
    ) -> gr.Textbox:
        return self(gr.Textbox, thing, value, label=label, info=info, **options)

    def number(self, thing: str, label: str, info: Info = None, **options: Any) -> gr.Number:
        return self(gr.Number, thing, label=label, info=info, **options)

    def slider(
        self, thing: str, label: str, span: Span, value: float, info: Info = None, **options: Any
    ) -> gr.Slider:
        least, most, step = span
        common = {"step": step, "label": label, "info": info, **options}
        return self(gr.Slider, thing, least, most, value, **common)

    def check(self, thing: str, label: str, value: bool = False, **options: Any) -> gr.Checkbox:
        return self(gr.Checkbox, thing, value, label=label, **options)

    def radio(
        self, thing: str, label: str, of: Choices, value: Any = None, info: Info = None, **more: Any
    ) -> gr.Radio:
        return self(gr.Radio, thing, of, value=value, label=label, info=info, **more)

    def choice(
        self, thing: str, label: str, of: Choices, value: Any = None, info: Info = None, **more: Any
    ) -> gr.Dropdown:
        return self(gr.Dropdown, thing, of, value=value, label=label, info=info, **more)

    def fold(self, thing: str, title: str, open: bool = False, **options: Any) -> gr.Accordion:
        return self(gr.Accordion, thing, title, open=open, **options)

    @contextmanager
    def question(
        self, group: str, thing: str, yes: str, no: str = "Cancel", variant: str = "primary"
    ) -> Iterator[Confirmation]:
        """A hidden group to fill with what is asked; its buttons come below.

        Args:
            group, thing: ids of the group, and of what is done; that of the buttons is
                ``thing-yes`` and ``thing-no``.
        """
        small = {"size": "sm", "min_width": 90}
        with self(gr.Group, group, visible=False) as shown:
            asked = Confirmation(shown)
            yield asked
            with gr.Row():
                asked.yes = self.button(f"{thing}-yes", yes, variant=variant, **small)
                asked.no = self.button(f"{thing}-no", no, **small)
        asked.close(asked.no.click)


@dataclass
class Confirmation:
    """What is asked before something is done: the group, what does it, and what leaves it."""

    group: gr.Group
    yes: gr.Button = None  # type: ignore[assignment]
    no: gr.Button = None  # type: ignore[assignment]

    def close(self, event: Callable[..., Any]) -> None:
        """Lets an event close it, in the browser alone: see `app.shared.update`."""
        event(None, None, self.group, js=HIDE, **QUIET)
