"""The components of the Train tab: what an artist is asked in front, everything folded behind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from app.forms import (
    CONCEPTS,
    Shown,
    field_names,
    form_values,
    make_component,
    read_form,
    without_sources,
)
from app.render import quiet
from app.shared import elem
from app.tabs.images.imagesets import set_choices
from app.tabs.train import outlook
from trainer.config.fields import all_fields, sections
from trainer.config.file import with_values
from trainer.config.presets import FIRST_ANSWERS, PRESETS, QUESTIONS, answered
from trainer.config.schema import TrainingConfig

SINGLE: tuple[str, ...] = ("images.path", "captions.trigger", "captions.class_word")
"""The fields of the one subject; with several, `CONCEPTS` counts in their place."""
IN_FRONT: tuple[str, ...] = ("base.name", *SINGLE)
_id = partial(elem, "train")


class TrainForm:
    """The tab's components, put in where it is made.

    Attributes:
        fields: by the field's name; `CONCEPTS` is among them.
        answers: by the names of `QUESTIONS`.
        one, several: what is shown for one subject, and for several.
    """

    def __init__(self, remembered: gr.BrowserState) -> None:
        self.remembered = remembered
        self.names = field_names()
        first = with_values(TrainingConfig(), answered(FIRST_ANSWERS))
        self._first = dict(zip(self.names, form_values(first), strict=True))
        self.fields: dict[str, Component] = {}
        self.folds: dict[str, gr.Accordion] = {}
        self.answers: dict[str, gr.Radio] = {}
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self._lay_out_choices()
            with gr.Column(scale=2, min_width=300):
                self.summary = gr.HTML(elem_id=_id("summary"))
                self.memory = gr.HTML(outlook.NO_MEMORY_LINE, elem_id=_id("memory"))
                self.remark = gr.HTML(elem_id=_id("remark"))
                self.start = gr.Button("Start training", elem_id=_id("start"))
                self.queue = gr.Button(
                    "Queue behind the one that trains", visible=False, elem_id=_id("queue")
                )
        with gr.Accordion("Everything else", open=False, elem_id=_id("more")) as self.everything:
            self._lay_out_files()
            # page.js shows the settings that hold what is typed.
            gr.Textbox(
                label="Find a setting", placeholder="words of its name or explanation",
                max_length=100, elem_id=_id("find"),
            )  # fmt: skip
            for section in sections():
                self._lay_out_section(section)
            gr.HTML(quiet("No setting has that in its name or explanation."), elem_id=_id("none"))
        self.text, self.shown_wrong = gr.Textbox(visible=False), gr.State({})

    @property
    def components(self) -> list[Component]:
        """All fields in the order of the configuration."""
        return [self.fields[name] for name in self.names]

    @property
    def values(self) -> list[Component]:
        """The fields and the answers: `read` makes a configuration of what they show."""
        return [*self.components, *self.answers.values()]

    @property
    def folded(self) -> list[gr.Accordion]:
        return [self.everything, *dict.fromkeys(self.folds.values())]

    @property
    def outputs(self) -> list[Any]:
        """What is told of every change: see `app.tabs.train.tab`."""
        return [
            self.summary,
            self.start,
            self.queue,
            *self.folded,
            *self.components,
            self.shown_wrong,
        ]

    @property
    def filled(self) -> list[Any]:
        """What is filled as a whole, by a file, a run, or what this browser remembers."""
        return [*self.values, self.preset, self.text]

    def counted(self, values: Sequence[Shown]) -> list[Shown]:
        """Of what `values` show the fields alone; what is hidden of the subjects counts as empty.

        It stays in its fields, for whoever changes the answer back.
        """
        shown = dict(zip(self.names, values, strict=False))
        chosen = dict(zip(self.answers, values[len(self.names) :], strict=True))
        hidden = SINGLE if chosen["kind"] == "several" else (CONCEPTS,)
        return [*(shown | dict.fromkeys(hidden, "")).values()]

    def read(self, *values: Shown) -> TrainingConfig:
        """The configuration that `values` show.

        Raises:
            ConfigError: with all mistakes.
        """
        return read_form(self.counted(values))

    def _add(self, name: str) -> None:
        self.fields[name] = make_component(name, self._first[name])

    def _lay_out_choices(self) -> None:
        with gr.Group():
            self._add("base.name")
            self._ask("kind")
            with gr.Column(elem_id=_id("one")) as self.one:
                images, *words = SINGLE
                self._add(images)
                with gr.Row():
                    for name in words:
                        self._add(name)
            with gr.Column(visible=False, elem_id=_id("several")) as self.several:
                with gr.Row(equal_height=True):
                    self.one_more = gr.Dropdown(
                        set_choices(), value=None, label="One more image set", scale=3,
                        info="Its words come with it, as they were chosen in Images.",
                        elem_id=_id("one-more"),
                    )  # fmt: skip
                    self.add_one = gr.Button("Add it", elem_id=_id("add-one"), min_width=100)
                self._add(CONCEPTS)
        self._ask("length")
        self._ask("hold")

    def _ask(self, key: str) -> None:
        choices: list[tuple[str, str | int | float]] = []
        for answer, title in QUESTIONS[key].answers.items():
            steps = answered({key: answer})["training.steps"] if key == "length" else ""
            choices.append((f"{title} · {steps:,} steps" if steps else title, answer))
        self.answers[key] = gr.Radio(
            choices, value=FIRST_ANSWERS[key], label=QUESTIONS[key].title, elem_id=_id(key)
        )

    def _lay_out_files(self) -> None:
        """Where settings come from, and where they can go."""
        presets = [(f"{one.name}: {one.reason}", one.name) for one in PRESETS.values()]
        with gr.Row(equal_height=False):
            self.preset = gr.Dropdown(
                [("none", ""), *presets], value="", label="Preset", elem_id=_id("preset"), scale=3,
                info="Sets some fields and leaves the others as they are.",
            )  # fmt: skip
            self.load = gr.UploadButton(
                "Load settings", file_types=[".toml", ".json", ".yaml", ".yml"], type="binary",
                file_count="multiple", elem_id=_id("load"), min_width=150, size="md",
            )  # fmt: skip
            self.save = gr.Button("Save settings", elem_id=_id("save"), min_width=150, size="md")
        with gr.Row(equal_height=True):
            self.search = gr.Button(
                "Search for settings", elem_id=_id("search"), min_width=200, scale=0, size="md"
            )
            gr.HTML(
                quiet(
                    "Trains this set several times for a while, with other learning rates, ranks, "
                    "layers, lengths and weights, and says which draw it best. It takes at most "
                    "six times the work of one run, and shows in Runs like one."
                )
            )
        self.moved = gr.HTML(elem_id=_id("moved"))

    def _lay_out_section(self, section: str) -> None:
        """A folded part."""
        names = [field.name for field in all_fields().values() if field.section == section]
        names = [name for name in names if name not in IN_FRONT]
        if not names:
            return
        model = sections()[section]
        introduction = " ".join((model.__doc__ or "").split("\n\n")[0].split())
        with gr.Accordion(model.title(), open=False, elem_id=_id(f"section-{section}")) as fold:
            gr.HTML(quiet(without_sources(introduction)))
            with gr.Row(elem_classes=["fields"]):
                for name in names:
                    self._add(name)
        self.folds |= dict.fromkeys(names, fold)
