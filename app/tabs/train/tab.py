"""The Train tab: three choices, one sentence, one button; everything else folded behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from app import jobs
from app.shared import (
    QUIET,
    Shared,
    elem,
    escape,
    go,
    image_set_path,
    image_sets,
    refusal,
    says_errors,
)
from app.tabs.runs.reader import overview
from app.tabs.train import memory, outlook
from app.tabs.train.forms import (
    CONCEPTS,
    Shown,
    explanation,
    field_names,
    form_values,
    label_of,
    make_component,
    mistakes_by_field,
    preset_values,
    read_form,
)
from trainer.config.concepts import check_essentials
from trainer.config.fields import all_fields, sections
from trainer.config.file import (
    MAX_FILE_BYTES,
    ConfigError,
    apply_overrides,
    format_config,
    parse_config,
    with_values,
)
from trainer.config.presets import PRESETS, apply_preset
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError

LENGTHS = ("quick", "normal", "thorough")
_FIRST = "normal"
_IN_FRONT = ("base.name", "images.path", "captions.trigger", "captions.class_word")
_NAMES = field_names()
_SAVE = """(text) => {
    if (!text) return;
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], {type: 'application/toml'}));
    link.download = 'rarebit.toml';
    link.click();
    URL.revokeObjectURL(link.href);
}"""
Wrong = dict[str, str]
"""What is wrong, by the field's name; "" for what is no single field's."""


@dataclass
class _Form:
    """The tab's components."""

    fields: dict[str, Component]
    folds: dict[str, gr.Accordion]
    length: gr.Radio
    preset: gr.Dropdown
    summary: gr.HTML
    memory: gr.HTML
    start: gr.Button
    queue: gr.Button
    load: gr.UploadButton
    save: gr.Button
    text: gr.Textbox
    shown_wrong: gr.State

    @property
    def values(self) -> list[Component]:
        """All fields in the order of the configuration."""
        return [self.fields[name] for name in _NAMES]

    @property
    def folded(self) -> list[gr.Accordion]:
        """The folded parts, each once."""
        return list(dict.fromkeys(self.folds.values()))

    @property
    def told(self) -> list[Any]:
        """What `_tell` updates."""
        return [self.summary, self.queue, *self.folded, *self.values, self.shown_wrong]


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    form = _lay_out()
    _follow(form, shared)
    _follow_the_other_tabs(form, shared)
    _fill(form, shared)
    _start(form, shared)
    gr.api(start_training, api_name="start_training", queue=False)


# ------------------------------------------------------------------------------ the parts


def _lay_out() -> _Form:
    fields: dict[str, Component] = {}
    first = form_values(apply_preset(TrainingConfig(), _FIRST))

    def add(name: str) -> None:
        fields[name] = make_component(name, first[_NAMES.index(name)])

    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            with gr.Group():
                add("base.name")
                add("images.path")
                with gr.Row():
                    add("captions.trigger")
                    add("captions.class_word")
            length = gr.Radio(
                [(_length_label(name), name) for name in LENGTHS],
                value=_FIRST,
                label="How long",
                elem_id=elem("train", "length"),
            )
        with gr.Column(scale=2, min_width=300):
            summary = gr.HTML(elem_id=elem("train", "summary"))
            fits = gr.HTML(memory.NOT_YET, elem_id=elem("train", "memory"))
            start = gr.Button("Start training", variant="primary", elem_id=elem("train", "start"))
            queue = gr.Button(
                "Queue behind the one that trains", visible=False, elem_id=elem("train", "queue")
            )
    folds: dict[str, gr.Accordion] = {}
    with gr.Accordion("Everything else", open=False, elem_id=elem("train", "more")) as folds[""]:
        preset, load, save = _lay_out_files()
        for section, names in _sections().items():
            fold_id = elem("train", f"section-{section}")
            with gr.Accordion(sections()[section].title(), open=False, elem_id=fold_id) as fold:
                introduction = sections()[section].__doc__ or ""
                gr.Markdown(_first_paragraph(introduction), elem_classes=["quiet"])
                with gr.Row(elem_classes=["fields"]):
                    for name in names:
                        add(name)
            folds |= dict.fromkeys(names, fold)
    text, wrong = gr.Textbox(visible=False), gr.State({})
    return _Form(
        fields, folds, length, preset, summary, fits, start, queue, load, save, text, wrong
    )


def _lay_out_files() -> tuple[gr.Dropdown, gr.UploadButton, gr.Button]:
    """Where settings come from, and where they can go."""
    presets = [(f"{one.name}: {one.reason}", one.name) for one in PRESETS.values()]
    with gr.Row(equal_height=False):
        preset = gr.Dropdown(
            [("none", ""), *presets],
            value="",
            label="Preset",
            info="Sets some fields and leaves the others as they are.",
            elem_id=elem("train", "preset"),
            scale=3,
        )
        load = gr.UploadButton(
            "Load settings",
            file_types=[".toml"],
            type="binary",
            elem_id=elem("train", "load"),
            min_width=150,
            size="md",
        )
        save = gr.Button("Save settings", elem_id=elem("train", "save"), min_width=150, size="md")
    return preset, load, save


def _sections() -> dict[str, list[str]]:
    """The folded fields by section; the list of concepts goes with the words."""
    found: dict[str, list[str]] = {}
    for name in [*all_fields()]:
        if name not in _IN_FRONT:
            found.setdefault(name.partition(".")[0], []).append(name)
    found["captions"].append(CONCEPTS)
    return found


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _length_label(name: str) -> str:
    return f"{name.capitalize()} · {PRESETS[name].values['training.steps']:,} steps"


# ------------------------------------------------------------------------------ following


def _follow(form: _Form, shared: Shared) -> None:
    """The sentence, the time, the memory and the mistakes follow every change."""

    def describe(*inputs: Any) -> list[Any]:
        *shown, before = inputs
        config, wrong = _look(shown, complete=False)
        return _tell(form, config, wrong, before)

    edited = [component.input for component in form.values]  # type: ignore[attr-defined]
    filled = [form.length.change, form.preset.change, form.text.change]
    arrived = [shared.page.load, shared.rooms["train"].select]
    gr.on(
        [*edited, *filled, *arrived],
        describe,
        [*form.values, form.shown_wrong],
        form.told,
        trigger_mode="always_last",
        **QUIET,
    )
    gr.on(
        [*edited, *filled, shared.rooms["train"].select],
        memory.line,
        form.values,
        form.memory,
        trigger_mode="always_last",
        **QUIET,
    )


def _follow_the_other_tabs(form: _Form, shared: Shared) -> None:
    """What is chosen in one tab is chosen in all."""
    pairs = {
        "base.name": shared.base,
        "images.path": shared.image_set,
        "captions.trigger": shared.trigger,
        "captions.class_word": shared.class_word,
    }
    for name, state in pairs.items():
        component = form.fields[name]
        component.input(_same, component, state, **QUIET, queue=False)  # type: ignore[attr-defined]
        state.change(_same, state, component, **QUIET, queue=False)

    def refresh() -> gr.Dropdown:
        # Without a value: it may have been chosen while the answer was on its way.
        return gr.Dropdown(choices=image_sets())

    images = form.fields["images.path"]
    arrived = [shared.rooms["train"].select, shared.page.load]
    gr.on(arrived, refresh, None, images, **QUIET, queue=False)


def _same(value: Shown) -> Shown:
    return value


def _look(shown: Sequence[Shown], complete: bool) -> tuple[TrainingConfig | None, Wrong]:
    """The configuration that the form shows, or what is wrong with it; `complete`: or missing."""
    try:
        config = read_form(shown)
        if complete:
            check_essentials(config, jobs.is_image_set)
    except ConfigError as error:
        return None, mistakes_by_field(error)
    return config, {}


def _tell(form: _Form, config: TrainingConfig | None, wrong: Wrong, before: Wrong) -> list[Any]:
    """Updates for `_Form.told`: mistakes stand beside their fields, in parts that open for them."""
    opened = {id(form.folds[name]) for name in wrong if name in form.folds}
    if opened:
        opened.add(id(form.folds[""]))
    folds = [gr.Accordion(open=True) if id(f) in opened else gr.skip() for f in form.folded]
    infos = [
        gr.update(info=_explained(name, wrong))
        if wrong.get(name) != before.get(name)
        else gr.skip()
        for name in _NAMES
    ]
    busy = overview.busy() is not None
    return [_summary(config, wrong), gr.Button(visible=busy), *folds, *infos, wrong]


def _explained(name: str, wrong: Wrong) -> str:
    """A field's explanation, after what is wrong with it."""
    if name not in wrong:
        return explanation(name)
    said = " ".join(wrong[name].replace("*", "∗").split())
    return f"**{said}**\n{explanation(name)}"  # a component's info takes this much Markdown


def _summary(config: TrainingConfig | None, wrong: Wrong) -> str:
    if config is None:
        items = "".join(
            f"<li>{f'<b>{escape(label_of(name))}</b>: ' * bool(name)}{escape(message)}</li>"
            for name, message in wrong.items()
        )
        return f'<div class="card wrong" role="status"><h2>Not yet</h2><ul>{items}</ul></div>'
    return (
        '<div class="card"><h2>What will be trained</h2>'
        f"<p>{_missing(config) or outlook.sentence(config)}</p>"
        f'<p class="quiet">{outlook.arithmetic(config)}. {outlook.time_needed(config)}</p></div>'
    )


def _missing(config: TrainingConfig) -> str:
    """What to do next, as long as something is needed."""
    _, wrong = _look(form_values(config), complete=True)
    if "images.path" in wrong:
        return "Choose an image set to begin, or make one of your own pictures in Images."
    if "captions.trigger" in wrong:
        return "Give a trigger word: the rare word that will call what the pictures show."
    return " ".join(escape(message) for message in wrong.values())


# ------------------------------------------------------------------------------ filling


def _fill(form: _Form, shared: Shared) -> None:
    """Presets, files and earlier runs put values into the form."""
    touched = sorted({name for preset in PRESETS.values() for name in preset.values})
    components = [form.fields[name] for name in touched]

    def preset(name: str) -> list[Any]:
        values = preset_values(name) if name else {}
        return [gr.update(value=values[key]) if key in values else gr.skip() for key in touched]

    form.length.input(preset, form.length, components, **QUIET)
    form.preset.input(preset, form.preset, components, **QUIET)
    everything = [*form.values, form.length, form.preset, form.text]
    form.load.upload(says_errors(_load), form.load, everything, **QUIET)
    shared.settings.change(says_errors(_load_settings), shared.settings, everything, **QUIET)
    form.save.click(says_errors(_save), form.values, form.text, **QUIET).success(
        None, form.text, None, js=_SAVE, api_visibility="private"
    )


def _load(data: bytes | None) -> list[Any]:
    if data is None or len(data) > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES // 1000} KB"
        raise UserError("This is no file of settings.", f"Choose a TOML file of at most {limit}.")
    return _filled(data.decode("utf-8-sig", "replace"), "The file")


def _load_settings(settings: tuple[str, float]) -> list[Any]:
    return _filled(settings[0], "The run's settings")


def _filled(text: str, source: str) -> list[Any]:
    config = parse_config(text, source)
    steps = config.training.steps
    length = next((n for n in LENGTHS if PRESETS[n].values["training.steps"] == steps), None)
    # The time makes it another text each time, so that what follows it is told.
    return [*form_values(config), length, "", f"# {time.time()}"]


def _save(*shown: Shown) -> str:
    return format_config(read_form(shown))


# ------------------------------------------------------------------------------ starting


def _start(form: _Form, shared: Shared) -> None:
    def pressed(begin: Callable[[TrainingConfig], str]) -> Callable[..., list[Any]]:
        def handler(*inputs: Any) -> list[Any]:
            *shown, before = inputs
            config, wrong = _look(shown, complete=True)
            if config is None:
                return [gr.skip(), gr.skip(), *_tell(form, None, wrong, before)]
            name = begin(config)
            return [name, go("runs"), *_tell(form, config, {}, before)]

        return says_errors(handler)

    for button, begin in ((form.start, jobs.start), (form.queue, jobs.queue)):
        button.click(
            pressed(begin),
            [*form.values, form.shown_wrong],
            [shared.run, shared.tabs, *form.told],
            show_progress="minimal",
            show_progress_on=[button],
            api_visibility="private",
        )


def start_training(
    image_set: str,
    trigger: str,
    class_word: str = "",
    base: str = "tiny-emoji",
    length: str = "normal",
    settings: str = "",
    wait: bool = False,
) -> str:
    """Starts a training and gives the run's name.

    Args:
        image_set: its id, a folder's name in datasets/.
        length: a preset, such as quick, normal or thorough.
        settings: any further fields, one section.key=value a line; they win over the preset.
        wait: queue it if another run is busy, instead of refusing.
    """
    try:
        config = _config_for(image_set, trigger, class_word, base, length, settings)
        return jobs.queue(config) if wait and jobs.busy() else jobs.start(config)
    except UserError as error:
        raise refusal(error) from None


def _config_for(
    image_set: str, trigger: str, class_word: str, base: str, length: str, settings: str
) -> TrainingConfig:
    words = {
        "images.path": str(image_set_path(image_set)),
        "captions.trigger": trigger,
        "captions.class_word": class_word,
        "base.name": base,
    }
    config = with_values(apply_preset(TrainingConfig(), length), words)
    config = apply_overrides(config, [line for line in settings.splitlines() if line.strip()])
    return with_values(config, {"images.path": words["images.path"]})  # no other folder
