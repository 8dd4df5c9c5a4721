"""Several runs side by side: what they drew, what came of them, and what was set differently."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from app.forms import label_of
from app.render import quiet, render
from app.tabs.runs.html import ShownPreview, figure, last_loss, marked, previews_of, state
from app.tabs.runs.reader import RunView, view
from trainer import places
from trainer.config.concepts import concepts_of, triggers_of
from trainer.config.fields import all_fields, get_value, shown
from trainer.errors import UserError
from trainer.evaluation.verdicts import AS_GOOD, compared_likeness
from trainer.runs.charts import Line, smooth, smoothing_span
from trainer.runs.layout import RunFolder
from trainer.runs.meters import METERS, Meter, read_measured

MOST_COMPARED = 4


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
    rows = [_Row("loss, running mean", [last_loss(one) for one in views])]
    rows += filter(None, (_measured(meter, views) for meter in METERS))
    for name in all_fields():
        texts = [_value(found, name) for found in views]
        if len(set(texts)) > 1:
            rows.append(_Row(label_of(name), texts))
    measured = [read_measured(RunFolder(places.RUNS / found.info.name)) for found in views]
    return render(
        "runs.html",
        "compared",
        Markup(figure("Loss, smoothed", curves)) if curves else "",
        _best(views, [one.works for one in measured]),
        [found.info.name for found in views],
        [state(found.info) for found in views],
        measured,
        _side_by_side(views),
        rows,
    )


class _Row(NamedTuple):
    """What each run has of something; `best` are the places of the best values."""

    name: str
    values: list[str]
    better: str = ""
    best: tuple[int, ...] = ()


def _measured(meter: Meter, views: Sequence[RunView]) -> _Row | None:
    values = [found.meters and meter.of(found.meters) for found in views]
    if not any(values):
        return None
    texts = [value or "unknown" for value in values]
    if meter.better == "neither":
        return _Row(meter.title, texts, meter.direction)
    sign = 1 if meter.better == "more" else -1
    top = max(sign * float(value) for value in values if value)
    best = [at for at, value in enumerate(values) if value and sign * float(value) == top]
    marked = tuple(best) if len(best) < len(views) else ()
    return _Row(meter.title, texts, meter.direction, marked)


def _best(views: Sequence[RunView], works: Sequence[bool]) -> str:
    """Which is best, or that they are equal; "" where they learned other pictures."""
    learned = {one.config and tuple(c.path for c in concepts_of(one.config)) for one in views}
    likeness = [one.meters and compared_likeness(one.meters) for one in views]
    found = [
        (value, one.info.name)
        for one, value, does in zip(views, likeness, works, strict=True)
        if value is not None and (does or not any(works))
    ]
    top = max((value for value, _ in found), default=0.0)
    if len(learned) > 1 or None in likeness or top <= 0:
        return ""
    best = [name for value, name in found if value >= AS_GOOD * top]
    if len(best) == 1:
        return f"Best, by verdict and likeness to the pictures: {best[0]}"
    return f"Equally good, by verdict and likeness to the pictures: {', '.join(best)}"


def _side_by_side(views: Sequence[RunView]) -> list[tuple[Markup, list[list[ShownPreview]]]]:
    """The newest previews of each run by prompt, whatever trigger words the runs have."""
    words = {word for one in views if one.config for word in triggers_of(one.config)}
    found: dict[str, list[list[ShownPreview]]] = {}
    for at, one in enumerate(views):
        triggers = triggers_of(one.config) if one.config else []
        drawn = previews_of(one, one.preview_steps[-1]) if one.preview_steps else {}
        for prompt, pictures in drawn.items():
            text = marked(prompt, triggers)
            row = re.sub(r"<mark>[^<]*</mark>", "<mark>…</mark>", text) if len(words) > 1 else text
            found.setdefault(str(row), [[] for _ in views])[at] += pictures
    return [(Markup(text), cells) for text, cells in found.items()]


def _value(found: RunView, name: str) -> str:
    if found.config is None:
        return "unknown"
    text = shown(get_value(found.config, name))
    return text.rstrip("/").rpartition("/")[2] or text if all_fields()[name].place else text
