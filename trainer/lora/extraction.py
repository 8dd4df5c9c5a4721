"""Plain adapters made of full changes of weights: of DoRA, or of a tuned model against its base.

Each layer's change is replaced by its nearest matrix of low rank (Eckart and Young, 1936); what
that leaves out is measured, not guessed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.lora.content import AdapterFile
from trainer.lora.dora import change_on
from trainer.lora.editing import Difference, check_size, with_one_alpha, with_scale
from trainer.lora.energy import nearest
from trainer.lora.layers import find_layers, original_layer, parts_of
from trainer.lora.names import PARTS, ModuleKey, canonical_path, is_target
from trainer.models.base import BaseModel

_NOISE = 1e-7
"""A relative change of a weight below this is rounding: of fp32, and far below that of fp16."""


@dataclass(frozen=True)
class Extraction:
    """An adapter made of full changes.

    Attributes:
        difference: how it differs from the changes of its own layers.
        left_out: tensors that changed and that no adapter holds: biases, norms, embeddings.
        left_out_share: Frobenius norm of their change over that of all changes.
    """

    adapter: AdapterFile
    difference: Difference
    left_out: tuple[str, ...] = ()
    left_out_share: float = 0.0


def approximate(
    base: BaseModel, adapter: AdapterFile, *, rank: int | None = None, energy: float | None = None
) -> Extraction:
    """A plain adapter that changes this base as nearly as its rank allows.

    Args:
        rank: of every layer, at most.
        energy: or the share of each layer's energy to keep, above 0 and up to 1.

    Raises:
        UserError: a number is out of range.
    """
    spots = find_layers(base)
    changes = (
        (key, change_on(layer, weight), weight.shape)
        for key, layer in adapter.layers.items()
        for weight in [original_layer(spots[key].layer).weight]
    )
    found, difference = _factored(changes, rank, energy)
    result = replace(found, family=base.family.name, source=adapter.source)
    return Extraction(
        replace(result, metadata=with_scale(adapter.metadata, result.layers)), difference
    )


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
    _check_comparable(base, tuned)
    here, there = find_layers(base), find_layers(tuned)
    weights = {
        key: (original_layer(here[key].layer).weight, original_layer(there[key].layer).weight)
        for key in here
        # What LoCon adapts; the rest, such as embeddings of time, tools don't look for.
        if is_target(key, "convolution")
    }
    changed = {key: pair for key, pair in weights.items() if _differ(*pair)}
    if not changed:
        raise UserError(
            f"{base.name} and {tuned.name} have the same weights in every layer that an adapter "
            "can change.",
            "Name the model that was trained from the base with --tuned.",
        )
    changes = (
        (key, (new.double() - old.double()).cpu().flatten(1), old.shape)
        for key, (old, new) in changed.items()
    )
    adapter, difference = _factored(changes, rank, energy)
    left_out = _left_out(base, tuned, set(weights))
    lost = math.sqrt(sum(size**2 for size in left_out.values()))
    kept = math.sqrt(sum(_size(old, new) ** 2 for old, new in changed.values()))
    metadata = with_scale(_metadata(base, title), adapter.layers)
    return Extraction(
        replace(adapter, family=base.family.name, metadata=metadata, source=title),
        difference,
        tuple(left_out),
        lost / math.hypot(lost, kept),
    )


def _factored(
    changes: Iterable[tuple[ModuleKey, Tensor, torch.Size]],
    rank: int | None,
    energy: float | None,
) -> tuple[AdapterFile, Difference]:
    """Up and down for each (layer, change as a matrix, shape of the weight)."""
    check_size(rank, energy)
    factors: dict[ModuleKey, tuple[Tensor, Tensor]] = {}
    shapes: dict[ModuleKey, tuple[torch.Size, torch.Size]] = {}
    worst, worst_layer, lost, total = 0.0, None, 0.0, 0.0
    for key, change, shape in changes:
        up, down, _ = nearest(change, rank, energy)
        factors[key] = (up, down)
        shapes[key] = (torch.Size([shape[0], 0, *[1] * (len(shape) - 2)]), torch.Size(shape))
        size = float(change.square().sum())
        missing = float((change - up @ down).square().sum())
        lost, total = lost + missing, total + size
        relative = math.sqrt(missing / size) if size else 0.0
        if relative > worst:
            worst, worst_layer = relative, key
    layers = with_one_alpha(factors, shapes)
    overall = math.sqrt(lost / total) if total else 0.0
    return AdapterFile(dict(sorted(layers.items()))), Difference(overall, worst, worst_layer)


def _differ(old: Tensor, new: Tensor) -> bool:
    return _size(old, new) > _NOISE * float(torch.linalg.vector_norm(old.double()))


def _size(old: Tensor, new: Tensor) -> float:
    """Frobenius norm of the change."""
    return float(torch.linalg.vector_norm(new.double() - old.double()))


def _check_comparable(base: BaseModel, tuned: BaseModel) -> None:
    if base.family.name != tuned.family.name:
        raise UserError(
            f"{base.name} is for {base.family.title}, {tuned.name} for {tuned.family.title}.",
            "Take the model that it was trained from as the base.",
        )
    for part, one in parts_of(base).items():
        old = {name: tensor.shape for name, tensor in one.state_dict().items()}
        new = {n: tensor.shape for n, tensor in parts_of(tuned)[part].state_dict().items()}
        wrong = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if wrong:
            raise UserError(
                f"The {part} of {tuned.name} is built otherwise than that of {base.name}: "
                f"{wrong[0]} and {len(wrong) - 1} more differ in shape.",
                "Take the model that it was trained from as the base.",
            )


def _left_out(base: BaseModel, tuned: BaseModel, held: set[ModuleKey]) -> dict[str, float]:
    """Of each changed tensor that is not a held layer's weight, the change's Frobenius norm."""
    parts: dict[str, tuple[nn.Module, nn.Module]] = {
        part: (module, parts_of(tuned)[part]) for part, module in parts_of(base).items()
    }
    found: dict[str, float] = {}
    for part in PARTS:
        if part not in parts:
            continue
        old, new = (dict(module.named_parameters()) for module in parts[part])
        for name, tensor in old.items():
            path = canonical_path(part, name)
            key = ModuleKey(part, path.removesuffix(".weight"))
            if not (path.endswith(".weight") and key in held) and _differ(tensor, new[name]):
                found[f"{part}.{path}"] = _size(tensor, new[name])
    return found


def _metadata(base: BaseModel, title: str) -> dict[str, str]:
    return {
        "ss_base_model_version": base.family.base_model_version,
        "ss_v2": str(base.family.name == "sd2"),
        "ss_network_module": "networks.lora",
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": base.family.architecture(base.prediction_type),
        "modelspec.title": title,
        "rarebit.base": base.fingerprint,
        "rarebit.extracted": json.dumps({"name": title}, ensure_ascii=False),
    }
