"""What the adapted layers are called, in files and in memory.

In memory a layer is known by its part and its path as diffusers and the original CLIP name it. The
path never depends on the installed libraries: transformers 5.6 dropped the ``text_model.`` level
from ``CLIPTextModel``, and a file written without it loses its text encoder in every other tool.

kohya's files write ``_`` for every ``.`` of the path. Some name the UNet's blocks as Stability's
code (SGM) does: ``input_blocks.4.1`` there is ``down_blocks.1.attentions.0`` in diffusers. Which
names there are, `trainer.lora.names` knows: no name is taken for a layer that none has.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple, cast

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig

from trainer.models.base import ENCODERS
from trainer.models.configs import read_json
from trainer.models.families import FAMILIES, FamilyName
from trainer.models.original_layout import unet_name
from trainer.typed_torch import named_modules

Part = Literal["unet", "text_encoder", "text_encoder_2"]
PARTS: tuple[Part, ...] = ("unet", "text_encoder", "text_encoder_2")
Shape = tuple[int, ...]


class ModuleKey(NamedTuple):
    """A layer: its part, and its path with the ``text_model.`` level in text encoders."""

    part: Part
    path: str

    def __str__(self) -> str:
        return f"{self.part}.{self.path}"


@cache
def family_layers(family: FamilyName) -> dict[ModuleKey, Shape]:
    """All layers of a full-size model: (out, in), or (out, in, height, width)."""
    layers: dict[ModuleKey, Shape] = {}
    for part in PARTS:
        file = FAMILIES[family].config_folder("epsilon") / part / "config.json"
        if not file.is_file():
            continue
        config = read_json(file)
        with torch.device("meta"):  # without memory for the weights
            if part == "unet":
                model = cast(nn.Module, UNet2DConditionModel.from_config(config))
            else:
                model = ENCODERS[part](CLIPTextConfig(**config))
        for path, module in named_modules(model):
            if isinstance(module, nn.Linear | nn.Conv2d):
                layers[ModuleKey(part, canonical_path(part, path))] = tuple(module.weight.shape)
    return layers


@cache
def paths_by_flat_name(part: Part) -> dict[str, str]:
    """The paths of a part's layers in any family, by the path with ``_`` for every ``.``."""
    keys = (key for family in FAMILIES for key in family_layers(family))
    return {key.path.replace(".", "_"): key.path for key in keys if key.part == part}


@cache
def sgm_names(family: FamilyName) -> dict[str, str]:
    """SGM's names of a family's UNet layers, with ``_`` for every ``.``, by diffusers paths."""
    paths = [key.path for key in family_layers(family) if key.part == "unet"]
    names = {path: unet_name(f"{path}.", paths, 2).rstrip(".") for path in paths}
    return {path: name.replace(".", "_") for path, name in names.items()}


@cache
def paths_by_sgm_name() -> dict[str, str]:
    """Diffusers paths by SGM's names, such as ``input_blocks_1_0_in_layers_2``: the families differ
    in the upsamplers alone."""
    return {name: path for family in FAMILIES for path, name in sgm_names(family).items()}


def is_known(key: ModuleKey) -> bool:
    """Whether any of the families has the layer."""
    return key.path.replace(".", "_") in paths_by_flat_name(key.part)


def unfit_layers(family: FamilyName, shapes: Mapping[ModuleKey, Shape]) -> set[ModuleKey]:
    """The layers that a full-size model of the family lacks, or has in another shape."""
    layers = family_layers(family)
    return {
        key
        for key, shape in shapes.items()
        if key not in layers or not _same(key, shape, layers[key])
    }


def largest_shape(key: ModuleKey) -> Shape:
    """Of a layer's weight in the family where it has most numbers; empty where none has it."""
    shapes = (family_layers(family).get(key, ()) for family in FAMILIES)
    return max(shapes, key=lambda shape: math.prod(shape) if shape else 0)


def without_kernel(shape: Sequence[int]) -> Shape:
    """The shape, but for a kernel of 1 x 1, which some tools leave out."""
    return tuple(shape[:2] if tuple(shape[2:]) == (1, 1) else shape)


def _same(key: ModuleKey, shape: Shape, weight: Shape) -> bool:
    if key.path == "conv_in":  # inpainting models read more channels
        return shape[0] == weight[0]
    return without_kernel(shape) == without_kernel(weight)[: len(shape)]


Targets = Literal["attention", "feed-forward", "convolution"]
"""Kinds of layers to adapt; each contains the ones before it."""

_ATTENTION = r".+\.transformer_blocks\.\d+\.attn[12]\.(?:to_[qkv]|to_out\.0)"
_FEED_FORWARD = (
    r".+\.attentions\.\d+\.(?:proj_(?:in|out)|transformer_blocks\.\d+\.ff\.net\.(?:0\.proj|2))"
)
_CONVOLUTION = (
    r".+\.(?:resnets\.\d+\.(?:conv[12]|conv_shortcut|time_emb_proj)|(?:down|up)samplers\.0\.conv)"
)
_TEXT_ATTENTION = r"text_model\.encoder\.layers\.\d+\.self_attn\.(?:[qkv]|out)_proj"
_TEXT_FEED_FORWARD = r"text_model\.encoder\.layers\.\d+\.mlp\.fc[12]"
# For each kind of layers the paths in the UNet and in text encoders, which have no convolutions.
_TARGETS: dict[Targets, tuple[str, str]] = {
    "attention": (_ATTENTION, _TEXT_ATTENTION),
    "feed-forward": (f"{_ATTENTION}|{_FEED_FORWARD}", f"{_TEXT_ATTENTION}|{_TEXT_FEED_FORWARD}"),
    "convolution": (
        f"{_ATTENTION}|{_FEED_FORWARD}|{_CONVOLUTION}",
        f"{_TEXT_ATTENTION}|{_TEXT_FEED_FORWARD}",
    ),
}
_TEXT_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
PROJECTIONS: dict[Part, tuple[str, ...]] = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "text_encoder": _TEXT_PROJECTIONS,
    "text_encoder_2": _TEXT_PROJECTIONS,
}
"""The four layers of an attention."""
_TEXT_TOP_LEVEL = ("embeddings.", "encoder.", "final_layer_norm")

_KOHYA_NAME = re.compile(r"(lora_unet|lora_te[12]?)_(.+)")
_KOHYA_PARTS: dict[str, Part] = {
    "lora_unet": "unet",
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
}


def canonical_path(part: Part, path: str) -> str:
    """The path of a live module with the ``text_model.`` level, whatever transformers does."""
    if part != "unet" and path.startswith(_TEXT_TOP_LEVEL):
        return f"text_model.{path}"
    return path


def is_target(key: ModuleKey, targets: Targets = "attention") -> bool:
    """Whether training adapts the layer: by default the four projections of every attention.

    ``feed-forward`` adds the layers behind attention and the projections around both, and
    ``convolution`` the UNet's residual blocks with their samplers: LoCon's layers.
    """
    unet, text = _TARGETS[targets]
    return re.fullmatch(unet if key.part == "unet" else text, key.path) is not None


def kohya_name(family: FamilyName | None, key: ModuleKey) -> str:
    """The layer's name in a kohya file, such as ``lora_te1_text_model_encoder_layers_0_…``.

    Args:
        family: of the base model; None where only known not to be SDXL.

    Raises:
        ValueError: a second text encoder where the family has one.
    """
    prefix = "lora_unet"
    if key.part != "unet":
        prefixes = FAMILIES[family or "sd1"].text_encoder_prefixes
        index = PARTS.index(key.part) - 1
        if index >= len(prefixes):
            raise ValueError(f"{key}: the family {family} has {len(prefixes)} text encoder")
        prefix = prefixes[index]
    return f"{prefix}_{key.path.replace('.', '_')}"


def parse_kohya_name(name: str) -> ModuleKey | None:
    """The layer that a kohya name stands for, by diffusers' or SGM's blocks; None if for none."""
    match = _KOHYA_NAME.fullmatch(name)
    return None if match is None else layer_by_path(match[2], _KOHYA_PARTS[match[1]])


def layer_by_path(path: str, part: Part | None = None) -> ModuleKey | None:
    """The layer of a path in anyone's spelling: dotted or joined by ``_``, with or without
    ``text_model.``, by diffusers' or SGM's blocks.

    Args:
        part: None where only the path tells; the second text encoder is then never meant.

    Returns:
        None for paths that no such model has.
    """
    flat = path.replace(".", "_")
    if part is None:
        parts: tuple[Part, ...] = ("unet", "text_encoder")
        return next(filter(None, (layer_by_path(flat, one) for one in parts)), None)
    known = paths_by_flat_name(part)
    found = known.get(flat) or known.get(f"text_model_{flat}")
    if found is None and part == "unet":
        found = paths_by_sgm_name().get(flat)
    return None if found is None else ModuleKey(part, found)


# -- lists of layers


def attentions(keys: Iterable[ModuleKey]) -> dict[tuple[Part, str], set[str]]:
    """Of each attention, by part and path, which of its `PROJECTIONS` are among the layers."""
    found: dict[tuple[Part, str], set[str]] = defaultdict(set)
    for part, path in keys:
        for name in PROJECTIONS[part]:
            if path.endswith(f".{name}"):
                found[part, path.removesuffix(f".{name}")].add(name)
    return dict(found)


def count_parts(keys: Iterable[ModuleKey]) -> dict[Part, int]:
    """How many of the layers are in each part."""
    return dict(Counter(key.part for key in keys))


def count_layers(layers: Mapping[Part, int]) -> str:
    """Such as "128 UNet and 48 text-encoder layers"."""
    unet = layers.get("unet", 0)
    text = sum(layers.values()) - unet
    counts = [(unet, "UNet"), (text, "text-encoder")]
    named = " and ".join(f"{count} {kind}" for count, kind in counts if count) or "no"
    return f"{named} layer{'' if unet + text == 1 else 's'}"


def shorten(names: Iterable[object]) -> str:
    """The first five names and how many there are: ``a, b, … (7 in all)``."""
    listed = [str(name) for name in names]
    more = f", … ({len(listed)} in all)" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more
