"""``adapter verify``: where a file will work, what is wrong with it, how it lies on a base."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from trainer import typed_torch
from trainer.answers import Answer
from trainer.data.names import display_name
from trainer.lora.adapter import Adapter
from trainer.lora.attach import detach
from trainer.lora.changes import compare, energy_of
from trainer.lora.layers import find_layers
from trainer.lora.layouts import Layout, embeddings_shown, layouts_of
from trainer.lora.loading import collect, load_into, plain_on, uncovered
from trainer.lora.names import PROJECTIONS, ModuleKey, attentions, shorten
from trainer.lora.reading import read_adapter
from trainer.lora.tools import Tool, ToolVerdict, judge, works_in
from trainer.models.base import BaseModel
from trainer.models.families import FAMILIES, FamilyName
from trainer.text import capital

_NAME = "verify"


@dataclass(frozen=True)
class BaseProof:
    """How an adapter lies on a base model."""

    name: str  # of the base model
    layers: int  # how many it adapts
    # Attention layers, of the parts that it adapts, that it says nothing about.
    missing: tuple[ModuleKey, ...]
    # Greatest relative difference between the file's change and the one that the live model has,
    # over all layers.
    worst_difference: float
    strongest_change: float  # the greatest of a layer's weight, relative to it (Frobenius norms)
    strongest_layer: ModuleKey  # where that is

    def line(self) -> str:
        """The report for people."""
        return (
            f"On {self.name}: {self.layers} layers changed, as the file says to within "
            f"{self.worst_difference:.1e}; the strongest change is "
            f"{100 * self.strongest_change:.2g} % of its weight ({self.strongest_layer})."
        )


@dataclass(frozen=True)
class Proof(Answer):
    """Everything that `verify_file` finds out about an adapter file."""

    beside = ("summary",)

    file: str  # its name
    family: FamilyName | None
    layouts: tuple[Layout, ...]  # usually one
    layers: int
    tools: dict[Tool, ToolVerdict]  # what each tool makes of it
    dead: tuple[ModuleKey, ...]  # layers that change nothing
    incomplete: tuple[str, ...]  # attentions of which some projections are missing in the file
    base: BaseProof | None  # where a base model was given
    kinds: tuple[str, ...] = ("LoRA",)
    embeddings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """In one line, where it works and what is odd about it."""
        parts = [works_in(self.tools)]
        if self.dead:
            which = "all layers" if len(self.dead) == self.layers else shorten(self.dead)
            parts.append(f"without effect (B = 0): {which}")
        missing = self.base.missing if self.base else self.incomplete
        if missing:
            parts.append(f"half-empty: it lacks {shorten(missing)}")
        if self.embeddings:
            parts.append(f"bundled embeddings: {shorten(self.embeddings)}")
        if self.left_out:
            parts.append(f"not read: {shorten(map(display_name, self.left_out))}")
        return "; ".join(parts)

    def lines(self) -> list[str]:
        title = FAMILIES[self.family].title if self.family else "an unknown base model"
        lines = [
            f"{display_name(self.file)}: {self.layers} layers for {title}, "
            f"{' and '.join(self.layouts)} layout"
            + ("" if self.kinds == ("LoRA",) else f", {' and '.join(self.kinds)}")
        ]
        for tool, verdict in self.tools.items():
            counts = ", ".join(
                f"{part} {verdict.matched[part]}/{verdict.total[part]}" for part in verdict.total
            )
            strength = "exact" if verdict.strength_exact else "WRONG"
            why = f"  ({'; '.join(verdict.notes)})" if verdict.notes else ""
            lines.append(f"  {tool:<10}  keys: {counts}  strength: {strength}{why}")
        if self.base is not None:
            lines.append(self.base.line())
        return [*lines, f"{capital(self.summary)}."]


def verify_file(
    path: Path, base: BaseModel | None = None, *, leave_out_unknown: bool = False
) -> Proof:
    """Judges an adapter file; with a base model, puts it on and takes it off again.

    Args:
        leave_out_unknown: as of `read_adapter`.

    Raises:
        UserError: the file can't be read, has numbers that are not finite, or does not fit the
            base model; names are listed.
    """
    adapter = read_adapter(path, leave_out_unknown=leave_out_unknown)
    on_base = None
    if base is not None:
        on_base = _on_base(base, adapter)
        adapter = replace(adapter, family=base.family.name)
    return Proof(
        file=path.name,
        family=adapter.family,
        layouts=tuple(layouts_of(adapter.names)),
        layers=len(adapter.layers),
        tools=judge(adapter),
        dead=tuple(adapter.dead_layers()),
        incomplete=tuple(_incomplete(adapter)),
        base=on_base,
        kinds=tuple(adapter.kinds),
        embeddings=tuple(embeddings_shown(adapter.embeddings)),
        left_out=adapter.left_out,
    )


def _on_base(base: BaseModel, adapter: Adapter) -> BaseProof:
    load_into(base, adapter, _NAME)
    try:
        live = collect(base, _NAME)
    finally:
        detach(base, _NAME)
    adapter, layers = plain_on(base, adapter), find_layers(base)
    strengths = {
        key: energy_of(layer) / max(float(typed_torch.norm(layers[key].weight.double())), 1e-30)
        for key, layer in adapter.layers.items()
    }
    strongest = max(strengths, key=lambda key: strengths[key])
    return BaseProof(
        name=base.name,
        layers=len(live.layers),
        missing=tuple(uncovered(base, adapter)),
        worst_difference=compare(adapter, live).worst,
        strongest_change=strengths[strongest],
        strongest_layer=strongest,
    )


def _incomplete(adapter: Adapter) -> list[str]:
    """The projections that attentions lack of which the file has others."""
    return [
        f"{part}.{display_name(parent)}.{name}"
        for (part, parent), names in sorted(attentions(adapter.layers).items())
        for name in PROJECTIONS[part]
        if name not in names
    ]
