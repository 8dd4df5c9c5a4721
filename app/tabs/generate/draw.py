"""Drawing in the Generate tab: pictures beside those of the base model, grids, and the API."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app.client import ProgressUpdate, ShouldStop, Stopped, follow
from app.files import to_show
from app.render import plain, quiet, render
from app.shared import LAST, NOW, QUIET, elem, for_scripts, logger
from app.tabs.generate import drawing, grid
from app.tabs.generate.drawing import MOST_COUNT, Settings, parse_adapter
from app.tabs.generate.form import GenerateForm, read_form
from trainer.errors import UserError
from trainer.events import Progress

Updates = dict[Component, Any]

_stops: dict[str, threading.Event] = {}  # what each browser's own button stops
_DRAWING: dict[str, Any] = {**QUIET, "trigger_mode": "once", "concurrency_limit": None}


@dataclass
class Drawn:
    """What has been drawn so far; it outlives a stop.

    Attributes:
        pictures: (file, caption) in the order of the gallery, without those to compare with: what
            is downloaded from it is what was wanted.
        pairs: for each picture the base model's of the same seed: names for the page.
        sheet: the sheet of a grid, with what is on it in words.
    """

    pictures: list[tuple[Path, str]] = field(default_factory=list)
    pairs: dict[str, str] = field(default_factory=dict)
    sheet: tuple[Path, str] | None = None


Work = Callable[[Drawn, Progress, ShouldStop], None]


def wire(form: GenerateForm) -> None:
    """Lets the buttons do their work."""
    shown: list[Component] = [form.status, form.draw, form.grid_draw, form.stop, form.pictures]
    shown += [form.sheet, form.slider, form.pairs, form.remembered, form.history]

    def draw(request: gr.Request, compare: bool, remembered: Any, *values: Any) -> Iterator[Any]:
        def work(drawn: Drawn, tell: Progress, stop: ShouldStop) -> None:
            draw_pictures(read_form(values), compare, drawn, tell, stop)

        yield from show_drawing(form, request.session_hash, remembered, work)

    def draw_plan(
        request: gr.Request,
        chosen: Any,
        strengths: str,
        prompts: str,
        remembered: Any,
        *values: Any,
    ) -> Iterator[Any]:
        def work(drawn: Drawn, tell: Progress, stop: ShouldStop) -> None:
            settings = read_form(values)
            above = [one.id for one in settings.adapters]
            plan = grid.read_plan(chosen or above, strengths, prompts or settings.prompt)
            draw_grid(settings, plan, drawn, tell, stop)

        yield from show_drawing(form, request.session_hash, remembered, work)

    plan: list[Component] = [form.grid_adapters, form.grid_strengths, form.grid_prompts]
    form.draw.click(draw, [form.compare, form.remembered, *form.settings], shown, **_DRAWING)
    form.grid_draw.click(draw_plan, [*plan, form.remembered, *form.settings], shown, **_DRAWING)
    form.stop.click(_stop, None, None, **NOW)
    form.pictures.select(_choose_pair, form.pairs, form.slider, **NOW)
    planned = [*plan, form.prompt]
    changes = [component.change for component in planned]  # type: ignore[attr-defined]
    gr.on(changes, plan_in_words, planned, form.grid_sum, **LAST, queue=False)


# ------------------------------------------------------------------------------ what is drawn


def draw_pictures(
    settings: Settings, compare: bool, drawn: Drawn, tell: Progress, stop: ShouldStop
) -> None:
    """The pictures of the form and, for comparison, the base model's of the same seeds."""
    both = compare and bool(settings.adapters)

    def tell_own(step: int, total: int, message: str) -> None:
        tell(step, 2 * total if both else total, message)

    own = drawing.draw(settings, tell_own, stop)
    seeds = range(settings.seed, settings.seed + len(own))
    drawn.pictures += [(path, f"seed {seed}") for seed, path in zip(seeds, own, strict=True)]
    if not both:
        return

    def tell_base(step: int, total: int, message: str) -> None:
        tell(total + step, 2 * total, f"{message}, base model")

    plain = drawing.draw(replace(settings, adapters=()), tell_base, stop)
    names = (map(drawing.name_of, paths) for paths in (own, plain))
    drawn.pairs |= dict(zip(*names, strict=True))


def draw_grid(
    settings: Settings, plan: grid.GridPlan, drawn: Drawn, tell: Progress, stop: ShouldStop
) -> None:
    """A sheet of pictures; a stop leaves the rest of it empty."""
    plan.check()
    cells, found = plan.cells(), {}
    try:
        for number, cell in enumerate(cells):
            tell(number, len(cells), f"Drawing {number + 1} of {len(cells)}")
            found[cell] = drawing.draw(grid.settings_of(cell, settings), None, stop)[0]
    finally:
        if found:
            drawn.sheet = (grid.save_sheet(plan, found, settings), plan.arithmetic())


def plan_in_words(chosen: list[str] | None, strengths: str, prompts: str, prompt: str) -> str:
    """How many pictures the grid has, or what is wrong with it."""
    if not chosen:
        return ""
    try:
        plan = grid.read_plan(chosen, strengths, prompts or prompt)
        if not plan.prompts:
            return ""
        plan.check()
    except UserError as error:
        return quiet(plain(error))
    return quiet(f"{plan.arithmetic()}.")


# ------------------------------------------------------------------------------ following it


def show_drawing(
    form: GenerateForm, session: str | None, remembered: object, work: Work
) -> Iterator[Updates]:
    """Does the work and shows how far it is, what it gave, and why it ended."""
    drawn, stop = Drawn(), threading.Event()
    _stops[session or ""] = stop
    yield {
        form.status: render("generate.html", "progress", ProgressUpdate(0, 0, "Getting ready")),
        form.draw: gr.Button(interactive=False),
        form.grid_draw: gr.Button(interactive=False),
        form.stop: gr.Button(visible=True),
    }
    try:
        for progress in follow(lambda tell, should_stop: work(drawn, tell, should_stop), stop):
            yield {form.status: render("generate.html", "progress", progress)}
        status = _done(drawn)
    except Stopped:
        status = render("generate.html", "ended", "Stopped", "What was finished is kept.")
    except UserError as error:
        status = render("generate.html", "wrong", plain(error))
    except Exception:
        logger.exception("in drawing")
        fault = "This is a fault of Rarebit's. The terminal that it runs in says more."
        status = render("generate.html", "wrong", fault)
    finally:
        _stops.pop(session or "", None)
    yield {
        form.draw: gr.Button(interactive=True),
        form.grid_draw: gr.Button(interactive=True),
        form.stop: gr.Button(visible=False),
        form.status: status,
        **_results(form, drawn, remembered),
    }


def _done(drawn: Drawn) -> str:
    if drawn.sheet:
        text = f"{drawn.sheet[1]}."
    elif len(drawn.pictures) == 1:
        text = "One picture, with its settings in it."
    else:
        text = f"{len(drawn.pictures)} pictures, each with its settings in it."
    if drawn.pairs:
        text += " Slide to compare, or choose another."
    return render("generate.html", "ended", "Done", text)


def _results(form: GenerateForm, drawn: Drawn, remembered: object) -> Updates:
    """The gallery with the slider, or the sheet; and the list of earlier pictures."""
    sheet = [drawn.sheet[0]] if drawn.sheet else []
    names = [drawing.name_of(path) for path in [path for path, _ in drawn.pictures] + sheet]
    if not names:
        return {}
    gallery = [(to_show(path), caption) for path, caption in drawn.pictures]
    newest = drawing.names_of([*names, *drawing.names_of(remembered)])
    pairs = [[name, drawn.pairs.get(name, "")] for name in names]
    return {
        # Where there is a slider, a click chooses its pair instead of enlarging one picture.
        form.pictures: gr.Gallery(
            value=gallery, visible=bool(gallery), allow_preview=not drawn.pairs
        ),
        form.sheet: gr.Image(value=to_show(sheet[0]) if sheet else None, visible=bool(sheet)),
        form.slider: _slider(pairs, 0),
        form.pairs: pairs,
        form.remembered: newest,
        form.history: earlier_pictures(newest),
    }


def earlier_pictures(names: object) -> gr.Gallery:
    """The gallery of remembered pictures; not there while there are none."""
    shown = [
        (to_show(path), "★" if name.startswith(drawing.FAVOURITE) else "")
        for name in drawing.names_of(names)
        if (path := drawing.picture_of(name))
    ]
    return gr.Gallery(value=shown, visible=bool(shown))


def _slider(pairs: list[list[str]], index: int) -> gr.ImageSlider:
    """The base model's picture and the one with adapters."""
    after, before = map(drawing.picture_of, pairs[index])
    if before is None or after is None:
        return gr.ImageSlider(visible=False)
    return gr.ImageSlider(value=(to_show(before), to_show(after)), visible=True)


def _choose_pair(pairs: list[list[str]], event: gr.SelectData) -> gr.ImageSlider:
    index = event.index if isinstance(event.index, int) else 0
    return _slider(pairs, index) if 0 <= index < len(pairs) else gr.ImageSlider(visible=False)


def _stop(request: gr.Request) -> None:
    if stop := _stops.get(request.session_hash or ""):
        stop.set()


# ------------------------------------------------------------------------------ the API


def add_api() -> None:
    """``generate`` for scripts: components of its own, which the page does not show."""
    kinds = {"str": gr.Textbox, "int": partial(gr.Number, precision=0), "float": gr.Number}
    inputs: list[Component] = [
        kinds[one.annotation](
            None if one.default is one.empty else one.default, label=one.name, visible=False
        )
        for one in inspect.signature(generate).parameters.values()
    ]
    output = gr.File(label="pictures", file_count="multiple", visible=False)
    gr.Button(visible=False, elem_id=elem("generate", "api")).click(
        for_scripts(generate), inputs, output, api_name="generate", concurrency_limit=None
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
    if not 1 <= count <= MOST_COUNT:
        raise UserError(f"{count} pictures can't be drawn at once.", f"Ask for 1 to {MOST_COUNT}.")
    lines = filter(None, map(str.strip, adapters.splitlines()))
    chosen = tuple(map(parse_adapter, lines))
    settings = Settings(prompt, negative, chosen, base, count, seed, steps, guidance, width, height)
    return [to_show(path) for path in drawing.draw(settings)]
