"""The Runs tab: what trains, what waits, what was; read from the run folders by a timer."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import escape

from app import jobs
from app.jobs import QUEUED, UNSTARTED, RunInfo
from app.render import render
from app.shared import LAST, QUIET, Shared, for_scripts, go, says_errors
from app.tabs.runs import comparing, html, next_step
from app.tabs.runs.form import BUTTONS, LISTED, RunParts, add
from app.tabs.runs.pictures import newest_adapter
from app.tabs.runs.reader import RunView, view
from trainer import places
from trainer.config.file import format_config, with_values
from trainer.errors import UserError
from trainer.runs.layout import RunFolder
from trainer.runs.wishes import Wish, is_wished, take_back, wish_for

TICK = 2.0  # seconds
_HEEDING = ("training", "paused", "previewing", "measuring")
"""Phases of a run that heeds what is asked of it."""


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    _compare(shared)
    parts = RunParts()
    _watch(parts, shared)
    _act(parts, shared)
    gr.api(for_scripts(run_status), api_name="run_status", queue=False)
    gr.api(for_scripts(stop_training), api_name="stop_training", queue=False)


# ------------------------------------------------------------------------------ watching


def _watch(parts: RunParts, shared: Shared) -> None:
    """One event for the timer, a choice and a visit, so that no answer overtakes another."""
    # Never off: answers that switch it on and off as tabs come and go can overtake each other, and
    # then a run would seem to stand still.
    timer = gr.Timer(TICK)
    watched = parts.watched

    def show(
        chosen: str | None, wished: str, search: str | None, listed: int, seen: dict[str, Any]
    ) -> dict[Any, Any]:
        new, changed = moment(chosen, wished, seen, search or "", listed)
        updates = {watched[key]: _component(key, new[key], chosen) for key in changed}
        # What was clicked or wished while this was computed is not overwritten.
        return {**updates, parts.seen: new, **({shared.run: ""} if wished else {})}

    looks = [timer.tick, parts.search.input, parts.listed.change, parts.names.input]
    looks += [shared.rooms["runs"].select, shared.run.change]
    asked = [parts.names, shared.run, parts.search, parts.listed, parts.seen]
    shown = [*watched.values(), parts.seen, shared.run]
    gr.on(looks, show, asked, shown, **LAST, queue=False)
    parts.older.click(lambda count: count + LISTED, parts.listed, parts.listed, **QUIET)


def moment(
    chosen: str | None, wished: str, seen: dict[str, Any], search: str = "", listed: int = LISTED
) -> tuple[dict[str, Any], list[str]]:
    """What every part shows now, and the names of those that have to be sent.

    Args:
        wished: a run that another tab wants shown, or "".
        seen: what this browser shows already.
        search: part of the names to list; "" for all.
        listed: how many to list at most.
    """
    runs = jobs.overview.runs(now=bool(wished))
    name = next((n for n in (wished, chosen) if any(run.name == n for run in runs)), _first(runs))
    found = [run for run in runs if search.strip().casefold() in run.name.casefold()]
    # What is shown stays in the list, wherever it would stand.
    shown = [run for at, run in enumerate(found) if at < listed or run.name == name]
    if name and all(run.name != name for run in shown):
        shown = [next(run for run in runs if run.name == name), *shown]
    new = _contents(name, shown)
    new["older"] = (len(found) > listed, f"Show older runs ({len(found) - listed:,} more)", True)
    new["search"] = len(runs) > 1 or bool(search)
    return new, [key for key, value in new.items() if seen.get(key) != value]


def _first(runs: list[RunInfo]) -> str | None:
    """What to show unasked: what trains, or else the newest."""
    return next((run.name for run in runs if run.alive), runs[0].name if runs else None)


def _contents(name: str | None, runs: list[RunInfo]) -> dict[str, Any]:
    """What every part shows, by its name; equal values need no sending."""
    shown: dict[str, Any] = {"names": ([(html.label(run), run.name) for run in runs], name)}
    try:
        found = view(name) if name else None
    except UserError:
        found = None
    if found is None:
        head = render("runs.html", "nothing_yet")
        return {**shown, "head": head, **dict.fromkeys(_PARTS, ""), **_buttons(None)}
    return {**shown, "head": html.head(found), **_drawn(found), **_buttons(found)}


_PARTS: dict[str, Callable[[RunView], str]] = {
    "verdict": html.verdict, "board": html.board, "chart": html.chart, "meters": html.meters,
    "log": html.log,
}  # fmt: skip
_drawings: dict[str, tuple[Any, dict[str, str]]] = {}


def _drawn(found: RunView) -> dict[str, str]:
    """The HTML of a run, made once for everyone who watches."""
    name, version = found.info.name, (found.version, found.info.alive, found.info.phase)
    if name not in _drawings or _drawings[name][0] != version:
        _drawings[name] = (version, {part: draw(found) for part, draw in _PARTS.items()})
        for old in list(_drawings)[:-16]:
            _drawings.pop(old, None)
    return _drawings[name][1]


def _buttons(found: RunView | None) -> dict[str, tuple[bool, str, bool, bool]]:
    """(visible, label, clickable, bright) of every button: bright is the next sensible step."""
    shown = _shown_buttons(found)
    order = ("next", "anyway", "resume", "draw")
    if found is not None and found.info.alive:
        order = ("pause",) if found.info.phase == "paused" else ()
    bright = next((key for key in order if shown[key][0]), "")
    return {key: (*one, key == bright) for key, one in shown.items()}


def _shown_buttons(found: RunView | None) -> dict[str, tuple[bool, str, bool]]:
    if found is None:
        return dict.fromkeys(BUTTONS, (False, "", True))
    info = found.info
    ended = info.phase in ("stopped", "failed", UNSTARTED)
    folder = RunFolder(places.RUNS / info.name)
    leave = "Take out of the queue" if info.phase == QUEUED else "Stop and save"
    searches = folder.search.is_file()
    changed, step = info.code == "images_changed", next_step.label(found)
    past = html.is_past_steps(info)  # it would measure on
    heeds = info.phase in _HEEDING and info.alive and not info.stopping and not past
    pauses, draws = is_wished(folder, "pause"), is_wished(folder, "draw")
    begin = "Start" if info.phase == UNSTARTED else "Start again"
    begin = "Resume" if searches or folder.checkpoint_steps() else begin
    again = "Change the settings" if info.phase == "failed" else "Use these settings again"
    uses = bool(newest_adapter(folder)) and not next_step.draws(found)
    drawing = "Draws after this step" if draws else "Draw previews now"
    return {
        "stop": ((info.alive and not past) or info.phase == QUEUED, leave, not info.stopping),
        "pause": (heeds, "Go on" if pauses else "Pause", True),
        "preview": (heeds and not pauses, drawing, not draws),
        "prompts": (heeds, "Other previews …", True),
        "resume": (ended and not changed, begin, True),  # changed, it would only be refused again
        "anyway": (ended and changed and not searches, "Resume with the changed images", True),
        "longer": (info.phase == "finished" and not searches, "Train longer …", True),
        "draw": (uses, "Generate with it", True),
        "again": (found.config is not None, again, True),
        "publish": (not info.alive and folder.adapter.is_file(), "Send or publish …", True),
        "delete": (not info.alive, "Delete …", True),
        "next": (bool(step), step, True),
    }


def _component(key: str, value: Any, chosen: str | None) -> Any:
    """The update that makes a component show a value of `_contents`, where a run was chosen."""
    if key == "names":
        choices, name = value
        choice = {} if name == chosen else {"value": name}
        return gr.Radio(choices=choices, visible=bool(choices), **choice)
    if key == "search":
        return gr.Textbox(visible=value)
    if isinstance(value, tuple):
        visible, text, clickable, *bright = value
        variant = "primary" if any(bright) else "secondary"
        return gr.Button(text, visible=visible, interactive=clickable, variant=variant)
    return gr.HTML(value, visible=bool(value))


# ------------------------------------------------------------------------------ acting


def _act(parts: RunParts, shared: Shared) -> None:
    """Every press changes the run folders, and then has the run shown as it is."""
    name, show, buttons = parts.names, shared.run, parts.buttons
    jobs_of = {
        "stop": jobs.stop,
        "resume": jobs.resume,
        "anyway": partial(jobs.resume, accept_changes=True),
        "pause": _pause,
        "preview": partial(ask, wish="draw"),
    }
    for key, job in jobs_of.items():
        buttons[key].click(_pressing(job), name, show, **QUIET)
    asked = [parts.prompts, parts.count, parts.others.group]
    buttons["prompts"].click(says_errors(_ask_previews), name, asked, **QUIET)
    chosen = [name, parts.prompts, parts.count]
    parts.others.yes.click(says_errors(_change_previews), chosen, [asked[2], show], **QUIET)
    length = parts.length.group
    buttons["longer"].click(_ask_length, name, [parts.steps, length], **QUIET)
    parts.length.yes.click(says_errors(_train_longer), [name, parts.steps], [length, show], **QUIET)
    deletion = parts.deletion.group
    buttons["delete"].click(_ask, name, [parts.asked, deletion], **QUIET)
    parts.deletion.yes.click(says_errors(_delete), name, [deletion, show], **QUIET)
    parts.publishing.wire(buttons["publish"], name)
    for question in (parts.others, parts.length, parts.deletion):
        question.close(parts.names.input)
    buttons["again"].click(says_errors(_settings), name, [shared.settings, shared.tabs], **QUIET)
    buttons["draw"].click(says_errors(_draw_with), name, [shared.adapter, shared.tabs], **QUIET)

    names = ("run", "settings", "adapter", "image_set", "trigger", "class_word", "tabs")
    states = {key: getattr(shared, key) for key in names}

    def take(chosen: str) -> dict[Any, Any]:
        return {states[key]: value for key, value in next_step.take(chosen).items()}

    buttons["next"].click(says_errors(take), name, [*states.values()], **QUIET)


def _draw_with(name: str) -> tuple[str, gr.Tabs]:
    run = jobs.run_folder(name)
    return next_step.kept(run, (newest_adapter(run) or run.adapter).name), go("generate")


def _pressing(job: Callable[[str], None]) -> Callable[[str], str]:
    def press(name: str) -> str:
        job(name)
        return name

    return says_errors(press)


def ask(name: str, wish: Wish, values: dict[str, Any] | None = None) -> None:
    """Asks something of a run that trains.

    Raises:
        UserError: there is no such run, or it does not train.
    """
    run = jobs.run_folder(name)
    if jobs.info(run).phase not in _HEEDING:
        raise UserError(f"{name} does not train now.", "Start or resume it first.")
    wish_for(run, wish, values)


def _pause(name: str) -> None:
    """Or goes on where it is paused."""
    run = jobs.run_folder(name)
    if is_wished(run, "pause"):
        take_back(run, "pause")
    else:
        ask(name, "pause")


def _ask_previews(name: str) -> tuple[str, int, gr.Group]:
    """Shows those of now."""
    previews = next_step.readable(name).previews
    return "\n".join(previews.prompts), previews.count, gr.Group(visible=True)


def _change_previews(name: str, prompts: str, count: float | None) -> tuple[gr.Group, str]:
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    changes = {"prompts": lines, "count": int(count or 0)}
    settings = {f"previews.{field}": value for field, value in changes.items()}
    with_values(next_step.readable(name), settings)  # refuses what is wrong, by its field's name
    ask(name, "previews", changes)
    return _hide(), name


def _ask_length(name: str) -> tuple[int, gr.Group]:
    """Suggests what the verdict does, or as many steps again."""
    done = jobs.info(jobs.run_folder(name)).step
    return next_step.more_steps(name, done) or 2 * done, gr.Group(visible=True)


def _train_longer(name: str, steps: float | None) -> tuple[gr.Group, str]:
    jobs.resume(name, steps=int(steps or 0))
    return _hide(), name


def _ask(name: str) -> tuple[str, gr.Group]:
    return render("runs.html", "question", name, jobs.contents(name)), gr.Group(visible=True)


def _hide() -> gr.Group:
    return gr.Group(visible=False)


def _delete(name: str) -> tuple[gr.Group, str]:
    jobs.delete(name)
    gr.Info(f"{escape(name)} is deleted.")
    return _hide(), " "  # no run's name: shows the next one


def _settings(name: str) -> tuple[tuple[str, float], gr.Tabs]:
    return (format_config(next_step.readable(name)), time.time()), go("train")


def _compare(shared: Shared) -> None:
    with add.fold("compare", "Compare runs") as fold:
        chosen = add.choice(
            "compared-names", "Runs side by side", [], [], "Two to four.",
            multiselect=True, max_choices=comparing.MOST_COMPARED,
        )  # fmt: skip
        area = add.html("compared")
    chosen.change(comparing.compared, chosen, area, **QUIET)

    def refresh(names: list[str], fresh: bool = False) -> gr.Dropdown:
        runs = jobs.overview.runs()
        known = [run.name for run in runs]
        kept = [name for name in names if name in known]
        if not kept and fresh:
            kept = [run.name for run in runs if run.phase == "finished"][:3]
        return gr.Dropdown(choices=known, value=kept)

    fold.expand(partial(refresh, fresh=True), chosen, chosen, **QUIET)

    shared.rooms["runs"].select(refresh, chosen, chosen, **QUIET)


# ------------------------------------------------------------------------------ for scripts


def run_status(run: str = "") -> dict[str, Any]:
    """What a run does now; without a name, what trains, or else the newest run.

    Returns:
        name, phase, step, total_steps, eta_seconds, message, alive and, once there is one, the
        newest loss. An empty object if there is no run.
    """
    name = run or _first(jobs.overview.runs())
    if name is None:
        return {}
    found = view(name)
    info, losses = found.info, found.curves.get("loss", [])
    return {
        "name": info.name,
        "phase": info.phase,
        "step": info.step,
        "total_steps": info.total_steps,
        "eta_seconds": info.eta_seconds,
        "message": html.plain_message(info.message, info.code),
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
