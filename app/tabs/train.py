"""The Train tab: three choices, one sentence, one button; everything else folded behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from app import jobs, memory, outlook
from app.forms import (
    Shown,
    form_values,
    label_of,
    make_component,
    mistakes_by_field,
    preset_values,
    read_form,
    section_title,
)
from app.shared import Shared, elem, escape, go, image_set_path, image_sets, says_errors, sorry
from trainer.config import TrainingConfig
from trainer.configfields import all_fields, sections
from trainer.configfile import (
    ConfigError,
    apply_overrides,
    format_config,
    parse_config,
    with_values,
)
from trainer.errors import UserError
from trainer.presets import PRESETS, apply_preset

LENGTHS = ("quick", "normal", "thorough")
_FIRST = "normal"
_LARGEST_FILE = 1_000_000  # bytes of a configuration
_IN_FRONT = ("base.name", "images.path", "captions.trigger", "captions.class_word")
_NAMES = list(all_fields())
_SAVE = """(text) => {
    if (!text) return;
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], {type: 'application/toml'}));
    link.download = 'rarebit.toml';
    link.click();
    URL.revokeObjectURL(link.href);
}"""


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
    file: gr.Textbox

    @property
    def values(self) -> list[Component]:
        """All fields in the order of the configuration."""
        return [self.fields[name] for name in _NAMES]


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    form = _lay_out()
    _follow(form, shared)
    _fill(form, shared)
    _start(form, shared)
    gr.api(start_training, api_name="start_training", queue=False)


# ------------------------------------------------------------------------------ the parts


def _lay_out() -> _Form:
    fields: dict[str, Component] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=340):
            with gr.Group():
                _add(fields, "base.name")
                _add(fields, "images.path")
                with gr.Row():
                    _add(fields, "captions.trigger")
                    _add(fields, "captions.class_word")
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
    with gr.Accordion("Everything else", open=False, elem_id=elem("train", "more")) as more:
        with gr.Row(equal_height=True):
            preset = gr.Dropdown(
                [("no preset", ""), *((f"{p.name}: {p.reason}", p.name) for p in PRESETS.values())],
                value="",
                label="Start from a preset",
                info="Sets some fields and leaves the others as they are.",
                elem_id=elem("train", "preset"),
                scale=3,
            )
            load = gr.UploadButton(
                "Load settings (TOML)",
                file_types=[".toml"],
                type="binary",
                elem_id=elem("train", "load"),
                min_width=150,
            )
            save = gr.Button("Save settings (TOML)", elem_id=elem("train", "save"), min_width=150)
        for section, model in sections().items():
            names = [name for name in _NAMES if name.startswith(f"{section}.")]
            rest = [name for name in names if name not in _IN_FRONT]
            if rest:
                fold_id = elem("train", f"section-{section}")
                with gr.Accordion(section_title(section), open=False, elem_id=fold_id) as fold:
                    gr.Markdown(_introduction(model.__doc__), elem_classes=["quiet"])
                    with gr.Row(elem_classes=["fields"]):
                        for name in rest:
                            _add(fields, name)
                folds |= dict.fromkeys(rest, fold)
    folds[""] = more
    file = gr.Textbox(visible=False)
    return _Form(fields, folds, length, preset, summary, fits, start, queue, load, save, file)


def _add(fields: dict[str, Component], name: str) -> None:
    fields[name] = make_component(all_fields()[name])


def _introduction(text: str | None) -> str:
    """The first sentence of a section's docstring."""
    return " ".join((text or "").split("\n\n")[0].split())


def _length_label(name: str) -> str:
    return f"{name.capitalize()} · {PRESETS[name].values['training.steps']:,} steps"


# ------------------------------------------------------------------------------ following


def _follow(form: _Form, shared: Shared) -> None:
    """The sentence, the time, the memory and the mistakes follow every change."""
    folds = list(dict.fromkeys(form.folds.values()))
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    told = [form.summary, form.queue, *folds]

    def describe(*shown: Shown) -> list[object]:
        try:
            config, error = read_form(shown), None
        except ConfigError as found:
            config, error = None, found
        wrong = mistakes_by_field(error) if error else {}
        open_folds = {id(form.folds[name]) for name in wrong if name in form.folds}
        if open_folds:
            open_folds.add(id(form.folds[""]))
        opened = [gr.Accordion(open=True) if id(f) in open_folds else gr.skip() for f in folds]
        return [_summary(config, wrong), gr.Button(visible=jobs.busy() is not None), *opened]

    edited = [component.input for component in form.values]  # type: ignore[attr-defined]
    gr.on(
        edited, _nothing, form.values, None, validator=_check, trigger_mode="always_last", **quiet
    )
    gr.on(edited, describe, form.values, told, trigger_mode="always_last", **quiet)
    filled = [form.length.change, form.preset.change, form.file.change, shared.page.load]
    gr.on(filled, describe, form.values, told, trigger_mode="always_last", **quiet)
    entered = shared.rooms["train"].select
    gr.on(entered, describe, form.values, told, **quiet)
    memory_fields = [*edited, entered, form.length.change, form.preset.change]
    gr.on(memory_fields, memory.line, form.values, form.memory, trigger_mode="always_last", **quiet)
    _follow_the_other_tabs(form, shared)


def _follow_the_other_tabs(form: _Form, shared: Shared) -> None:
    quiet = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    pairs = {
        "base.name": shared.base,
        "images.path": shared.image_set,
        "captions.trigger": shared.trigger,
        "captions.class_word": shared.class_word,
    }
    for name, state in pairs.items():
        component = form.fields[name]
        component.input(_same, component, state, **quiet)  # type: ignore[attr-defined]
        state.change(_same, state, component, **quiet)

    def refresh(chosen: str | None) -> gr.Dropdown:
        sets = image_sets()
        return gr.Dropdown(choices=sets, value=chosen or None)

    images = form.fields["images.path"]
    gr.on([shared.rooms["train"].select, shared.page.load], refresh, images, images, **quiet)


def _same(value: Shown) -> Shown:
    return value


def _nothing(*_: Shown) -> None:
    """What there is to do after a check."""


def _check(*shown: Shown) -> list[dict[str, object]]:
    """One verdict for each field: what is wrong stands beside it, all at once."""
    return _verdicts(shown, complete=False)


def _check_complete(*shown: Shown) -> list[dict[str, object]]:
    """The same, and whether something is still missing."""
    return _verdicts(shown, complete=True)


def _verdicts(shown: Sequence[Shown], complete: bool) -> list[dict[str, object]]:
    wrong: dict[str, str] = {}
    try:
        config = read_form(shown)
        if complete:
            jobs.check_essentials(config)
    except ConfigError as error:
        wrong = mistakes_by_field(error)
    return [gr.validate(name not in wrong, wrong.get(name, "")) for name in _NAMES]


def _summary(config: TrainingConfig | None, wrong: dict[str, str]) -> str:
    if config is None:
        items = "".join(
            f"<li><b>{escape(label_of(name))}</b>: {escape(message)}</li>"
            for name, message in wrong.items()
        )
        return f'<div class="card wrong"><h2>Not yet</h2><ul>{items}</ul></div>'
    return (
        '<div class="card"><h2>What will be trained</h2>'
        f"<p>{outlook.sentence(config)}</p>"
        f'<p class="quiet">{outlook.arithmetic(config)}. {outlook.time_needed(config)}</p></div>'
    )


# ------------------------------------------------------------------------------ filling


def _fill(form: _Form, shared: Shared) -> None:
    """Presets, files and earlier runs put values into the form."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    touched = sorted({name for preset in PRESETS.values() for name in preset.values})
    components = [form.fields[name] for name in touched]

    def preset(name: str) -> list[object]:
        values = preset_values(name) if name else {}
        return [gr.update(value=values[key]) if key in values else gr.skip() for key in touched]

    form.length.input(preset, form.length, components, **quiet)
    form.preset.input(preset, form.preset, components, **quiet)
    shared.page.load(preset, form.length, components, **quiet)

    everything = [*form.values, form.length, form.preset, form.file]
    form.load.upload(says_errors(_load), form.load, everything, **quiet)
    shared.settings.change(says_errors(_load_settings), shared.settings, everything, **quiet)

    form.save.click(says_errors(_save), form.values, form.file, validator=_check, **quiet).success(
        None, form.file, None, js=_SAVE, api_visibility="private"
    )
    form.length.input(_no_preset, None, form.preset, **quiet)


def _no_preset() -> str:
    return ""


def _load(data: bytes | None) -> list[object]:
    if data is None or len(data) > _LARGEST_FILE:
        raise UserError("This is no file of settings.", "Choose a TOML file of at most 1 MB.")
    return _filled(data.decode("utf-8-sig", "replace"), "the file")


def _load_settings(settings: tuple[str, float]) -> list[object]:
    return _filled(settings[0], "the run's settings")


def _filled(text: str, source: str) -> list[object]:
    config = parse_config(text, source)
    steps = config.training.steps
    length = next((n for n in LENGTHS if PRESETS[n].values["training.steps"] == steps), None)
    # The time makes it another text, so that whoever follows `file` is told.
    return [*form_values(config), length, "", f"# {time.time()}"]


def _save(*shown: Shown) -> str:
    return format_config(read_form(shown))


# ------------------------------------------------------------------------------ starting


def _start(form: _Form, shared: Shared) -> None:
    private = {"api_visibility": "private", "validator": _check_complete}
    towards = [shared.run, shared.tabs]
    form.start.click(says_errors(_start_now), form.values, towards, **private)
    form.queue.click(says_errors(_queue), form.values, towards, **private)


def _start_now(*shown: Shown) -> tuple[str, gr.Tabs]:
    return jobs.start(read_form(shown)), go("runs")


def _queue(*shown: Shown) -> tuple[str, gr.Tabs]:
    return jobs.queue(read_form(shown)), go("runs")


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
        raise sorry(error) from None


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
