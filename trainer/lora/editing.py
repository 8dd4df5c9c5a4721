"""Adapters made of adapters or models: a smaller rank, several in one, the change of a tuned model.

The truncated singular value decomposition is the nearest matrix of its rank (Eckart and Young,
1936); what it leaves out is measured, not guessed. All layers of a result get one alpha, whatever
their ranks, with the rest of the scale in their matrices: diffusers gives all layers of a part the
same alpha (see `trainer.lora.tools`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer import typed_torch
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.attach import check_strength
from trainer.lora.changes import (
    Comparison,
    change_on,
    decomposition,
    full_change,
    matrices,
    nearest,
    rank_for,
)
from trainer.lora.layers import find_layers, parts_of
from trainer.lora.metadata import model_metadata
from trainer.lora.names import ModuleKey, canonical_path, is_target, shorten
from trainer.memory.devices import Precision
from trainer.models.base import BaseModel
from trainer.models.families import FAMILIES, FamilyName

Factors = Mapping[ModuleKey, tuple[Tensor, Tensor]]
"""For each layer up (out, r) and down (r, everything else), in float64."""

_FINEST_FIRST: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
_ONE_KIND = "Only adapters for one kind of base model can be merged."
_NOISE = 1e-7
"""A relative change of a weight below this is rounding: of fp32, and far below that of fp16."""
_COMMON = (
    "ss_base_model_version", "ss_v2", "ss_clip_skip", "ss_network_module", "ss_sd_model_name",
    "modelspec.sai_model_spec", "modelspec.architecture", "modelspec.implementation",
    "modelspec.prediction_type", "modelspec.resolution", "modelspec.license", "rarebit.base",
    "rarebit.version",
)  # fmt: skip
"""Metadata of a merged adapter where all that went into it agree."""


@dataclass(frozen=True)
class Extraction:
    """An adapter made of full changes."""

    adapter: Adapter
    difference: Comparison  # how it differs from the changes of its own layers
    # Tensors that changed and that no adapter holds: biases, norms, embeddings.
    left_out: tuple[str, ...] = ()
    left_out_share: float = 0.0  # Frobenius norm of their change over that of all changes


def resize(
    adapter: Adapter,
    *,
    rank: int | None = None,
    energy: float | None = None,
    ranks: Mapping[ModuleKey, int] | None = None,
) -> Adapter:
    """The nearest adapter of a smaller rank, by singular value decomposition of each layer.

    Args:
        rank: of every layer, at most; layers of less stay at theirs.
        energy: or the share of each layer's energy to keep, above 0 and up to 1.
        ranks: or the rank of each layer, at most.

    Raises:
        UserError: a number is out of range, or its change depends on the base model.
    """
    if ranks is None:
        _check_size(rank, energy)
    factors: dict[ModuleKey, tuple[Tensor, Tensor]] = {}
    for key, layer in adapter.layers.items():
        rank = ranks[key] if ranks else rank
        if layer.form is not None and layer.form.name == "full difference":
            factors[key] = nearest(full_change(layer), rank, energy)
            continue
        left, values, right = decomposition(layer)
        count = rank_for(values, rank, energy)
        root = values[:count].sqrt()
        factors[key] = left[:, :count] * root, root[:, None] * right[:count]
    return _with_layers(adapter, factors, adapter.shapes)


def merge(adapters: Sequence[tuple[Adapter, float]], names: Sequence[str]) -> Adapter:
    """One adapter that changes a model as several do together, each with its strength.

    Ranks are put side by side, [s₁B₁ s₂B₂] · [A₁; A₂] = s₁B₁A₁ + s₂B₂A₂: exact but for rounding.

    Args:
        adapters: with the strength of each.
        names: of each, for the metadata.

    Raises:
        UserError: they are for different families, or a layer has different shapes; a strength is
            not finite; what one changes depends on the base model; two bundle different embeddings
            of one name.
    """
    shapes = _check_together(adapters)
    factors: dict[ModuleKey, tuple[Tensor, Tensor]] = {}
    for adapter, strength in adapters:
        for key, layer in adapter.layers.items():
            up, down = matrices(layer)
            up = strength * up
            if key in factors:
                up = torch.cat([factors[key][0], up], 1)
                down = torch.cat([factors[key][1], down], 0)
            factors[key] = (up, down)
    families: list[FamilyName | None] = [adapter.family for adapter, _ in adapters]
    family = next(filter(None, families), None)
    precisions = {adapter.precision for adapter, _ in adapters}
    finest: list[Precision] = [precision for precision in _FINEST_FIRST if precision in precisions]
    metadata = _merged_metadata(adapters, names)
    merged = Adapter(
        {}, family, metadata, " + ".join(names), precision=finest[0],
        embeddings=_merged_embeddings(adapters),
        left_out=tuple(name for adapter, _ in adapters for name in adapter.left_out),
    )  # fmt: skip
    return _with_layers(merged, factors, shapes)


def scaled(adapter: Adapter, strengths: Mapping[ModuleKey, float]) -> Adapter:
    """An adapter of pairs of matrices that acts in each layer as strongly as asked for.

    Layers of strength 0 are left out.

    Raises:
        UserError: none is left.
    """
    layers = {
        key: replace(layer, up=strengths[key] * layer.up)
        for key, layer in adapter.layers.items()
        if strengths[key]
    }
    if not layers:
        hint = "Give at least one of its blocks a strength above 0."
        raise UserError(f"{adapter.source} would be left without any layer.", hint)
    return replace(adapter, layers=layers)


def without_shared(adapter: Adapter, others: Sequence[Adapter]) -> Adapter:
    """An adapter without what it reads in directions that others read too.

    In each layer A becomes A (1 - V V^T), with V an orthonormal basis of the rows of the others' A:
    on an input of theirs it does nothing. Orthogonal Adaptation (arXiv 2312.02432) trains adapters
    so from the start; arXiv 2510.03262 warns that concepts may blend all the same.
    """
    layers = dict(adapter.layers)
    for key, layer in adapter.layers.items():
        read = [other.layers[key].down for other in others if key in other.layers]
        if read:
            basis = typed_torch.qr(torch.cat(read).double().flatten(1).T)[0]
            down = layer.down.double().flatten(1)
            apart = (down - down @ basis @ basis.T).float().reshape(layer.down.shape)
            layers[key] = replace(layer, down=apart)
    return replace(adapter, layers=layers)


def approximate(
    base: BaseModel, adapter: Adapter, *, rank: int | None = None, energy: float | None = None
) -> Extraction:
    """A plain adapter that changes this base as nearly as its rank allows: of DoRA, OFT and GLoRA.

    Args:
        adapter: has to fit the base.
        rank: of every layer, at most.
        energy: or the share of each layer's energy to keep, above 0 and up to 1.

    Raises:
        UserError: a number is out of range.
    """
    _check_size(rank, energy)
    weights = {key: live.weight for key, live in find_layers(base).items() if key in adapter.layers}
    changes = ((key, change_on(adapter.layers[key], weight)) for key, weight in weights.items())
    factors, difference = _factored(changes, rank, energy)
    shapes = {key: weight.shape for key, weight in weights.items()}
    empty = replace(adapter, family=base.family.name, names={})
    return Extraction(_with_layers(empty, factors, shapes), difference)


@torch.no_grad()
def extract(
    base: BaseModel,
    tuned: BaseModel,
    title: str,
    *,
    rank: int | None = None,
    energy: float | None = None,
) -> Extraction:
    """The adapter that makes a tuned model of its base, as nearly as its rank allows.

    Layers that are equal in both are left out.

    Args:
        title: the adapter's name in its metadata.
        rank: of every layer, at most.
        energy: or the share of each layer's energy to keep, above 0 and up to 1.

    Raises:
        UserError: the models are of different families or shapes, or equal; a number is out of
            range.
    """
    _check_size(rank, energy)
    _check_comparable(base, tuned)
    old, new = find_layers(base), find_layers(tuned)
    # What LoCon adapts; the rest, such as embeddings of time, tools don't look for.
    targets = [key for key in old if is_target(key, "convolution")]
    sizes = {key: _change_size(old[key].weight, new[key].weight) for key in targets}
    changed = [key for key, size in sizes.items() if size]
    if not changed:
        raise UserError(
            f"{base.name} and {tuned.name} have the same weights in every layer that an adapter "
            "can change.",
            "Name the model that was trained from the base with --tuned.",
        )
    changes = (
        (key, (new[key].weight.double() - old[key].weight.double()).cpu().flatten(1))
        for key in changed
    )
    factors, difference = _factored(changes, rank, energy)
    metadata = model_metadata(base, title) | {
        "rarebit.extracted": json.dumps({"name": title}, ensure_ascii=False)
    }
    empty = Adapter({}, base.family.name, metadata, title)
    adapter = _with_layers(empty, factors, {key: old[key].weight.shape for key in changed})
    left_out = _left_out(base, tuned, set(targets))
    lost = math.hypot(*left_out.values())
    share = lost / math.hypot(lost, *sizes.values())
    return Extraction(adapter, difference, tuple(left_out), share)


def _check_size(rank: int | None, energy: float | None) -> None:
    if (rank is None) == (energy is None):
        raise ValueError("give a rank or a share of the energy")
    if rank is not None and rank < 1:
        raise UserError(f"The rank can't be {rank}.", "Give 1 or more.")
    if energy is not None and not 0 < energy <= 1:
        raise UserError(f"The share of the energy can't be {energy}.", "0.99 keeps 99 %.")


def _factored(
    changes: Iterable[tuple[ModuleKey, Tensor]], rank: int | None, energy: float | None
) -> tuple[Factors, Comparison]:
    """The nearest factors of each layer's change as a matrix, and what they leave out."""
    factors: dict[ModuleKey, tuple[Tensor, Tensor]] = {}
    worst, worst_layer, lost, total = 0.0, None, 0.0, 0.0
    for key, change in changes:
        up, down = factors[key] = nearest(change, rank, energy)
        size = float(change.square().sum())
        missing = float((change - up @ down).square().sum())
        lost, total = lost + missing, total + size
        relative = math.sqrt(missing / size) if size else 0.0
        if relative > worst:
            worst, worst_layer = relative, key
    return factors, Comparison(math.sqrt(lost / total) if total else 0.0, worst, worst_layer)


def _with_layers(
    adapter: Adapter, factors: Factors, shapes: Mapping[ModuleKey, Sequence[int]]
) -> Adapter:
    """An adapter with other layers, which all get the greatest rank as their alpha.

    Args:
        shapes: of each layer's weight, (out, in …).
    """
    alpha = max(down.shape[0] for _, down in factors.values())
    layers: dict[ModuleKey, LoraLayer] = {}
    for key, (up, down) in sorted(factors.items(), key=lambda item: item[0]):
        rank, (outputs, *inputs) = down.shape[0], shapes[key]
        kernel = [1] * (len(inputs) - 1)
        layers[key] = LoraLayer(
            down.reshape(rank, *inputs).float().contiguous(),
            (up * (rank / alpha)).reshape(outputs, rank, *kernel).float().contiguous(),
            float(alpha),
        )
    now = {"ss_network_dim": str(alpha), "ss_network_alpha": str(float(alpha))}
    if "ss_network_module" in adapter.metadata and not adapter.is_plain:
        now |= {"ss_network_module": "networks.lora", "ss_network_args": "{}"}
    return replace(adapter, layers=layers, metadata={**adapter.metadata, **now})


def _check_together(adapters: Sequence[tuple[Adapter, float]]) -> dict[ModuleKey, tuple[int, ...]]:
    """The shape of each layer's change, the same in all adapters."""
    families: dict[FamilyName, str] = {}
    shapes: dict[ModuleKey, tuple[int, ...]] = {}
    wrong: list[ModuleKey] = []
    for adapter, strength in adapters:
        check_strength(strength)
        if adapter.family is not None:
            families[adapter.family] = adapter.source
        for key, layer in adapter.layers.items():
            if shapes.setdefault(key, layer.shape) != layer.shape:
                wrong.append(key)
    if len(families) > 1:
        each = ", ".join(f"{source} is for {FAMILIES[f].title}" for f, source in families.items())
        raise UserError(f"These adapters are for different base models: {each}.", _ONE_KIND)
    if wrong:
        raise UserError(
            f"These adapters have layers of different shapes: {shorten(wrong)}.", _ONE_KIND
        )
    return shapes


def _merged_metadata(
    adapters: Sequence[tuple[Adapter, float]], names: Sequence[str]
) -> dict[str, str]:
    """What all agree on, what went in, and all trigger words."""
    first, *others = (adapter.metadata for adapter, _ in adapters)
    common = {
        key: first[key]
        for key in _COMMON
        if key in first and all(other.get(key) == first[key] for other in others)
    }
    words = [metadata.get("modelspec.trigger_phrase", "") for metadata in (first, *others)]
    triggers = ", ".join(dict.fromkeys(word for word in words if word))
    recipe = [
        {"name": name, "strength": strength}
        for name, (_, strength) in zip(names, adapters, strict=True)
    ]
    title = " + ".join(names)
    common |= {"modelspec.title": title, "ss_output_name": title}
    common |= {"modelspec.trigger_phrase": triggers} if triggers else {}
    return common | {"rarebit.merged": json.dumps(recipe, ensure_ascii=False)}


def _merged_embeddings(adapters: Sequence[tuple[Adapter, float]]) -> dict[str, dict[str, Tensor]]:
    """The bundled embeddings of all."""
    merged: dict[str, dict[str, Tensor]] = {}
    for adapter, _ in adapters:
        for name, tensors in adapter.embeddings.items():
            other = merged.setdefault(name, tensors)
            same = other.keys() == tensors.keys()
            if not (same and all(torch.equal(other[one], tensors[one]) for one in tensors)):
                raise UserError(
                    f"Two of these adapters bundle different embeddings of the name {name}.",
                    "--embeddings drop leaves all of them out.",
                )
    return merged


def _change_size(old: Tensor, new: Tensor) -> float:
    """Frobenius norm of the change; 0 where it is rounding."""
    size = float(typed_torch.vector_norm(new.double() - old.double()))
    return size if size > _NOISE * float(typed_torch.vector_norm(old.double())) else 0.0


def _check_comparable(base: BaseModel, tuned: BaseModel) -> None:
    hint = "Take the model that it was trained from as the base."
    if base.family.name != tuned.family.name:
        raise UserError(
            f"{base.name} is for {base.family.title}, {tuned.name} for {tuned.family.title}.", hint
        )
    for part, one in parts_of(base).items():
        old = {name: tensor.shape for name, tensor in one.state_dict().items()}
        new = {n: tensor.shape for n, tensor in parts_of(tuned)[part].state_dict().items()}
        wrong = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if wrong:
            raise UserError(
                f"The {part} of {tuned.name} is built otherwise than that of {base.name}: "
                f"{wrong[0]} and {len(wrong) - 1} more differ in shape.",
                hint,
            )


def _left_out(base: BaseModel, tuned: BaseModel, targets: set[ModuleKey]) -> dict[str, float]:
    """The size of the change of each changed tensor that is no target's weight."""
    found: dict[str, float] = {}
    for part, module in parts_of(base).items():
        new = dict(parts_of(tuned)[part].named_parameters())
        for name, tensor in module.named_parameters():
            path = canonical_path(part, name)
            is_weight = path.endswith(".weight")
            if is_weight and ModuleKey(part, path.removesuffix(".weight")) in targets:
                continue
            if size := _change_size(tensor, new[name]):
                found[f"{part}.{path}"] = size
    return found
