"""A run as HTML: numbers, curves, previews and the log. Every text of the user's is escaped."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.jobs import QUEUED, UNSTARTED, RunInfo
from app.shared import escape
from app.tabs.runs.pictures import picture_url
from app.tabs.runs.reader import RunView
from trainer import places
from trainer.data.captions import word_pattern
from trainer.runs.board import preview_records, spread
from trainer.runs.charts import Line, Point, line_chart, smooth, thin
from trainer import events
from trainer.runs.layout import RunFolder
from trainer.runs.log import number
from trainer.runs.meters import METERS
from trainer.text import duration

MOST_POINTS = 2000
_MOST_ROWS = 24
_PHASES = {
    "preparing": "getting ready",
    "caching": "reading the pictures",
    "training": "training",
    "previewing": "drawing previews",
    "measuring": "measuring",
    "saving": "saving",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    QUEUED: "waiting",
    UNSTARTED: "never started",
}


def label(info: RunInfo) -> str:
    """A run in one short line, for lists."""
    return f"{info.name} · {state(info)}"


def state(info: RunInfo) -> str:
    """What a run does, in a few words."""
    if info.phase == QUEUED:
        return "waits, next" if info.place == 1 else f"waits, {info.place - 1} before it"
    if info.stopping:
        return "stopping: finishes the step and saves"
    if info.alive and info.phase == "training" and info.total_steps:
        return f"step {info.step:,} of {info.total_steps:,}"
    if info.phase == "stopped":
        killed = " (killed)" if info.code == "killed" else ""
        return f"stopped at step {info.step:,}{killed}"
    return _PHASES.get(info.phase, info.phase)


def head(view: RunView) -> str:
    """Name, state, progress and what to know at a glance."""
    info = view.info
    kind = "alive" if info.alive else info.phase
    parts = [
        f'<div class="run-head"><h2>{escape(info.name)}</h2>',
        f'<span class="state {escape(kind)}">{escape(state(info))}</span></div>',
        _bar(info) if info.alive else "",
        _facts(view),
        _message(info),
    ]
    return f'<div class="card">{"".join(parts)}</div>'


def _bar(info: RunInfo) -> str:
    share = 100 * info.step / info.total_steps if info.total_steps else 0
    return (
        f'<div class="bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" '
        f'aria-valuemax="{info.total_steps}" aria-valuenow="{info.step}">'
        f'<div style="width: {share:.1f}%"></div></div>'
    )


def _facts(view: RunView) -> str:
    info, config = view.info, view.config
    facts: list[tuple[str, str]] = []
    if info.alive and info.eta_seconds is not None and not info.stopping:
        facts.append(("time left", f"about {duration(info.eta_seconds, rough=True)}"))
    if config is not None:
        words = f"{config.captions.trigger} {config.captions.class_word}".strip()
        facts.append(("learns", words or "…"))
        facts.append(("from", config.images.path.name or "…"))
        facts.append(("base model", Path(config.base.name).name))
        facts.append(("steps", f"{config.training.steps:,}"))
    if losses := view.curves.get("step.loss"):
        last = smooth(losses[-400:], _span(losses))
        facts.append(("loss, running mean", f"{last[-1][1]:.4f}" if last else "not a number"))
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{rows}</dl>'


def _message(info: RunInfo) -> str:
    if info.phase == QUEUED:
        return "<p>It starts by itself when nothing else trains.</p>"
    if info.phase == UNSTARTED:
        return "<p>It was prepared and never started.</p>"
    if info.phase == "stopped":
        what = "Its process was ended from outside. " if info.code == "killed" else ""
        return f"<p>{what}Resume goes on from the last checkpoint.</p>"
    if info.phase == "failed":
        lines = "<br>".join(escape(line) for line in plain_message(info.message, info.code).splitlines())
        return f"<p>{lines}</p>"
    return f'<p class="quiet">{escape(info.message)}</p>' if info.phase == "finished" else ""


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


def chart(view: RunView) -> str:
    """Loss and validation curves, smoothed, of at most `MOST_POINTS` points."""
    losses = view.curves.get("step.loss", [])
    if len(losses) < 2:
        return _empty("Loss", "The curve appears with the first steps.")
    span = _span(losses)
    kept = view.curves.get("step.preservation", [])
    drawn = [
        ("raw", losses, "each step"),
        ("smooth", smooth(losses, span), f"running mean over {span} steps"),
        ("second", smooth(kept, max(5, len(kept) // 12)), "preservation"),
        ("third", view.curves.get("validation.loss", []), "images kept out of training"),
        ("fourth", view.curves.get("validation.training_loss", []), "the same, on training images"),
    ]
    return _figure("Loss", drawn)


def compared_chart(views: Sequence[RunView]) -> str:
    """The smoothed loss of several runs in one drawing."""
    kinds = ("smooth", "second", "third", "fourth")
    drawn = [
        (kind, smooth(losses, _span(losses)), view.info.name)
        for kind, view in zip(kinds, views, strict=False)
        if (losses := view.curves.get("step.loss"))
    ]
    return _figure("Loss, smoothed", drawn) if drawn else ""


def _figure(title: str, drawn: Sequence[tuple[str, list[Point], str]]) -> str:
    used = [(kind, points, name) for kind, points, name in drawn if points]
    most = MOST_POINTS // max(1, len(used))
    svg = line_chart([Line(kind, thin(points, most)) for kind, points, _ in used], "steps")
    svg = svg.replace('role="img"', f'role="img" aria-label="{escape(title)} over steps"')
    legend = "".join(f'<li class="{kind}">{escape(name)}</li>' for kind, _, name in used)
    return (
        f'<figure class="card" style="margin: 0"><h3>{escape(title)}</h3>{svg}'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _span(points: Sequence[Point]) -> int:
    """Over how many steps a loss is smoothed, as in the report."""
    return max(5, min(200, len(points) // 12))


# ------------------------------------------------------------------------------ previews


def board(view: RunView, rows: int = _MOST_ROWS) -> str:
    """Previews: steps down, prompts across; the base model first, then the newest."""
    run = RunFolder(places.RUNS / view.info.name)
    if not view.preview_steps:
        ends = not view.info.alive and view.info.phase != QUEUED
        text = "There are none." if ends else "The first ones are drawn before the first step."
        return _empty("Previews", text)
    first, *later = spread(view.preview_steps, rows)
    table: dict[int, dict[str, list[str]]] = {}
    for step in [first, *reversed(later)]:
        for record in preview_records(run, step):
            picture = _picture(run, step, record)
            table.setdefault(step, {}).setdefault(str(record["prompt"]), []).append(picture)
    prompts = list(dict.fromkeys(prompt for cells in table.values() for prompt in cells))
    trigger = view.config.captions.trigger if view.config else ""
    header = "".join(f'<th scope="col">{_marked(prompt, trigger)}</th>' for prompt in prompts)
    body = "".join(
        f'<tr><th scope="row">{_row_name(step)}</th>'
        + "".join(f"<td>{''.join(cells.get(prompt, ()))}</td>" for prompt in prompts)
        + "</tr>"
        for step, cells in table.items()
    )
    return (
        '<div class="card"><h3>Previews</h3><div class="board" tabindex="0" role="region" '
        f'aria-label="Previews"><table><thead><tr><td></td>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _row_name(step: int) -> str:
    return "base model" if step == 0 else f"step {step:,}"


def _picture(run: RunFolder, step: int, record: dict[str, object]) -> str:
    file = run.preview(step) / Path(str(record["file"])).name
    try:
        folder = run.preview(step).name
        whole = picture_url(run.name, folder, file)
        small = picture_url(run.name, folder, file, small=True)
    except OSError:
        return ""
    said = escape(f"{_row_name(step)}: {record['prompt']}, seed {record.get('seed', '')}")
    return (
        f'<a href="{escape(whole)}" target="_blank" rel="noopener" title="{said}">'
        f'<img src="{escape(small)}" alt="{said}" loading="lazy"></a>'
    )


def _marked(prompt: str, trigger: str) -> str:
    """A prompt with the trigger word marked."""
    if not trigger.strip():
        return escape(prompt)
    found = word_pattern(escape(trigger))
    return found.sub(lambda match: f"<mark>{match[0]}</mark>", escape(prompt))


def latest_pictures(view: RunView) -> str:
    """The newest previews of a run, prompt by prompt, without its base model's."""
    if not view.preview_steps:
        return '<span class="quiet">no previews</span>'
    run, step = RunFolder(places.RUNS / view.info.name), view.preview_steps[-1]
    return "".join(_picture(run, step, record) for record in preview_records(run, step))


# ------------------------------------------------------------------------------ meters and log


def meters(view: RunView) -> str:
    """What the evaluation found, and its board of prompts that should have stayed."""
    run = RunFolder(places.RUNS / view.info.name)
    values = [
        (meter, value) for meter in METERS if view.meters and (value := meter.of(view.meters))
    ]
    picture = run.path / "evaluation" / "board.png"
    advice = _recommendation(run)
    if not values and not advice and not picture.is_file():
        return ""
    boxes = "".join(
        f'<div>{meter.title} <b>{value}</b><span class="quiet">{meter.explanation}</span></div>'
        for meter, value in values
    )
    bleed = ""
    if picture.is_file():
        address = escape(picture_url(run.name, "evaluation", picture))
        bleed = (
            f'<p class="quiet">What other prompts became, base model and adapter:</p>'
            f'<a class="bleed" href="{address}" target="_blank" rel="noopener">'
            f'<img src="{address}" alt="Other prompts with the base model and with the adapter" '
            'loading="lazy"></a>'
        )
    return (
        f'<div class="card"><h3>Does it work, and does the rest stay?</h3>'
        f'<div class="meters">{boxes}</div>{advice}<div class="bleed">{bleed}</div></div>'
    )


def _recommendation(run: RunFolder) -> str:
    try:
        found = json.loads((run.path / "evaluation.json").read_bytes()).get("recommended")
    except (OSError, ValueError, AttributeError):
        return ""
    if not isinstance(found, dict) or not found.get("checkpoint"):
        return ""
    strength = number(found.get("strength"))
    at = f" at strength {strength:g}" if strength is not None else ""
    why = escape(str(found.get("why", "")))
    return f"<p>Best: <b>{escape(str(found['checkpoint']))}</b>{at}. {why}</p>"


def log(view: RunView) -> str:
    """What happened, the newest last."""
    lines = "".join(_line(event) for event in view.log)
    if not lines:
        return _empty("Log", "Nothing has happened yet.")
    return (
        '<div class="card"><h3>Log</h3><ol class="log" tabindex="0" role="region" '
        f'aria-label="Log">{lines}</ol></div>'
    )


def _line(event: events.RunEvent) -> str:
    words = _words(event)
    shown = time.strftime("%H:%M:%S", time.localtime(event.time)) if event.time > 0 else ""
    css = "line"
    if isinstance(event, events.Ended) and event.reason == "failed":
        css = "failed"
    elif isinstance(event, (events.Warned, events.RolledBack)):
        css = "warning"
    return (
        f'<li class="{css}"><time>{shown}</time><span>{escape(words)}</span></li>' if words else ""
    )


def _words(event: events.RunEvent) -> str:
    """One event in a sentence; "" for those that need none."""
    if isinstance(event, events.Prepared):
        again = f"Goes on from step {event.step:,}: " if event.step else ""
        return f"{again}{event.summary}; {event.arithmetic}"
    if isinstance(event, events.Ended):
        message = plain_message(event.message, event.code).replace("\n", " ")
        return message if event.reason == "stopped" else f"{event.reason}: {message}"
    if isinstance(event, (events.Warned, events.RolledBack)):
        return event.message
    if isinstance(event, events.Validated):
        return f"Step {event.step:,}: loss {event.loss:.3g} on images kept out of training"
    if isinstance(event, events.Evaluated):
        values = [(meter.title, meter.of(event.meters)) for meter in METERS]
        found = ", ".join(f"{title} {value}" for title, value in values if value)
        return f"Step {event.step:,}: {found}"
    if isinstance(event, events.MemoryUsed):
        return f"Most memory so far: {event.peak_gib:.3g} GiB"
    if isinstance(event, events.PreviewSaved):
        return f"Previews of step {event.step:,}"
    return f"Checkpoint at step {event.step:,}" if isinstance(event, events.CheckpointSaved) else ""


def _empty(title: str, text: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3><p class="quiet">{escape(text)}</p></div>'


def nothing_yet() -> str:
    """What stands there before the first run."""
    return (
        '<div class="card empty"><h2>No run yet</h2><p class="quiet">Choose an image set in Train '
        "and press Start training. The run appears here, with its curve and its previews.</p></div>"
    )


def table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells of `rows` are HTML already."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{cells[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells[1:])
        + "</tr>"
        for cells in rows
    )
    inside = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="table"><table>{inside}</table></div>'
