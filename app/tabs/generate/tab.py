"""The Generate tab: pictures with any adapters, beside those of the base model, and grids."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import jobs
from app.shared import PRIVATE, QUIET, Shared, base_models, escape, says_errors
from app.tabs.adapters import words as adapterwords
from app.tabs.generate import draw as generatedraw
from app.tabs.generate import drawing
from app.tabs.generate.drawing import AdapterSetting
from app.tabs.generate.form import (
    LARGEST_SEED,
    NO_ADAPTER,
    NO_CHOICE,
    NONE_CHOSEN,
    ROWS,
    Form,
    lay_out,
)
from app.tabs.generate.picturesettings import read_settings
from trainer.errors import UserError


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    form = lay_out()
    _keep_current(form, shared)
    _choose_adapters(form, shared)
    _restore(form, shared)
    generatedraw.wire(form)
    generatedraw.add_api()


# ------------------------------------------------------------------------------ keeping current


def _keep_current(form: Form, shared: Shared) -> None:
    """Lists follow what is on the machine; a busy device is said at once."""
    page, room = shared.page, shared.rooms["generate"]
    lists: list[Component] = [*(row.adapter for row in form.rows), form.grid_adapters, form.base]

    def choices() -> list[gr.Dropdown]:
        # Without values: they may have been chosen while the answer was on its way.
        known = [NO_CHOICE, *drawing.adapter_choices()]
        rows = [gr.Dropdown(choices=known) for _ in form.rows]
        every = gr.Dropdown(choices=drawing.checkpoint_choices())
        return [*rows, every, gr.Dropdown(choices=base_models())]

    gr.on([page.load, room.select], choices, None, lists, queue=False, **QUIET)
    gr.on([room.select, page.load, shared.timer.tick], _busy, None, form.busy, queue=False, **QUIET)
    page.load(generatedraw.earlier_pictures, form.remembered, form.history, queue=False, **QUIET)
    shared.base.change(_same, shared.base, form.base, queue=False, **QUIET)


def _busy() -> str:
    run = jobs.busy()
    if run is None:
        return ""
    message, hint = drawing.busy_sentences(run)
    return f'<p class="notice" role="status"><b>{escape(message)}</b> {escape(hint)}</p>'


def _same(value: str) -> str:
    return value


# ------------------------------------------------------------------------------ adapters


def _choose_adapters(form: Form, shared: Shared) -> None:
    """Rows come and go, and the trigger words of what is chosen stand below the prompt."""
    for row in form.rows[1:]:
        row.remove.click(_remove, None, [row.group, row.adapter], queue=False, **QUIET)
    adapters: list[Component] = [row.adapter for row in form.rows]
    groups = [row.group for row in form.rows]
    form.add.click(_add_row, adapters, groups, queue=False, **QUIET)
    texts = [row.text_strength for row in form.rows]
    form.apart.change(_show_apart, form.apart, texts, queue=False, **QUIET)
    told = [form.prompt, form.words, form.put_words, form.filled]
    gr.on(
        [row.adapter.change for row in form.rows],
        says_errors(_fill_prompt),
        [form.prompt, form.filled, *adapters],
        told,
        trigger_mode="always_last",
        **QUIET,
    )
    gr.on(
        [form.prompt.change, shared.page.load, shared.rooms["generate"].select],
        says_errors(_check_words),
        [form.prompt, *adapters],
        [form.words, form.put_words],
        queue=False,
        trigger_mode="always_last",
        **QUIET,
    )
    form.put_words.click(_put_words, [form.prompt, *adapters], form.prompt, **QUIET)
    shared.adapter.change(
        _use_adapter, shared.adapter, [*adapters, *groups[1:]], queue=False, **QUIET
    )


def _remove() -> list[Any]:
    return [gr.Group(visible=False), ""]


def _add_row(*chosen: str | None) -> list[Any]:
    """Shows one more row than there are adapters; the first is always there."""
    used = max((number for number, one in enumerate(chosen) if one), default=0)
    return [gr.Group(visible=number <= used + 1) for number in range(ROWS)]


def _show_apart(apart: bool) -> list[gr.Slider]:
    return [gr.Slider(visible=apart) for _ in range(ROWS)]


def _use_adapter(chosen: str) -> list[Any]:
    """What another tab has chosen becomes the only adapter."""
    if not chosen:
        return [gr.skip()] * (2 * ROWS - 1)
    choices = [NO_CHOICE, *drawing.adapter_choices()]
    first = gr.Dropdown(choices=choices, value=chosen)
    rest = [gr.Dropdown(choices=choices, value="") for _ in range(ROWS - 1)]
    return [first, *rest, *[gr.Group(visible=False)] * (ROWS - 1)]


def _fill_prompt(prompt: str, filled: str, *chosen: str | None) -> list[Any]:
    """A prompt that nobody has typed follows the adapter; a typed one is left as it is."""
    known = adapterwords.of_all(chosen)
    new = adapterwords.suggested_prompt(known)
    if new and prompt.strip() in ("", filled.strip()):
        prompt = filled = new
    return [prompt, *_words_shown(prompt, known), filled]


def _check_words(prompt: str, *chosen: str | None) -> list[Any]:
    return _words_shown(prompt, adapterwords.of_all(chosen, ask=False))


def _put_words(prompt: str, *chosen: str | None) -> str:
    missing = adapterwords.missing(prompt, adapterwords.of_all(chosen, ask=False))
    return " ".join([*missing, prompt]).strip()


def _words_shown(prompt: str, known: list[adapterwords.Words]) -> list[Any]:
    if not known:
        return [NONE_CHOSEN if drawing.adapter_choices() else NO_ADAPTER, gr.Button(visible=False)]
    named = ", ".join(f"<b>{escape(word)}</b>" for words in known for word in words.triggers)
    missing = adapterwords.missing(prompt, known)
    if not named:
        text = "The adapter does not say which trigger word it has."
    elif missing:
        text = f"Trigger word: {named}. It is not in the prompt, so the adapter may hardly show."
    else:
        text = f"Trigger word: {named}."
    label = f"Put “{missing[0]}” in front" if missing else ""
    return [f'<p class="quiet">{text}</p>', gr.Button(label, visible=bool(missing))]


# ------------------------------------------------------------------------------ restoring


def _restore(form: Form, shared: Shared) -> None:
    """Settings come back from a dropped picture, or from an earlier one."""
    rows = [component for row in form.rows for component in (row.group, *row.inputs)]
    told = [form.status, form.prompt, form.filled, form.negative, form.base, form.seed, form.steps]
    told += [form.guidance, form.width, form.height, form.apart, *rows]
    form.dropped.upload(says_errors(_restore_dropped), form.dropped, told, **PRIVATE)
    form.history.select(says_errors(_restore_earlier), form.remembered, told, **PRIVATE)
    form.new_seed.click(_new_seed, None, form.seed, queue=False, **QUIET)


def _new_seed() -> int:
    return random.randint(0, LARGEST_SEED)


def _restore_dropped(file: str | None) -> list[Any]:
    if file is None:
        raise UserError("No picture was dropped.", "Drop a PNG file that was drawn here.")
    return _restored(Path(file))


def _restore_earlier(names: object, event: gr.SelectData) -> list[Any]:
    found = drawing.pictures_of(names)
    if not isinstance(event.index, int) or not 0 <= event.index < len(found):
        raise UserError("This picture is gone.", "Draw it again, or choose another.")
    return _restored(found[event.index])


def _restored(path: Path) -> list[Any]:
    """Values for the form, in the order of `_restore`."""
    known = drawing.adapter_names()
    restored = read_settings(path, known, base_models())
    settings, missing = restored.settings, restored.missing
    text = "The settings of the picture are in the form."
    if missing:
        text += f" Not here: {escape(', '.join(missing))}."
    adapters = settings.adapters[:ROWS]
    apart = any(one.text_strength is not None for one in adapters)
    return [
        f'<div class="card"><p role="status">{text}</p></div>',
        settings.prompt,
        "",
        settings.negative,
        settings.base or gr.skip(),
        settings.seed,
        settings.steps,
        settings.guidance,
        settings.width or None,
        settings.height or None,
        apart,
        *[update for number in range(ROWS) for update in _row_update(number, adapters, apart)],
    ]


def _row_update(number: int, adapters: tuple[AdapterSetting, ...], apart: bool) -> list[Any]:
    one = adapters[number] if number < len(adapters) else None
    choices = [NO_CHOICE, *drawing.adapter_choices()]
    strength = one.strength if one else 1.0
    text = one.text_strength if one and one.text_strength is not None else strength
    return [
        gr.Group(visible=number == 0 or one is not None),
        gr.Dropdown(choices=choices, value=one.id if one else ""),
        strength,
        gr.Slider(value=text, visible=apart),
    ]
