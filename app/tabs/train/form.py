"""The components of the Train tab: what an artist is asked in front, everything folded behind."""

from __future__ import annotations

from collections.abc import Sequence
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
from app.kit import Kit
from app.render import quiet
from app.tabs.images.imagesets import set_choices
from app.tabs.train import outlook
from trainer.config.fields import all_fields, sections
from trainer.config.file import with_values
from trainer.config.presets import FIRST_ANSWERS, PRESETS, QUESTIONS, answered
from trainer.config.schema import TrainingConfig

SINGLE: tuple[str, ...] = ("images.path", "captions.trigger", "captions.class_word")
"""The fields of the one subject; with several, `CONCEPTS` counts in their place."""
IN_FRONT: tuple[str, ...] = ("base.name", *SINGLE)
add = Kit("train")


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
                self.summary = add.html("summary")
                self.memory = add.html("memory", outlook.NO_MEMORY_LINE)
                self.remark = add.html("remark")
                self.start = add.button("start", "Start training")
                self.queue = add.button("queue", "Queue behind the one that trains", visible=False)
        with add.fold("more", "Everything else") as self.everything:
            self._lay_out_files()
            # page.js shows the settings that hold what is typed.
            placeholder = "words of its name or explanation"
            add.text("find", "Find a setting", placeholder=placeholder, max_length=100)
            for section in sections():
                self._lay_out_section(section)
            add.html("none", quiet("No setting has that in its name or explanation."))
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
        told = [self.summary, self.start, self.queue, *self.folded, *self.components]
        return [*told, self.shown_wrong]

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
            with add(gr.Column, "one") as self.one:
                images, *words = SINGLE
                self._add(images)
                with gr.Row():
                    for name in words:
                        self._add(name)
            with add(gr.Column, "several", visible=False) as self.several:
                with gr.Row(equal_height=True):
                    self.one_more = add.choice(
                        "one-more", "One more image set", set_choices(), scale=3,
                        info="Its words come with it, as they were chosen in Images.",
                    )  # fmt: skip
                    self.add_one = add.button("add-one", "Add it", min_width=100)
                self._add(CONCEPTS)
        self._ask("length")
        self._ask("hold")

    def _ask(self, key: str) -> None:
        choices: list[tuple[str, str]] = []
        for answer, title in QUESTIONS[key].answers.items():
            steps = answered({key: answer})["training.steps"] if key == "length" else ""
            choices.append((f"{title} · {steps:,} steps" if steps else title, answer))
        self.answers[key] = add.radio(key, QUESTIONS[key].title, choices, FIRST_ANSWERS[key])

    def _lay_out_files(self) -> None:
        """Where settings come from, and where they can go."""
        presets = [(f"{one.name}: {one.reason}", one.name) for one in PRESETS.values()]
        with gr.Row(equal_height=False):
            self.preset = add.choice(
                "preset", "Preset", [("none", ""), *presets], "",
                "Sets some fields and leaves the others as they are.", scale=3,
            )  # fmt: skip
            self.load = add(
                gr.UploadButton, "load", "Load settings", type="binary", file_count="multiple",
                file_types=[".toml", ".json", ".yaml", ".yml"], min_width=150, size="md",
            )  # fmt: skip
            self.save = add.button("save", "Save settings", min_width=150, size="md")
        with gr.Row(equal_height=True):
            self.search = add.button(
                "search", "Search for settings", min_width=200, scale=0, size="md"
            )
            gr.HTML(
                quiet(
                    "Trains this set several times for a while, with other learning rates, ranks, "
                    "layers, lengths and weights, and says which draw it best. It takes at most "
                    "six times the work of one run, and shows in Runs like one."
                )
            )
        self.moved = add.html("moved")

    def _lay_out_section(self, section: str) -> None:
        """A folded part."""
        names = [field.name for field in all_fields().values() if field.section == section]
        names = [name for name in names if name not in IN_FRONT]
        if not names:
            return
        model = sections()[section]
        introduction = " ".join((model.__doc__ or "").split("\n\n")[0].split())
        with add.fold(f"section-{section}", model.title()) as fold:
            gr.HTML(quiet(without_sources(introduction)))
            with gr.Row(elem_classes=["fields"]):
                for name in names:
                    self._add(name)
        self.folds |= dict.fromkeys(names, fold)
