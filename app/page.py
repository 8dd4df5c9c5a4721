"""The page: five tabs over one calm header."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import jobs
from app.render import render
from app.shared import NOW, REMEMBERED, TABS, Shared, go
from app.tabs.adapters import tab as adapters
from app.tabs.generate import tab as generate
from app.tabs.images import tab as images
from app.tabs.runs import tab as runs
from app.tabs.runs.html import label, share_done
from app.tabs.train import tab as train
from trainer.config.glossary import GLOSSARY

_BUILDERS = {
    "images": images.build,
    "train": train.build,
    "runs": runs.build,
    "generate": generate.build,
    "adapters": adapters.build,
}
TICK = 2.0  # seconds
# Gradio 6.31 tells of edits of a textbox only when a key with a character is pressed: not of
# Backspace, of cutting and pasting, of dictation. Each edit gets the key that it lacks.
EVERY_EDIT = """() => {
    if (window.rarebitEdits) return;
    window.rarebitEdits = true;
    document.addEventListener('input', event => {
        if (event.target.dataset.testid !== 'textbox') return;
        if (event.inputType === "insertText" && event.data?.length === 1) return;
        event.target.dispatchEvent(new KeyboardEvent('keypress', {key: 'Unidentified'}));
    });
}"""


def build_page() -> gr.Blocks:
    """The whole page, not served yet."""
    with gr.Blocks(
        title="Rarebit", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        states = [
            gr.State(value) for value in ("", "", "", "tiny-emoji", "", "", ("", 0.0), ("", 0.0))
        ]
        remembered = {
            name: gr.BrowserState(first, storage_key=f"rarebit-{name}", secret=f"rarebit-{name}")
            for name, first in REMEMBERED.items()
        }
        with gr.Row(elem_id="masthead"):
            gr.HTML("<h1>Rarebit</h1>")
            now = gr.Button("", visible=False, size="sm", elem_id="now")
            training = gr.HTML(elem_id="told", elem_classes=["unseen"])
        with gr.Tabs(elem_id="tabs") as tabs:
            rooms = {
                name: gr.Tab(label, id=name, elem_id=f"tab-{name}") for name, label in TABS.items()
            }
        shared = Shared(page, tabs, rooms, training, *states, remembered=remembered)
        for name, room in rooms.items():
            with room:
                _BUILDERS[name](shared)
        gr.HTML(render("page.html", "glossary", GLOSSARY))
        _show_what_trains(now, shared)
        page.load(None, None, None, js=EVERY_EDIT, api_visibility="private")
    return page


def _show_what_trains(now: gr.Button, shared: Shared) -> None:
    """A line in the header, on every tab, that leads to the run."""

    def look(seen: tuple[str, str]) -> tuple[Any, Any, Any]:
        before, name = seen
        runs = jobs.overview.runs()
        busy = next((run for run in runs if run.alive), None)
        text = label(busy) if busy else ""
        if text == before:
            return gr.skip(), gr.skip(), gr.skip()
        ended = next((run for run in runs if run.name == name and not run.alive), None)
        share = share_done(busy) if busy else None
        percent = None if share is None else int(share)
        html = render("page.html", "progress", percent, label(ended) if ended else "")
        shown = gr.Button(text, visible=bool(text))
        return shown, html, (text, busy.name if busy else "")

    def lead() -> tuple[str, gr.Tabs]:
        busy = jobs.overview.busy()
        return (busy.name if busy else ""), go("runs")

    seen = gr.State(("", ""))
    outputs = [now, shared.training, seen]
    gr.on([gr.Timer(TICK).tick, shared.page.load], look, seen, outputs, **NOW)
    now.click(lead, None, [shared.run, shared.tabs], **NOW)
