"""Reading adapter files of any layout, whole or not at all.

kohya's files keep alpha beside each layer. diffusers puts PEFT's configuration of each part into
the file's metadata, as one JSON text under ``lora_adapter_metadata`` with keys such as
``unet.lora_alpha``; PEFT writes ``adapter_config.json`` beside the file. Where nothing tells alpha
it is the rank, as in every tool.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.lora.adapter import Adapter, FormName, LoraLayer, Magnitude, read_form
from trainer.lora.layouts import LayerNames, group_layers
from trainer.lora.names import (
    PARTS,
    ModuleKey,
    Part,
    canonical_path,
    largest_shape,
    shorten,
    unfit_layers,
)
from trainer.memory.devices import Precision
from trainer.models.families import FAMILIES, FamilyName
from trainer.models.safetensors_header import SafetensorsHeader, read_header
from trainer.untyped import is_table

PEFT_METADATA = "lora_adapter_metadata"
GREATEST_ALPHA = 1e9
"""Any greater alpha is a broken one; an integer in JSON may have thousands of digits."""
_CONFIG_FILE = "adapter_config.json"
_MAX_CONFIG_BYTES = 1 << 20
_READABLE = ("F64", "F32", "F16", "BF16", "I64", "I32")
_CROSS_ATTENTION_WIDTHS: dict[int, FamilyName] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_LITERAL = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")


def read_adapter(path: Path | str, *, leave_out_unknown: bool = False) -> Adapter:
    """Reads an adapter in any layout of `trainer.lora.layouts`, with any ranks and alphas.

    Args:
        leave_out_unknown: read what is understood of a file; `Adapter.left_out` names the rest.

    Raises:
        UserError: the file is damaged, of another kind (which is named), incomplete, or has
            numbers that are not finite.
    """
    path = Path(path)
    header = read_header(path)
    grouped = group_layers(path, header.tensors, leave_out_unknown=leave_out_unknown)
    names = grouped.layers
    tensors = _read_tensors(path, header, grouped.left_out)
    configs = _read_configs(path, header.metadata, names)
    layers = {
        key: _read_layer(path, key, layer, tensors, configs.get(key.part, {}))
        for key, layer in sorted(names.items())
    }
    dtypes = {entry.dtype for entry in header.tensors.values() if entry.shape}
    precision: Precision = "bf16" if "BF16" in dtypes else "fp16" if "F16" in dtypes else "fp32"
    family = _family(names, layers, header.metadata)
    embeddings = {
        name: {own.removeprefix(f"bundle_emb.{name}."): tensors[own] for own in owned}
        for name, owned in grouped.embeddings.items()
    }
    return Adapter(
        layers, family, header.metadata, str(path), names, precision, embeddings,
        tuple(grouped.left_out),
    )  # fmt: skip


def _read_tensors(
    path: Path, header: SafetensorsHeader, left_out: Collection[str]
) -> dict[str, Tensor]:
    """The other tensors in float32: copies, so that the file may be replaced meanwhile."""
    entries = {name: entry for name, entry in header.tensors.items() if name not in left_out}
    strange = [name for name, entry in entries.items() if entry.dtype not in _READABLE]
    if strange:
        raise UserError(
            f"{path} holds numbers in a format that is not read here, in {shorten(strange)}.",
            "Take the version of the file in fp16, bf16 or fp32.",
        )
    tensors = {
        name: t.to(torch.float32, copy=True)
        for name, t in safetensors.torch.load_file(path).items()
        if name in entries
    }
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{path} is broken: NaN or infinite numbers in {shorten(broken)}.",
            "Its training failed: take an earlier version of it.",
        )
    return tensors


def _read_layer(
    path: Path,
    key: ModuleKey,
    names: LayerNames,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
) -> LoraLayer:
    own = {kind: tensors[name] for kind, name in names.tensors.items()}
    for kind in ("alpha", "scalar"):
        if kind in own and own[kind].numel() != 1:
            raise _broken(path, f"{names.tensors[kind]} has the shape {shape_text(own[kind])}")
    layer = _matrices_of(path, key, names, own)
    lengths = own.get("magnitude")
    if lengths is not None:
        outputs, *inputs = layer.shape if len(layer.shape) > 1 else (0, 0)
        sizes = (outputs, inputs[0])
        layer = replace(layer, magnitude=_magnitude(path, names, lengths, sizes))
    if layer.form is not None and layer.form.name in ("OFT", "full difference"):
        return layer  # OFT's alpha limits its rotation; a difference has none
    has_magnitude = layer.magnitude is not None
    if "alpha" in own:
        alpha = float(own["alpha"].item())
    else:
        alpha = _configured_alpha(path, config, key, layer.rank, has_magnitude=has_magnitude)
    if layer.form is not None and {"lokr_w1", "lokr_w2"} <= own.keys():
        alpha = 1.0  # without a rank there is no scale
    return replace(layer, alpha=alpha * float(own.get("scalar", torch.ones(())).item()))


def _matrices_of(
    path: Path, key: ModuleKey, names: LayerNames, own: Mapping[str, Tensor]
) -> LoraLayer:
    """A layer with alpha 1 and without lengths."""
    if names.form != "LoRA":
        apart = ("scalar", "magnitude") if names.form == "OFT" else ("alpha", "scalar", "magnitude")
        mine = {kind: tensor for kind, tensor in own.items() if kind not in apart}
        try:
            form = read_form(cast(FormName, names.form), mine, largest_shape(key))
        except ValueError as problem:
            hint = "It is damaged, or of a kind that is not read here, such as BOFT."
            raise UserError(f"{path} can't be read: {key} has {problem}.", hint) from None
        return LoraLayer.of_form(form, 1.0)
    down, up = own["down"], own["up"]
    if "mid" in own:
        down = _with_kernel(path, names, down, own["mid"])
    rank = down.shape[0] if down.dim() else 0
    fits = down.dim() in (2, 4) and up.dim() == down.dim() and up.shape[1] == rank > 0
    if not fits or any(size != 1 for size in up.shape[2:]):
        both = f"{names.tensors['down']} has the shape {shape_text(down)} and {names.tensors['up']}"
        raise _broken(path, f"{both} {shape_text(up)}, which is no pair of one rank")
    return LoraLayer(down, up, 1.0)


def _with_kernel(path: Path, names: LayerNames, down: Tensor, mid: Tensor) -> Tensor:
    """A convolution's down matrix, of the (rank, rank, height, width) between it and up."""
    flat = down.flatten(1) if down.dim() == 4 and down.shape[2:] == (1, 1) else down
    if flat.dim() != 2 or mid.dim() != 4 or mid.shape[1] != flat.shape[0]:
        both = f"{names.tensors['mid']} has the shape {shape_text(mid)} and {names.tensors['down']}"
        raise _broken(path, f"{both} {shape_text(down)}, which don't go together")
    return torch.einsum("abhw,bi->aihw", mid, flat).contiguous()


def _magnitude(path: Path, names: LayerNames, values: Tensor, sizes: tuple[int, int]) -> Magnitude:
    """DoRA's lengths: LyCORIS keeps them in a column or a row, PEFT in a vector of the rows.

    Args:
        sizes: outputs and inputs of the layer.
    """
    outputs, inputs = sizes
    shape = tuple(values.shape)
    kernel = (1,) * (len(shape) - 2)
    is_vector = shape == (outputs,) or (kernel and shape == (1, outputs, *kernel))
    if shape == (outputs, 1, *kernel) or (
        is_vector and not names.tensors["magnitude"].endswith("dora_scale")
    ):
        return Magnitude(values.flatten(), "rows")
    if shape == (1, inputs, *kernel):
        return Magnitude(values.flatten(), "columns")
    found = f"{names.tensors['magnitude']} has the shape {shape_text(values)}"
    raise _broken(path, f"{found}, in a layer with {outputs} outputs and {inputs} inputs")


def _family(
    names: Mapping[ModuleKey, LayerNames],
    layers: Mapping[ModuleKey, LoraLayer],
    metadata: Mapping[str, str],
) -> FamilyName | None:
    """What the file is for: by its layers, by the text's width, by its names, by what it says."""
    shapes = {key: layer.shape for key, layer in layers.items()}
    fitting: list[FamilyName] = [family for family in FAMILIES if not unfit_layers(family, shapes)]
    if len(fitting) == 1:
        return fitting[0]
    for key, layer in layers.items():
        width = layer.shape[-1]
        if key.path.endswith("attn2.to_k") and width in _CROSS_ATTENTION_WIDTHS:
            return _CROSS_ATTENTION_WIDTHS[width]
    named = any(layer.first.startswith(("lora_te1_", "lora_te2_")) for layer in names.values())
    if named or any(key.part == "text_encoder_2" for key in layers):
        return "sdxl"
    version = metadata.get("ss_base_model_version", "")
    architecture = metadata.get("modelspec.architecture", "")
    for name, family in FAMILIES.items():
        if version == family.base_model_version or architecture in family.architectures.values():
            return name
    return None


def _broken(path: Path, what: str) -> UserError:
    return UserError(f"{path} is broken: {what}.", "Get the file again.")


def shape_text(tensor: Tensor) -> str:
    """Such as "8 x 4"."""
    return " x ".join(str(size) for size in tensor.shape) or "()"


# -- alpha in PEFT's configurations


def _read_configs(
    path: Path, metadata: Mapping[str, str], names: Mapping[ModuleKey, LayerNames]
) -> dict[Part, dict[str, Any]]:
    """PEFT's configuration of each part, from the metadata or from beside a file of PEFT's layout.

    Raises:
        UserError: there is a configuration that is not JSON.
    """
    source, text = PEFT_METADATA, metadata.get(PEFT_METADATA)
    beside = path.with_name(_CONFIG_FILE)
    if not text and any(layer.layout == "peft" for layer in names.values()) and beside.is_file():
        if beside.stat().st_size > _MAX_CONFIG_BYTES:
            raise UserError(
                f"{beside} is larger than {_MAX_CONFIG_BYTES} bytes.",
                "Get the file again, or in kohya's layout.",
            )
        source, text = _CONFIG_FILE, beside.read_text(encoding="utf-8", errors="replace")
    if not text:
        return {}
    content = json_table(text)
    if content is None:
        raise UserError(
            f"{path}: {source}, which holds its alphas, is not a JSON object.",
            "Get the file again, or in kohya's layout.",
        )
    # Keys without a part's name hold for all parts.
    common = {key: value for key, value in content.items() if "." not in key}
    return {
        part: common
        | {
            key.removeprefix(f"{part}."): value
            for key, value in content.items()
            if key.startswith(f"{part}.")
        }
        for part in PARTS
    }


def json_table(text: str) -> dict[str, Any] | None:
    """A stranger's JSON object; None where it is anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if is_table(content) else None


def _configured_alpha(
    path: Path, config: Mapping[str, Any], key: ModuleKey, rank: int, *, has_magnitude: bool
) -> float:
    """Alpha such that alpha / rank is the layer's scale.

    rsLoRA (arXiv 2312.03732, eq. 4) divides alpha by √rank, so there it is alpha · √rank.

    Raises:
        UserError: the configuration can't be understood, or promises a magnitude that is missing.
    """
    if config.get("use_dora") and not has_magnitude:
        raise UserError(
            f"{path} is DoRA by its configuration, but has no magnitude of {key}.",
            "Get the file again: what was saved is half of it.",
        )
    try:
        alpha = _by_pattern(config.get("alpha_pattern") or {}, key)
        alpha = config.get("lora_alpha", config.get("alpha")) if alpha is None else alpha
        if alpha is None:
            return float(rank)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise ValueError(f"alpha {alpha!r} is no number")
        if not abs(alpha) <= GREATEST_ALPHA:  # also where it is NaN
            raise ValueError(f"alpha is {alpha}")
    except ValueError as problem:
        raise UserError(
            f"{path}: its adapter configuration can't be understood: {str(problem)[:200]}.",
            "Get the file in kohya's layout, which keeps alpha beside each layer.",
        ) from None
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


def _by_pattern(patterns: object, key: ModuleKey) -> object:
    """The value whose pattern fits a layer: a path, or the end of one (PEFT's rule)."""
    if not is_table(patterns):
        raise ValueError("alpha_pattern is no table")
    for pattern, value in patterns.items():
        # A pattern may be any regular expression. A stranger's is not run: it could take years.
        if _LITERAL.fullmatch(pattern) is None:
            raise ValueError(f"alpha_pattern has the pattern {pattern[:80]!r}, not a path")
        path = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        at_end = not pattern.startswith("^") and key.path.endswith(f".{path}")
        if at_end or key.path in (path, canonical_path(key.part, path)):
            return value
    return None
