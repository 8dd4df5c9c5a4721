"""The Train tab: few choices in front, everything else folded, what it means beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from app import jobs
from app.forms import (
    CONCEPTS,
    Shown,
    chosen_folder,
    explanation,
    field_names,
    form_values,
    make_component,
    preset_values,
    read_form,
)
from app.render import render
from app.shared import QUIET, Shared, elem, for_scripts, go, says_errors
from app.tabs.images.imagesets import find_set, set_choices
from app.tabs.images.words import remember
from app.tabs.train import outlook
from app.tabs.train.loading import read_settings
from trainer import places
from trainer.config.fields import all_fields, sections
from trainer.config.file import (
    apply_overrides,
    format_config,
    parse_config,
    with_values,
)
from trainer.config.presets import PRESETS, apply_preset
from trainer.config.schema import TrainingConfig

LENGTHS = ("quick", "normal", "thorough")
_FIRST = "normal"
_IN_FRONT: tuple[str, ...] = ("base.name", "images.path", "captions.trigger", "captions.class_word")
_SAVE = """(text) => {
    if (!text) return;
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], {type: 'application/toml'}));
    link.download = 'rarebit.toml';
    link.click();
    URL.revokeObjectURL(link.href);
}"""
_id = partial(elem, "train")


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    form = TrainForm(shared.remembered["train"])
    _follow(form, shared)
    _follow_the_other_tabs(form, shared)
    _fill(form, shared)
    _start(form, shared)
    gr.api(for_scripts(start_training), api_name="start_training", queue=False)


# ------------------------------------------------------------------------------ the parts


class TrainForm:
    """The tab's components, put in where it is made."""

    def __init__(self, remembered: gr.BrowserState) -> None:
        self.remembered = remembered
        self.names = field_names()
        self._first = dict(
            zip(self.names, form_values(apply_preset(TrainingConfig(), _FIRST)), strict=True)
        )
        self.fields: dict[str, Component] = {}
        self.folds: dict[str, gr.Accordion] = {}
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self._lay_out_choices()
            with gr.Column(scale=2, min_width=300):
                self.summary = gr.HTML(elem_id=_id("summary"))
                self.memory = gr.HTML(outlook.NO_MEMORY_LINE, elem_id=_id("memory"))
                self.start = gr.Button("Start training", variant="primary", elem_id=_id("start"))
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
        self.text, self.shown_wrong = gr.Textbox(visible=False), gr.State({})

    @property
    def values(self) -> list[Component]:
        """All fields in the order of the configuration."""
        return [self.fields[name] for name in self.names]

    @property
    def folded(self) -> list[gr.Accordion]:
        return [self.everything, *dict.fromkeys(self.folds.values())]

    @property
    def outputs(self) -> list[Any]:
        """What `_tell` updates."""
        return [self.summary, self.queue, *self.folded, *self.values, self.shown_wrong]

    @property
    def filled(self) -> list[Any]:
        """What is filled as a whole, by a file, a run, or what this browser remembers."""
        return [*self.values, self.length, self.preset, self.text]

    def _add(self, name: str) -> None:
        self.fields[name] = make_component(name, self._first[name])

    def _lay_out_choices(self) -> None:
        base, images, *words = _IN_FRONT
        with gr.Group():
            self._add(base)
            self._add(images)
            with gr.Row():
                for name in words:
                    self._add(name)
        steps = {name: PRESETS[name].values["training.steps"] for name in LENGTHS}
        self.length = gr.Radio(
            [(f"{name.capitalize()} · {count:,} steps", name) for name, count in steps.items()],
            value=_FIRST, label="How long", elem_id=_id("length"),
        )  # fmt: skip

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
        self.moved = gr.HTML(elem_id=_id("moved"))

    def _lay_out_section(self, section: str) -> None:
        """A folded part; the list of concepts goes with the words."""
        names = [field.name for field in all_fields().values() if field.section == section]
        names = [name for name in names if name not in _IN_FRONT]
        names += [CONCEPTS] * (section == "captions")
        if not names:
            return
        model = sections()[section]
        introduction = " ".join((model.__doc__ or "").split("\n\n")[0].split())
        with gr.Accordion(model.title(), open=False, elem_id=_id(f"section-{section}")) as fold:
            gr.Markdown(introduction, elem_classes=["quiet"])
            with gr.Row(elem_classes=["fields"]):
                for name in names:
                    self._add(name)
        self.folds |= dict.fromkeys(names, fold)


# ------------------------------------------------------------------------------ following


def _follow(form: TrainForm, shared: Shared) -> None:
    """The sentence, the time, the memory and the mistakes follow every change."""

    def describe(*inputs: Any) -> list[Any]:
        *shown, before, has_arrived = inputs
        config, wrong = outlook.look(shown, complete=False)
        now = dict(zip(form.names, shown, strict=True)) if has_arrived else gr.skip()
        return [*_tell(form, config, wrong, before), now]

    # A preset fills the form first: what is told before is told of the choice before.
    preset = partial(_preset_updates, form)
    by_length = form.length.input(preset, form.length, form.values, **QUIET)
    by_preset = form.preset.input(preset, form.preset, form.values, **QUIET)
    # Until then a page shows the defaults, which are not to be remembered.
    has_arrived = gr.State(False)
    restored = [*form.filled, has_arrived]
    arrived = shared.page.load(says_errors(_restore), form.remembered, restored, **QUIET)
    # Other tabs choose what stands in front, too.
    edited = [
        component.change if name in _IN_FRONT else component.input  # type: ignore[attr-defined]
        for name, component in form.fields.items()
    ]
    changed = [*edited, form.text.change, shared.rooms["train"].select]
    always: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
    shown = [*form.values, form.shown_wrong, has_arrived]
    told = [*form.outputs, form.remembered]
    gr.on(changed, describe, shown, told, **always)
    gr.on(changed, outlook.memory_line, form.values, form.memory, **always)
    for filling in (by_length, by_preset, arrived):
        filling.then(describe, shown, told, **always)
    for filling in (by_length, by_preset):  # a page that was only loaded starts no worker
        filling.then(outlook.memory_line, form.values, form.memory, **always)


def _preset_updates(form: TrainForm, name: str) -> list[Any]:
    """Updates for `TrainForm.values`: a preset sets some fields and leaves the others."""
    values = preset_values(name) if name else {}
    return [gr.update(value=values[key]) if key in values else gr.skip() for key in form.names]


def _restore(remembered: dict[str, Shown]) -> list[Any]:
    """The form as this browser had it; fields that it knows nothing of stay."""
    fields = all_fields()
    # What another version offered is no choice of this one's.
    known = {
        name: value
        for name, value in remembered.items()
        if name == CONCEPTS
        or (name in fields and (not fields[name].choices or value in fields[name].choices))
    }
    values = [known.get(name, gr.skip()) for name in field_names()]
    steps = remembered.get("training.steps")
    length = _length_of(steps) if steps else gr.skip()
    return [*values, length, gr.skip(), gr.skip(), True]


def _length_of(steps: object) -> str | None:
    """The choice of "How long" with so many steps."""
    return next((n for n in LENGTHS if PRESETS[n].values["training.steps"] == steps), None)


def _follow_the_other_tabs(form: TrainForm, shared: Shared) -> None:
    """What is chosen in one tab is chosen in all."""
    base, images, *words = (form.fields[name] for name in _IN_FRONT)
    for component, state in ((base, shared.base), (images, shared.image_set)):
        chosen: Any = component
        chosen.input(lambda value: value, chosen, state, **QUIET, queue=False)
        state.change(lambda value: value, state, chosen, **QUIET, queue=False)

    typed = gr.State({})
    states = {"trigger": shared.trigger, "class_word": shared.class_word}
    for (key, state), word in zip(states.items(), words, strict=True):
        # What was typed here is not sent back: more may have been typed since.
        def follow(value: str, own: dict[str, str], key: str = key) -> Any:
            return gr.skip() if own.get(key) == value else value

        state.change(follow, [state, typed], word, **QUIET, queue=False)
    gr.on(
        [word.input for word in words],  # type: ignore[attr-defined]
        says_errors(_remember_words),
        [images, *words],
        [*states.values(), typed],
        trigger_mode="always_last",
        **QUIET,
    )
    gr.on(
        [shared.rooms["train"].select, shared.page.load],
        # Without a value: it may have been chosen while the answer was on its way.
        lambda: gr.Dropdown(choices=set_choices()),
        None,
        form.fields["images.path"],
        **QUIET,
        queue=False,
    )


def _remember_words(
    image_set: str, trigger: str, class_word: str
) -> tuple[str, str, dict[str, str]]:
    """The words are noted with their image set, where it is one of the page's."""
    known = image_set if image_set in [one for _, one in set_choices()] else ""
    trigger, class_word = remember(known, trigger, class_word)
    return trigger, class_word, {"trigger": trigger, "class_word": class_word}


def _tell(
    form: TrainForm, config: TrainingConfig | None, wrong: outlook.Wrong, before: outlook.Wrong
) -> list[Any]:
    """Updates for `TrainForm.outputs`: mistakes stand beside their fields, whose parts open."""
    opened = {id(form.folds[name]) for name in wrong if name in form.folds}
    if opened:
        opened.add(id(form.everything))
    folds = [gr.Accordion(open=True) if id(f) in opened else gr.skip() for f in form.folded]
    infos = [
        gr.update(info=_explained(name, wrong))
        if wrong.get(name) != before.get(name)
        else gr.skip()
        for name in form.names
    ]
    busy = jobs.overview.busy() is not None
    return [outlook.summary(config, wrong), gr.Button(visible=busy), *folds, *infos, wrong]


def _explained(name: str, wrong: outlook.Wrong) -> str:
    """A field's explanation, after what is wrong with it."""
    if name not in wrong:
        return explanation(name)
    mistake = " ".join(wrong[name].replace("*", "∗").split())
    return f"**{mistake}**\n{explanation(name)}"  # a component's info takes this much Markdown


# ------------------------------------------------------------------------------ filling


def _fill(form: TrainForm, shared: Shared) -> None:
    """Files and earlier runs put values into the form."""
    form.load.upload(says_errors(_load), form.load, [*form.filled, form.moved], **QUIET)
    of_run = says_errors(lambda told: _filled(parse_config(told[0], "The run's settings")))
    shared.settings.change(of_run, shared.settings, form.filled, **QUIET)
    form.save.click(says_errors(_save), form.values, form.text, **QUIET).success(
        None, form.text, None, js=_SAVE, api_visibility="private"
    )


def _load(files: list[bytes] | None) -> list[Any]:
    config, moved = read_settings(files or [])
    told = render("train.html", "moved", moved.groups()) if moved else ""
    return [*_filled(config), told]


def _filled(config: TrainingConfig) -> list[Any]:
    length = _length_of(config.training.steps)
    # The time makes it another text each time, so that what follows it is updated.
    return [*form_values(config), length, "", f"# {time.time()}"]


def _save(*shown: Shown) -> str:
    return format_config(read_form(shown))


# ------------------------------------------------------------------------------ starting


def _start(form: TrainForm, shared: Shared) -> None:
    def pressing(begin: Callable[[TrainingConfig], str]) -> Callable[..., list[Any]]:
        def press(*inputs: Any) -> list[Any]:
            *shown, before = inputs
            config, wrong = outlook.look(shown, complete=True)
            if config is None:
                return [gr.skip(), gr.skip(), *_tell(form, None, wrong, before)]
            name = begin(config)
            return [name, go("runs"), *_tell(form, config, {}, before)]

        return says_errors(press)

    for button, begin in ((form.start, jobs.start), (form.queue, jobs.queue)):
        button.click(
            pressing(begin),
            [*form.values, form.shown_wrong],
            [shared.run, shared.tabs, *form.outputs],
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
    folder = chosen_folder(find_set(places.DATASETS, image_set).id)  # an id is never a path
    chosen = (base, folder.as_posix(), trigger, class_word)
    values = dict(zip(_IN_FRONT, chosen, strict=True))
    config = with_values(apply_preset(TrainingConfig(), length), values)
    config = apply_overrides(config, [line for line in settings.splitlines() if line.strip()])
    # The image set is the one that was named, whatever the settings say.
    config = with_values(config, {"images.path": values["images.path"]})
    return jobs.queue(config) if wait and jobs.busy() else jobs.start(config)
