"""The Train tab: few choices in front, everything else folded, what it means beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app import jobs
from app.forms import (
    CONCEPTS,
    Shown,
    chosen_folder,
    explanation,
    field_names,
    form_values,
    preset_values,
    shown_subject,
    shown_values,
)
from app.render import render
from app.shared import LAST, NOW, QUIET, Shared, for_scripts, go, says_errors
from app.tabs.images.imagesets import find_set, read_notes, set_choices, subjects_in
from app.tabs.images.words import LATER, judge, of_chosen, remember
from app.tabs.train import outlook
from app.tabs.train.form import IN_FRONT, TrainForm
from app.tabs.train.loading import read_settings
from trainer import places
from trainer.config.fields import all_fields
from trainer.config.file import apply_overrides, format_config, parse_config, with_values
from trainer.config.presets import QUESTIONS, answered, answers_of, apply_preset
from trainer.config.schema import TrainingConfig

_SAVE = """(text) => {
    if (!text) return;
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], {type: 'application/toml'}));
    link.download = 'rarebit.toml';
    link.click();
    URL.revokeObjectURL(link.href);
}"""


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    form = TrainForm(shared.remembered["train"])
    _follow(form, shared)
    _follow_the_other_tabs(form, shared)
    _take_several(form)
    _fill(form, shared)
    _start(form, shared)
    gr.api(for_scripts(start_training), api_name="start_training", queue=False)


# ------------------------------------------------------------------------------ following


def _follow(form: TrainForm, shared: Shared) -> None:
    """The sentence, the time, the memory and the mistakes follow every change."""

    def describe(*inputs: Any) -> list[Any]:
        *shown, before, has_arrived = inputs
        config, wrong = outlook.look(form.counted(shown), complete=False)
        names = [*form.names, *form.answers]
        now = dict(zip(names, shown, strict=True)) if has_arrived else gr.skip()
        return [*_tell(form, config, wrong, before), now]

    def predict_memory(*shown: Shown) -> str:
        return outlook.memory_line(*form.counted(shown))

    # A choice fills the form first: what is told before is told of the choice before.
    answers = [*form.answers.values()]
    fillings = [
        radio.input(partial(_answer_updates, form, key), answers, form.components, **QUIET)
        for key, radio in form.answers.items()
    ]
    preset, chosen = partial(_preset_updates, form), [form.preset, form.fields["base.name"]]
    fillings.append(form.preset.input(preset, chosen, form.components, **QUIET))
    steps = form.fields["training.steps"]
    fillings.append(
        steps.input(_length_of, steps, form.answers["length"], **QUIET)  # type: ignore[attr-defined]
    )
    # Until then a page shows the defaults, which are not to be remembered.
    has_arrived = gr.State(False)
    restored = [*form.filled, has_arrived]
    arrived = shared.page.load(says_errors(_restore), form.remembered, restored, **QUIET)
    # Other tabs choose what stands in front, too.
    edited = [
        component.change if name in (*IN_FRONT, CONCEPTS) else component.input  # type: ignore[attr-defined]
        for name, component in form.fields.items()
    ]
    changed = [*edited, form.text.change, shared.rooms["train"].select]
    shown = [*form.values, form.shown_wrong, has_arrived]
    told = [*form.outputs, form.remembered]
    gr.on(changed, describe, shown, told, **LAST)
    gr.on(changed, predict_memory, form.values, form.memory, **LAST)
    for filling in (*fillings, arrived):
        filling.then(describe, shown, told, **LAST)
    for filling in fillings:  # a page that was only loaded starts no worker
        filling.then(predict_memory, form.values, form.memory, **LAST)


def _preset_updates(form: TrainForm, name: str, base: str | None) -> list[Any]:
    """Updates for `TrainForm.components`: a preset sets some fields and leaves the others."""
    return _updates(form, preset_values(name, base or "") if name else {})


def _answer_updates(form: TrainForm, key: str, *answers: str | None) -> list[Any]:
    """The same for an answer: what its question is about, as all answers together have it."""
    values = answered(dict(zip(form.answers, answers, strict=True)))
    return _updates(form, shown_values({name: values[name] for name in QUESTIONS[key].fields}))


def _length_of(steps: float | None) -> str | None:
    """The answer to how long that so many steps are; None where they are none."""
    answers = QUESTIONS["length"].answers
    return next((a for a in answers if answered({"length": a})["training.steps"] == steps), None)


def _updates(form: TrainForm, values: dict[str, Shown]) -> list[Any]:
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
    if "images.path" in known:
        known["images.path"] = _listed(known["images.path"])
    for key, question in QUESTIONS.items():
        if key in remembered and remembered[key] in (None, *question.answers):
            known[key] = remembered[key]
    values = [known.get(name, gr.skip()) for name in (*field_names(), *QUESTIONS)]
    return [*values, gr.skip(), gr.skip(), True]


def _listed(image_set: Any) -> Any:
    """A choice of a set; gradio shows the id instead of the title where the list lacks it."""
    return gr.Dropdown(choices=set_choices(), value=image_set)


def _follow_the_other_tabs(form: TrainForm, shared: Shared) -> None:
    """What is chosen in one tab is chosen in all."""
    base, images, *words = (form.fields[name] for name in IN_FRONT)
    shared.image_set.change(_listed, shared.image_set, form.one_more, **QUIET)
    typed = gr.State({})
    states = {"trigger": shared.trigger, "class_word": shared.class_word}
    typing = [word.input for word in words]  # type: ignore[attr-defined]
    gr.on(typing, _judge, [images, *words, base], form.remark, **LAST, js=LATER)
    # In the queue: beside it, no State's change is told to the other tabs.
    base.input(lambda value: value, base, shared.base, **QUIET)  # type: ignore[attr-defined]
    noted = [*states.values(), typed]
    chosen = [shared.image_set, *words, *noted]
    images.input(  # type: ignore[attr-defined]
        says_errors(_choose_set), [images, shared.image_set, *words], chosen, **LAST
    )
    shared.base.change(lambda value: value, shared.base, base, **NOW)
    shared.image_set.change(_listed, shared.image_set, images, **NOW)

    for (key, state), word in zip(states.items(), words, strict=True):
        # What was typed here is not sent back: more may have been typed since.
        def follow(value: str, own: dict[str, str], key: str = key) -> Any:
            return gr.skip() if own.get(key) == value else value

        state.change(follow, [state, typed], word, **NOW)
    gr.on(typing, says_errors(_remember_words), [images, *words], noted, **LAST)

    def sets() -> list[gr.Dropdown]:
        # Without a value: it may have been chosen while the answer was on its way.
        return [gr.Dropdown(choices=set_choices())] * 2

    shared.rooms["train"].select(sets, None, [images, form.one_more], **NOW)


def _take_several(form: TrainForm) -> None:
    """One subject or several: what is asked follows the answer, and nothing typed is lost."""

    def show(kind: str | None) -> tuple[gr.Column, gr.Column]:
        several = kind == "several"
        return gr.Column(visible=not several), gr.Column(visible=several)

    def add(chosen: str | None, lines: str) -> str:
        if not chosen:
            return lines
        folder = find_set(places.DATASETS, chosen)
        notes = read_notes(folder)
        words = (notes.trigger, notes.class_word)
        new = [
            shown_subject(_in_project(path), *(words if path == folder.path else ("", "")))
            for path in subjects_in(folder)
        ]
        known = {line.partition("|")[0].strip() for line in lines.splitlines()}
        fresh = [line for line in new if line.partition("|")[0].strip() not in known]
        return "\n".join([*filter(None, map(str.strip, lines.splitlines())), *fresh])

    lines, kind = form.fields[CONCEPTS], form.answers["kind"]
    kind.change(show, kind, [form.one, form.several], **NOW)
    form.add_one.click(says_errors(add), [form.one_more, lines], lines, **QUIET)


def _in_project(path: Path) -> Path:
    """A path as a configuration has it, which may go to another machine."""
    return path.relative_to(places.PROJECT) if path.is_relative_to(places.PROJECT) else path


def _choose_set(chosen: str | None, former: str, trigger: str, class_word: str) -> tuple[Any, ...]:
    """A set, and its words in the form and for the other tabs."""
    if chosen == former:  # a list tells a choice twice, the second time with the words of before
        return (gr.skip(),) * 6
    words = of_chosen(chosen or "", former, trigger, class_word)
    # A word that stays is not sent: more may have been typed since.
    shown = [gr.skip() if a == b else a for a, b in zip(words, (trigger, class_word), strict=True)]
    return chosen or "", *shown, *words, {"trigger": words[0], "class_word": words[1]}


def _judge(image_set: str, trigger: str, class_word: str, base: str) -> Iterator[object]:
    """What is to be said against a trigger word."""
    known = image_set if image_set in [one for _, one in set_choices()] else ""
    for said, _ in judge(known, trigger, class_word, base):
        yield said


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
    ready = config is not None and not outlook.missing(config)
    start = gr.Button(variant="primary" if ready and not busy else "secondary")
    queue = gr.Button(visible=busy, variant="primary" if ready else "secondary")
    return [outlook.summary(config, wrong), start, queue, *folds, *infos, wrong]


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

    prompts = form.fields["previews.prompts"]
    given = [shared.preview_prompt, form.remembered]  # a folded field is not in the page yet
    added = shared.preview_prompt.change(_add_prompt, given, prompts, **QUIET)
    added.then(lambda: f"# {time.time()}", None, form.text, **QUIET)

    def save(*shown: Shown) -> str:
        return format_config(form.read(*shown))

    form.save.click(says_errors(save), form.values, form.text, **QUIET).success(
        None, form.text, None, js=_SAVE, api_visibility="private"
    )


def _add_prompt(given: tuple[str, float], remembered: dict[str, Shown]) -> str:
    """One more preview prompt; where there was none, the usual ones are no longer drawn."""
    lines = str(remembered.get("previews.prompts") or "")
    known = [line for line in lines.splitlines() if line.strip()]
    if not known:
        gr.Info("Previews draw this prompt alone, instead of the usual ones.")
    else:
        gr.Info("It stands among the preview prompts in Train.")
    return "\n".join(dict.fromkeys([*known, given[0]]))


def _load(files: list[bytes] | None) -> list[Any]:
    config, moved = read_settings(files or [])
    told = render("train.html", "moved", moved.groups()) if moved else ""
    return [*_filled(config), told]


def _filled(config: TrainingConfig) -> list[Any]:
    # The time makes it another text each time, so that what follows it is updated.
    return [*form_values(config), *answers_of(config).values(), "", f"# {time.time()}"]


# ------------------------------------------------------------------------------ starting


def _start(form: TrainForm, shared: Shared) -> None:
    def pressing(begin: Callable[[TrainingConfig], str]) -> Callable[..., list[Any]]:
        def press(*inputs: Any) -> list[Any]:
            *shown, before = inputs
            config, wrong = outlook.look(form.counted(shown), complete=True)
            if config is None:
                return [gr.skip(), gr.skip(), *_tell(form, None, wrong, before)]
            name = begin(config)
            return [name, go("runs"), *_tell(form, config, {}, before)]

        return says_errors(press)

    beginnings = {
        form.start: jobs.start,
        form.queue: jobs.queue,
        form.search: partial(jobs.start, search=True),
    }
    for button, begin in beginnings.items():
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
    values = dict(zip(IN_FRONT, chosen, strict=True))
    config = with_values(apply_preset(TrainingConfig(), length), values)
    config = apply_overrides(config, [line for line in settings.splitlines() if line.strip()])
    # The image set is the one that was named, whatever the settings say.
    config = with_values(config, {"images.path": values["images.path"]})
    return jobs.queue(config) if wait and jobs.busy() else jobs.start(config)
