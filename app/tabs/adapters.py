"""The Adapters tab."""

from __future__ import annotations

import gradio as gr

from app.shared import Shared


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    gr.Markdown("This part of the page is not there yet.")
