"""``adapter verify``: where a file will work, what is wrong with it, how it lies on a base."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.data.names import display_name
from trainer.lora.attach import detach
from trainer.lora.dora import plain_on
from trainer.lora.energy import energy_of
from trainer.lora.files import AdapterFile, collect, fitted_to, load_into, read_adapter
from trainer.lora.layers import find_layers, find_targets, original_layer
from trainer.lora.layouts import LayerNames, Layout, group_layers, layouts_of
from trainer.lora.names import PARTS, ModuleKey, shorten
from trainer.lora.tools import Subject, ToolVerdict, judge, works_in
from trainer.lora.verify import compare
from trainer.models.base import BaseModel
from trainer.models.families import FAMILIES, FamilyName
from trainer.models.safetensors_header import read_header

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

    def summary(self) -> str:
        """In one line, where it works and what is odd about it."""
        parts = [works_in(self.verdicts)]
        if self.dead:
            which = "all layers" if len(self.dead) == self.layers else shorten(self.dead)
            parts.append(f"without effect (B = 0): {which}")
        missing = self.base.missing if self.base else self.incomplete
        if missing:
            parts.append(f"half-empty: it lacks {shorten(missing)}")
        return "; ".join(parts)

    def lines(self) -> list[str]:
        """The report for people."""
        title = FAMILIES[self.family].title if self.family else "an unknown base model"
        lines = [
            f"{display_name(self.path.name)}: {self.layers} layers for {title}, "
            f"{' and '.join(self.layouts)} layout"
        ]
        for verdict in self.verdicts:
            counts = ", ".join(
                f"{part} {verdict.matched[part]}/{verdict.total[part]}" for part in verdict.total
            )
            strength = "exact" if verdict.exact else "WRONG"
            why = f"  ({'; '.join(verdict.notes)})" if verdict.notes else ""
            lines.append(f"  {verdict.tool:<10}  keys: {counts}  strength: {strength}{why}")
        if self.base is not None:
            lines.append(
                f"On {self.base.name}: {self.base.layers} layers changed, as the file says to "
                f"within {self.base.worst:.1e}; the strongest change is "
                f"{100 * self.base.strongest:.2g} % of its weight ({self.base.strongest_layer})."
            )
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
            "base": None if self.base is None else _base_dict(self.base),
            "summary": self.summary(),
        }


def verify_file(path: Path, base: BaseModel | None = None) -> Proof:
    """Judges an adapter file; with a base model, puts it on and takes it off again.

    Raises:
        UserError: the file can't be read, has numbers that are not finite, or does not fit the
            base model; names are listed.
    """
    adapter = read_adapter(path)
    family = base.family.name if base is not None else adapter.family
    names = group_layers(path, read_header(path).tensors)
    # A PEFT file's second text encoder is told by its width alone, which the names do not show.
    names = {key: _names_of(key, names) for key in adapter.layers}
    return Proof(
        path=path,
        family=family,
        layouts=tuple(layouts_of(names)),
        layers=len(adapter.layers),
        verdicts=judge(Subject(adapter, names, family)),
        dead=tuple(adapter.dead_layers()),
        incomplete=tuple(_incomplete(adapter)),
        base=None if base is None else _on_base(base, adapter),
    )


def _names_of(key: ModuleKey, names: dict[ModuleKey, LayerNames]) -> LayerNames:
    return names[key] if key in names else names[ModuleKey("text_encoder", key.path)]


def _on_base(base: BaseModel, adapter: AdapterFile) -> BaseProof:
    load_into(base, adapter, _NAME)
    adapter = plain_on(base, fitted_to(base, adapter))
    try:
        live = collect(base, _NAME)
    finally:
        detach(base, _NAME)
    spots = find_layers(base)
    changes = {
        key: energy_of(layer)
        / max(float(torch.linalg.norm(original_layer(spots[key].layer).weight.double())), 1e-30)
        for key, layer in adapter.layers.items()
    }
    strongest = max(changes, key=lambda key: changes[key])
    worst = compare(adapter, live, "fp32").worst
    parts = {key.part for key in adapter.layers}
    missing = [k for k in find_targets(base) if k.part in parts and k not in adapter.layers]
    return BaseProof(
        base.name, len(live.layers), tuple(missing), worst, changes[strongest], strongest
    )


def _incomplete(adapter: AdapterFile) -> list[str]:
    """Attentions of which the file has some projections and lacks others."""
    wanted = {"unet": ("to_q", "to_k", "to_v", "to_out.0")}
    lacking: list[str] = []
    for part in PARTS:
        paths = {key.path for key in adapter.layers if key.part == part}
        names = wanted.get(part, ("q_proj", "k_proj", "v_proj", "out_proj"))
        parents = sorted(
            {
                path.removesuffix(f".{name}")
                for path in paths
                for name in names
                if path.endswith(f".{name}")
            }
        )
        lacking += [
            f"{part}.{display_name(parent)}.{name}"
            for parent in parents
            for name in names
            if f"{parent}.{name}" not in paths
        ]
    return lacking


def _base_dict(base: BaseProof) -> dict[str, object]:
    return {
        "name": base.name,
        "layers": base.layers,
        "missing": [str(key) for key in base.missing],
        "worst_difference": base.worst if math.isfinite(base.worst) else None,
        "strongest_change": base.strongest,
        "strongest_layer": str(base.strongest_layer),
    }
