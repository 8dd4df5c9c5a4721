"""DoRA (arXiv 2402.09353): a change of direction by low rank, and the lengths beside it.

The weight becomes m · (W + s·BA) / ‖W + s·BA‖, with one length m for each row or each column. Its
change depends on W and has full rank, so no file of up and down matrices holds it exactly, and the
tools differ in what they make of its own files. On a given base it is a plain change of the weight:
that is how it is used here, and by its nearest matrix of low rank how it is written.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trainer.lora.content import AdapterFile, LoraLayer
from trainer.lora.energy import product
from trainer.lora.layers import find_layers, original_layer
from trainer.models.base import BaseModel


@torch.no_grad()
def change_on(layer: LoraLayer, weight: Tensor) -> Tensor:
    """What a layer's adapter adds to a weight: (out, everything else), float64 on the CPU.

    Args:
        weight: the base model's, (out, in) or (out, in, height, width).
    """
    if layer.magnitude is None:
        return product(layer)
    original = weight.detach().to("cpu", torch.float64)
    turned = original + product(layer).reshape(original.shape)
    by = 0 if layer.magnitude.by == "rows" else 1
    others = [axis for axis in range(original.dim()) if axis != by]
    lengths = torch.linalg.vector_norm(turned, dim=others, keepdim=True)
    wanted = layer.magnitude.values.double().reshape(lengths.shape)
    # A row without length has no direction: it stays as it is, since m is 0 there as well.
    scale = torch.where(lengths > 0, wanted / lengths, 1.0)
    return (scale * turned - original).flatten(1)


def plain_on(base: BaseModel, adapter: AdapterFile) -> AdapterFile:
    """The same adapter on this base without magnitudes: exact, of full rank where it had them.

    Its layers have to fit the base.
    """
    if not adapter.is_dora:
        return adapter
    spots = find_layers(base)
    layers = {
        key: _of_full_rank(layer, original_layer(spots[key].layer).weight)
        for key, layer in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def without_magnitudes(adapter: AdapterFile) -> AdapterFile:
    """The low-rank half of DoRA: not what it does, but what of it needs no base model."""
    layers = {key: replace(layer, magnitude=None) for key, layer in adapter.layers.items()}
    return replace(adapter, layers=layers)


def _of_full_rank(layer: LoraLayer, weight: Tensor) -> LoraLayer:
    if layer.magnitude is None:
        return layer
    change = change_on(layer, weight).float()
    outputs = weight.shape[0]
    kernel = [1] * (weight.dim() - 2)
    identity = torch.eye(outputs).reshape(outputs, outputs, *kernel)
    return LoraLayer(change.reshape(weight.shape).contiguous(), identity, float(outputs))
