"""How the page looks: one calm theme, light and dark, with one accent colour."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base, colors, sizes

STYLE = Path(__file__).with_name("style.css")

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_theme() -> Base:
    """The theme. Its fonts are the system's: nothing is fetched."""
    theme = Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.stone,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=_SANS,
        font_mono=_MONO,
    )
    theme.name = "rarebit"
    return theme


def read_style() -> str:
    """The page's own style sheet."""
    return STYLE.read_text(encoding="utf-8")
