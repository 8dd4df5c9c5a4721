"""How the page looks: one calm theme, light and dark, one accent; the report's colours."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base, Color, sizes

from app.languages import LANGUAGES

_STYLE = Path(__file__).with_name("style.css")
_SCRIPTS = tuple(Path(__file__).with_name(name) for name in ("language.js", "page.js"))

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

# From 50 to 950. Text on white: 600 and darker; on the dark card: 400 and lighter.
_AMBER = Color(
    "#fdf7ef", "#f6e7d4", "#eecfa6", "#e6b577", "#eda44f", "#d07a1e",
    "#b4600f", "#95500d", "#77400d", "#5c320c", "#3a2d1d", name="amber",
)  # fmt: skip
_STONE = Color(
    "#faf8f4", "#f3efe8", "#e4dfd6", "#cfc9be", "#9aa0a9", "#6a6f78",
    "#4f545c", "#33373e", "#282c32", "#1f2227", "#17191d", name="stone",
)  # fmt: skip


def make_theme() -> Base:
    """The theme. Its fonts are the system's: nothing is fetched."""
    theme = Base(
        primary_hue=_AMBER,
        secondary_hue=_AMBER,
        neutral_hue=_STONE,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=_SANS,
        font_mono=_MONO,
    ).set(**_settings())
    theme.name = "rarebit"
    return theme


def _settings() -> dict[str, str]:
    """What differs from Gradio's plain theme; each pair is (light, dark)."""
    pairs = {
        "body_background_fill": ("#faf8f4", "#17191d"),
        "body_text_color": ("#23262b", "#e8e4dc"),
        "body_text_color_subdued": ("#666b74", "#9aa0a9"),
        "background_fill_primary": ("#ffffff", "#1f2227"),
        "background_fill_secondary": ("#faf8f4", "#17191d"),
        "block_background_fill": ("#ffffff", "#1f2227"),
        "border_color_primary": ("#e4dfd6", "#33373e"),
        "block_info_text_color": ("#666b74", "#9aa0a9"),
        "block_title_text_color": ("#23262b", "#e8e4dc"),
        "block_label_text_color": ("#666b74", "#9aa0a9"),
        "input_background_fill": ("#ffffff", "#17191d"),
        "input_border_color": ("#cfc9be", "#4f545c"),
        "input_placeholder_color": ("#70757e", "#8b919b"),
        "color_accent_soft": ("#f6e7d4", "#3a2d1d"),
        "border_color_accent": ("#b4600f", "#eda44f"),
        "link_text_color": ("#95500d", "#eda44f"),
        "link_text_color_hover": ("#77400d", "#e6b577"),
        "link_text_color_visited": ("#95500d", "#eda44f"),
        "button_primary_background_fill": ("#b4600f", "#eda44f"),
        "button_primary_background_fill_hover": ("#95500d", "#f0b46e"),
        "button_primary_border_color": ("#b4600f", "#eda44f"),
        "button_primary_text_color": ("#ffffff", "#23262b"),
        "button_secondary_background_fill": ("#f3efe8", "#282c32"),
        "button_secondary_background_fill_hover": ("#e4dfd6", "#33373e"),
        "button_secondary_text_color": ("#23262b", "#e8e4dc"),
        "button_cancel_background_fill": ("#b3362b", "#b3362b"),
        "button_cancel_background_fill_hover": ("#8f2a21", "#8f2a21"),
        "button_cancel_text_color": ("#ffffff", "#ffffff"),
        "checkbox_background_color_selected": ("#b4600f", "#d07a1e"),
        "checkbox_border_color_selected": ("#b4600f", "#d07a1e"),
        "checkbox_border_color": ("#8b8f96", "#6a6f78"),
        "checkbox_label_background_fill": ("#ffffff", "#1f2227"),
        "checkbox_label_background_fill_hover": ("#f3efe8", "#282c32"),
        "checkbox_label_background_fill_selected": ("#f6e7d4", "#3a2d1d"),
        "checkbox_label_border_color": ("#cfc9be", "#4f545c"),
        "checkbox_label_border_color_selected": ("#b4600f", "#eda44f"),
        "error_text_color": ("#b3362b", "#f08478"),
        "error_border_color": ("#b3362b", "#f08478"),
        "slider_color": ("#b4600f", "#d07a1e"),
        "table_even_background_fill": ("#ffffff", "#1f2227"),
        "table_odd_background_fill": ("#faf8f4", "#1b1e22"),
        "code_background_fill": ("#f3efe8", "#282c32"),
    }
    dark = {f"{name}_dark": value for name, (_, value) in pairs.items()}
    light = {name: value for name, (value, _) in pairs.items()}
    light["color_accent"] = "#b4600f"  # has no dark twin; the style sheet sets it
    widths = {"input_border_width": "1px", "checkbox_label_border_width": "1px"}
    return light | dark | widths


def read_style() -> str:
    """The page's own style sheet."""
    return _STYLE.read_text(encoding="utf-8")


def read_head() -> str:
    """What the page's head gets: the scripts for languages, addresses, titles and pictures."""
    scripts = [f"window.rarebitLanguages = {list(LANGUAGES)};"]
    lines = [
        line.strip() for path in _SCRIPTS for line in path.read_text(encoding="utf-8").splitlines()
    ]
    scripts += [line for line in lines if not line.startswith("//")]
    return "<script>" + "\n".join(scripts) + "</script>"
