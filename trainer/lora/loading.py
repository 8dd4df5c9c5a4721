"""Adapters from live models into memory, and from memory into live models."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from trainer.config.schema import AdapterConfig, TrainingConfig
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.attach import attached, check_strength, set_strength
from trainer.lora.changes import matrices
from trainer.lora.layers import (
    LycorisLayer,
    adapted_layers,
    find_layers,
    find_targets,
    injected,
    parameters_on,
    scale_on,
    set_weights,
)
from trainer.lora.names import (
    ModuleKey,
    count_layers,
    count_parts,
    largest_shape,
    shorten,
    without_kernel,
)
from trainer.lora.reading import read_adapter, shape_text
from trainer.lora.words import tensors_of_words, vectors_for
from trainer.models.base import BaseModel
from trainer.models.families import FAMILIES


def collect(base: BaseModel, name: str = "default") -> Adapter:
    """A copy of an adapter that is on a live model; its strength there plays no role.

    Raises:
        ValueError: no such adapter.
    """
    layers = adapted_layers(base, name)
    if not layers:
        raise ValueError(f"no adapter {name!r} on {base.name}: it has {attached(base) or 'none'}")
    copies: dict[ModuleKey, LoraLayer] = {}
    for key, layer in sorted(layers.items(), key=lambda item: item[0]):
        tensors = {
            kind: one.detach().to("cpu", torch.float32, copy=True)
            for kind, one in parameters_on(layer, name).items()
        }
        copies[key] = LoraLayer.of_trained(tensors, scale_on(layer, name), largest_shape(key))
    words = tensors_of_words(base.learned.get(name, {}))
    return Adapter(copies, base.family.name, embeddings=words)


def load_into(base: BaseModel, adapter: Adapter, name: str, strength: float = 1.0) -> None:
    """Puts an adapter on a live model, frozen, beside those that are there: all of it or nothing.

    Embeddings that are bundled with it stand in prompts for their words, at full strength.

    Args:
        name: for `set_strength` and `detach`.
        strength: see `set_strength`.

    Raises:
        UserError: a layer has no counterpart, or another shape; both sides are listed.
        ValueError: the name is taken, or can't name a module.
    """
    check_strength(strength)
    check_fit(base, adapter)
    words = vectors_for(base, adapter)
    adapter = plain_on(base, adapter)
    scales = {key: (layer.rank, layer.alpha) for key, layer in adapter.layers.items()}
    with injected(base, name, scales) as new:
        for key, layer in new.items():
            weights = adapter.layers[key]
            assert not isinstance(layer, LycorisLayer)
            set_weights(layer, name, weights.down, weights.up, trainable=False)
    if words:
        base.learned[name] = words
    set_strength(base, name, strength)


def check_fit(base: BaseModel, adapter: Adapter) -> None:
    """Whether `load_into` would take an adapter; changes nothing.

    Raises:
        UserError: a layer has no counterpart, or another shape; both sides are listed. Or a
            bundled embedding is for another base model.
    """
    live = find_layers(base)
    unmatched = [key for key in adapter.layers if key not in live]
    misshapen = [
        f"{key} (weight {shape_text(weight)} in the base model, {_shape_of(layer)} in the adapter)"
        for key, layer in adapter.layers.items()
        if key in live and not _fits(layer, weight := live[key].weight)
    ]
    if not unmatched and not misshapen:
        vectors_for(base, adapter)
        return
    lines = [f"{adapter.source} does not fit {base.name} ({base.family.title}); nothing is loaded."]
    for what, names in (
        ("Only in the adapter", unmatched),
        ("Only in the base model", uncovered(base, adapter)),
        ("Of another shape", misshapen),
    ):
        if names:
            lines.append(f"{what}: {shorten(names)}.")
    origin = f" It is for {FAMILIES[adapter.family].title}." if adapter.family else ""
    raise UserError("\n".join(lines), f"Choose the base model that it was made for.{origin}")


def uncovered(base: BaseModel, adapter: Adapter) -> list[ModuleKey]:
    """What training would adapt in the adapter's parts, and the adapter does not."""
    parts = count_parts(adapter.layers)
    return [key for key in find_targets(base) if key.part in parts and key not in adapter.layers]


def plain_on(base: BaseModel, adapter: Adapter) -> Adapter:
    """The same adapter as it acts on a base that it fits, exactly.

    Its matrices get the dimensions of the base model's weights: some tools store a 1 x 1
    convolution as a linear layer, or the other way round. Layers of other kinds, such as DoRA's,
    become plain ones, most of full rank.
    """
    live = find_layers(base)
    layers = {key: _plain(layer, live[key].weight) for key, layer in adapter.layers.items()}
    return replace(adapter, layers=layers)


def _plain(layer: LoraLayer, weight: Tensor) -> LoraLayer:
    kernel = [1] * (weight.dim() - 2)
    if layer.kind != "LoRA":
        up, down = (matrix.float() for matrix in matrices(layer, weight))
        rank, outputs = len(down), len(up)
        down = down.reshape(rank, *weight.shape[1:]).contiguous()
        return LoraLayer(down, up.reshape(outputs, rank, *kernel).contiguous(), float(rank))
    if layer.down.dim() == weight.dim():
        return layer
    down = layer.down.reshape(*layer.down.shape[:2], *kernel)
    return replace(layer, down=down, up=layer.up.reshape(*layer.up.shape[:2], *kernel))


def _fits(layer: LoraLayer, weight: Tensor) -> bool:
    """Whether up · down has the weight's shape, but for a kernel of 1 x 1."""
    lengths = layer.magnitude
    if lengths and len(lengths.values) != weight.shape[0 if lengths.by == "rows" else 1]:
        return False
    shape = without_kernel(layer.shape)  # OFT knows its outputs alone
    return shape == without_kernel(weight.shape)[: len(shape)]


def _shape_of(layer: LoraLayer) -> str:
    if layer.form is not None:
        return " x ".join(map(str, layer.shape))
    return f"{shape_text(layer.up)} times {shape_text(layer.down)}"


# ---------------------------------------------------------------------------- going on from a file


def read_start(path: Path, config: AdapterConfig) -> Adapter:
    """The adapter that training goes on from, with one alpha for all of its layers.

    Where layers have different alphas, the difference is multiplied into B.

    Raises:
        UserError: it cannot be read, is of another kind (such as DoRA or LoHa), changes nothing,
            or adapts a part that the configuration does not train.
    """
    adapter = read_adapter(path)
    if not adapter.is_plain:
        base = " --base NAME" if adapter.needs_base else ""
        raise UserError(
            f"{path} is {adapter.other_kinds}, which a training cannot go on from.",
            f"adapter resize {path}{base} --rank N makes a plain adapter of it.",
        )
    if config.kind == "dora":
        raise UserError(
            "A training of adapter.kind dora cannot go on from an adapter file.",
            "Set adapter.kind to lora.",
        )
    alphas = Counter(layer.alpha for layer in adapter.layers.values() if layer.alpha > 0)
    if not alphas:
        raise UserError(f"{path} changes nothing: alpha is 0 in every layer.", "Use another file.")
    parts = count_parts(adapter.layers)
    off = {
        "adapter.unet": not config.unet and "unet" in parts,
        "adapter.text_encoder": not config.text_encoder and parts.keys() != {"unet"},
    }
    if named := [name for name, is_off in off.items() if is_off]:
        raise UserError(
            f"{path} adapts {count_layers(parts)}, but {' and '.join(named)} is off, so a part of "
            "it would be lost.",
            f"Switch {' and '.join(named)} on.",
        )
    alpha = alphas.most_common(1)[0][0]
    layers = {
        key: replace(layer, up=layer.up * (layer.alpha / alpha), alpha=alpha)
        for key, layer in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def clip_skip_note(start: Adapter, base: BaseModel) -> str:
    """That a file was trained with another clip skip than the base is read with; else nothing."""
    there, here = start.metadata.get("ss_clip_skip", ""), base.clip_skip
    if there.isdecimal() and int(there) != here and base.family.name == "sd1":
        return f"That adapter had base.clip_skip = {there}, here it is {here}."
    return ""


def taken_over(config: TrainingConfig, start: Adapter) -> TrainingConfig:
    """The configuration with what the adapter decides: its parts, greatest rank and alpha, and the
    number of new tokens where it brings some."""
    parts = count_parts(start.layers)
    changes = {
        "kind": "lora",
        "rank": max(start.ranks),
        "alpha": next(iter(start.layers.values())).alpha,
        "unet": "unet" in parts,
        "text_encoder": parts.keys() != {"unet"},
    }
    if start.embeddings:
        vectors = next(iter(next(iter(start.embeddings.values())).values()))
        changes["new_tokens"] = len(vectors) if vectors.dim() > 1 else 1
    return config.changed(adapter=changes)
