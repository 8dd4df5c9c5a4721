"""Adapters made of adapters: a smaller rank by SVD, several in one.

All layers of a result get one alpha, whatever their ranks, with the rest of the scale in their
matrices: diffusers gives all layers of a part the same alpha (see `trainer.lora.tools`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.lora.content import AdapterFile, LoraLayer
from trainer.lora.energy import decompose, energy_of, matrices, rank_for
from trainer.lora.names import ModuleKey, shorten
from trainer.lora.verify import relative_difference
from trainer.models.families import FAMILIES, FamilyName

_EXACT = 1e-9
"""What the arithmetic of comparing two equal matrices leaves, generously."""
_KEPT = (
    "ss_base_model_version", "ss_v2", "ss_network_module", "ss_sd_model_name",
    "modelspec.sai_model_spec", "modelspec.architecture", "modelspec.implementation",
    "modelspec.prediction_type", "modelspec.resolution", "modelspec.license", "rarebit.base",
)  # fmt: skip
"""What holds for a merged adapter where all that went into it agree."""


@dataclass(frozen=True)
class Difference:
    """How an edited adapter differs from what it was made of.

    Attributes:
        overall: Frobenius norm of the difference of all layers' changes over that of the changes.
        worst: the greatest of a single layer, relative to that layer's change.
        worst_layer: where that is; None where nothing changed.
    """

    overall: float
    worst: float
    worst_layer: ModuleKey | None

    def summary(self) -> str:
        """In one line."""
        if self.worst <= _EXACT:
            return "is exact"
        return (
            f"differs by {100 * self.overall:.3g} % of the adapter's change, at most by "
            f"{100 * self.worst:.3g} % of a layer's ({self.worst_layer})"
        )


def resize(
    adapter: AdapterFile, *, rank: int | None = None, energy: float | None = None
) -> AdapterFile:
    """The nearest adapter of a smaller rank, by singular value decomposition of each layer.

    The truncated decomposition is the nearest matrix of its rank (Eckart and Young, 1936).

    Args:
        rank: of every layer, at most; layers of less stay at theirs.
        energy: or the share of each layer's energy to keep, above 0 and up to 1.

    Raises:
        UserError: a number is out of range.
        ValueError: not exactly one of the two is given.
    """
    check_size(rank, energy)
    factors = {
        key: _truncated(*matrices(layer), rank, energy) for key, layer in adapter.layers.items()
    }
    shapes = {key: (layer.up.shape, layer.down.shape) for key, layer in adapter.layers.items()}
    layers = with_one_alpha(factors, shapes)
    return replace(adapter, layers=layers, metadata=with_scale(adapter.metadata, layers))


def merge(
    adapters: Sequence[tuple[AdapterFile, float]], names: Sequence[str], *, rank: int | None = None
) -> AdapterFile:
    """One adapter that changes a model as several do together, each with its strength.

    Ranks are put side by side, [s₁B₁ s₂B₂] · [A₁; A₂] = s₁B₁A₁ + s₂B₂A₂: exact but for rounding.

    Args:
        adapters: with the strength of each.
        names: of each, for the metadata.
        rank: afterwards reduced to this by `resize`, which is not exact.

    Raises:
        UserError: they are for different families, or a layer has different shapes; a strength is
            not finite.
    """
    _check_together(adapters)
    factors: dict[ModuleKey, tuple[Tensor, Tensor]] = {}
    shapes: dict[ModuleKey, tuple[torch.Size, torch.Size]] = {}
    for adapter, strength in adapters:
        for key, layer in adapter.layers.items():
            up, down = matrices(layer)
            up = strength * up
            if key in factors:
                up = torch.cat([factors[key][0], up], 1)
                down = torch.cat([factors[key][1], down], 0)
            factors[key] = (up, down)
            shapes[key] = (layer.up.shape, layer.down.shape)
    layers = with_one_alpha(factors, shapes)
    metadata = with_scale(_merged_metadata(adapters, names), layers)
    known: list[FamilyName] = [a.family for a, _ in adapters if a.family is not None]
    family = known[0] if known else None
    merged = AdapterFile(dict(sorted(layers.items())), family, metadata, " + ".join(names))
    return merged if rank is None else resize(merged, rank=rank)


def difference(before: AdapterFile, after: AdapterFile) -> Difference:
    """How the changes of two adapters of the same layers differ."""
    worst, worst_layer, squares, total = 0.0, None, 0.0, 0.0
    for key, layer in before.layers.items():
        energy = energy_of(layer)
        relative = relative_difference(layer, after.layers[key])
        total += energy**2
        squares += (relative * energy) ** 2 if energy else 0.0
        if relative > worst:
            worst, worst_layer = relative, key
    return Difference(math.sqrt(squares / total) if total else 0.0, worst, worst_layer)


def check_size(rank: int | None, energy: float | None) -> None:
    """Refuses sizes that mean nothing.

    Raises:
        UserError: a number is out of range.
        ValueError: not exactly one of the two is given.
    """
    if (rank is None) == (energy is None):
        raise ValueError("give a rank or a share of the energy")
    if rank is not None and rank < 1:
        raise UserError(f"The rank can't be {rank}.", "Give 1 or more.")
    if energy is not None and not 0 < energy <= 1:
        raise UserError(f"The share of the energy can't be {energy}.", "0.99 keeps 99 %.")


def _truncated(
    up: Tensor, down: Tensor, rank: int | None, energy: float | None
) -> tuple[Tensor, Tensor]:
    left, values, right = decompose(up, down)
    count = min(rank, len(values)) if rank is not None else rank_for(values, energy or 1.0)
    root = values[:count].sqrt()
    return left[:, :count] * root, root[:, None] * right[:count]


def with_one_alpha(
    factors: Mapping[ModuleKey, tuple[Tensor, Tensor]],
    shapes: Mapping[ModuleKey, tuple[torch.Size, torch.Size]],
) -> dict[ModuleKey, LoraLayer]:
    """Layers of up (out, r) · down (r, in …), all with the greatest rank as their alpha.

    Args:
        factors: up as (out, r) and down as (r, everything else).
        shapes: of up and down for each layer, whatever their ranks.
    """
    alpha = max(down.shape[0] for _, down in factors.values())
    layers: dict[ModuleKey, LoraLayer] = {}
    for key, (up, down) in factors.items():
        rank = down.shape[0]
        up_shape, down_shape = shapes[key]
        layers[key] = LoraLayer(
            down.reshape(rank, *down_shape[1:]).float().contiguous(),
            (up * (rank / alpha)).reshape(up_shape[0], rank, *up_shape[2:]).float().contiguous(),
            float(alpha),
        )
    return layers


def _check_together(adapters: Sequence[tuple[AdapterFile, float]]) -> None:
    for adapter, strength in adapters:
        if not math.isfinite(strength):
            raise UserError(f"{adapter.source}: an adapter's strength can't be {strength}.")
    families: dict[FamilyName, str] = {
        adapter.family: adapter.source for adapter, _ in adapters if adapter.family is not None
    }
    if len(families) > 1:
        told = ", ".join(f"{source} is for {FAMILIES[f].title}" for f, source in families.items())
        raise UserError(f"These adapters are for different base models: {told}.")
    shapes: dict[ModuleKey, tuple[object, object]] = {}
    wrong: list[ModuleKey] = []
    for adapter, _ in adapters:
        for key, layer in adapter.layers.items():
            shape = (layer.up.shape[0], tuple(layer.down.shape[1:]))
            if shapes.setdefault(key, shape) != shape:
                wrong.append(key)
    if wrong:
        raise UserError(
            f"These adapters have layers of different shapes: {shorten(wrong)}.",
            "Only adapters for one kind of base model can be merged.",
        )


def _merged_metadata(
    adapters: Sequence[tuple[AdapterFile, float]], names: Sequence[str]
) -> dict[str, str]:
    """What all agree on, what went in, and all trigger words."""
    first = adapters[0][0].metadata
    kept = {
        key: first[key]
        for key in _KEPT
        if key in first and all(a.metadata.get(key) == first[key] for a, _ in adapters)
    }
    words = [a.metadata.get("modelspec.trigger_phrase", "") for a, _ in adapters]
    triggers = ", ".join(dict.fromkeys(word for word in words if word))
    title = " + ".join(names)
    recipe = [
        {"name": name, "strength": strength}
        for name, (_, strength) in zip(names, adapters, strict=True)
    ]
    kept |= {"modelspec.title": title, "ss_output_name": title}
    kept |= {"modelspec.trigger_phrase": triggers} if triggers else {}
    return kept | {"rarebit.merged": json.dumps(recipe, ensure_ascii=False)}


def with_scale(
    metadata: Mapping[str, str], layers: Mapping[ModuleKey, LoraLayer]
) -> dict[str, str]:
    """The metadata with the rank and alpha that the layers now have."""
    rank = max(layer.rank for layer in layers.values())
    alpha = next(iter(layers.values())).alpha
    return {**metadata, "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}


def name_of(path: Path) -> str:
    """What an adapter file is called in the metadata: never its folder."""
    return path.stem
