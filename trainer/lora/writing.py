"""Writing adapters in the layouts that other programs read.

``kohya`` is read by every tool. ``kohya-sgm`` names the UNet's layers as Stability's code does, for
SDXL adapters with convolutions. ``diffusers`` is read by diffusers alone; alpha stands in the
metadata where all layers of a part share rank and alpha, and else is multiplied into B.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.names import PARTS, ModuleKey, is_known, kohya_name, sgm_names, shorten
from trainer.lora.reading import GREATEST_ALPHA, PEFT_METADATA
from trainer.memory.devices import DTYPES, Precision
from trainer.models.families import FamilyName
from trainer.runs.atomic import write_bytes

WritableLayout = Literal["kohya", "kohya-sgm", "diffusers"]
MAX_HEADER = 1 << 20  # comfyUI reads no header beyond 1 MiB
_ROOM = 256  # bytes of a header for each tensor's entry, generously, and for the hashes


def write_adapter(
    adapter: Adapter,
    path: Path | str,
    layout: WritableLayout = "kohya",
    precision: Precision = "fp16",
) -> list[str]:
    """Writes an adapter file, whole or not at all; gives the metadata keys that had no room.

    Alpha is stored in fp32 in every precision, so that alpha / rank stays exact.

    Raises:
        UserError: a number is not finite or too large for the precision, or a layer has no name in
            the layout, or is none of SD 1, SD 2 or SDXL; it is named. Or it is of a kind, such as
            DoRA, that has no layout that tools read alike, or not this one.
        OSError: from the file system.
    """
    _check_writable(adapter, layout)
    metadata = {key: value for key, value in adapter.metadata.items() if key != PEFT_METADATA}
    if layout == "diffusers":
        config = _peft_config(adapter)
        if config is None:
            adapter = fold_alpha(adapter)
        else:
            metadata[PEFT_METADATA] = json.dumps(config, sort_keys=True)
    tensors = _tensors(adapter, layout, DTYPES[precision])
    for name, own in adapter.embeddings.items():
        for kind, tensor in own.items():
            tensors[f"bundle_emb.{name}.{kind}"] = tensor.to(DTYPES[precision], copy=True)
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"The adapter can't be saved in {precision}: NaN, infinite or too large numbers in "
            f"{shorten(broken)}.",
            "If they are only too large for fp16, save in fp32 or bf16. Otherwise take an earlier "
            "file of the run's adapters folder, or train with a lower learning rate.",
        )
    room = MAX_HEADER - sum(len(name) + _ROOM for name in tensors) - 1024
    fitting, left_out = _trim_metadata(metadata, room)
    write_tensors(Path(path), tensors, fitting)
    return left_out


def _check_writable(adapter: Adapter, layout: WritableLayout) -> None:
    by_lycoris = not adapter.needs_base and "full difference" not in adapter.kinds
    if not adapter.is_plain and not (by_lycoris and layout != "diffusers"):
        base = " --base NAME" if adapter.needs_base else ""
        held = "there is no file that tools read alike"
        raise UserError(
            f"{adapter.source} is {adapter.other_kinds}, "
            f"{'which the diffusers layout does not hold' if by_lycoris else f'for which {held}'}.",
            f"adapter resize FILE{base} --rank N makes a plain adapter of it.",
        )
    if unknown := [key for key in adapter.layers if not is_known(key)]:
        raise UserError(
            f"No file would name these layers, which Stable Diffusion 1, 2 and XL don't have: "
            f"{shorten(unknown)}."
        )


def best_layout(adapter: Adapter) -> WritableLayout:
    """What most tools read: kohya's, with SGM block names where SDXL's convolutions need them.

    A1111 loses SDXL's first upsampler by diffusers names. The block names hold for full-size UNets
    alone, which are known by the last residual block on their way up.
    """
    paths = [key.path for key in adapter.layers if key.part == "unet"]
    full_size = any(path.startswith("up_blocks.2.resnets.2.") for path in paths)
    if adapter.family == "sdxl" and full_size and sgm_names("sdxl").keys() >= set(paths):
        return "kohya-sgm"
    return "kohya"


def fold_alpha(adapter: Adapter) -> Adapter:
    """The same adapter with alpha / rank multiplied into B, so that alpha is the rank."""
    layers = {
        key: LoraLayer(layer.down, layer.up * (layer.alpha / layer.rank), float(layer.rank))
        for key, layer in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file: complete or not at all, the same bytes for the same contents.

    The library orders metadata at random, so here it is put into the header afterwards. Adds
    ``sshs_model_hash`` and ``modelspec.hash_sha256`` (SHA-256 of the bytes behind the header) and
    ``sshs_legacy_hash`` (8 digits of the SHA-256 of 64 KiB at 1 MiB of the file).

    Raises:
        UserError: the header would be larger than `MAX_HEADER`.
        OSError: from the file system.
    """
    plain = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    start = 8 + int.from_bytes(plain[:8], "little")
    entries = json.loads(plain[8:start])
    body = memoryview(plain)[start:]
    digest = hashlib.sha256(body).hexdigest()
    hashes = {
        "sshs_model_hash": digest,
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_legacy_hash": "00000000",
    }
    content = _header({**metadata, **hashes}, entries) + body
    # The legacy hash is as long as its stand-in, so putting it in moves nothing.
    hashes["sshs_legacy_hash"] = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    write_bytes(path, _header({**metadata, **hashes}, entries) + body)


def _header(metadata: Mapping[str, str], entries: Mapping[str, object]) -> bytes:
    table = {"__metadata__": dict(sorted(metadata.items())), **entries}
    # A file name can hold what no UTF-8 can: better a question mark than a file nobody can read.
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    if len(text) > MAX_HEADER:
        raise UserError(
            f"The file's header would take {len(text):,} bytes, more than the {MAX_HEADER:,} that "
            "other tools read.",
            "It has too many layers, or names of layers that are far too long.",
        )
    padded = text + b" " * (-len(text) % 8)
    return len(padded).to_bytes(8, "little") + padded


def _trim_metadata(metadata: Mapping[str, str], limit: int) -> tuple[dict[str, str], list[str]]:
    """The metadata that fits into so many bytes, and the keys left out, longest values first."""
    sizes = {
        key: len(json.dumps({key: value}, ensure_ascii=False).encode("utf-8", "replace"))
        for key, value in metadata.items()
    }
    left_out: list[str] = []
    # What the file can't be read without goes last.
    for key in sorted(sizes, key=lambda key: (key == PEFT_METADATA, -sizes[key])):
        if sum(sizes.values()) <= limit:
            break
        left_out.append(key)
        del sizes[key]
    return {key: metadata[key] for key in sizes}, left_out


def _tensors(adapter: Adapter, layout: WritableLayout, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, layer in adapter.layers.items():
        down, up = (matrix.to(dtype, copy=True) for matrix in (layer.down, layer.up))
        if layout == "diffusers":
            tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
            continue
        name = (kohya_name if layout == "kohya" else _sgm_name)(adapter.family, key)
        alpha = layer.alpha
        if layer.form is None:
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        else:
            own = dict(layer.form.tensors)
            if {"lokr_w1", "lokr_w2"} <= own.keys():  # where both are whole no tool heeds alpha
                own["lokr_w1"], alpha = own["lokr_w1"] * alpha, 1.0
            tensors |= {f"{name}.{kind}": tensor.to(dtype) for kind, tensor in own.items()}
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return tensors


def _sgm_name(family: FamilyName | None, key: ModuleKey) -> str:
    if family is None:
        raise UserError(
            "Nothing tells which family this adapter is for, so its block names are unknown.",
            "Write the kohya layout, which does not need them.",
        )
    if key.part != "unet":
        return kohya_name(family, key)
    name = sgm_names(family).get(key.path)
    if name is None:
        raise UserError(
            f"{key} has no SGM block name in {family}: the names exist for full-size UNets only.",
            "Write the kohya layout.",
        )
    return f"lora_unet_{name}"


def _peft_config(adapter: Adapter) -> dict[str, object] | None:
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
            # The end of a path fits it with and without the level "text_model.".
            names = sorted(key.path.removeprefix("text_model.") for key in layers)
            config |= {
                f"{part}.r": rank,
                f"{part}.lora_alpha": alpha,
                f"{part}.target_modules": names,
            }
    return config
