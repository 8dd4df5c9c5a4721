"""What was predicted, as bars: an SVG picture that is readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

PARTS = {
    "base_weights": ("base model's weights", "#4c78a8"),
    "kept": ("adapter, its gradients, optimizer", "#f58518"),
    "activations": ("activations", "#54a24b"),
    "idle": ("VAE and text encoders at rest", "#9d9da1"),
}
_KEPT = ("adapter", "gradients", "optimizer")
_ROW, _LEFT, _WIDTH, _TOP, _RIGHT = 22, 360, 520, 44, 60
_PREFIX = "predicted "


def bars(results: Mapping[str, Any]) -> str:
    """One bar for each prediction with the UNet only, in GiB."""
    rows = [
        (name.removeprefix(_PREFIX).replace(", UNet only", ""), _grouped(found))
        for name, found in results.items()
        if name.startswith(_PREFIX) and "UNet only" in name
    ]
    most = max(sum(parts.values()) for _, parts in rows)
    scale = _WIDTH / most
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _ROW * len(rows) + 6
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_legend(),
    ]
    for number, (name, parts) in enumerate(rows):
        top, left = _TOP + _ROW * number, float(_LEFT)
        lines.append(
            f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>'
        )
        for part, size in parts.items():
            wide = size * scale
            lines.append(
                f'<rect x="{left:.1f}" y="{top + 3}" width="{wide:.1f}" height="{_ROW - 6}" '
                f'fill="{PARTS[part][1]}"/>'
            )
            left += wide
        lines.append(f'<text x="{left + 5:.1f}" y="{top + 14}">{sum(parts.values()):.1f}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _grouped(found: Mapping[str, float]) -> dict[str, float]:
    parts = {name: found.get(name, 0.0) for name in PARTS}
    return parts | {"kept": sum(found[name] for name in _KEPT)}


def _legend() -> list[str]:
    lines, left = [], 10
    for title, colour in PARTS.values():
        lines.append(f'<rect x="{left}" y="10" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{left + 17}" y="20">{title}</text>')
        left += 40 + 7 * len(title)
    return lines
