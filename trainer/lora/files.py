"""Adapter files: from the live model, to a file, back, and into a live model.

Written is kohya's layout, which every tool reads: for each layer ``NAME.lora_down.weight``
(rank, in), ``NAME.lora_up.weight`` (out, rank) and ``NAME.alpha``; convolutions have
(rank, in, height, width) and (out, rank, 1, 1). The layer's change is alpha / rank · up · down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from trainer.errors import UserError
from trainer.lora.attach import Strength, attached, check_strength, count_layers, set_strength
from trainer.lora.container import write_tensors
from trainer.lora.content import (
    DTYPES,
    AdapterFile,
    LoraLayer,
    Magnitude,
    Precision,
    count_parts,
)
from trainer.lora.dora import plain_on
from trainer.lora.layers import (
    adapted_layers,
    all_or_nothing,
    find_layers,
    find_targets,
    get_magnitude,
    get_weights,
    inject,
    original_layer,
    set_weights,
)
from trainer.lora.layouts import LayerNames, group_layers
from trainer.lora.names import ModuleKey, Part, kohya_name, shorten
from trainer.lora.scales import Scales, read_scales
from trainer.models.base import BaseModel
from trainer.models.families import FAMILIES, FamilyName
from trainer.models.safetensors_header import read_header

_READABLE = ("F64", "F32", "F16", "BF16", "I64", "I32")


@dataclass(frozen=True)
class LoadReport:
    """What came of loading an adapter.

    Attributes:
        layers: for each part how many layers were matched; all of the file's, or it is refused.
        missing: attention layers of these parts that the file says nothing about.
        dead: layers of the file that change nothing.
    """

    layers: dict[Part, int]
    missing: tuple[ModuleKey, ...]
    dead: tuple[ModuleKey, ...]

    def summary(self) -> str:
        """In one line, with what is odd about the file."""
        notes = [f"adapts {count_layers(self.layers)}"]
        if self.missing:
            notes.append(f"leaves out {count_layers(count_parts(self.missing))}")
        if self.dead:
            which = "all" if len(self.dead) == sum(self.layers.values()) else len(self.dead)
            notes.append(f"{which} of its layers have no effect (B = 0): {shorten(self.dead)}")
        return "; ".join(notes)


def collect(base: BaseModel, name: str = "default") -> AdapterFile:
    """A copy of an adapter that is on a live model; its strength there plays no role.

    Raises:
        ValueError: no such adapter.
    """
    layers = adapted_layers(base, name)
    if not layers:
        raise ValueError(f"no adapter {name!r} on {base.name}: it has {attached(base) or 'none'}")
    copies: dict[ModuleKey, LoraLayer] = {}
    for key, layer in sorted(layers.items(), key=lambda item: item[0]):
        down, up = (
            weight.detach().to("cpu", torch.float32, copy=True)
            for weight in get_weights(layer, name)
        )
        lengths = get_magnitude(layer, name)
        magnitude = None
        if lengths is not None:
            values = lengths.detach().to("cpu", torch.float32, copy=True).flatten()
            magnitude = Magnitude(values, "rows")
        copies[key] = LoraLayer(down, up, float(layer.lora_alpha[name]), magnitude)
    return AdapterFile(copies, base.family.name)


def write_kohya(adapter: AdapterFile, path: Path, precision: Precision = "fp16") -> None:
    """Writes an adapter file: whole or not at all, the same bytes for the same adapter.

    Alpha is stored in fp32 in every precision, so that alpha / rank stays exact.

    Raises:
        UserError: a number is not finite, or too large for the precision; the tensor is named.
        OSError: from the file system.
    """
    tensors: dict[str, Tensor] = {}
    for key, layer in adapter.layers.items():
        name = kohya_name(adapter.family, key)
        tensors[f"{name}.lora_down.weight"] = layer.down.to(DTYPES[precision])
        tensors[f"{name}.lora_up.weight"] = layer.up.to(DTYPES[precision])
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"The adapter can't be saved in {precision}: NaN, infinite or too large numbers in "
            f"{shorten(broken)}.",
            "Go back to an earlier checkpoint and train with a lower learning rate; where only "
            "fp16 is too narrow, save in fp32 or bf16.",
        )
    write_tensors(path, tensors, adapter.metadata)


def read_adapter(path: Path) -> AdapterFile:
    """Reads an adapter in any layout of `trainer.lora.layouts`, with any ranks and alphas.

    Without alpha, it is the rank, as in every tool.

    Raises:
        UserError: the file is damaged, of another kind (which is named), incomplete, or has
            numbers that are not finite.
    """
    header = read_header(path)
    names = group_layers(path, header.tensors)
    strange = [name for name, entry in header.tensors.items() if entry.dtype not in _READABLE]
    if strange:
        raise UserError(
            f"{path} holds numbers in a format that is not read here, in {shorten(strange)}.",
            "Take the version of the file in fp16, bf16 or fp32.",
        )
    # Copies, so that the file may be replaced while its adapter is in use.
    tensors = {name: t.to(torch.float32, copy=True) for name, t in load_file(path).items()}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{path} is broken: NaN or infinite numbers in {shorten(broken)}.",
            "Its training failed: take an earlier version of it.",
        )
    beside = any(layer.layout == "peft" for layer in names.values())
    scales = read_scales(path, header.metadata, beside=beside)
    layers = {
        _second_encoder(key, layer, tensors): _read_layer(path, key, layer, tensors, scales)
        for key, layer in sorted(names.items())
    }
    family = _family([layer.down for layer in names.values()], layers, header.metadata)
    return AdapterFile(layers, family, header.metadata, str(path))


def load_into(
    base: BaseModel, adapter: AdapterFile, name: str, strength: Strength = 1.0
) -> LoadReport:
    """Puts an adapter on a live model, frozen, beside those that are there: all of it or nothing.

    Args:
        name: for `set_strength` and `detach`.
        strength: see `set_strength`.

    Raises:
        UserError: a layer has no counterpart, or another shape; both sides are listed.
        ValueError: the name is taken, or can't name a module.
    """
    check_strength(strength)
    check_fit(base, adapter)
    adapter = plain_on(base, fitted_to(base, adapter))
    scales = {key: (layer.rank, layer.alpha) for key, layer in adapter.layers.items()}
    with all_or_nothing(base, name):
        for key, layer in inject(base, name, scales).items():
            weights = adapter.layers[key]
            set_weights(layer, name, weights.down, weights.up, trainable=False)
        set_strength(base, name, strength)
    return LoadReport(
        layers=count_parts(adapter.layers),
        missing=tuple(_uncovered(base, adapter)),
        dead=tuple(adapter.dead_layers()),
    )


def _read_layer(
    path: Path, key: ModuleKey, names: LayerNames, tensors: Mapping[str, Tensor], scales: Scales
) -> LoraLayer:
    down, up = tensors[names.down], tensors[names.up]
    if names.mid is not None:
        down = _with_kernel(path, names, down, tensors[names.mid])
    rank = down.shape[0] if down.dim() else 0
    fits = down.dim() in (2, 4) and up.dim() == down.dim() and up.shape[1] == rank > 0
    if not fits or any(size != 1 for size in up.shape[2:]):
        raise UserError(
            f"{path} is broken: {names.down} has the shape {_shape(down)} and {names.up} "
            f"{_shape(up)}, which is no pair of one rank.",
            "Get the file again.",
        )
    magnitude = None
    if names.magnitude is not None:
        sizes = (up.shape[0], down.shape[1])
        magnitude = _magnitude(path, names, tensors[names.magnitude], sizes)
    alpha = None if names.alpha is None else tensors[names.alpha]
    if alpha is not None and alpha.numel() != 1:
        raise UserError(f"{path} is broken: {names.alpha} has the shape {_shape(alpha)}.")
    if alpha is None:
        value = scales.alpha(key, rank, has_magnitude=magnitude is not None)
    else:
        value = float(alpha.item())
    return LoraLayer(down, up, value, magnitude)


def _with_kernel(path: Path, names: LayerNames, down: Tensor, mid: Tensor) -> Tensor:
    """A convolution's down matrix, of the (rank, rank, height, width) between it and up."""
    flat = down.flatten(1) if down.dim() == 4 and down.shape[2:] == (1, 1) else down
    if flat.dim() != 2 or mid.dim() != 4 or mid.shape[1] != flat.shape[0]:
        raise UserError(
            f"{path} is broken: {names.mid} has the shape {_shape(mid)} and {names.down} "
            f"{_shape(down)}, which don't go together.",
            "Get the file again.",
        )
    return torch.einsum("abhw,bi->aihw", mid, flat).contiguous()


def _magnitude(path: Path, names: LayerNames, values: Tensor, sizes: tuple[int, int]) -> Magnitude:
    """DoRA's lengths: LyCORIS keeps them in a column or a row, PEFT in a vector of the rows.

    Args:
        sizes: outputs and inputs of the layer.
    """
    outputs, inputs = sizes
    dimensions = tuple(values.shape)
    kernel = (1,) * (len(dimensions) - 2)
    is_vector = dimensions == (outputs,) or (kernel and dimensions == (1, outputs, *kernel))
    if names.layout in ("diffusers", "peft") and is_vector:
        return Magnitude(values.flatten(), "rows")
    if dimensions == (outputs, 1, *kernel):
        return Magnitude(values.flatten(), "rows")
    if dimensions == (1, inputs, *kernel):
        return Magnitude(values.flatten(), "columns")
    raise UserError(
        f"{path} is broken: {names.magnitude} has the shape {_shape(values)}, in a layer with "
        f"{outputs} outputs and {inputs} inputs.",
        "Get the file again.",
    )


def _second_encoder(key: ModuleKey, names: LayerNames, tensors: Mapping[str, Tensor]) -> ModuleKey:
    """PEFT does not say which text encoder it adapted; 1280 wide is only SDXL's second."""
    wide = key.path.endswith(("_proj", ".fc1")) and tensors[names.down].shape[-1:] == (1280,)
    if names.layout == "peft" and key.part == "text_encoder" and wide:
        return ModuleKey("text_encoder_2", key.path)
    return key


_CROSS_ATTENTION_WIDTHS: dict[int, FamilyName] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


def _family(
    names: Iterable[str], layers: Mapping[ModuleKey, LoraLayer], metadata: Mapping[str, str]
) -> FamilyName | None:
    """What the file is for: by the text's width in its layers, by its names, by what it says."""
    for key, layer in layers.items():
        if key.path.endswith("attn2.to_k") and layer.down.shape[1] in _CROSS_ATTENTION_WIDTHS:
            return _CROSS_ATTENTION_WIDTHS[layer.down.shape[1]]
    if any(name.startswith(("lora_te1_", "lora_te2_")) for name in names):
        return "sdxl"
    if any(key.part == "text_encoder_2" for key in layers):
        return "sdxl"
    said = metadata.get("ss_base_model_version", "")
    architecture = metadata.get("modelspec.architecture", "")
    return next(
        (
            name
            for name, family in FAMILIES.items()
            if said == family.base_model_version or architecture in family.architectures.values()
        ),
        None,
    )


def check_fit(base: BaseModel, adapter: AdapterFile) -> None:
    """Whether `load_into` would take an adapter; changes nothing.

    Raises:
        UserError: a layer has no counterpart, or another shape; both sides are listed.
    """
    spots = find_layers(base)
    unmatched = [key for key in adapter.layers if key not in spots]
    misshapen = [
        f"{key} (weight {_shape(weight)} in the base model, adapter {_shape(layer.up)} times "
        f"{_shape(layer.down)})"
        for key, layer in adapter.layers.items()
        if key in spots and not _fits(layer, weight := original_layer(spots[key].layer).weight)
    ]
    if not unmatched and not misshapen:
        return
    lines = [f"{adapter.source} does not fit {base.name} ({base.family.title}); nothing is loaded."]
    for what, names in (
        ("Only in the adapter", unmatched),
        ("Only in the base model", _uncovered(base, adapter)),
        ("Of another shape", misshapen),
    ):
        if names:
            lines.append(f"{what}: {shorten(names)}.")
    origin = f" It is for {FAMILIES[adapter.family].title}." if adapter.family else ""
    raise UserError("\n".join(lines), f"Choose the base model that it was made for.{origin}")


def _uncovered(base: BaseModel, adapter: AdapterFile) -> list[ModuleKey]:
    """What training would adapt in the adapter's parts, and the adapter does not."""
    parts = count_parts(adapter.layers)
    return [key for key in find_targets(base) if key.part in parts and key not in adapter.layers]


def fitted_to(base: BaseModel, adapter: AdapterFile) -> AdapterFile:
    """The same adapter with the dimensions that the base model's layers have.

    A 1 x 1 convolution may be stored as a linear layer, and the other way round: some tools do.
    """
    spots = find_layers(base)
    layers: dict[ModuleKey, LoraLayer] = {}
    for key, layer in adapter.layers.items():
        weight = original_layer(spots[key].layer).weight
        kernel = [1] * (weight.dim() - 2)
        if layer.down.dim() != weight.dim():
            down = layer.down.reshape(*layer.down.shape[:2], *kernel)
            layer = replace(layer, down=down, up=layer.up.reshape(*layer.up.shape[:2], *kernel))
        layers[key] = layer
    return replace(adapter, layers=layers)


def _fits(layer: LoraLayer, weight: Tensor) -> bool:
    """Whether up · down has the weight's shape, but for a kernel of 1 x 1."""
    change, lengths = (layer.up.shape[0], *layer.down.shape[1:]), layer.magnitude
    if lengths and len(lengths.values) != weight.shape[0 if lengths.by == "rows" else 1]:
        return False
    return _without_kernel(change) == _without_kernel(tuple(weight.shape))


def _without_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape) or "()"
