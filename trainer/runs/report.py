"""``report.html``: one self-contained page about a run, to keep and to pass on."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from trainer.config.concepts import concepts_of, subject_of
from trainer.config.fields import all_fields, get_value, sections, shown
from trainer.config.file import read_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import (
    GAPS,
    Ended,
    Evaluated,
    Prepared,
    RolledBack,
    RunEvent,
    StepDone,
    Validated,
    Warned,
)
from trainer.runs.atomic import write_text
from trainer.runs.board import PreviewPicture, read_board
from trainer.runs.charts import Line, Point, line_chart, loss_lines, smooth, smoothing_span
from trainer.runs.layout import RunFolder
from trainer.runs.log import Kind, last_of, read_events
from trainer.runs.meters import METERS, Meter, read_measured
from trainer.text import duration

_TEMPLATES = Path(__file__).parent / "templates"
_LONGEST = 400  # characters of a text that is shown


@dataclass(frozen=True)
class Chart:
    """A titled curve with its legend: (class, label) pairs."""

    title: str
    note: str
    legend: tuple[tuple[str, str], ...]
    svg: Markup


@dataclass(frozen=True)
class Setting:
    """One field as it was; `changed` where it is not the default."""

    name: str
    value: str
    meaning: str
    changed: bool


def templates_in(folder: Path, **options: Any) -> jinja2.Environment:
    """The templates of a folder: they escape every text, and mind what they are not given."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


@cache
def page_templates() -> jinja2.Environment:
    """The templates of pages about runs."""
    environment = templates_in(_TEMPLATES)
    environment.filters |= {
        "cut": _cut,
        "shell": shlex.quote,
        "python": partial(json.dumps, ensure_ascii=False),
    }
    return environment


def write_report(run: RunFolder) -> Path:
    """Writes the report of a run in whatever state it is; gives its path.

    The page asks nothing of the network, runs no script, and shows every text of the user's as
    text. Of paths it shows the last part only.
    """
    events = read_events(run)
    try:
        config, problem = read_config(run.config, of_run=True), ""
    except UserError as error:
        config, problem = TrainingConfig(), error.message
    concepts = concepts_of(config)
    subject = subject_of(concepts[0])
    page = (
        page_templates()
        .get_template("report.html")
        .render(
            name=config.output.name or run.name,
            file_name=run.name,
            config=config,
            problem=problem,
            trigger=concepts[0].trigger,
            subjects=[subject_of(concept) for concept in concepts],
            subject=subject,
            base_name=_last_part(config.base.name),
            prompt=f"a picture of {subject or '…'}",
            base_kind=base_kind(config.base.name),
            outcome=_outcome(events),
            facts=list(_facts(run, config, events)),
            board=read_board(run),
            charts=[chart for chart in _charts(events) if chart.svg],
            meters=_meters(events),
            measured=read_measured(run),
            measured_columns=[meter.title for meter in METERS],
            settings=_settings(config),
            warnings=[event.message for event in events if isinstance(event, (Warned, RolledBack))],
        )
    )
    write_text(run.report, page)
    return run.report


def base_kind(name: str) -> str:
    """How another program gets the base model: "built-in", "file", "hub" or "folder"."""
    if name.lower().endswith(".safetensors"):
        return "file"
    if Path(name).is_dir() or Path(name).is_absolute() or name.startswith((".", "~")):
        return "folder"
    return "hub" if name.count("/") == 1 else "built-in"


def step_points(events: Sequence[RunEvent], kind: type[Kind], field: str) -> list[Point]:
    """The (step, value) pairs of a field, rising; where a run did steps again, the last."""
    found = {step: getattr(event, field) for step, event in last_of(events, kind).items()}
    return [(float(step), value) for step, value in found.items() if value is not None]


def _outcome(events: Sequence[RunEvent]) -> tuple[str, str]:
    """(reason, message) of the last end; ("running", "") before there is one."""
    for event in reversed(events):
        if isinstance(event, Ended):
            return event.reason, event.message
        if isinstance(event, Prepared):
            break
    return "running", ""


def _facts(
    run: RunFolder, config: TrainingConfig, events: Sequence[RunEvent]
) -> Iterator[tuple[str, str]]:
    """The few things to know at a glance: (label, value)."""
    steps = step_points(events, StepDone, "seconds")
    done = int(steps[-1][0]) if steps else 0
    yield "steps", f"{done:,} of {config.training.steps:,}"
    if steps:
        yield "training time", duration(math.fsum(seconds for _, seconds in steps))
    losses = step_points(events, StepDone, "loss")
    if smoothed := smooth(losses, smoothing_span(losses)):
        yield "loss", f"{smoothed[0][1]:.3g} → {smoothed[-1][1]:.3g}"
    yield "rank", str(config.adapter.rank)
    if run.adapter.is_file():
        yield "file", f"{run.adapter.stat().st_size / 1e6:.1f} MB"
    if times := [event.time for event in events if event.time]:
        yield "ended", time.strftime("%d %B %Y, %H:%M", time.localtime(times[-1])).lstrip("0")


def _charts(events: Sequence[RunEvent]) -> Iterator[Chart]:
    losses = step_points(events, StepDone, "loss")
    preserved = step_points(events, StepDone, "preservation")
    validated = step_points(events, Validated, "loss")
    held_out = any(isinstance(event, Validated) and event.held_out for event in events)
    note = "How far the predicted noise is off. It varies with the noise drawn; see the mean."
    yield _chart("Loss", note, loss_lines(losses, preserved, validated, [], held_out))
    yield _gap_chart(events)
    rates = Line("smooth", step_points(events, StepDone, "learning_rate"))
    yield _chart("Learning rate", "", [(rates, "learning rate")], from_zero=True)


def _gap_chart(events: Sequence[RunEvent]) -> Chart:
    """Where it overfits: how far trained pictures are ahead of those kept out, by noise."""
    found = [(float(step), one.meters) for step, one in last_of(events, Evaluated).items()]
    kinds = (("second", "little noise"), ("third", "some"), ("smooth", "much"))
    drawn: list[tuple[Line, str]] = []
    for name, (kind, label) in zip(GAPS, kinds, strict=True):
        values = [(step, getattr(meters, name)) for step, meters in found]
        points = [one for one in values if one[1] is not None]
        drawn.append((Line(kind, points if len(points) > 1 else []), label))  # one shows no course
    note = (
        "How much better pictures are predicted that were trained on than those kept out, by how "
        "much noise they are hidden under. Rising lines are learning by heart: of details under "
        "little noise, of whole pictures under much."
    )
    return _chart("Trained pictures ahead of the others", note, drawn)


def _chart(
    title: str, note: str, drawn: Sequence[tuple[Line, str]], from_zero: bool = False
) -> Chart:
    svg = line_chart([line for line, _ in drawn], "steps", from_zero=from_zero)
    legend = tuple((line.kind, label) for line, label in drawn) if len(drawn) > 1 else ()
    return Chart(title, note, legend, Markup(svg))  # numbers and our own words only


def _meters(events: Sequence[RunEvent]) -> list[tuple[Meter, str]]:
    """The meters of the last evaluation, each with its number."""
    found = [event.meters for event in events if isinstance(event, Evaluated)]
    return [(meter, value) for meter in METERS if found and (value := meter.of(found[-1]))]


def _settings(config: TrainingConfig) -> list[tuple[str, list[Setting]]]:
    table: dict[str, list[Setting]] = {name: [] for name in sections()}
    for field in all_fields().values():
        value = get_value(config, field.name)
        text = _last_part(str(value)) if field.place and value else ""
        changed = value != field.default
        table[field.section].append(
            Setting(field.key, text or shown(value), field.description, changed)
        )
    return list(table.items())


def _last_part(name: str) -> str:
    """A path without the folders that it lies in, which are nobody else's business."""
    return name if base_kind(name) == "hub" else Path(name).name or name


def _cut(text: object) -> str:
    shown_text = str(text)
    return shown_text if len(shown_text) <= _LONGEST else shown_text[:_LONGEST] + " …"


# ------------------------------------------------------------------------ pages about several runs


@dataclass(frozen=True)
class Strip:
    """What one run draws, beside the others: its last previews."""

    name: str
    pictures: tuple[PreviewPicture, ...]


@dataclass(frozen=True)
class Part:
    """A part of the page; what is empty is left out."""

    title: str
    note: str = ""
    # Of the table, the head first; the first cell is the run's name.
    rows: Sequence[Sequence[str]] = ()
    best: str = ""  # the name that stands out
    chart: str = ""  # SVG of our own (`Markup`)
    prompts: Sequence[str] = ()  # of the pictures, in the order of each strip
    strips: Sequence[Strip] = ()
    images: Sequence[tuple[str, str]] = ()  # whole pictures: their names and data URIs


def write_study(
    path: Path, title: str, says: Sequence[str], parts: Sequence[Part], command: str = ""
) -> None:
    """Writes a self-contained page that asks nothing of the network.

    Args:
        says: what has come out, in paragraphs.
        command: that trains with what is recommended.
    """
    page = page_templates().get_template("study.html")
    write_text(path, page.render(title=title, says=says, parts=parts, command=command))


def pictures_of(name: str, runs: Sequence[tuple[str, RunFolder]]) -> Part:
    """What runs draw at the same prompts with the same seeds: the base model, then each of them."""
    strips: list[Strip] = []
    prompts: list[str] = []
    for label, run in runs:
        board = read_board(run)
        if not board.rows:
            continue
        if not strips:
            prompts = [row.prompt for row in board.rows]
            first = tuple(row.cells[0][0] for row in board.rows if row.cells[0])
            strips.append(Strip("base model", first))
        last = tuple(row.cells[-1][0] for row in board.rows if row.cells[-1])
        strips.append(Strip(label, last))
    note = "The same seeds in every line."
    return Part(name, note, prompts=prompts, strips=strips)


def trade_off(points: Sequence[tuple[str, float, float, bool]], x_label: str) -> Markup:
    """A chart of runs as points.

    Args:
        points: name, x in percent, y, and whether it stands out.
    """
    lines = [Line("smooth" if best else "second", [(x, y)], name) for name, x, y, best in points]
    return Markup(line_chart(lines, x_label))
