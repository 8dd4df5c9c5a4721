"""The Runs tab: what trains, what waits, what was; read from the run folders by a timer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.tabs.runs import html as runs_html
from app import jobs
from app.jobs import QUEUED, UNSTARTED, RunInfo
from app.tabs.runs.compare import MOST, compared
from app.tabs.runs.reader import RunView, overview, view
from app.shared import QUIET, Shared, elem, escape, for_scripts, go, says_errors
from trainer.config.file import format_config
from trainer.errors import UserError

TICK = 2.0  # seconds
_LISTED = 100


@dataclass
class _Parts:
    """The tab's components."""

    names: gr.Radio
    head: gr.HTML
    board: gr.HTML
    chart: gr.HTML
    meters: gr.HTML
    log: gr.HTML
    stop: gr.Button
    resume: gr.Button
    anyway: gr.Button
    again: gr.Button
    draw: gr.Button
    delete: gr.Button
    question: gr.Group
    asked: gr.HTML
    yes: gr.Button
    no: gr.Button
    seen: gr.State

    @property
    def watched(self) -> list[Any]:
        """What the timer keeps true, in the order of `_moment`."""
        return [
            *(self.names, self.head, self.board, self.chart, self.meters, self.log),
            *(self.stop, self.resume, self.anyway, self.again, self.draw, self.delete, self.seen),
        ]


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    parts = _lay_out()
    _watch(parts, shared)
    _act(parts, shared)
    _compare(shared)
    gr.api(for_scripts(run_status), api_name="run_status", queue=False)
    gr.api(for_scripts(stop_training), api_name="stop_training", queue=False)


# ------------------------------------------------------------------------------ the parts


def _lay_out() -> _Parts:
    def button(thing: str, text: str, **more: Any) -> gr.Button:
        place = elem("runs", thing)
        return gr.Button(
            text, visible=False, size="sm", elem_id=place, scale=0, min_width=150, **more
        )

    def area(thing: str) -> gr.HTML:
        return gr.HTML(elem_id=elem("runs", thing))

    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=240):
            names = gr.Radio([], label="Runs, the newest first", elem_id=elem("runs", "list"))
        with gr.Column(scale=4, min_width=340):
            head = area("head")
            with gr.Row():
                stop = button("stop", "Stop and save", variant="primary")
                resume = button("resume", "Resume", variant="primary")
                anyway = button("resume-anyway", "Resume with the changed images")
                draw = button("generate", "Generate with it", variant="primary")
                again = button("settings", "Fill the Train form")
                delete = button("delete", "Delete …")
            with gr.Group(visible=False, elem_id=elem("runs", "question")) as question:
                asked = gr.HTML(elem_id=elem("runs", "asked"))
                with gr.Row():
                    yes = gr.Button(
                        "Delete it", variant="stop", size="sm", elem_id=elem("runs", "delete-yes")
                    )
                    no = gr.Button("Keep it", size="sm", elem_id=elem("runs", "delete-no"))
            board = area("board")
            meters = area("meters")
            with gr.Row(equal_height=False):
                with gr.Column(min_width=320):
                    chart = area("chart")
                with gr.Column(min_width=320):
                    log = area("log")
    return _Parts(
        *(names, head, board, chart, meters, log, stop, resume, anyway, again, draw, delete),
        *(question, asked, yes, no, gr.State({})),
    )


# ------------------------------------------------------------------------------ watching


def _watch(parts: _Parts, shared: Shared) -> None:
    """One event for the timer, a choice and a visit, so that no answer overtakes another."""
    # Never off: answers that switch it on and off as tabs come and go can overtake each other, and
    # then a run would seem to stand still.
    timer = gr.Timer(TICK)
    gr.on(
        [timer.tick, parts.names.input, shared.rooms["runs"].select, shared.run.change],
        _moment,
        [parts.names, shared.run, parts.seen],
        [*parts.watched, shared.run],
        trigger_mode="always_last",
        **QUIET,
        queue=False,
    )


def _moment(chosen: str | None, wished: str, seen: dict[str, str]) -> list[Any]:
    """What has changed since this browser was told last; the rest is not sent again.

    Args:
        wished: a run that another tab wants shown, or "".
        seen: what this browser shows already.
    """
    runs = overview.runs(now=bool(wished))[:_LISTED]
    names = [run.name for run in runs]
    name = next((n for n in (wished, chosen) if n in names), _first(runs))
    new = _contents(name, runs)
    updates = [
        _component(key, value) if seen.get(key) != value else gr.skip()
        for key, value in new.items()
    ]
    return [*updates, new, ""]


def _first(runs: list[RunInfo]) -> str | None:
    """What to show unasked: what trains, or else the newest."""
    return next((run.name for run in runs if run.alive), runs[0].name if runs else None)


def _contents(name: str | None, runs: list[RunInfo]) -> dict[str, Any]:
    """What every part shows, by its name; equal values need no sending."""
    choices = [(runs_html.label(run), run.name) for run in runs]
    shown: dict[str, Any] = {"names": (choices, name)}
    try:
        found = view(name) if name else None
    except UserError:
        found = None
    if found is None:
        empty = runs_html.nothing_yet()
        return (
            shown
            | {"head": empty}
            | dict.fromkeys(("board", "chart", "meters", "log"), "")
            | (_buttons(None))
        )
    return shown | _drawn(found) | _buttons(found.info, found)


_drawings: dict[str, tuple[Any, dict[str, str]]] = {}


def _drawn(found: RunView) -> dict[str, str]:
    """The HTML of a run, made once for everyone who watches."""
    name = found.info.name
    version = (found.version, found.info.alive, found.info.phase)
    kept = _drawings.get(name)
    if kept is None or kept[0] != version:
        drawn = {
            "board": runs_html.board(found),
            "chart": runs_html.chart(found),
            "meters": runs_html.meters(found),
            "log": runs_html.log(found),
        }
        kept = _drawings[name] = (version, drawn)
        for old in list(_drawings)[:-16]:
            _drawings.pop(old, None)
    return {"head": runs_html.head(found), **kept[1]}


def _buttons(info: RunInfo | None, found: RunView | None = None) -> dict[str, Any]:
    """(visible, label, clickable) of every button."""
    nothing = (False, "", True)
    if info is None:
        return dict.fromkeys(("stop", "resume", "anyway", "again", "draw", "delete"), nothing)
    ended = info.phase in ("stopped", "failed", UNSTARTED)
    saved = jobs.has_checkpoint(info.name)
    changed = info.phase == "failed" and info.code == "images_changed"
    leave = "Take out of the queue" if info.phase == QUEUED else "Stop and save"
    return {
        "stop": (info.alive or info.phase == QUEUED, leave, not info.stopping),
        "resume": (ended, "Resume" if saved else "Start again", True),
        "anyway": (changed, "Resume with the changed images", True),
        "again": (found is not None and found.config is not None, "Fill the Train form", True),
        "draw": (jobs.has_adapter(info.name), "Generate with it", True),
        "delete": (not info.alive, "Delete …", True),
    }


def _component(key: str, value: Any) -> Any:
    """The update that makes a component show a value of `_contents`."""
    if key == "names":
        choices, chosen = value
        return gr.Radio(choices=choices, value=chosen, visible=bool(choices))
    if isinstance(value, tuple):
        visible, text, clickable = value
        return gr.update(
            visible=visible, interactive=clickable, **({"value": text} if text else {})
        )
    return gr.update(value=value, visible=bool(value))


# ------------------------------------------------------------------------------ acting


def _act(parts: _Parts, shared: Shared) -> None:
    """Every press changes the run folders, and then has the run shown as it is."""
    name, show = parts.names, shared.run

    def press(button: gr.Button, action: Any) -> None:
        button.click(says_errors(action), name, show, **QUIET)

    press(parts.stop, _stop)
    press(parts.resume, _resume)
    press(parts.anyway, _resume_anyway)
    parts.delete.click(_ask, name, [parts.asked, parts.question], **QUIET)
    parts.no.click(_hide, None, parts.question, **QUIET)
    parts.yes.click(says_errors(_delete), name, [parts.question, show], **QUIET)
    parts.names.input(_hide, None, parts.question, **QUIET)
    parts.again.click(says_errors(_settings), name, [shared.settings, shared.tabs], **QUIET)
    parts.draw.click(
        lambda chosen: (chosen, go("generate")), name, [shared.adapter, shared.tabs], **QUIET
    )


def _stop(name: str) -> str:
    jobs.stop(name)
    return name


def _resume(name: str) -> str:
    jobs.resume(name)
    return name


def _resume_anyway(name: str) -> str:
    jobs.resume(name, accept_changes=True)
    return name


def _ask(name: str) -> tuple[str, gr.Group]:
    what = jobs.contents(name)
    text = f"Delete <b>{escape(name)}</b>, with {escape(what)}? This can't be undone."
    return f'<p class="question">{text}</p>', gr.Group(visible=True)


def _hide() -> gr.Group:
    return gr.Group(visible=False)


def _delete(name: str) -> tuple[gr.Group, str]:
    jobs.delete(name)
    gr.Info(f"{escape(name)} is deleted.")
    return gr.Group(visible=False), " "  # no run's name: shows the next one


def _settings(name: str) -> tuple[tuple[str, float], gr.Tabs]:
    found = view(name)
    if found.config is None:
        raise UserError("The settings of this run cannot be read.", "Choose another run.")
    return (format_config(found.config), time.time()), go("train")


def _compare(shared: Shared) -> None:
    with gr.Accordion("Compare runs", open=False, elem_id=elem("runs", "compare")):
        chosen = gr.Dropdown(
            [],
            multiselect=True,
            max_choices=MOST,
            label="Runs side by side",
            info="Two to four.",
            elem_id=elem("runs", "compared-names"),
        )
        area = gr.HTML(elem_id=elem("runs", "compared"))
    chosen.change(compared, chosen, area, **QUIET)

    def refresh(names: list[str]) -> gr.Dropdown:
        known = [run.name for run in overview.runs()]
        return gr.Dropdown(choices=known, value=[name for name in names if name in known])

    shared.rooms["runs"].select(refresh, chosen, chosen, **QUIET)


# ------------------------------------------------------------------------------ for scripts


def run_status(run: str = "") -> dict[str, Any]:
    """What a run does now; without a name, what trains, or else the newest run.

    Returns:
        name, phase, step, total_steps, eta_seconds, message, alive and, once there is one, the
        newest loss. An empty object if there is no run.
    """
    name = run or _first(overview.runs())
    if name is None:
        return {}
    found = view(name)
    losses = found.curves.get("step.loss", [])
    info = found.info
    return {
        "name": info.name,
        "phase": info.phase,
        "step": info.step,
        "total_steps": info.total_steps,
        "eta_seconds": info.eta_seconds,
        "message": runs_html.plain_message(info.message, info.code),
        "alive": info.alive,
        "loss": losses[-1][1] if losses else None,
    }


def stop_training(run: str = "") -> str:
    """Asks a run to finish its step and save; without a name, the one that trains.

    Returns:
        The run's name.
    """
    busy = jobs.busy()
    name = run or (busy.name if busy else "")
    if not name:
        raise UserError("Nothing trains.", "There is nothing to stop.")
    jobs.stop(name)
    return name
