"""Several runs side by side: what was set differently, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from app.tabs.runs import html as runs_html
from app.forms import label_of
from app.tabs.runs.reader import RunView, view
from app.shared import escape
from trainer.config.fields import all_fields, get_value, shown
from trainer.errors import UserError
from trainer.runs.charts import smooth
from trainer.runs.meters import METERS

MOST = 4


def compared(names: Sequence[str]) -> str:
    """The comparison as HTML; a word of advice for fewer than two runs."""
    views: list[RunView] = []
    for name in names[:MOST]:
        try:
            views.append(view(name))
        except UserError:
            continue  # deleted meanwhile
    if len(views) < 2:
        return '<p class="quiet">Choose two to four runs.</p>'
    header = ["", *(found.info.name for found in views)]
    rows = [
        ["state", *(escape(runs_html.state(found.info)) for found in views)],
        ["newest previews", *(_pictures(found) for found in views)],
        ["loss, running mean", *(_last_loss(found) for found in views)],
        *_meters(views),
        *_differences(views),
    ]
    chart = runs_html.compared_chart(views)
    return f'{chart}<div class="card compared">{runs_html.table(header, rows)}</div>'


def _pictures(found: RunView) -> str:
    return f'<div class="board">{runs_html.latest_pictures(found)}</div>'


def _last_loss(found: RunView) -> str:
    losses = found.curves.get("step.loss", [])
    last = smooth(losses[-400:], max(5, min(200, len(losses) // 12)))
    return f"{last[-1][1]:.4f}" if last else "…"


def _meters(views: Sequence[RunView]) -> list[list[str]]:
    return [
        [meter.title, *((found.meters and meter.of(found.meters)) or "unknown" for found in views)]
        for meter in METERS
        if any(found.meters and meter.of(found.meters) for found in views)
    ]


def _differences(views: Sequence[RunView]) -> list[list[str]]:
    """A row for each field whose value is not the same in all of them."""
    rows: list[list[str]] = []
    for name in all_fields():
        texts = [_value(found, name) for found in views]
        if len(set(texts)) > 1:
            rows.append([escape(label_of(name)), *map(escape, texts)])
    return rows


def _value(found: RunView, name: str) -> str:
    if found.config is None:
        return "unknown"
    text = shown(get_value(found.config, name))
    return text.rstrip("/").rpartition("/")[2] or text if all_fields()[name].place else text
