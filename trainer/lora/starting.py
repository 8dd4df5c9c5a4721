"""Going on from an adapter file: what a training takes over from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from trainer.config.schema import AdapterConfig
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.names import count_layers, count_parts
from trainer.lora.reading import read_adapter


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
    layers = {key: _with_alpha(layer, alpha) for key, layer in adapter.layers.items()}
    return replace(adapter, layers=layers)


def taken_over(config: AdapterConfig, start: Adapter) -> AdapterConfig:
    """The configuration with what the adapter decides: its parts, greatest rank and alpha."""
    parts = count_parts(start.layers)
    changes = {
        "kind": "lora",
        "rank": max(start.ranks),
        "alpha": next(iter(start.layers.values())).alpha,
        "unet": "unet" in parts,
        "text_encoder": parts.keys() != {"unet"},
    }
    return config.model_copy(update=changes)


def _with_alpha(layer: LoraLayer, alpha: float) -> LoraLayer:
    if layer.alpha == alpha:
        return layer
    return replace(layer, up=layer.up * (layer.alpha / alpha), alpha=alpha)
