"""The page: five tabs over one calm header."""

from __future__ import annotations

import gradio as gr

from app.shared import TABS, Shared
from app.tabs import adapters, generate, images, runs, train

_BUILDERS = {
    "images": images.build,
    "train": train.build,
    "runs": runs.build,
    "generate": generate.build,
    "adapters": adapters.build,
}
TICK = 2.0  # seconds


def build_page() -> gr.Blocks:
    """The whole page, not served yet."""
    with gr.Blocks(
        title="Rarebit", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        timer = gr.Timer(TICK)
        states = [gr.State(value) for value in ("", "", "", "tiny-emoji", "", "", ("", 0.0))]
        gr.HTML("<h1>Rarebit</h1>", elem_id="masthead")
        with gr.Tabs(elem_id="tabs") as tabs:
            rooms = {
                name: gr.Tab(label, id=name, elem_id=f"tab-{name}") for name, label in TABS.items()
            }
        shared = Shared(page, tabs, rooms, timer, *states)
        for name, room in rooms.items():
            with room:
                _BUILDERS[name](shared)
    return page
