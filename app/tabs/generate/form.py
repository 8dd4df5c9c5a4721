"""The form of the Generate tab: its components, and what they say together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from app.allowed import base_models
from app.render import render
from app.shared import elem
from app.tabs.generate.drawing import MOST_COUNT, AdapterSetting, Settings
from trainer.errors import UserError

ROWS = 4  # adapters at once
LARGEST_SEED = 2**31 - 1 - MOST_COUNT
LARGEST_SIDE = 4096  # pixels
NO_CHOICE = ("no adapter", "")

_id = partial(elem, "generate")


class AdapterRow:
    """The components of one adapter; a row that is not shown has no adapter."""

    def __init__(self, number: int) -> None:
        strength: dict[str, Any] = {"minimum": -1, "maximum": 2, "value": 1.0, "step": 0.05}
        strength |= {"buttons": [], "min_width": 150, "scale": 3}
        which = f" {number}" if number > 1 else ""
        with gr.Group(visible=number == 1, elem_classes=["adapter-row"]) as self.group:
            with gr.Row():
                self.adapter = gr.Dropdown(
                    [NO_CHOICE], value="", label=f"Adapter{which}", scale=4, min_width=180,
                    elem_id=_id(f"adapter-{number}"),
                )  # fmt: skip
                self.strength = gr.Slider(
                    label=f"Strength{which}", elem_id=_id(f"strength-{number}"), **strength
                )
            self.text_strength = gr.Slider(
                label=f"Strength{which} in the text encoder",
                visible=False,
                elem_id=_id(f"text-strength-{number}"),
                **strength,
            )
            self.remove = gr.Button(
                f"Remove adapter {number}", size="sm", visible=number > 1,
                elem_id=_id(f"remove-{number}"),
            )  # fmt: skip

    @property
    def inputs(self) -> list[Component]:
        return [self.adapter, self.strength, self.text_strength]


class GenerateForm:
    """The tab's components, put in where it is made."""

    def __init__(self, remembered: gr.BrowserState) -> None:
        self.remembered = remembered  # what this browser has drawn
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=340):
                self._lay_out_prompt()
                self._lay_out_more()
                self._lay_out_grid()
            with gr.Column(scale=3, min_width=340):
                self._lay_out_results()

    @property
    def settings(self) -> list[Component]:
        """The inputs of `read_form`, in its order."""
        plain: list[Component] = [self.prompt, self.negative, self.base, self.count, self.seed]
        plain += [self.steps, self.guidance, self.width, self.height, self.separate]
        return plain + [component for row in self.rows for component in row.inputs]

    @property
    def adapters(self) -> list[Component]:
        return [row.adapter for row in self.rows]

    def _lay_out_prompt(self) -> None:
        self.prompt = gr.Textbox(
            label="Prompt", lines=3, max_length=5000, elem_id=_id("prompt"),
            placeholder="ohwx dog on the beach",
        )  # fmt: skip
        self.words = gr.HTML(render("generate.html", "no_adapter"), elem_id=_id("words"))
        with gr.Row():
            small: dict[str, Any] = {"size": "sm", "min_width": 160}
            self.put_words = gr.Button(
                "Put the trigger word in front", visible=False, elem_id=_id("put"), **small
            )
            self.use_prompt = gr.Button("Use as preview prompt", elem_id=_id("use-prompt"), **small)
        self.rows = [AdapterRow(number + 1) for number in range(ROWS)]
        self.add = gr.Button("Add another adapter", size="sm", elem_id=_id("add"), min_width=140)
        with gr.Row(equal_height=True):
            self.count = gr.Slider(
                1, MOST_COUNT, 4, step=1, label="Pictures", buttons=[], elem_id=_id("count"),
                scale=3, min_width=150,
            )  # fmt: skip
            self.seed = gr.Number(
                1, label="Seed", precision=0, placeholder="a new one", elem_id=_id("seed"),
                scale=2, min_width=100,
            )  # fmt: skip
            self.new_seed = gr.Button(
                "New seed", size="sm", elem_id=_id("new-seed"), scale=1, min_width=80
            )
        self.compare = gr.Checkbox(
            True, label="Compare with the base model, same seeds", elem_id=_id("compare")
        )
        self.busy = gr.HTML(elem_id=_id("busy"))
        with gr.Row():
            self.draw = gr.Button("Draw", variant="primary", elem_id=_id("draw"))
            self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id=_id("stop"))

    def _lay_out_more(self) -> None:
        with gr.Accordion("More settings", open=False, elem_id=_id("more")):
            self.negative = gr.Textbox(
                label="Negative prompt", info="What not to draw.", max_length=5000,
                elem_id=_id("negative"),
            )  # fmt: skip
            self.base = gr.Dropdown(
                base_models(), value="tiny-emoji", label="Base model", elem_id=_id("base"),
                info="The one that the adapter was trained on, or one of its kind.",
                allow_custom_value=True,
            )  # fmt: skip
            with gr.Row():
                self.steps = gr.Slider(
                    1, 150, 25, step=1, label="Denoising steps", elem_id=_id("steps")
                )
                self.guidance = gr.Slider(
                    0, 20, 5.0, step=0.5, label="Guidance", elem_id=_id("guidance"),
                    info="How closely the prompt is followed.",
                )  # fmt: skip
            self.separate = gr.Checkbox(
                label="Separate strengths for the text encoder", elem_id=_id("apart")
            )
            with gr.Row():
                side: dict[str, Any] = {"precision": 0, "info": "0: the base model's own."}
                self.width = gr.Number(0, label="Width in pixels", elem_id=_id("width"), **side)
                self.height = gr.Number(0, label="Height in pixels", elem_id=_id("height"), **side)
            self.dropped = gr.File(
                label="Drop a picture here to get its settings back", height=110,
                elem_id=_id("restore"),
            )  # fmt: skip

    def _lay_out_grid(self) -> None:
        title = "Grid: checkpoints × strengths × prompts"
        with gr.Accordion(title, open=False, elem_id=_id("grid")):
            self.grid_adapters = gr.Dropdown(
                [], value=[], multiselect=True, label="Adapters and checkpoints",
                info="One row each; none: the adapters above.", elem_id=_id("grid-adapters"),
            )  # fmt: skip
            self.grid_strengths = gr.Textbox(
                "0, 0.5, 1", label="Strengths", info="One column each; 0 is the base model.",
                max_length=200, elem_id=_id("grid-strengths"),
            )  # fmt: skip
            self.grid_prompts = gr.Textbox(
                label="Prompts, one a line", info="One block each; empty: the prompt above.",
                lines=2, max_length=20_000, elem_id=_id("grid-prompts"),
            )  # fmt: skip
            self.grid_sum = gr.HTML(elem_id=_id("grid-sum"))
            self.grid_draw = gr.Button("Draw the grid", elem_id=_id("grid-draw"))

    def _lay_out_results(self) -> None:
        picture: dict[str, Any] = {"type": "filepath", "format": "png", "visible": False}
        gallery: dict[str, Any] = {"show_label": False, "height": "auto", "visible": False}
        gallery |= {"object_fit": "contain", "interactive": False}
        self.status = gr.HTML(render("generate.html", "nothing_drawn"), elem_id=_id("status"))
        self.slider = gr.ImageSlider(
            label="Base model on the left, with adapters on the right", interactive=False,
            max_height=460, elem_id=_id("slider"), **picture,
        )  # fmt: skip
        self.sheet = gr.Image(
            label="Grid", interactive=False, show_label=False, buttons=["download", "fullscreen"],
            elem_id=_id("sheet"), **picture,
        )  # fmt: skip
        self.pictures = gr.Gallery(
            label="Pictures", columns=4, buttons=["download", "download_all", "fullscreen"],
            elem_id=_id("pictures"), **gallery,
        )  # fmt: skip
        with gr.Accordion("Earlier pictures", open=False, elem_id=_id("earlier")):
            gr.HTML(render("generate.html", "about_earlier"))
            self.history = gr.Gallery(
                label="Earlier pictures", columns=6, allow_preview=False,
                buttons=["download_all"], elem_id=_id("history"), **gallery,
            )  # fmt: skip
            self.favourite = gr.Button(visible=False, size="sm", elem_id=_id("favourite"))
        self.picked = gr.State("")  # the earlier picture that was chosen last
        self.pairs = gr.State([])
        self.filled = gr.State("")  # the prompt as the page has filled it in


def read_form(values: Sequence[Any]) -> Settings:
    """What the form says, from the values of `GenerateForm.settings`; an empty seed is a new one.

    Raises:
        UserError: a number is out of its range.
    """
    prompt, negative, base, count, seed, steps, guidance, width, height, separate = values[:10]
    numbers = {"Seed": (seed, LARGEST_SEED), "Width": (width, LARGEST_SIDE)}
    numbers["Height"] = (height, LARGEST_SIDE)
    for name, (number, largest) in numbers.items():
        if number is not None and not 0 <= number <= largest:
            raise UserError(f"{name} is {number:g}.", f"Give a number from 0 to {largest:,}.")
    rows = [values[start : start + 3] for start in range(10, len(values), 3)]
    adapters = tuple(
        AdapterSetting(adapter, float(strength), float(text) if separate else None)
        for adapter, strength, text in rows
        if adapter
    )
    return Settings(
        prompt or "",
        negative or "",
        adapters,
        base or "tiny-emoji",
        int(count),
        random.randint(0, LARGEST_SEED) if seed is None else int(seed),
        int(steps),
        float(guidance),
        int(width or 0),
        int(height or 0),
    )
