"""A run as HTML: numbers, curves, previews and the log. The templates escape every text."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

from app.forms import label_of
from app.jobs import QUEUED, UNSTARTED, RunInfo
from app.render import quiet, render
from app.tabs.images.imagesets import title_at
from app.tabs.runs.pictures import MOST_OWN, own_pictures, picture_url, run_files
from app.tabs.runs.reader import RunView, view
from trainer import events, places
from trainer.config.concepts import concepts_of, subject_of, triggers_of
from trainer.config.fields import all_fields, get_value, shown
from trainer.data.captions import contains_word, word_pattern
from trainer.data.names import display_name
from trainer.errors import UserError
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
from trainer.text import duration

MOST_POINTS = 2000
MOST_COMPARED = 4
_MOST_ROWS = 24
_PHASES = {
    "preparing": "getting ready",
    "caching": "reading the pictures",
    "previewing": "drawing previews",
    "paused": "paused: keeps its memory, computes nothing",
    QUEUED: "waiting",
    UNSTARTED: "never started",
}
"""Phases whose own name would say too little."""


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
    return render("runs.html", "head", info, state(info), _facts(found), _message(info))


def _facts(found: RunView) -> list[tuple[str, str]]:
    info, config = found.info, found.config
    facts: list[tuple[str, str]] = []
    # It counts steps: while previews are drawn or the adapter is measured, it would stand still.
    makes_steps = info.alive and info.phase == "training" and not info.stopping
    if makes_steps and info.eta_seconds is not None:
        facts.append(("time left", f"about {duration(info.eta_seconds, rough=True)}"))
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
        facts.append(("loss, running mean", _last_loss(found)))
    return facts


def _message(info: RunInfo) -> str:
    if info.phase == QUEUED:
        return "It starts by itself when nothing else trains."
    if info.phase == UNSTARTED:
        return "It was prepared and never started."
    if info.phase == "stopped":
        what = "Its process was ended from outside. " if info.code == "killed" else ""
        goes_on = "Resume goes on from the last checkpoint." if info.step else "It can start again."
        return what + goes_on
    if info.alive or info.phase == "finished":  # the log and the verdict say it
        return ""
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
    return _figure("Loss", loss_lines(losses, preserved, validated, trained, held_out))


def _figure(title: str, drawn: Sequence[tuple[Line, str]]) -> str:
    most = MOST_POINTS // max(1, len(drawn))
    svg = line_chart([Line(line.kind, thin(line.points, most)) for line, _ in drawn], "steps")
    svg = svg.replace('role="img"', f'role="img" aria-label="{title} over steps"')
    legend = [(line.kind, name) for line, name in drawn]
    return render("runs.html", "figure", title, Markup(svg), legend)


def _last_loss(found: RunView) -> str:
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
    table = {step: _pictures(found, step) for step in spread(found.preview_steps, rows)}
    prompts = list(dict.fromkeys(prompt for cells in table.values() for prompt in cells))
    triggers = triggers_of(found.config) if found.config else []
    cells = [
        (_row_name(step), [cells.get(prompt, []) for prompt in prompts])
        for step, cells in table.items()
    ]
    across = max(sum(map(len, row)) for _, row in cells)
    marked = [_marked(prompt, triggers) for prompt in prompts]
    return render("runs.html", "board", marked, cells, across)


def _row_name(step: int) -> str:
    return "base model" if step == 0 else f"step {step:,}"


def _pictures(found: RunView, step: int) -> dict[str, list[ShownPreview]]:
    """The previews of a step by their prompts, each with the base model's."""
    first = found.preview_steps[0] if found.preview_steps else step
    before = _pictures(found, 0) if step and first == 0 else {}
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


def _marked(prompt: str, triggers: Sequence[str]) -> Markup:
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
    if found.config is None or not (measured.findings or run.adapter.is_file()):
        return ""
    drawn = _of_each(found)[:MOST_OWN]
    files, ended = run_files(run), not found.info.alive
    shown = [measured, own_pictures(run), drawn, files, ended, triggers_of(found.config)]
    return render(
        "runs.html", "verdict", *shown, base=_base_for_others(run, found.config.base.name)
    )


def _base_for_others(run: RunFolder, name: str) -> str | None:
    """What the adapter needs elsewhere; "" where only Rarebit has it, None without an adapter."""
    if not run.adapter.is_file():
        return None
    return "" if base_kind(name) == "built-in" else name.replace("\\", "/").rpartition("/")[2]


def _of_each(found: RunView) -> list[ShownPreview]:
    """The newest previews with a trigger word, of several concepts in turns; without any, all."""
    triggers = triggers_of(found.config) if found.config else []
    if not found.preview_steps:
        return []
    by_prompt = _pictures(found, found.preview_steps[-1])
    each = [
        [one for prompt, some in by_prompt.items() if contains_word(prompt, word) for one in some]
        for word in triggers
    ]
    return [one for turn in zip_longest(*each) for one in turn if one] or _newest(found)


def meters(found: RunView) -> str:
    """The numbers of the evaluation, and its board of prompts that should have stayed."""
    run = RunFolder(places.RUNS / found.info.name)
    measured = found.meters
    values = [(m, value) for m in METERS if measured and (value := m.of(measured)) is not None]
    shown_board = run.bleed_board.is_file()
    address = picture_url(run.name, "evaluation", run.bleed_board) if shown_board else ""
    return render("runs.html", "meters", values, address) if values or address else ""


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


# ------------------------------------------------------------------------------ side by side


def compared(names: Sequence[str]) -> str:
    """Several runs side by side: what was set differently, and what came of it."""
    views: list[RunView] = []
    for name in names[:MOST_COMPARED]:
        try:
            views.append(view(name))
        except UserError:
            continue  # deleted meanwhile
    if len(views) < 2:
        return quiet("Choose two to four runs.")
    curves = [
        (Line(css, smooth(losses, smoothing_span(losses))), found.info.name)
        for css, found in zip(("smooth", "second", "third", "fourth"), views, strict=False)
        if (losses := found.curves.get("loss"))
    ]
    rows: list[tuple[str, list[str]]] = [("loss, running mean", [_last_loss(v) for v in views])]
    for meter in METERS:
        values = [found.meters and meter.of(found.meters) for found in views]
        if any(values):
            rows.append((meter.title, [value or "unknown" for value in values]))
    for name in all_fields():
        texts = [_value(found, name) for found in views]
        if len(set(texts)) > 1:
            rows.append((label_of(name), texts))
    return render(
        "runs.html",
        "compared",
        Markup(_figure("Loss, smoothed", curves)) if curves else "",
        [found.info.name for found in views],
        [state(found.info) for found in views],
        [read_measured(RunFolder(places.RUNS / found.info.name)) for found in views],
        _side_by_side(views),
        rows,
    )


def _side_by_side(views: Sequence[RunView]) -> list[tuple[Markup, list[list[ShownPreview]]]]:
    """The newest previews of each run by prompt, whatever trigger words the runs have."""
    words = {word for one in views if one.config for word in triggers_of(one.config)}
    found: dict[str, list[list[ShownPreview]]] = {}
    for at, one in enumerate(views):
        triggers = triggers_of(one.config) if one.config else []
        drawn = _pictures(one, one.preview_steps[-1]) if one.preview_steps else {}
        for prompt, pictures in drawn.items():
            text = _marked(prompt, triggers)
            row = re.sub(r"<mark>[^<]*</mark>", "<mark>…</mark>", text) if len(words) > 1 else text
            found.setdefault(str(row), [[] for _ in views])[at] += pictures
    return [(Markup(text), cells) for text, cells in found.items()]


def _newest(found: RunView) -> list[ShownPreview]:
    if not found.preview_steps:
        return []
    by_prompt = _pictures(found, found.preview_steps[-1])
    return [picture for pictures in by_prompt.values() for picture in pictures]


def _value(found: RunView, name: str) -> str:
    if found.config is None:
        return "unknown"
    text = shown(get_value(found.config, name))
    return text.rstrip("/").rpartition("/")[2] or text if all_fields()[name].place else text
