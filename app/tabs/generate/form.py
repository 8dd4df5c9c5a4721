"""The form of the Generate tab: its components, and what they say together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from app.allowed import base_models
from app.kit import Kit
from app.render import render
from app.tabs.generate.drawing import MOST_COUNT, AdapterSetting, Settings
from trainer.errors import UserError

ROWS = 4  # adapters at once
LARGEST_SEED = 2**31 - 1 - MOST_COUNT
LARGEST_SIDE = 4096  # pixels
NO_CHOICE = ("no adapter", "")

add = Kit("generate")


class AdapterRow:
    """The components of one adapter; a row that is not shown has no adapter."""

    def __init__(self, number: int) -> None:
        span = (-1, 2, 0.05)
        narrow: dict[str, Any] = {"buttons": [], "min_width": 150, "scale": 3}
        which = f" {number}" if number > 1 else ""
        with gr.Group(visible=number == 1, elem_classes=["adapter-row"]) as self.group:
            with gr.Row():
                self.adapter = add.choice(
                    f"adapter-{number}", f"Adapter{which}", [NO_CHOICE], "", scale=4, min_width=180
                )
                self.strength = add.slider(
                    f"strength-{number}", f"Strength{which}", span, 1.0, **narrow
                )
            self.text_strength = add.slider(
                f"text-strength-{number}", f"Strength{which} in the text encoder", span, 1.0,
                visible=False, **narrow,
            )  # fmt: skip
            self.remove = add.button(
                f"remove-{number}", f"Remove adapter {number}", size="sm", visible=number > 1
            )

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
        self.prompt = add.text(
            "prompt", "Prompt", lines=3, max_length=5000, placeholder="ohwx dog on the beach"
        )
        self.words = add.html("words", render("generate.html", "no_adapter"))
        with gr.Row():
            small: dict[str, Any] = {"size": "sm", "min_width": 160}
            self.put_words = add.button(
                "put", "Put the trigger word in front", visible=False, **small
            )
            self.use_prompt = add.button("use-prompt", "Use as preview prompt", **small)
        self.rows = [AdapterRow(number + 1) for number in range(ROWS)]
        self.add = add.button("add", "Add another adapter", size="sm", min_width=140)
        with gr.Row(equal_height=True):
            self.count = add.slider(
                "count", "Pictures", (1, MOST_COUNT, 1), 4, buttons=[], scale=3, min_width=150
            )
            self.seed = add.number(
                "seed", "Seed", value=1, precision=0, placeholder="a new one", scale=2,
                min_width=100,
            )  # fmt: skip
            self.new_seed = add.button("new-seed", "New seed", size="sm", scale=1, min_width=80)
        self.compare = add.check("compare", "Compare with the base model, same seeds", True)
        self.busy = add.html("busy")
        with gr.Row():
            self.draw = add.button("draw", "Draw", variant="primary")
            self.stop = add.button("stop", "Stop", variant="stop", visible=False)

    def _lay_out_more(self) -> None:
        with add.fold("more", "More settings"):
            self.negative = add.text(
                "negative", "Negative prompt", "What not to draw.", max_length=5000
            )
            self.base = add.choice(
                "base", "Base model", base_models(), "tiny-emoji",
                "The one that the adapter was trained on, or one of its kind.",
                allow_custom_value=True,
            )  # fmt: skip
            with gr.Row():
                self.steps = add.slider("steps", "Denoising steps", (1, 150, 1), 25)
                self.guidance = add.slider(
                    "guidance", "Guidance", (0, 20, 0.5), 5.0, "How closely the prompt is followed."
                )
            self.separate = add.check("apart", "Separate strengths for the text encoder")
            with gr.Row():
                side: dict[str, Any] = {"value": 0, "precision": 0}
                own = "0: the base model's own."
                self.width = add.number("width", "Width in pixels", own, **side)
                self.height = add.number("height", "Height in pixels", own, **side)
            self.dropped = add(
                gr.File, "restore", label="Drop a picture here to get its settings back", height=110
            )

    def _lay_out_grid(self) -> None:
        with add.fold("grid", "Grid: checkpoints × strengths × prompts"):
            self.grid_adapters = add.choice(
                "grid-adapters", "Adapters and checkpoints", [], [],
                "One row each; none: the adapters above.", multiselect=True,
            )  # fmt: skip
            self.grid_strengths = add.text(
                "grid-strengths", "Strengths", "One column each; 0 is the base model.",
                "0, 0.5, 1", max_length=200,
            )  # fmt: skip
            self.grid_prompts = add.text(
                "grid-prompts", "Prompts, one a line", "One block each; empty: the prompt above.",
                lines=2, max_length=20_000,
            )  # fmt: skip
            self.grid_sum = add.html("grid-sum")
            self.grid_draw = add.button("grid-draw", "Draw the grid")

    def _lay_out_results(self) -> None:
        picture: dict[str, Any] = {
            "type": "filepath", "format": "png", "interactive": False, "visible": False,
        }  # fmt: skip
        gallery: dict[str, Any] = {
            "show_label": False, "height": "auto", "object_fit": "contain", "interactive": False,
            "visible": False,
        }  # fmt: skip
        self.status = add.html("status", render("generate.html", "nothing_drawn"))
        self.slider = add(
            gr.ImageSlider, "slider", label="Base model on the left, with adapters on the right",
            max_height=460, **picture,
        )  # fmt: skip
        self.sheet = add(
            gr.Image, "sheet", label="Grid", show_label=False, buttons=["download", "fullscreen"],
            **picture,
        )  # fmt: skip
        self.pictures = add(
            gr.Gallery, "pictures", label="Pictures", columns=4,
            buttons=["download", "download_all", "fullscreen"], **gallery,
        )  # fmt: skip
        with add.fold("earlier", "Earlier pictures"):
            gr.HTML(render("generate.html", "about_earlier"))
            self.history = add(
                gr.Gallery, "history", label="Earlier pictures", columns=6, allow_preview=False,
                buttons=["download_all"], **gallery,
            )  # fmt: skip
            self.favourite = add.button("favourite", visible=False, size="sm")
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
