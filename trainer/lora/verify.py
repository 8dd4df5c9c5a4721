"""``adapter verify``: where a file will work, what is wrong with it, how it lies on a base."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from trainer import typed_torch
from trainer.data.names import display_name
from trainer.lora.adapter import Adapter
from trainer.lora.attach import detach
from trainer.lora.changes import compare, energy_of
from trainer.lora.layers import find_layers
from trainer.lora.layouts import Layout, layouts_of
from trainer.lora.loading import collect, load_into, plain_on, uncovered
from trainer.lora.names import PROJECTIONS, ModuleKey, attentions, shorten
from trainer.lora.reading import read_adapter
from trainer.lora.tools import ToolVerdict, judge, works_in
from trainer.models.base import BaseModel
from trainer.models.families import FAMILIES, FamilyName

_NAME = "verify"


@dataclass(frozen=True)
class BaseProof:
    """How an adapter lies on a base model.

    Attributes:
        name: of the base model.
        layers: how many it adapts.
        missing: attention layers, of the parts that it adapts, that it says nothing about.
        worst: greatest relative difference between the file's change and the one that the live
            model has, over all layers.
        strongest: greatest change of a layer's weight relative to that weight (Frobenius norms).
        strongest_layer: where that is.
    """

    name: str
    layers: int
    missing: tuple[ModuleKey, ...]
    worst: float
    strongest: float
    strongest_layer: ModuleKey

    def line(self) -> str:
        """The report for people."""
        return (
            f"On {self.name}: {self.layers} layers changed, as the file says to within "
            f"{self.worst:.1e}; the strongest change is {100 * self.strongest:.2g} % of its weight "
            f"({self.strongest_layer})."
        )

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "name": self.name,
            "layers": self.layers,
            "missing": [str(key) for key in self.missing],
            "worst_difference": self.worst if math.isfinite(self.worst) else None,
            "strongest_change": self.strongest,
            "strongest_layer": str(self.strongest_layer),
        }


@dataclass(frozen=True)
class Proof:
    """Everything that `verify_file` finds out about an adapter file.

    Attributes:
        layouts: usually one.
        verdicts: what each tool makes of it.
        dead: layers that change nothing.
        incomplete: attentions of which some projections are missing in the file.
        base: where a base model was given.
    """

    path: Path
    family: FamilyName | None
    layouts: tuple[Layout, ...]
    layers: int
    verdicts: tuple[ToolVerdict, ...]
    dead: tuple[ModuleKey, ...]
    incomplete: tuple[str, ...]
    base: BaseProof | None
    kinds: tuple[str, ...] = ("LoRA",)
    embeddings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def summary(self) -> str:
        """In one line, where it works and what is odd about it."""
        parts = [works_in(self.verdicts)]
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
        """The report for people."""
        title = FAMILIES[self.family].title if self.family else "an unknown base model"
        lines = [
            f"{display_name(self.path.name)}: {self.layers} layers for {title}, "
            f"{' and '.join(self.layouts)} layout"
            + ("" if self.kinds == ("LoRA",) else f", {' and '.join(self.kinds)}")
        ]
        for verdict in self.verdicts:
            counts = ", ".join(
                f"{part} {verdict.matched[part]}/{verdict.total[part]}" for part in verdict.total
            )
            strength = "exact" if verdict.exact else "WRONG"
            why = f"  ({'; '.join(verdict.notes)})" if verdict.notes else ""
            lines.append(f"  {verdict.tool:<10}  keys: {counts}  strength: {strength}{why}")
        if self.base is not None:
            lines.append(self.base.line())
        summary = self.summary()
        return [*lines, summary[0].upper() + summary[1:] + "."]

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "file": self.path.name,
            "family": self.family,
            "layouts": list(self.layouts),
            "layers": self.layers,
            "tools": {
                verdict.tool: {
                    "works": verdict.works,
                    "matched": verdict.matched,
                    "total": verdict.total,
                    "strength_exact": verdict.exact,
                    "notes": list(verdict.notes),
                }
                for verdict in self.verdicts
            },
            "dead": [str(key) for key in self.dead],
            "incomplete": list(self.incomplete),
            "kinds": list(self.kinds),
            "embeddings": list(self.embeddings),
            "left_out": list(self.left_out),
            "base": self.base and self.base.as_dict(),
            "summary": self.summary(),
        }


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
    if base is not None:
        adapter = replace(adapter, family=base.family.name)
    return Proof(
        path=path,
        family=adapter.family,
        layouts=tuple(layouts_of(adapter.names)),
        layers=len(adapter.layers),
        verdicts=judge(adapter),
        dead=tuple(adapter.dead_layers()),
        incomplete=tuple(_incomplete(adapter)),
        base=None if base is None else _on_base(base, adapter),
        kinds=tuple(adapter.kinds),
        embeddings=tuple(display_name(name[:80]) for name in adapter.embeddings),
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
        worst=compare(adapter, live).worst,
        strongest=strengths[strongest],
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
