"""A run as HTML: numbers, curves, previews and the log. The templates escape every text."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

from app.jobs import QUEUED, UNSTARTED, RunInfo
from app.render import render
from app.tabs.images.imagesets import title_at
from app.tabs.runs.pictures import MOST_OWN, newest_adapter, own_pictures, picture_url, run_files
from app.tabs.runs.reader import RunView
from app.tabs.train.outlook import measuring_time
from trainer import events, places
from trainer.config.concepts import concepts_of, subject_of, triggers_of
from trainer.data.captions import contains_word, word_pattern
from trainer.data.names import display_name
from trainer.runs.board import preview_records, spread
from trainer.runs.charts import (
    Line,
    line_chart,
    loss_lines,
    smooth,
    smoothing_span,
    thin,
    validated_on,
)
from trainer.runs.layout import RunFolder
from trainer.runs.meters import METERS, read_measured
from trainer.runs.report import base_kind
from trainer.runs.wishes import is_wished
from trainer.text import duration

MOST_POINTS = 2000
_MOST_ROWS = 24
_PHASES = {
    "preparing": "getting ready",
    "caching": "reading the pictures",
    "previewing": "drawing previews",
    QUEUED: "waiting",
    UNSTARTED: "never started",
}
"""Phases whose own name would say too little."""
_DOES = {
    "preparing": "Loads its programs and the base model, and reads the pictures.",
    "caching": "Encodes the pictures once; later runs with them find that done.",
    "paused": "Keeps its memory and computes nothing.",
    "measuring": "Draws with and without the adapter: what has it learned, and what else changed?",
}
"""What a run does in phases that take a while."""


def label(info: RunInfo) -> str:
    """A run in one short line, for lists."""
    when = time.localtime(info.begun)
    same_day = time.strftime("%x", when) == time.strftime("%x")
    day = f" · {when.tm_mday} {time.strftime('%b %Y', when)}" if info.begun and not same_day else ""
    return f"{info.name} · {state(info)}{day}"


def state(info: RunInfo) -> str:
    """What a run does, in a few words."""
    if info.phase == QUEUED:
        return "waits, next" if info.place == 1 else f"waits, {info.place - 1} before it"
    if info.stopping:
        return "stopping: finishes the step and saves"
    if info.phase == "paused" and not is_wished(RunFolder(places.RUNS / info.name), "pause"):
        return "waits while you draw"
    if info.phase == "paused":
        return f"paused at step {info.step:,} of {info.total_steps:,}"
    if info.alive and info.phase == "training" and info.total_steps:
        return f"step {info.step:,} of {info.total_steps:,}"
    if info.phase == "stopped" and not info.step:
        return "stopped before the first step"
    if info.phase == "stopped":
        killed = " (killed)" if info.code == "killed" else ""
        return f"stopped at step {info.step:,}{killed}"
    return _PHASES.get(info.phase, info.phase)


def head(found: RunView) -> str:
    """Name, state, progress and what to know at a glance."""
    info = found.info
    done = [state(info), share_done(info), _facts(found), _message(info)]
    return render("runs.html", "head", info, *done)


def is_past_steps(info: RunInfo) -> bool:
    """Whether a run has made its steps and measures what came of them."""
    return info.alive and info.phase in ("measuring", "saving") and info.step >= info.total_steps


def share_done(info: RunInfo) -> float | None:
    """The percentage of steps that are done; None while none are made."""
    waits = info.phase in ("preparing", "caching") or is_past_steps(info)
    return None if waits or not info.total_steps else 100 * info.step / info.total_steps


def _facts(found: RunView) -> list[tuple[str, str]]:
    config = found.config
    facts: list[tuple[str, str]] = []
    if (left := _time_left(found)) and left > 0:
        facts.append(("time left", f"about {duration(left, rough=True)}"))
    if config is not None:
        concepts = concepts_of(config)
        facts += [
            ("learns", ", ".join(filter(None, map(subject_of, concepts))) or "…"),
            (
                "from",
                ", ".join(filter(None, (title_at(concept.path) for concept in concepts))) or "…",
            ),
            ("base model", Path(config.base.name).name),
            ("steps", f"{config.training.steps:,}"),
        ]
    if "loss" in found.curves:
        facts.append(("loss, running mean", last_loss(found)))
    return facts


def _time_left(found: RunView) -> float | None:
    """Seconds, with the measuring at the end, which earlier runs tell of; None while not known."""
    info, config = found.info, found.config
    if config is None or info.stopping:
        return None
    # The status counts steps: while previews are drawn it would stand still.
    makes_steps = info.alive and info.phase == "training" and info.eta_seconds is not None
    if not makes_steps and not is_past_steps(info):
        return None
    measuring = measuring_time(config)
    if makes_steps:
        return (info.eta_seconds or 0.0) + (measuring or 0.0)
    return measuring and measuring - (time.time() - found.log[-1].time if found.log else 0.0)


def _message(info: RunInfo) -> str:
    if info.phase == QUEUED:
        return "It starts by itself when nothing else trains."
    if info.phase == UNSTARTED:
        return "It was prepared and never started."
    if info.phase == "stopped":
        what = "Its process was ended from outside. " if info.code == "killed" else ""
        goes_on = "Resume goes on from the last checkpoint." if info.step else "It can start again."
        return what + goes_on
    if info.alive or info.phase == "finished":  # the log and the verdict say the rest
        return _DOES.get(info.phase, "")
    return plain_message(info.message, info.code)


def plain_message(message: str, code: str) -> str:
    """A run's last words for people: those of a defect are kept for the log file."""
    if code == "defect":
        return (
            "A fault of Rarebit's own ended it. The file worker.log in the run's folder says "
            "more.\nWhat was saved before is whole."
        )
    if code == "images_changed":
        return f"{message.splitlines()[0]}\nPut it back as it was, or resume anyway."
    return message


# ------------------------------------------------------------------------------ curves


def chart(found: RunView) -> str:
    """Loss and validation curves, smoothed, of at most `MOST_POINTS` points."""
    losses = found.curves.get("loss", [])
    if len(losses) < 2:
        return render("runs.html", "empty", "Loss", "The curve appears with the first steps.")
    preserved, validated, trained = (
        found.curves.get(name, []) for name in ("preservation", "validation", "trained")
    )
    held_out = any(isinstance(event, events.Validated) and event.held_out for event in found.log)
    return figure("Loss", loss_lines(losses, preserved, validated, trained, held_out))


def figure(title: str, drawn: Sequence[tuple[Line, str]]) -> str:
    most = MOST_POINTS // max(1, len(drawn))
    svg = line_chart([Line(line.kind, thin(line.points, most)) for line, _ in drawn], "steps")
    svg = svg.replace('role="img"', f'role="img" aria-label="{title} over steps"')
    legend = [(line.kind, name) for line, name in drawn]
    return render("runs.html", "figure", title, Markup(svg), legend)


def last_loss(found: RunView) -> str:
    losses = found.curves.get("loss", [])
    last = smooth(losses[-400:], smoothing_span(losses))
    return f"{last[-1][1]:.4f}" if last else "not a number" if losses else "…"


# ------------------------------------------------------------------------------ previews


class ShownPreview(NamedTuple):
    """Addresses of a picture, whole and small, and what it shows.

    Attributes:
        base: address of what the base model drew in its place; "" where there is none.
    """

    url: str
    small: str
    title: str
    base: str = ""


def board(found: RunView, rows: int = _MOST_ROWS) -> str:
    """Previews: steps down, the base model first; prompts across."""
    if not found.preview_steps:
        ends = not found.info.alive and found.info.phase != QUEUED
        text = "There are none." if ends else "The first ones are drawn before the first step."
        return render("runs.html", "empty", "Previews", text)
    table = {step: previews_of(found, step) for step in spread(found.preview_steps, rows)}
    prompts = list(dict.fromkeys(prompt for cells in table.values() for prompt in cells))
    triggers = triggers_of(found.config) if found.config else []
    cells = [
        (_row_name(step), [cells.get(prompt, []) for prompt in prompts])
        for step, cells in table.items()
    ]
    across = max(sum(map(len, row)) for _, row in cells)
    across_it = [marked(prompt, triggers) for prompt in prompts]
    return render("runs.html", "board", across_it, cells, across)


def _row_name(step: int) -> str:
    return "base model" if step == 0 else f"step {step:,}"


def previews_of(found: RunView, step: int) -> dict[str, list[ShownPreview]]:
    """The previews of a step by their prompts, each with the base model's."""
    first = found.preview_steps[0] if found.preview_steps else step
    before = previews_of(found, 0) if step and first == 0 else {}
    run = RunFolder(places.RUNS / found.info.name)
    folder = run.preview(step)
    pictures: dict[str, list[ShownPreview]] = {}
    for record in preview_records(run, step):
        prompt = str(record["prompt"])
        file = folder / Path(str(record["file"])).name
        try:
            whole = picture_url(run.name, folder.name, file)
            small = picture_url(run.name, folder.name, file, small=True)
        except OSError:
            continue
        title = f"{_row_name(step)}: {prompt}, seed {record.get('seed', '')}"
        cell = pictures.setdefault(prompt, [])
        base = before.get(prompt, [])[len(cell) : len(cell) + 1]
        cell.append(ShownPreview(whole, small, title, base[0].url if base else ""))
    return pictures


def marked(prompt: str, triggers: Sequence[str]) -> Markup:
    text = str(escape(display_name(prompt)))
    words = [
        word_pattern(str(escape(display_name(trigger)))) for trigger in triggers if trigger.strip()
    ]
    if words:  # all at once, so that none is looked for in the marks of another
        either = re.compile("|".join(word.pattern for word in words), words[0].flags)
        text = either.sub(lambda match: f"<mark>{match[0]}</mark>", text)
    return Markup(text)


# ------------------------------------------------------------------------------ verdict and log


def verdict(found: RunView) -> str:
    """Whether it has worked, in sentences; its pictures beside the user's own, and its files."""
    run = RunFolder(places.RUNS / found.info.name)
    measured = read_measured(run)
    if found.config is None or not (measured.findings or newest_adapter(run)):
        return ""
    drawn = _of_each(found)[:MOST_OWN]
    files, ended = run_files(run), not found.info.alive
    shown = [measured, own_pictures(run), drawn, files, ended, triggers_of(found.config)]
    return render(
        "runs.html", "verdict", *shown, base=_base_for_others(run, found.config.base.name)
    )


def _base_for_others(run: RunFolder, name: str) -> str | None:
    """What the adapter needs elsewhere; "" where only Rarebit has it, None without an adapter."""
    if not newest_adapter(run):
        return None
    return "" if base_kind(name) == "built-in" else name.replace("\\", "/").rpartition("/")[2]


def _of_each(found: RunView) -> list[ShownPreview]:
    """The newest previews with a trigger word, of several concepts in turns; without any, all."""
    triggers = triggers_of(found.config) if found.config else []
    if not any(found.preview_steps):  # the base model's alone
        return []
    by_prompt = previews_of(found, found.preview_steps[-1])
    each = [
        [one for prompt, some in by_prompt.items() if contains_word(prompt, word) for one in some]
        for word in triggers
    ]
    return [one for turn in zip_longest(*each) for one in turn if one] or _newest(found)


def _newest(found: RunView) -> list[ShownPreview]:
    if not found.preview_steps:
        return []
    by_prompt = previews_of(found, found.preview_steps[-1])
    return [picture for pictures in by_prompt.values() for picture in pictures]


def meters(found: RunView) -> str:
    """The numbers of the evaluation, and its board of prompts that should have stayed."""
    run = RunFolder(places.RUNS / found.info.name)
    measured = found.meters
    values = [(m, value) for m in METERS if measured and (value := m.of(measured)) is not None]
    shown_board = run.bleed_board.is_file()
    address = picture_url(run.name, "evaluation", run.bleed_board) if shown_board else ""
    known = read_measured(run)
    if not (values or address or known.verdict):
        return ""
    return render("runs.html", "meters", known, values, address)


def log(found: RunView) -> str:
    """What happened, the newest first."""
    lines = [
        (
            _css(event),
            time.strftime("%H:%M:%S", time.localtime(event.time)) if event.time > 0 else "",
            text,
        )
        for event in reversed(found.log)
        if (text := _in_words(event))
    ]
    if not lines:
        return render("runs.html", "empty", "Log", "Nothing has happened yet.")
    return render("runs.html", "log", lines)


def _css(event: events.RunEvent) -> str:
    if isinstance(event, events.Ended) and event.reason == "failed":
        return "failed"
    return "warning" if isinstance(event, (events.Warned, events.RolledBack)) else "line"


def _in_words(event: events.RunEvent) -> str:
    """One event in a sentence; "" for those that need none."""
    match event:
        case events.Prepared():
            again = f"Goes on from step {event.step:,}: " if event.step else ""
            return f"{again}{event.summary}; {event.arithmetic}"
        case events.ImagesRead():
            return f"Images: {event.summary}"
        case events.Ended():
            message = plain_message(event.message, event.code).replace("\n", " ")
            return message if event.reason == "stopped" else f"{event.reason}: {message}"
        case events.Warned() | events.RolledBack() | events.SearchProgress():
            return event.message
        case events.Validated():
            on = validated_on(bool(event.held_out))
            return f"Step {event.step:,}: loss {event.loss:.3g} on {on}"
        case events.Evaluated():
            values = [(meter.title, meter.of(event.meters)) for meter in METERS]
            found = ", ".join(f"{title} {value}" for title, value in values if value)
            return f"Step {event.step:,}: {found}"
        case events.MemoryUsed():
            return f"Most memory so far: {event.peak_gib:.3g} GiB"
        case events.PreviewSaved():
            return f"Previews of step {event.step:,}"
        case events.CheckpointSaved():
            return f"Checkpoint at step {event.step:,}"
        case _:
            return ""
