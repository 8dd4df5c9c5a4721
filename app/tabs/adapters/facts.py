"""What an adapter file is and where it works, asked of the service and put into HTML.

What a file says of itself was written by a stranger: everything is cut and escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from app import client as service
from app.shared import escape
from app.tabs.adapters.files import AdapterChoice
from trainer.errors import UserError

SECONDS = 180.0
_LONGEST = 160
_MOST_ROWS = 60
_ROUNDING = 1e-9  # as a share of the adapter's change
_FAMILIES = {
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
}
_PARTS = {"unet": "UNet", "te": "text encoder", "te1": "text encoder 1", "te2": "text encoder 2"}

NOTHING = (
    '<div class="card"><h2>No adapter is chosen</h2><p>Train one, or drop a .safetensors file '
    "here: its rank, trigger words and layers are shown, and in which tools it works.</p></div>"
)

Facts = Mapping[str, object]


def inspect(choice: AdapterChoice) -> Facts:
    """What ``adapter inspect --json`` says of a file.

    Raises:
        UserError: it cannot be read; or the worker does not answer.
    """
    return _ask("adapter.inspect", *_identity(choice.path))


def verify(choice: AdapterChoice) -> Facts:
    """What ``adapter verify --json`` says of a file, without a base model.

    Raises:
        UserError: as `inspect`.
    """
    return _ask("adapter.verify", *_identity(choice.path))


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError("The adapter file is gone.", "Choose another one.") from error
    return str(path.resolve()), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _ask(verb: str, path: str, changed: int, size: int) -> Facts:
    answer = service.call(verb, {"file": path}, SECONDS)
    return answer if isinstance(answer, dict) else {}


# ------------------------------------------------------------------------------ in words


def what_it_is(choice: AdapterChoice, facts: Facts) -> str:
    """Base, rank, trigger words and layers."""
    family = str(facts.get("family") or "")
    layers = _table(facts.get("layers"))
    ranks = _numbers(layer.get("rank") for layer in layers.values())
    alphas = _numbers(layer.get("alpha") for layer in layers.values())
    words = _texts(facts.get("trigger_words"))
    size = f"{choice.path.stat().st_size / 1e6:,.1f} MB" if choice.path.is_file() else ""
    rows = {
        "For": escape(_FAMILIES.get(family, "an unknown base model")),
        "Made with": escape(_cut(str(_mapping(facts.get("metadata")).get("ss_sd_model_name", "")))),
        "Trigger words": ", ".join(f"<b>{escape(_cut(word))}</b>" for word in words)
        or '<span class="quiet">none in the file</span>',
        "Rank": _span(ranks),
        "Alpha": _span(alphas),
        "Layers": f"{len(layers):,}: {_by_part(layers)}",
        "Layout": escape(" and ".join(_texts(facts.get("layouts")))),
        "File": size,
    }
    enough = facts.get("enough_rank")
    if isinstance(enough, int) and ranks and enough < max(ranks):
        rows["Enough"] = f"Rank {enough} would keep 99 % of what it does."
    body = "".join(
        f"<tr><th scope='row'>{name}</th><td>{value}</td></tr>"
        for name, value in rows.items()
        if value
    )
    return (
        f'<div class="card"><h2>{escape(choice.title)}</h2>'
        f'<table class="plain about"><tbody>{body}</tbody></table></div>'
    )


def _by_part(layers: Mapping[str, Facts]) -> str:
    counts: dict[str, int] = {}
    for key in layers:
        part = re.split(r"[.:/ ]", key, maxsplit=1)[0]
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{count:,} in {escape(_part(part))}" for part, count in counts.items())


def _part(name: str) -> str:
    return _PARTS.get(name, _cut(name.replace("_", " "), 40))


def chart(facts: Facts) -> str:
    """The strength of each block as bars."""
    energies = {
        str(block): float(energy)
        for block, energy in _mapping(facts.get("energy_by_block")).items()
        if isinstance(energy, int | float)
    }
    if not energies:
        return ""
    most = max(energies.values()) or 1.0
    rows = "".join(
        f"<tr><th scope='row'>{escape(_block(block))}</th>"
        f"<td><div class='amount' style='width:{100 * energy / most:.1f}%'></div></td>"
        f"<td class='number'>{energy:.3g}</td></tr>"
        for block, energy in sorted(energies.items(), key=lambda item: _order(item[0]))[:_MOST_ROWS]
    )
    return (
        '<table class="plain bars"><caption>How much each block changes (Frobenius norm of '
        f"alpha / rank · B A)</caption><tbody>{rows}</tbody></table>"
    )


def _block(name: str) -> str:
    """``unet.down_blocks.1`` as "UNet, down 1"."""
    part, _, rest = name.partition(".")
    rest = re.sub(r"_blocks?", "", rest).replace(".", " ").replace("_", " ")
    return ", ".join(filter(None, (_part(part), _cut(rest, 40))))


def _order(block: str) -> tuple[int, str]:
    """From the text to the picture: text encoders, down, middle, up."""
    for place, piece in enumerate(("text", "te", "down", "mid", "up")):
        if block.startswith(piece) or f".{piece}" in block:
            return place, block
    return 9, block


def proof(facts: Facts) -> str:
    """In which tools it works, as a table."""
    tools = _table(facts.get("tools"))
    if not tools:
        return ""
    rows = ""
    for tool, verdict in tools.items():
        works = verdict.get("works") is True
        matched, total = (
            sum(_numbers(_mapping(verdict.get(name)).values())) for name in ("matched", "total")
        )
        sign = (
            ("good", "Works")
            if works
            else ("bad", "Does not work")
            if not matched
            else ("warm", "In part")
        )
        exact = "exact" if verdict.get("strength_exact") is True else "wrong"
        notes = "; ".join(_cut(note) for note in _texts(verdict.get("notes")))
        rows += (
            f"<tr><th scope='row'>{escape(tool)}</th>"
            f"<td><span class='tag {sign[0]}'>{sign[1]}</span></td>"
            f"<td>{matched:g} of {total:g} tensors read, strength {exact}</td>"
            f"<td>{escape(notes)}</td></tr>"
        )
    why = "Why" if any(_texts(verdict.get("notes")) for verdict in tools.values()) else ""
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Where it works">'
        '<table class="plain">'
        "<thead><tr><th scope='col'>Tool</th><th scope='col'>Verdict</th>"
        "<th scope='col'>What it reads</th>"
        f"<td>{why}</td></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="quiet">By the names of its tensors and what each tool was measured to do with '
        "them; the tools themselves are not started.</p>"
    )


def metadata(facts: Facts) -> str:
    """What the file says of itself."""
    entries = _mapping(facts.get("metadata"))
    if not entries:
        return "<p class='quiet'>The file says nothing about itself.</p>"
    rows = "".join(
        f"<tr><th scope='row'>{escape(_cut(str(key), 80))}</th>"
        f"<td>{escape(_cut(str(value)))}</td></tr>"
        for key, value in [*entries.items()][:_MOST_ROWS]
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Metadata">'
        f'<table class="plain"><tbody>{rows}</tbody></table></div>'
    )


def result(facts: Facts) -> str:
    """What became of a conversion, a resizing or a merge."""
    ranks = _span(_numbers(_list(facts.get("ranks"))))
    difference = facts.get("difference")
    parts = [
        f"{facts.get('layers')} layers of rank {ranks}" if ranks else "",
        escape(f"{facts.get('layout', '')} layout, {facts.get('precision', '')}"),
        _differs(difference) if isinstance(difference, int | float) else "",
    ]
    works = _cut(str(facts.get("works", "")), 400)
    return (
        f'<p role="status"><span class="tag good">Made</span> {"; ".join(filter(None, parts))}. '
        f"It {escape(works)}.</p>"
    )


def _differs(share: float) -> str:
    if share < _ROUNDING:
        return "does exactly the same"
    return f"differs by {100 * share:.2g} % of the adapter's change"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _table(value: object) -> dict[str, Facts]:
    return {str(key): row for key, row in _mapping(value).items() if isinstance(row, dict)}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [str(item) for item in _list(value)]


def _numbers(values: object) -> list[float]:
    items = list(values) if hasattr(values, "__iter__") else []  # type: ignore[call-overload]
    return [item for item in items if isinstance(item, int | float)]


def _span(numbers: list[float]) -> str:
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _cut(text: str, limit: int = _LONGEST) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
