"""The form of the Generate tab: its components, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from app.shared import base_models, elem
from app.tabs.generate.drawing import AdapterSetting, Settings

ROWS = 4  # adapters at once
MOST_COUNT = 16
LARGEST_SEED = 2**31 - 1 - MOST_COUNT

NO_CHOICE = ("none", "")

NOTHING_DRAWN = (
    '<div class="card"><h2>Nothing drawn yet</h2><p>Say what to draw, with the trigger word in it, '
    "and press Draw. The first picture takes a little longer, since the model has to be "
    "loaded.</p></div>"
)
NO_ADAPTER = (
    '<p class="quiet">No adapter yet: train one, or drop a file in Adapters. Until then the base '
    "model draws alone.</p>"
)
NONE_CHOSEN = '<p class="quiet">No adapter is chosen: the base model draws alone.</p>'


@dataclass(frozen=True)
class AdapterRow:
    """The components of one adapter; a row that is not shown has no adapter."""

    group: gr.Group
    adapter: gr.Dropdown
    strength: gr.Slider
    text_strength: gr.Slider
    remove: gr.Button

    @property
    def inputs(self) -> list[Component]:
        """What the row says."""
        return [self.adapter, self.strength, self.text_strength]


@dataclass
class Form:
    """The tab's components."""

    prompt: gr.Textbox
    words: gr.HTML
    put_words: gr.Button
    rows: list[AdapterRow]
    add: gr.Button
    apart: gr.Checkbox
    negative: gr.Textbox
    base: gr.Dropdown
    count: gr.Slider
    seed: gr.Number
    new_seed: gr.Button
    steps: gr.Slider
    guidance: gr.Slider
    width: gr.Number
    height: gr.Number
    compare: gr.Checkbox
    draw: gr.Button
    stop: gr.Button
    busy: gr.HTML
    dropped: gr.File
    grid_adapters: gr.Dropdown
    grid_strengths: gr.Textbox
    grid_prompts: gr.Textbox
    grid_sum: gr.HTML
    grid_draw: gr.Button
    status: gr.HTML
    pictures: gr.Gallery
    sheet: gr.Image
    slider: gr.ImageSlider
    history: gr.Gallery
    shown: gr.State
    remembered: gr.BrowserState
    filled: gr.State

    @property
    def settings(self) -> list[Component]:
        """The inputs of `read_form`, in its order."""
        plain: list[Component] = [self.prompt, self.negative, self.base, self.count, self.seed]
        plain += [self.steps, self.guidance, self.width, self.height, self.apart]
        return plain + [component for row in self.rows for component in row.inputs]


def lay_out() -> Form:
    """Puts the components in."""
    parts: dict[str, Any] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340):
            _lay_out_prompt(parts)
            _lay_out_more(parts)
            _lay_out_grid(parts)
        with gr.Column(scale=3, min_width=340):
            _lay_out_results(parts)
    return Form(**parts)


def _lay_out_prompt(parts: dict[str, Any]) -> None:
    parts["prompt"] = gr.Textbox(
        label="Prompt", lines=3, max_length=5000, elem_id=elem("generate", "prompt")
    )
    with gr.Row(equal_height=True):
        parts["words"] = gr.HTML(NO_ADAPTER, elem_id=elem("generate", "words"), min_width=200)
        parts["put_words"] = gr.Button(
            "Put the trigger word in front",
            size="sm",
            visible=False,
            elem_id=elem("generate", "put"),
            scale=0,
            min_width=160,
        )
    parts["rows"] = [_lay_out_row(number) for number in range(ROWS)]
    parts["add"] = gr.Button(
        "Add another adapter", size="sm", elem_id=elem("generate", "add"), min_width=140
    )
    with gr.Row(equal_height=True):
        parts["count"] = gr.Slider(
            1,
            MOST_COUNT,
            4,
            step=1,
            label="Pictures",
            buttons=[],
            elem_id=elem("generate", "count"),
            scale=3,
            min_width=150,
        )
        parts["seed"] = gr.Number(
            1,
            label="Seed",
            precision=0,
            minimum=0,
            maximum=LARGEST_SEED,
            elem_id=elem("generate", "seed"),
            scale=2,
            min_width=100,
        )
        parts["new_seed"] = gr.Button(
            "New seed", size="sm", elem_id=elem("generate", "new-seed"), scale=1, min_width=80
        )
    parts["compare"] = gr.Checkbox(
        label="Compare with the base model, same seeds",
        value=True,
        elem_id=elem("generate", "compare"),
    )
    parts["busy"] = gr.HTML(elem_id=elem("generate", "busy"))
    with gr.Row():
        parts["draw"] = gr.Button("Draw", variant="primary", elem_id=elem("generate", "draw"))
        parts["stop"] = gr.Button(
            "Stop", variant="stop", visible=False, elem_id=elem("generate", "stop")
        )


def _lay_out_row(number: int) -> AdapterRow:
    def name(thing: str) -> str:
        return elem("generate", f"{thing}-{number + 1}")

    strength: dict[str, Any] = {"minimum": -1, "maximum": 2, "value": 1.0, "step": 0.05}
    strength |= {"buttons": [], "min_width": 150, "scale": 3}
    with gr.Group(visible=number == 0, elem_classes=["adapter-row"]) as group:
        with gr.Row():
            adapter = gr.Dropdown(
                [NO_CHOICE],
                value="",
                label=f"Adapter {number + 1}",
                elem_id=name("adapter"),
                scale=4,
                min_width=180,
            )
            unet = gr.Slider(label=f"Strength {number + 1}", elem_id=name("strength"), **strength)
        text = gr.Slider(
            label=f"Strength {number + 1} in the text encoder",
            visible=False,
            elem_id=name("text-strength"),
            **strength,
        )
        remove = gr.Button(
            f"Remove adapter {number + 1}",
            size="sm",
            visible=number > 0,
            elem_id=name("remove"),
        )
    return AdapterRow(group, adapter, unet, text, remove)


def _lay_out_more(parts: dict[str, Any]) -> None:
    with gr.Accordion("More settings", open=False, elem_id=elem("generate", "more")):
        parts["negative"] = gr.Textbox(
            label="Negative prompt",
            info="What not to draw.",
            max_length=5000,
            elem_id=elem("generate", "negative"),
        )
        parts["base"] = gr.Dropdown(
            base_models(),
            value="tiny-emoji",
            label="Base model",
            info="The one that the adapter was trained on, or one of its kind.",
            allow_custom_value=True,
            elem_id=elem("generate", "base"),
        )
        with gr.Row():
            parts["steps"] = gr.Slider(
                1, 150, 25, step=1, label="Denoising steps", elem_id=elem("generate", "steps")
            )
            parts["guidance"] = gr.Slider(
                0,
                20,
                5.0,
                step=0.5,
                label="Guidance",
                info="How closely the prompt is followed.",
                elem_id=elem("generate", "guidance"),
            )
        parts["apart"] = gr.Checkbox(
            label="Separate strengths for the text encoder", elem_id=elem("generate", "apart")
        )
        with gr.Row():
            for side in ("width", "height"):
                parts[side] = gr.Number(
                    0,
                    label=f"{side.capitalize()} in pixels",
                    info="0: the base model's own.",
                    precision=0,
                    minimum=0,
                    maximum=4096,
                    elem_id=elem("generate", side),
                )
        parts["dropped"] = gr.File(
            label="Drop a picture here to get its settings back",
            file_types=[".png"],
            height=110,
            elem_id=elem("generate", "restore"),
        )


def _lay_out_grid(parts: dict[str, Any]) -> None:
    with gr.Accordion(
        "Grid: checkpoints × strengths × prompts", open=False, elem_id=elem("generate", "grid")
    ):
        parts["grid_adapters"] = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            label="Adapters and checkpoints",
            info="One row each.",
            elem_id=elem("generate", "grid-adapters"),
        )
        parts["grid_strengths"] = gr.Textbox(
            "0, 0.5, 1",
            label="Strengths",
            info="One column each; 0 is the base model.",
            max_length=200,
            elem_id=elem("generate", "grid-strengths"),
        )
        parts["grid_prompts"] = gr.Textbox(
            label="Prompts, one a line",
            info="One block each; empty: the prompt above.",
            lines=2,
            max_length=20_000,
            elem_id=elem("generate", "grid-prompts"),
        )
        parts["grid_sum"] = gr.HTML(elem_id=elem("generate", "grid-sum"))
        parts["grid_draw"] = gr.Button("Draw the grid", elem_id=elem("generate", "grid-draw"))


def _lay_out_results(parts: dict[str, Any]) -> None:
    parts["status"] = gr.HTML(NOTHING_DRAWN, elem_id=elem("generate", "status"))
    parts["slider"] = gr.ImageSlider(
        label="Base model on the left, with adapters on the right",
        type="filepath",
        format="png",
        interactive=False,
        visible=False,
        max_height=460,
        elem_id=elem("generate", "slider"),
    )
    parts["sheet"] = gr.Image(
        label="Grid",
        type="filepath",
        format="png",
        interactive=False,
        visible=False,
        show_label=False,
        buttons=["download", "fullscreen"],
        elem_id=elem("generate", "sheet"),
    )
    parts["pictures"] = gr.Gallery(
        label="Pictures",
        show_label=False,
        columns=4,
        height="auto",
        object_fit="contain",
        interactive=False,
        visible=False,
        buttons=["download", "download_all", "fullscreen"],
        elem_id=elem("generate", "pictures"),
    )
    with gr.Accordion("Earlier pictures", open=False, elem_id=elem("generate", "earlier")):
        gr.HTML(
            '<p class="quiet">What this browser draws is kept here, the newest first. Choose a '
            "picture to get its settings back.</p>"
        )
        parts["history"] = gr.Gallery(
            label="Earlier pictures",
            show_label=False,
            columns=6,
            height="auto",
            object_fit="contain",
            interactive=False,
            allow_preview=False,
            buttons=["download_all"],
            visible=False,
            elem_id=elem("generate", "history"),
        )
    parts["shown"] = gr.State([])
    parts["filled"] = gr.State("")
    parts["remembered"] = gr.BrowserState(
        [], storage_key="rarebit-pictures", secret="rarebit-pictures"
    )


def read_form(values: Sequence[Any]) -> Settings:
    """What the form says, from the values of `Form.settings`."""
    prompt, negative, base, count, seed, steps, guidance, width, height, apart = values[:10]
    rows = [values[start : start + 3] for start in range(10, len(values), 3)]
    adapters = tuple(
        AdapterSetting(adapter, float(strength), float(text) if apart else None)
        for adapter, strength, text in rows
        if adapter
    )
    return Settings(
        prompt=prompt or "",
        negative=negative or "",
        adapters=adapters,
        base=base or "tiny-emoji",
        count=int(count),
        seed=int(seed or 0),
        steps=int(steps),
        guidance=float(guidance),
        width=int(width or 0),
        height=int(height or 0),
    )
