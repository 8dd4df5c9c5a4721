"""The components of the Runs tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.forms import label_of
from app.kit import Kit
from app.tabs.runs.publishing import PublishParts

LISTED = 100
BUTTONS = {
    "next": "next-step",
    "stop": "stop", "pause": "pause", "preview": "draw-now", "prompts": "prompts",
    "resume": "resume", "anyway": "resume-anyway", "longer": "longer", "draw": "generate",
    "again": "settings", "publish": "publish", "delete": "delete",
}  # fmt: skip
"""What can be done with a run, and the button's element id without the tab's name."""

add = Kit("runs")


class RunParts:
    """The tab's components, put in where it is made.

    Attributes:
        areas: what shows HTML, by the names of `app.tabs.runs.tab.moment`.
        buttons: by the names of `BUTTONS`.
    """

    def __init__(self) -> None:
        self.areas: dict[str, gr.HTML] = {}
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=240):
                self.search = add.text(
                    "search", "Find a run", placeholder="part of its name", max_length=100,
                    visible=False,
                )  # fmt: skip
                self.names = add.radio("list", "Runs, the newest first", [])
                self.older = add.button("older", visible=False, size="sm")
            with gr.Column(scale=4, min_width=340):
                self._add_areas("head")
                few: dict[str, Any] = {"visible": False, "scale": 0, "min_width": 150}
                made = add.row(dict.fromkeys(BUTTONS.values(), ""), **few)
                self.buttons = dict(zip(BUTTONS, made, strict=True))
                self._lay_out_questions()
                self.publishing = PublishParts()
                self._add_areas("verdict", "board", "meters")
                with gr.Row(equal_height=False):
                    with gr.Column(min_width=320):
                        self._add_areas("chart")
                    with gr.Column(min_width=320):
                        self._add_areas("log")
        self.seen, self.listed = gr.State({}), gr.State(LISTED)

    def _lay_out_questions(self) -> None:
        with add.question("question", "delete", "Delete it", "Keep it", "stop") as self.deletion:
            self.asked = add.html("asked")
        with add.question("length", "longer", "Train on") as self.length:
            self.steps = add.number(
                "steps", "Steps in all", "It goes on where it ended.", precision=0, minimum=1
            )
        with add.question("others", "others", "Draw these from now on") as self.others:
            self.prompts = add.text(
                "other-prompts", label_of("previews.prompts"),
                "{trigger} and {class} are replaced. Empty: as at first.",
                lines=3, max_length=10_000,
            )  # fmt: skip
            self.count = add.number("other-count", label_of("previews.count"), precision=0)

    @property
    def watched(self) -> dict[str, Any]:
        """What the timer keeps true, by the names of `app.tabs.runs.tab.moment`."""
        lists = {"search": self.search, "names": self.names, "older": self.older}
        return {**lists, **self.areas, **self.buttons}

    def _add_areas(self, *names: str) -> None:
        self.areas |= {name: add.html(name) for name in names}
