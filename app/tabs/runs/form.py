"""The components of the Runs tab."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from app.forms import label_of
from app.shared import elem
from app.tabs.runs.publishing import PublishParts

LISTED = 100
BUTTONS = {
    "next": "next-step",
    "stop": "stop", "pause": "pause", "preview": "draw-now", "prompts": "prompts",
    "resume": "resume", "anyway": "resume-anyway", "longer": "longer", "draw": "generate",
    "again": "settings", "publish": "publish", "delete": "delete",
}  # fmt: skip
"""What can be done with a run, and the button's element id without the tab's name."""

_id = partial(elem, "runs")


class RunParts:
    """The tab's components, put in where it is made.

    Attributes:
        areas: what shows HTML, by the names of `app.tabs.runs.tab.moment`.
        buttons: by the names of `BUTTONS`.
    """

    def __init__(self) -> None:
        self.areas: dict[str, gr.HTML] = {}
        self.buttons: dict[str, gr.Button] = {}
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=240):
                self.search = gr.Textbox(
                    label="Find a run", placeholder="part of its name", elem_id=_id("search"),
                    max_length=100, visible=False,
                )  # fmt: skip
                self.names = gr.Radio([], label="Runs, the newest first", elem_id=_id("list"))
                self.older = gr.Button(visible=False, size="sm", elem_id=_id("older"))
            with gr.Column(scale=4, min_width=340):
                self._add_area("head")
                with gr.Row():
                    for name in BUTTONS:
                        self._add_button(name)
                with gr.Group(visible=False, elem_id=_id("question")) as self.question:
                    self.asked = gr.HTML(elem_id=_id("asked"))
                    with gr.Row():
                        self.yes = gr.Button(
                            "Delete it", variant="stop", size="sm", elem_id=_id("delete-yes")
                        )
                        self.no = gr.Button("Keep it", size="sm", elem_id=_id("delete-no"))
                with gr.Group(visible=False, elem_id=_id("length")) as self.length:
                    self.steps = gr.Number(
                        label="Steps in all", precision=0, minimum=1, elem_id=_id("steps"),
                        info="It goes on where it ended.",
                    )  # fmt: skip
                    with gr.Row():
                        self.more = gr.Button(
                            "Train on", variant="primary", size="sm", elem_id=_id("longer-yes")
                        )
                        self.enough = gr.Button("Cancel", size="sm", elem_id=_id("longer-no"))
                with gr.Group(visible=False, elem_id=_id("others")) as self.others:
                    self.prompts = gr.Textbox(
                        label=label_of("previews.prompts"), lines=3, max_length=10_000,
                        info="{trigger} and {class} are replaced. Empty: as at first.",
                        elem_id=_id("other-prompts"),
                    )  # fmt: skip
                    self.count = gr.Number(
                        label=label_of("previews.count"), precision=0, elem_id=_id("other-count")
                    )
                    with gr.Row():
                        self.use = gr.Button(
                            "Draw these from now on", variant="primary", size="sm",
                            elem_id=_id("others-yes"),
                        )  # fmt: skip
                        self.keep = gr.Button("Cancel", size="sm", elem_id=_id("others-no"))
                self.publishing = PublishParts()
                self._add_area("verdict")
                self._add_area("board")
                self._add_area("meters")
                with gr.Row(equal_height=False):
                    with gr.Column(min_width=320):
                        self._add_area("chart")
                    with gr.Column(min_width=320):
                        self._add_area("log")
        self.seen, self.listed = gr.State({}), gr.State(LISTED)

    @property
    def watched(self) -> dict[str, Any]:
        """What the timer keeps true, by the names of `app.tabs.runs.tab.moment`."""
        lists = {"search": self.search, "names": self.names, "older": self.older}
        return {**lists, **self.areas, **self.buttons}

    def _add_area(self, name: str) -> None:
        self.areas[name] = gr.HTML(elem_id=_id(name))

    def _add_button(self, name: str) -> None:
        self.buttons[name] = gr.Button(
            visible=False, size="sm", elem_id=_id(BUTTONS[name]), scale=0, min_width=150,
        )  # fmt: skip
