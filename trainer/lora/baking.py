"""Merging adapters into a base model: a full checkpoint that needs no adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.errors import UserError
from trainer.lora.attach import check_strength, detach
from trainer.lora.energy import matrices
from trainer.lora.files import AdapterFile, load_into
from trainer.lora.layers import find_layers, original_layer
from trainer.models.base import BaseModel
from trainer.runs.atomic import building_folder


@torch.no_grad()
def bake(base: BaseModel, adapters: Sequence[tuple[AdapterFile, float]]) -> int:
    """Adds adapters to the weights of a loaded base model; gives the number of changed layers.

    Computed in float64 and rounded once for each adapter. The model stays changed.

    Raises:
        UserError: an adapter does not fit; nothing is changed.
    """
    for adapter, strength in adapters:
        check_strength(strength)
        load_into(base, adapter, "fits", strength)
        detach(base, "fits")
    spots = find_layers(base)
    changed = set()
    for adapter, strength in adapters:
        for key, layer in adapter.layers.items():
            weight = original_layer(spots[key].layer).weight
            up, down = matrices(layer)
            change = (strength * up @ down).reshape(weight.shape)
            weight.copy_((weight.double() + change.to(weight.device)).to(weight.dtype))
            changed.add(key)
    return len(changed)


def save_base(base: BaseModel, folder: Path) -> None:
    """Writes a base model as a diffusers folder: whole or not at all.

    Raises:
        UserError: the folder exists.
        OSError: from the file system.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already.", "Give the name of a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with building_folder(folder) as temporary:
        base.pipeline().save_pretrained(temporary, safe_serialization=True)
