"""The Generate tab: pictures with any adapters, beside those of the base model, and grids."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import jobs
from app.allowed import base_models
from app.render import quiet, render
from app.shared import LAST, NOW, PRIVATE, QUIET, Shared, says_errors
from app.tabs.adapters import words as adapter_words
from app.tabs.generate import draw, drawing
from app.tabs.generate.drawing import AdapterSetting, parse_adapter, read_settings
from app.tabs.generate.form import LARGEST_SEED, NO_CHOICE, ROWS, GenerateForm
from trainer.data.captions import literal_marks
from trainer.errors import UserError


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    form = GenerateForm(shared.remembered["pictures"])
    _follow_the_machine(form, shared)
    _choose_adapters(form, shared)
    _restore(form)
    _remember(form, shared)
    draw.wire(form)
    # In the queue: gradio 6.31 tells only of changes of a state that went through it.
    form.use_prompt.click(
        lambda prompt: (prompt.strip(), time.time()) if prompt.strip() else gr.skip(),
        form.prompt, shared.preview_prompt, **QUIET,
    )  # fmt: skip
    draw.add_api()


# ------------------------------------------------------------------------------ what is here


def _follow_the_machine(form: GenerateForm, shared: Shared) -> None:
    """Lists follow what is on the machine; a busy device is said at once."""
    page, room = shared.page, shared.rooms["generate"]

    def choices() -> list[gr.Dropdown]:
        # Without values: they may have been chosen while the answer was on its way.
        rows = [gr.Dropdown(choices=_choices()) for _ in form.rows]
        every = gr.Dropdown(choices=drawing.checkpoint_choices())
        return [*rows, every, gr.Dropdown(choices=base_models())]

    lists = [*form.adapters, form.grid_adapters, form.base]
    gr.on([page.load, room.select], choices, None, lists, **NOW)
    looks = [room.select, shared.training.change]
    gr.on(looks, _busy, None, form.busy, **NOW)
    page.load(draw.earlier_pictures, form.remembered, form.history, **NOW)
    shared.base.change(lambda base: base, shared.base, form.base, **NOW)


def _choices() -> list[tuple[str, str]]:
    return [NO_CHOICE, *drawing.adapter_choices()]


def _busy() -> str:
    run = jobs.overview.busy()
    return render("generate.html", "busy", run.name) if run else ""


# ------------------------------------------------------------------------------ adapters


def _choose_adapters(form: GenerateForm, shared: Shared) -> None:
    """Rows come and go, and the trigger words of what is chosen stand below the prompt."""
    adapters, groups = form.adapters, [row.group for row in form.rows]
    said = [form.words, form.put_words]
    for row in form.rows[1:]:
        gone = [row.group, row.adapter]
        row.remove.click(lambda: [gr.Group(visible=False), ""], None, gone, **NOW)
    form.add.click(_add_row, adapters, groups, **NOW)
    form.separate.change(
        lambda shown: [gr.Slider(visible=shown)] * ROWS,
        form.separate, [row.text_strength for row in form.rows], **NOW,
    )  # fmt: skip
    gr.on(
        [row.adapter.change for row in form.rows], says_errors(_fill_prompt),
        [form.prompt, form.filled, *adapters], [form.prompt, form.filled, *said], **LAST,
    )  # fmt: skip
    typed = [form.prompt.change, shared.rooms["generate"].select]
    gr.on(typed, says_errors(_check_words), [form.prompt, *adapters], said, **LAST, queue=False)
    form.put_words.click(_put_words, [form.prompt, *adapters], form.prompt, **QUIET)
    used = [*adapters, *groups[1:], form.rows[0].strength]
    shared.adapter.change(_use_adapter, shared.adapter, used, **NOW)


def _add_row(*chosen: str | None) -> list[Any]:
    """Shows one more row than there are adapters; the first is always there."""
    used = max((number for number, one in enumerate(chosen) if one), default=0)
    return [gr.Group(visible=number <= used + 1) for number in range(ROWS)]


def _use_adapter(chosen: str) -> list[Any]:
    """What another tab has chosen becomes the only adapter."""
    if not chosen:
        return [gr.skip()] * (2 * ROWS)
    setting = parse_adapter(chosen)
    values = [setting.id, *[""] * (ROWS - 1)]
    rows = [gr.Dropdown(choices=_choices(), value=value) for value in values]
    return [*rows, *[gr.Group(visible=False)] * (ROWS - 1), setting.strength]


def _fill_prompt(prompt: str, filled: str, *chosen: str | None) -> list[Any]:
    """A prompt that nobody has typed follows the adapter; a typed one is left as it is."""
    known = adapter_words.of_all(chosen)
    new = adapter_words.suggested_prompt(known)
    if new and prompt.strip() in ("", filled.strip()):
        prompt = filled = new
    return [prompt, filled, *_words_shown(prompt, known)]


def _check_words(prompt: str | None, *chosen: str | None) -> list[Any]:
    return _words_shown(prompt or "", adapter_words.of_all(chosen, ask=False))


def _put_words(prompt: str, *chosen: str | None) -> str:
    missing = adapter_words.missing(prompt, adapter_words.of_all(chosen, ask=False))
    return " ".join([*missing, prompt]).strip()


def _words_shown(prompt: str, known: list[adapter_words.Words]) -> list[Any]:
    said, button = _triggers_shown(prompt, known)
    return [said + (quiet(marks) if (marks := literal_marks(prompt)) else ""), button]


def _triggers_shown(prompt: str, known: list[adapter_words.Words]) -> list[Any]:
    if not known and drawing.adapter_choices():
        text = "No adapter is chosen below: the base model draws alone."
        return [quiet(text), gr.Button(visible=False)]
    if not known:
        return [render("generate.html", "no_adapter"), gr.Button(visible=False)]
    triggers = [word for words in known for word in words.triggers]
    missing = adapter_words.missing(prompt, known) if prompt.strip() else []
    label = f"Put “{missing[0]}” in front" if missing else ""
    return [
        render("generate.html", "words", triggers, missing),
        gr.Button(label, visible=bool(missing)),
    ]


# ------------------------------------------------------------------------------ restoring


def _restore(form: GenerateForm) -> None:
    """Settings come back from a dropped picture, or from an earlier one."""
    rows = [component for row in form.rows for component in (row.group, *row.inputs)]
    plain: list[Component] = [form.status, form.prompt, form.filled, form.negative, form.base]
    plain += [form.seed, form.steps, form.guidance, form.width, form.height, form.separate]
    filled = [*plain, *rows]
    dropped = form.dropped.upload(says_errors(_restore_dropped), form.dropped, filled, **PRIVATE)
    dropped.then(lambda: None, None, form.dropped, **NOW)
    form.history.select(says_errors(_restore_earlier), form.remembered, filled, **PRIVATE)
    picked = [form.picked, form.favourite]
    form.history.select(_pick, form.remembered, picked, **NOW)
    kept = [form.remembered, form.history, *picked]
    form.favourite.click(_toggle, [form.picked, form.remembered], kept, **NOW)
    form.new_seed.click(lambda: random.randint(0, LARGEST_SEED), None, form.seed, **NOW)


def _remember(form: GenerateForm, shared: Shared) -> None:
    """The form survives a reload, in the browser that filled it in."""
    kept, groups = shared.remembered["generate"], [row.group for row in form.rows[1:]]
    recalled = [*form.settings, *groups]
    arrived = shared.page.load(_recall, kept, recalled, **NOW)
    changes = [component.change for component in form.settings]  # type: ignore[attr-defined]
    # Not while a page arrives: it shows the defaults until then.
    has_arrived = gr.State(False)
    arrived.then(lambda: True, None, has_arrived, **NOW)

    def keep(has_arrived: bool, *values: Any) -> Any:
        return list(values) if has_arrived else gr.skip()

    inputs = [has_arrived, *form.settings]
    gr.on(changes, keep, inputs, kept, **LAST, queue=False)


def _recall(values: Any) -> list[Any]:
    """The form as it was; an adapter that is gone is left out."""
    length = 10 + 3 * ROWS
    if not isinstance(values, list) or len(values) != length:
        return [gr.skip()] * (length + ROWS - 1)
    known = {identity for _, identity in _choices()}
    for at in range(10, length, 3):
        values[at] = values[at] if values[at] in known else ""
    shown = [gr.Group(visible=bool(values[at])) for at in range(13, length, 3)]
    choices = [
        gr.Dropdown(choices=_choices(), value=value) if at >= 10 and (at - 10) % 3 == 0 else value
        for at, value in enumerate(values)
    ]
    return [*choices, *shown]


def _restore_dropped(file: str | None) -> list[Any]:
    if file is None:
        raise UserError("No picture was dropped.", "Drop a PNG file that was drawn here.")
    return _restored(Path(file))


def _restore_earlier(names: object, event: gr.SelectData) -> list[Any]:
    found = [drawing.picture_of(name) for name in drawing.names_of(names)]
    path = found[event.index] if event.index in range(len(found)) else None
    if path is None:
        raise UserError("This picture is gone.", "Draw it again, or choose another.")
    return _restored(path)


def _pick(names: object, event: gr.SelectData) -> tuple[str, gr.Button]:
    """Notes what was chosen, and offers to keep it."""
    known = drawing.names_of(names)
    at = event.index if isinstance(event.index, int) else -1
    name = known[at] if 0 <= at < len(known) else ""
    was = name.startswith(drawing.FAVOURITE)
    label = "No longer a favourite" if was else "Keep as a favourite"
    return name, gr.Button(label, visible=bool(name))


def _toggle(picked: str, names: object) -> tuple[list[str], gr.Gallery, str, gr.Button]:
    """Favourites stand first, and stay however much is drawn."""
    rest = [name for name in drawing.names_of(names) if name != picked]
    bare = picked.removeprefix(drawing.FAVOURITE)
    kept = drawing.names_of([bare if bare != picked else drawing.FAVOURITE + bare, *rest])
    return kept, draw.earlier_pictures(kept), "", gr.Button(visible=False)


def _restored(path: Path) -> list[Any]:
    """Values for the form, in the order of `_restore`."""
    settings, missing = read_settings(path, drawing.adapter_names(), base_models())
    adapters: list[AdapterSetting | None] = [*settings.adapters[:ROWS]]
    adapters += [None] * (ROWS - len(adapters))
    separate = any(one and one.text_encoder_strength is not None for one in adapters)
    return [
        render("generate.html", "restored", missing),
        settings.prompt,
        "",
        settings.negative,
        settings.base or gr.skip(),
        settings.seed,
        settings.inference_steps,
        settings.guidance,
        settings.width or None,
        settings.height or None,
        separate,
        *[update for n, one in enumerate(adapters) for update in _row(n, one, separate)],
    ]


def _row(number: int, adapter: AdapterSetting | None, separate: bool) -> list[Any]:
    """Updates of one adapter's row and of its inputs."""
    found = adapter or AdapterSetting("")
    text = found.strength if found.text_encoder_strength is None else found.text_encoder_strength
    return [
        gr.Group(visible=number == 0 or adapter is not None),
        gr.Dropdown(choices=_choices(), value=found.id),
        found.strength,
        gr.Slider(value=text, visible=separate),
    ]
