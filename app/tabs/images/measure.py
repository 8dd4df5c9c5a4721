"""Captions measured in tokens of the base model: what it would not see of them."""

from __future__ import annotations

import html
from collections.abc import Iterator

import gradio as gr

from app import client as service
from app.render import refused
from app.shared import Shared
from app.tabs.images.imagesets import find_set, read_notes
from app.tabs.images.parts import Parts
from trainer import places
from trainer.errors import UserError

_SECONDS = 120.0
_MOST = 20
_READY = "Measure the captions"


def wire(parts: Parts, shared: Shared) -> None:
    """Connects the button."""
    parts.measure.click(
        measure,
        [parts.opened, shared.base],
        [parts.measured, parts.measure],
        show_progress="hidden",
        api_visibility="private",
    )


def measure(opened: str, base: str) -> Iterator[tuple[str, gr.Button]]:
    """How many captions are longer than the base model reads."""
    yield "", gr.Button("Measuring …", interactive=False)
    ready = gr.Button(_READY, interactive=True)
    try:
        folder = find_set(places.DATASETS, opened)
        arguments = {
            "folder": str(folder.path.resolve()),
            "base": base,
            "trigger": read_notes(folder).trigger or None,
        }
        answer = service.call("check-images", arguments, _SECONDS)
    except UserError as error:
        yield refused(error), ready
        return
    cut = answer.get("cut_captions") if isinstance(answer, dict) else None
    yield in_words([str(name) for name in cut or []]), ready


def in_words(cut: list[str]) -> str:
    """The captions that are too long, as HTML."""
    if not cut:
        return '<p role="status">Every caption fits into the 75 tokens that the model reads.</p>'
    names = ", ".join(html.escape(name[:80]) for name in cut[:_MOST])
    more = f" and {len(cut) - _MOST} more" if len(cut) > _MOST else ""
    count = "1 caption has" if len(cut) == 1 else f"{len(cut):,} captions have"
    return (
        f'<p role="status"><span class="tag warm">Too long</span> {count} more than 75 tokens; the '
        f"model does not see the rest. The trigger word is always kept: <b>{names}{more}</b></p>"
    )
