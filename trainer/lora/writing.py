"""Writing adapters in the layouts that other programs read.

``kohya`` is read by every tool. ``kohya-sgm`` names the UNet's layers as Stability's code does, for
SDXL adapters with convolutions. ``diffusers`` is read by diffusers alone; alpha stands in the
metadata where all layers of a part share rank and alpha, and else is multiplied into B.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.lora.container import MAX_HEADER, write_tensors
from trainer.lora.files import DTYPES, AdapterFile, LoraLayer, Precision
from trainer.lora.names import PARTS, ModuleKey, kohya_name, shorten
from trainer.lora.scales import GREATEST_ALPHA, METADATA_KEY
from trainer.lora.sgm import to_sgm

WritableLayout = Literal["kohya", "kohya-sgm", "diffusers"]
WRITABLE_LAYOUTS: tuple[WritableLayout, ...] = get_args(WritableLayout)
_ROOM = 256
"""Bytes of a header for each tensor's entry, generously, and for the hashes."""


def write_adapter(
    adapter: AdapterFile,
    path: Path,
    layout: WritableLayout = "kohya",
    precision: Precision = "fp16",
) -> list[str]:
    """Writes an adapter file, whole or not at all; gives the metadata keys that had no room.

    Alpha is stored in fp32 in every precision.

    Raises:
        UserError: a number is not finite or too large for the precision, or a layer has no name in
            the layout; it is named. Or it is DoRA, which has no layout that tools read alike.
        OSError: from the file system.
    """
    if adapter.is_dora:
        raise UserError(
            f"{adapter.source} is DoRA, for which there is no file that tools read alike.",
            "adapter resize FILE --base NAME --rank N makes a plain adapter of it.",
        )
    tensors, metadata = _tensors(adapter, layout, precision)
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"The adapter can't be saved in {precision}: NaN, infinite or too large numbers in "
            f"{shorten(broken)}.",
            "Where only fp16 is too narrow, save in fp32 or bf16; after training, go back to an "
            "earlier checkpoint and train with a lower learning rate.",
        )
    kept, left_out = trim_metadata(
        metadata, MAX_HEADER - sum(len(name) + _ROOM for name in tensors) - 1024
    )
    write_tensors(path, tensors, kept)
    return left_out


def best_layout(adapter: AdapterFile) -> WritableLayout:
    """What most tools read: kohya's, with SGM block names where SDXL's convolutions need them.

    A1111 loses SDXL's first upsampler by diffusers names. The block names hold for full-size UNets
    alone, which are known by the last residual block on their way up.
    """
    paths = [key.path for key in adapter.layers if key.part == "unet"]
    full_size = any(path.startswith("up_blocks.2.resnets.2.") for path in paths)
    if adapter.family == "sdxl" and full_size and all(to_sgm("sdxl", path) for path in paths):
        return "kohya-sgm"
    return "kohya"


def trim_metadata(metadata: dict[str, str], limit: int) -> tuple[dict[str, str], list[str]]:
    """Metadata that fits, and the keys left out: the longest values go first.

    Args:
        limit: in bytes of JSON; ComfyUI reads no header beyond 1 MiB.
    """
    sizes = {
        key: len(json.dumps({key: value}, ensure_ascii=False).encode("utf-8", "replace"))
        for key, value in metadata.items()
    }
    left_out: list[str] = []
    total = sum(sizes.values())
    # What the file can't be read without goes last.
    for key in sorted(sizes, key=lambda key: (key == METADATA_KEY, -sizes[key])):
        if total <= limit:
            break
        left_out.append(key)
        total -= sizes.pop(key)
    return {key: metadata[key] for key in sizes}, left_out


def _tensors(
    adapter: AdapterFile, layout: WritableLayout, precision: Precision
) -> tuple[dict[str, Tensor], dict[str, str]]:
    dtype = DTYPES[precision]
    metadata = {key: value for key, value in adapter.metadata.items() if key != METADATA_KEY}
    if layout == "diffusers":
        config = _config(adapter)
        if config is not None:
            metadata[METADATA_KEY] = json.dumps(config, sort_keys=True)
        folded = adapter if config is not None else fold_alpha(adapter)
        return _diffusers_tensors(folded, dtype), metadata
    name_of = kohya_name if layout == "kohya" else _sgm_name
    return _kohya_tensors(adapter, dtype, lambda key: name_of(adapter.family, key)), metadata


def _kohya_tensors(
    adapter: AdapterFile, dtype: torch.dtype, name_of: Callable[[ModuleKey], str]
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, layer in adapter.layers.items():
        name = name_of(key)
        tensors[f"{name}.lora_down.weight"] = layer.down.to(dtype)
        tensors[f"{name}.lora_up.weight"] = layer.up.to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    return tensors


def _sgm_name(family: str | None, key: ModuleKey) -> str:
    if family not in ("sd1", "sd2", "sdxl"):
        raise UserError(
            "Nothing tells which family this adapter is for, so its block names are unknown.",
            "Write the kohya layout, which does not need them.",
        )
    if key.part != "unet":
        return kohya_name(family, key)
    name = to_sgm(family, key.path)
    if name is None:
        raise UserError(
            f"{key} has no SGM block name in {family}: the names exist for full-size UNets only.",
            "Write the kohya layout.",
        )
    return f"lora_unet_{name}"


def _diffusers_tensors(adapter: AdapterFile, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, layer in adapter.layers.items():
        tensors[f"{key}.lora_A.weight"] = layer.down.to(dtype)
        tensors[f"{key}.lora_B.weight"] = layer.up.to(dtype)
    return tensors


def fold_alpha(adapter: AdapterFile) -> AdapterFile:
    """The same adapter with alpha / rank multiplied into B, so that alpha is the rank."""
    layers = {
        key: LoraLayer(layer.down, layer.up * (layer.alpha / layer.rank), float(layer.rank))
        for key, layer in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def _config(adapter: AdapterFile) -> dict[str, object] | None:
    """PEFT's configuration of each part for the metadata; None where alpha has to be folded.

    diffusers takes one configuration of each part or none at all. Nor is an alpha written that is
    not read again: multiplied into B it fits, or is refused there.
    """
    config: dict[str, object] = {}
    for part in PARTS:
        layers = {key: layer for key, layer in adapter.layers.items() if key.part == part}
        scales = {(layer.rank, layer.alpha) for layer in layers.values()}
        if len(scales) > 1 or not all(abs(alpha) <= GREATEST_ALPHA for _, alpha in scales):
            return None
        for rank, alpha in scales:
            config |= {
                f"{part}.r": rank,
                f"{part}.lora_alpha": alpha,
                # The end of a path fits it with and without the level "text_model.".
                f"{part}.target_modules": sorted(
                    key.path.removeprefix("text_model.") for key in layers
                ),
            }
    return config
