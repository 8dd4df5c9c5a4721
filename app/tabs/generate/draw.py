"""Drawing in the Generate tab: pictures beside those of the base model, grids, and the API."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app.client import Stopped
from app.shared import QUIET, elem, logger, plain, says_errors
from app.tabs.generate import drawing, grid
from app.tabs.generate.drawing import AdapterSetting, OnProgress, Settings, ShouldStop
from app.tabs.generate.following import Following, Stops, Told
from app.tabs.generate.form import MOST_COUNT, Form, read_form
from app.tabs.generate.picturesettings import parse_adapter
from trainer.errors import UserError

REMEMBERED = 60

Updates = dict[Component, Any]

_stops = Stops()
_DRAWING = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "once",
    "concurrency_limit": None,
}


@dataclass
class _Drawn:
    """What has been drawn so far; it outlives a stop.

    Attributes:
        pictures: (file, caption) in the order of the gallery.
        pairs: for each picture the base model's of the same seed, or "": names for the page.
        sheet: the sheet of a grid, with what is on it in words.
    """

    pictures: list[tuple[Path, str]] = field(default_factory=list)
    pairs: dict[str, str] = field(default_factory=dict)
    sheet: tuple[Path, str] | None = None


Work = Callable[[_Drawn, OnProgress, ShouldStop], None]


def wire(form: Form) -> None:
    """Lets the buttons do their work."""
    told: list[Component] = [form.status, form.draw, form.grid_draw, form.stop, form.pictures]
    told += [form.sheet, form.slider, form.shown, form.remembered, form.history]

    def draw(
        request: gr.Request, compare: bool, remembered: Any, *values: Any
    ) -> Iterator[Updates]:
        settings = read_form(values)
        yield from _followed(form, request, remembered, _pictures(settings, compare))

    def draw_grid(
        request: gr.Request,
        chosen: Any,
        strengths: str,
        prompts: str,
        remembered: Any,
        *values: Any,
    ) -> Iterator[Updates]:
        settings = read_form(values)
        work = _grid(settings, list(chosen or []), strengths, prompts or settings.prompt)
        yield from _followed(form, request, remembered, work)

    plan: list[Component] = [form.grid_adapters, form.grid_strengths, form.grid_prompts]
    form.draw.click(draw, [form.compare, form.remembered, *form.settings], told, **_DRAWING)
    form.grid_draw.click(draw_grid, [*plan, form.remembered, *form.settings], told, **_DRAWING)
    form.stop.click(_stop, None, None, queue=False, **QUIET)
    form.pictures.select(_choose_pair, form.shown, form.slider, queue=False, **QUIET)
    changed = [component.change for component in plan]  # type: ignore[attr-defined]
    gr.on(
        [*changed, form.prompt.change],
        _plan_told,
        [*plan, form.prompt],
        form.grid_sum,
        queue=False,
        trigger_mode="always_last",
        **QUIET,
    )


# ------------------------------------------------------------------------------ what is drawn


def _pictures(settings: Settings, compare: bool) -> Work:
    """The pictures of the form and, for comparison, the base model's of the same seeds."""

    def work(drawn: _Drawn, tell: OnProgress, stop: ShouldStop) -> None:
        both = compare and bool(settings.adapters)
        share = 2 if both else 1

        def told(step: int, total: int, message: str) -> None:
            tell(step, share * total, message)

        own = drawing.draw(settings, told, stop)
        for number, path in enumerate(own):
            drawn.pictures.append((path, f"seed {settings.seed + number}"))
        if not both:
            return

        def told_of_base(step: int, total: int, message: str) -> None:
            tell(total + step, share * total, f"{message}, base model")

        plain_base = drawing.draw(replace(settings, adapters=()), told_of_base, stop)
        for number, (path, base) in enumerate(zip(own, plain_base, strict=True)):
            drawn.pictures.append((base, f"base, seed {settings.seed + number}"))
            drawn.pairs[drawing.name_of(path)] = drawing.name_of(base)
            drawn.pairs[drawing.name_of(base)] = drawing.name_of(base)

    return work


def _grid(settings: Settings, chosen: list[str], strengths: str, prompts: str) -> Work:
    """A sheet of pictures; a stop leaves the rest of it empty."""

    def work(drawn: _Drawn, tell: OnProgress, stop: ShouldStop) -> None:
        titles = {identity: title for title, identity in drawing.checkpoint_choices()}
        plan = grid.read_plan(chosen, titles, strengths, prompts)
        plan.check()
        cells, found = plan.cells(), {}
        try:
            for number, cell in enumerate(cells):
                tell(number, len(cells), f"Drawing {number + 1} of {len(cells)}")
                one = grid.settings_of(cell, settings)
                found[cell] = drawing.draw(one, lambda *_: None, stop)[0]
        finally:
            if found:
                sheet = grid.save_sheet(plan, found, settings)
                drawn.sheet = (sheet, plan.arithmetic())

    return work


def _plan_told(chosen: Any, strengths: str, prompts: str, prompt: str) -> str:
    """How many pictures the grid has, or what is wrong with it."""
    if not chosen:
        return ""
    try:
        titles = {identity: title for title, identity in drawing.checkpoint_choices()}
        plan = grid.read_plan(list(chosen), titles, strengths, prompts or prompt)
        if not plan.prompts:
            return ""
        plan.check()
    except UserError as error:
        return f'<p class="quiet">{plain(error)}</p>'
    return f'<p class="quiet">{html.escape(plan.arithmetic())}.</p>'


# ------------------------------------------------------------------------------ following it


def _followed(form: Form, request: gr.Request, remembered: Any, work: Work) -> Iterator[Updates]:
    """Does the work and shows how far it is, what it gave, and why it ended."""
    drawn = _Drawn()
    following = Following(lambda tell, stop: work(drawn, tell, stop))
    _stops.put(request.session_hash, following.stop)
    yield {
        form.status: _progress(Told(0, 0, "Getting ready")),
        form.draw: gr.Button(interactive=False),
        form.grid_draw: gr.Button(interactive=False),
        form.stop: gr.Button(visible=True),
    }
    said = ""
    try:
        with contextlib.closing(following.steps()) as steps:
            for told in steps:
                yield {form.status: _progress(told)}
    except Stopped:
        said = _card("Stopped", "What was finished is kept.")
    except UserError as error:
        said = f'<div class="card wrong" role="alert"><p>{plain(error)}</p></div>'
    except Exception:
        logger.exception("in drawing")
        said = (
            '<div class="card wrong" role="alert"><p>This is a fault of Rarebit\'s. The terminal '
            "that it runs in says more.</p></div>"
        )
    finally:
        _stops.take(request.session_hash)
    yield {**_ended(form), form.status: said or _summary(drawn), **_shown(form, drawn, remembered)}


def _ended(form: Form) -> Updates:
    return {
        form.draw: gr.Button(interactive=True),
        form.grid_draw: gr.Button(interactive=True),
        form.stop: gr.Button(visible=False),
    }


def _shown(form: Form, drawn: _Drawn, remembered: Any) -> Updates:
    """The gallery with the slider, or the sheet; and the list of earlier pictures."""
    sheet = [drawn.sheet[0]] if drawn.sheet else []
    names = [drawing.name_of(path) for path in [path for path, _ in drawn.pictures] + sheet]
    if not names:
        return {}
    gallery = [(drawing.to_show(path), caption) for path, caption in drawn.pictures]
    earlier = drawing.pictures_of(remembered)
    kept = [*names, *(drawing.name_of(path) for path in earlier)][:REMEMBERED]
    pairs = [[name, drawn.pairs.get(name, "")] for name in names]
    return {
        # Where there is a slider, a click chooses its pair instead of enlarging one picture.
        form.pictures: gr.Gallery(
            value=gallery, visible=bool(gallery), allow_preview=not drawn.pairs
        ),
        form.sheet: gr.Image(
            value=drawing.to_show(sheet[0]) if sheet else None, visible=bool(sheet)
        ),
        form.slider: _slider(pairs, 0),
        form.shown: pairs,
        form.remembered: kept,
        form.history: earlier_pictures(kept),
    }


def earlier_pictures(names: object) -> gr.Gallery:
    """The gallery of remembered pictures; not there while there are none."""
    shown = [drawing.to_show(path) for path in drawing.pictures_of(names)]
    return gr.Gallery(value=shown, visible=bool(shown))


def _slider(pairs: list[list[str]], index: int) -> gr.ImageSlider:
    """The base model's picture and the one with adapters; of a base picture, its partner."""
    name, base = pairs[index]
    partner = next((own for own, other in pairs if other == base and own != base), name)
    found = [drawing.picture_of(one) for one in (base, partner)]
    before, after = found
    if before is None or after is None:
        return gr.ImageSlider(visible=False)
    return gr.ImageSlider(value=(drawing.to_show(before), drawing.to_show(after)), visible=True)


def _choose_pair(pairs: list[list[str]], event: gr.SelectData) -> gr.ImageSlider:
    index = event.index if isinstance(event.index, int) else 0
    return _slider(pairs, index) if 0 <= index < len(pairs) else gr.ImageSlider(visible=False)


def _stop(request: gr.Request) -> None:
    _stops.stop(request.session_hash)


def _summary(drawn: _Drawn) -> str:
    if drawn.sheet:
        return _card("Done", f"{html.escape(drawn.sheet[1])}.")
    count = len(drawn.pictures)
    pictures = (
        f"{count} pictures, each with its settings in it."
        if count != 1
        else ("One picture, with its settings in it.")
    )
    return _card("Done", pictures + (" Slide to compare, or choose another." * bool(drawn.pairs)))


def _card(title: str, text: str) -> str:
    return f'<div class="card" role="status"><h2>{title}</h2><p>{text}</p></div>'


def _progress(told: Told) -> str:
    known = f' value="{told.step}" max="{told.total}"' if told.total else ""
    message = html.escape(told.message)
    return (
        f'<div class="card"><p>{message}</p>'
        f'<progress aria-label="How far it is"{known} style="width: 100%; '
        'accent-color: var(--accent)"></progress></div>'
    )


# ------------------------------------------------------------------------------ the API


def add_api() -> None:
    """``generate`` for scripts: components of its own, which the page does not show."""
    hidden: dict[str, Any] = {"visible": False}
    inputs: list[Component] = [
        gr.Textbox(label="prompt", **hidden),
        gr.Textbox("", label="adapters", **hidden),
        gr.Textbox("", label="negative", **hidden),
        gr.Number(1, label="count", precision=0, **hidden),
        gr.Number(1, label="seed", precision=0, **hidden),
        gr.Number(25, label="steps", precision=0, **hidden),
        gr.Number(5.0, label="guidance", **hidden),
        gr.Number(0, label="width", precision=0, **hidden),
        gr.Number(0, label="height", precision=0, **hidden),
        gr.Textbox("tiny-emoji", label="base", **hidden),
    ]
    output = gr.File(label="pictures", file_count="multiple", **hidden)
    gr.Button(visible=False, elem_id=elem("generate", "api")).click(
        says_errors(generate), inputs, output, api_name="generate", concurrency_limit=None
    )


def generate(
    prompt: str,
    adapters: str = "",
    negative: str = "",
    count: int = 1,
    seed: int = 1,
    steps: int = 25,
    guidance: float = 5.0,
    width: int = 0,
    height: int = 0,
    base: str = "tiny-emoji",
) -> list[str]:
    """Draws pictures and gives their PNG files.

    Args:
        adapters: one a line: a run's name or an adapter's id, ``:`` and its strength, and if it
            differs in the text encoder ``:`` and that.
        count: at most 16; seeds count up.
        width, height: in pixels; 0 for the base model's own.
    """
    named = [parse_adapter(line.strip()) for line in adapters.splitlines() if line.strip()]
    settings = Settings(
        prompt=prompt,
        negative=negative,
        adapters=tuple(AdapterSetting(a.name, a.strength, a.text_strength) for a in named),
        base=base,
        count=count,
        seed=seed,
        steps=steps,
        guidance=guidance,
        width=width,
        height=height,
    )
    if not 1 <= count <= MOST_COUNT:
        raise UserError(f"{count} pictures at once are not drawn.", f"1 to {MOST_COUNT} are.")
    return [drawing.to_show(path) for path in drawing.draw(settings, lambda *_: None)]
