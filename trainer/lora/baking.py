"""Merging adapters into a base model: a full checkpoint that needs no adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from trainer import typed_torch
from trainer.errors import UserError
from trainer.lora.adapter import Adapter
from trainer.lora.attach import check_strength
from trainer.lora.changes import change_on
from trainer.lora.layers import find_layers
from trainer.lora.loading import check_fit
from trainer.lora.names import ModuleKey
from trainer.memory.devices import DTYPES, Precision
from trainer.models.base import BaseModel
from trainer.models.identify import BaseIdentity
from trainer.models.original_layout import original_tensors
from trainer.models.original_names import AVERAGES, standard_name
from trainer.models.safetensors_header import read_header
from trainer.runs.atomic import building_folder, replacing

BaseLayout = Literal["folder", "single-file"]


@torch.no_grad()
def bake(base: BaseModel, adapters: Sequence[tuple[Adapter, float]]) -> dict[ModuleKey, Tensor]:
    """Adds adapters to the weights of a loaded base model; gives the changes, in float32.

    Computed in float64 and rounded once. The model stays changed.

    Raises:
        UserError: an adapter does not fit; nothing is changed.
    """
    for adapter, strength in adapters:
        check_strength(strength)
        check_fit(base, adapter)
    layers = find_layers(base)
    changes: dict[ModuleKey, Tensor] = {}
    for adapter, strength in adapters:
        for key, layer in adapter.layers.items():
            # Of DoRA on the unchanged weight, whatever else goes in.
            change = strength * change_on(layer, layers[key].weight)
            changes[key] = changes[key] + change if key in changes else change
    for key, change in changes.items():
        weight = layers[key].weight
        total = weight.double() + change.reshape(weight.shape).to(weight.device)
        weight.copy_(total.to(weight.dtype))
    return {key: change.float() for key, change in changes.items()}


def save_base(
    base: BaseModel, path: Path, layout: BaseLayout, precision: Precision, source: BaseIdentity
) -> None:
    """Writes a base model, whole or not at all, in the number format of its files.

    Args:
        path: a new folder in diffusers' layout, or a single ``.safetensors`` file.
        source: what the model was loaded from. A single file keeps all that its source has beside
            the weights, if that is one too: marks, metadata, layers that nothing reads.

    Raises:
        UserError: it exists, or has a name that tools would not list.
        OSError: from the file system.
    """
    check_new(path, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout == "folder":
        for module in base.modules().values():
            module.to(DTYPES[precision])
        with building_folder(path) as temporary:
            base.pipeline().save_pretrained(temporary, safe_serialization=True)
        return
    tensors = {
        name: tensor.to(DTYPES[precision]).contiguous()
        for name, tensor in original_tensors(base).items()
    }
    metadata = _metadata(base)
    if source.is_single_file:
        header = read_header(source.path)
        metadata = header.metadata
        with cast(Any, safe_open(source.path, framework="pt")) as file:
            tensors |= {
                name: file.get_tensor(name)
                for name in header.tensors
                # An average of the UNet as it was would count for more with some tools.
                if standard_name(name) not in tensors and not name.startswith(AVERAGES)
            }
    elif base.prediction_type == "v_prediction":
        tensors["v_pred"] = torch.zeros(0)
    with replacing(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata)


def check_new(path: Path, layout: BaseLayout) -> None:
    """Refuses a path that is taken, or that no tool would look at.

    Raises:
        UserError: naming it.
    """
    if path.exists():
        what = "folder" if layout == "folder" else "file"
        raise UserError(f"{path} exists already.", f"Give the name of a new {what}.")
    if layout == "single-file" and path.suffix != ".safetensors":
        raise UserError(
            f"{path} does not end in .safetensors.", "Tools look for that: give such a name."
        )


def precision_of(source: BaseIdentity) -> Precision:
    """The number format of most of a base model's numbers."""
    files = (
        [source.path] if source.is_single_file else sorted(source.path.glob("unet/*.safetensors"))
    )
    names: dict[str, Precision] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
    sizes = dict.fromkeys(names.values(), 0)
    for file in files:
        for entry in read_header(file).tensors.values():
            if entry.dtype in names:
                sizes[names[entry.dtype]] += torch.Size(entry.shape).numel()
    return max(sizes, key=lambda name: sizes[name])


@torch.no_grad()
def rounding(
    base: BaseModel, changes: Mapping[ModuleKey, Tensor], precision: Precision
) -> tuple[float, ModuleKey | None]:
    """The greatest error that a number format makes in a layer's change, relative to it, and where.

    Args:
        base: with the changes in it.
    """
    layers = find_layers(base)
    worst, where = 0.0, None
    for key, change in changes.items():
        weight = layers[key].weight
        error = typed_torch.vector_norm(weight.to(DTYPES[precision]).double() - weight.double())
        relative = float(error) / max(float(typed_torch.vector_norm(change)), 1e-30)
        if relative > worst:
            worst, where = relative, key
    return worst, where


def digests(base: BaseModel, precision: Precision) -> dict[str, str]:
    """SHA-256 of every weight, rounded to a number format: for telling models apart."""
    found: dict[str, str] = {}
    for part, module in base.modules().items():
        for name, tensor in module.state_dict().items():
            flat = tensor.to(DTYPES[precision]).cpu().contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().tobytes()
            found[f"{part}.{name}"] = hashlib.sha256(data).hexdigest()
    return found


def _metadata(base: BaseModel) -> dict[str, str]:
    """What tells a single file's prediction type, which its tensors don't for SD 2."""
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": base.family.architecture(base.prediction_type).split("/")[0],
        "modelspec.prediction_type": "v" if base.prediction_type == "v_prediction" else "epsilon",
    }
