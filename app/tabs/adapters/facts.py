"""What an adapter file is and where it works, put into HTML.

What a file says of itself was written by a stranger: everything is cut, and the templates escape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from app.render import render
from app.tabs.adapters.files import ListedAdapter
from trainer.models.families import FAMILIES

_MOST_ROWS = 60
_EMPTY = (None, "", "None", "null", "{}", "[]")
_ROUNDING = 1e-9  # as a share of the adapter's change
_PARTS = {"unet": "UNet", "te": "text encoder", "te1": "text encoder 1", "te2": "text encoder 2"}
_METERS = {
    "likeness": "Likeness to the pictures",
    "effect": "What the trigger word changes",
    "class_drift": "What the class word changes",
    "neighbour_drift": "Things like it",
    "unrelated_drift": "Other things",
}
_ORDER = ("text", "te", "down", "mid", "up")  # from the text to the picture

Facts = Mapping[str, Any]
"""An answer of the worker, as the command prints it with ``--json``."""


def nothing() -> str:
    """What stands there while no adapter is chosen."""
    return render("adapters.html", "nothing")


def what_it_is(choice: ListedAdapter, facts: Facts) -> str:
    """Base, rank, trigger words and layers."""
    layers: dict[str, Facts] = facts["layers"]
    ranks = [layer["rank"] for layer in layers.values()]
    parts = Counter(re.split(r"[.:/ ]", key, maxsplit=1)[0] for key in layers)
    by_part = ", ".join(f"{count:,} in {_part(part)}" for part, count in parts.items())
    enough = facts["enough_rank"]
    rows = {
        "For": getattr(FAMILIES.get(facts["family"]), "title", "an unknown base model"),
        "Made with": facts["metadata"].get("ss_sd_model_name", ""),
        "Trigger words": facts["trigger_words"],
        "Kind": " and ".join(kind for kind in facts.get("kinds", ()) if kind != "LoRA"),
        "Embeddings": f"{', '.join(embeddings)}; drawn where a prompt names them"
        if (embeddings := facts.get("embeddings", ()))
        else "",
        "Rank": _span(ranks),
        "Alpha": _span([layer["alpha"] for layer in layers.values()]),
        "Layers": f"{len(layers):,}: {by_part}",
        "Layout": " and ".join(facts["layouts"]),
        "File": f"{choice.path.stat().st_size / 1e6:,.1f} MB" if choice.path.is_file() else "",
        "Enough": f"Rank {enough} would keep 99 % of what it does."
        if enough and enough < max(ranks, default=0)
        else "",
    }
    return render("adapters.html", "what_it_is", choice.title, rows)


def chart(facts: Facts) -> str:
    """The strength of each block as bars, from the text to the picture."""
    energies = sorted(facts["energy_by_block"].items(), key=lambda item: _order(item[0]))
    most = max((energy for _, energy in energies), default=0.0) or 1.0
    bars = [(_block(block), energy, 100 * energy / most) for block, energy in energies]
    return render("adapters.html", "chart", bars[:_MOST_ROWS]) if bars else ""


def proof(facts: Facts) -> str:
    """In which tools it works, as a table."""
    rows = [
        {
            "tool": tool,
            "works": verdict["works"],
            "matched": sum(verdict["matched"].values()),
            "total": sum(verdict["total"].values()),
            "exact": verdict["strength_exact"],
            "notes": "; ".join(note[:160] for note in verdict["notes"]),
        }
        for tool, verdict in facts["tools"].items()
    ]
    return render("adapters.html", "proof", rows)


def metadata(facts: Facts) -> str:
    """What the file says of itself, where it says anything."""
    said = [(key, value) for key, value in facts["metadata"].items() if value not in _EMPTY]
    return render("adapters.html", "metadata", said[:_MOST_ROWS])


def result(facts: Facts) -> str:
    """What became of a conversion, a resizing or a merge."""
    difference = facts["difference"]
    parts = [
        f"{facts['layers']} layers of rank {_span(facts['ranks'])}" if facts["ranks"] else "",
        f"{facts['layout']} layout, {facts['precision']}",
        "does exactly the same"
        if difference < _ROUNDING
        else f"differs by {100 * difference:.2g} % of the adapter's change",
        *(note.rstrip(".") for note in facts.get("notes", ())),
    ]
    what = "; ".join(filter(None, parts))
    return render("adapters.html", "result", what, facts["works"], _measured(facts))


def _measured(facts: Facts) -> list[tuple[str, str]]:
    """What a repair measured, as rows of a table."""
    if "before" in facts:
        before, after = facts["before"], facts["after"]
        rows = [
            (title, f"{before[name]:.3f} → {after[name]:.3f}")
            for name, title in _METERS.items()
            if before.get(name) is not None and after.get(name) is not None
        ]
        drawn = facts.get("drawn_kept")
        return rows if drawn is None else [*rows, ("likeness of drawings", f"{drawn:.0%} kept")]
    return [
        (
            f"{way}{', as it is written' if way == facts['best'] else ''}",
            f"{share:.0%} kept, of drawings {facts['drawn'][way]:.0%}",
        )
        for way, share in facts.get("shares", {}).items()
    ]


def _part(name: str) -> str:
    return _PARTS.get(name, name.replace("_", " ")[:40])


def _block(name: str) -> str:
    """``unet.down_blocks.1`` as "UNet, down 1"."""
    part, _, rest = name.partition(".")
    rest = re.sub(r"_blocks?", "", rest).replace(".", " ").replace("_", " ")
    return ", ".join(filter(None, (_part(part), rest[:40])))


def _order(block: str) -> tuple[int, str]:
    pieces = [block.startswith(piece) or f".{piece}" in block for piece in _ORDER]
    return (pieces.index(True) if any(pieces) else len(pieces)), block


def _span(numbers: Collection[float]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
