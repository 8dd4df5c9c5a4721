"""What the adapted layers are called, in files and in memory.

In memory a layer is known by its part and its path as diffusers and the original CLIP name it. The
path never depends on the installed libraries: transformers 5.6 dropped the ``text_model.`` level
from ``CLIPTextModel``, and a file written without it loses its text encoder in every other tool.

kohya's files write ``_`` for every ``.`` of the path. Some name the UNet's blocks as Stability's
code (SGM) does: ``input_blocks.4.1`` there is ``down_blocks.1.attentions.0`` in diffusers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal, NamedTuple

from trainer.models.families import FAMILIES, FamilyName
from trainer.models.original_layout import unet_name

Part = Literal["unet", "text_encoder", "text_encoder_2"]
PARTS: tuple[Part, ...] = ("unet", "text_encoder", "text_encoder_2")


class ModuleKey(NamedTuple):
    """A layer: its part, and its path with the ``text_model.`` level in text encoders."""

    part: Part
    path: str

    def __str__(self) -> str:
        return f"{self.part}.{self.path}"


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

# Path elements that contain an underscore; kohya's names are split at all other underscores.
_COMPOUNDS = re.compile(
    r"(?<![^_])(?:down_blocks|up_blocks|mid_block|transformer_blocks|to_[qkv]|to_out|"
    r"proj_(?:in|out)|conv_(?:in|out|shortcut)|time_emb_proj|(?:time|add)_embedding|linear_[12]|"
    r"text_model|text_projection|self_attn|[qkv]_proj|out_proj|(?:token|position)_embedding)"
    r"(?![^_])"
)
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
    """The layer that a kohya name stands for; None for names of another layout."""
    match = _KOHYA_NAME.fullmatch(name)
    if match is None:
        return None
    part = _KOHYA_PARTS[match[1]]
    joined = _COMPOUNDS.sub(lambda compound: compound[0].replace("_", "\0"), match[2])
    path = joined.replace("_", ".").replace("\0", "_")
    return ModuleKey(part, canonical_path(part, path))


# -- SGM's names of the UNet's blocks

SGM_NAME = re.compile(r"(?:input_blocks|middle_block|output_blocks|time_embed_\d|label_emb|out_2$)")
"""How a name by SGM's blocks begins, after ``lora_unet_``."""
_LEVELS: dict[FamilyName, int] = {"sd1": 4, "sd2": 4, "sdxl": 3}
_RESIDUAL = ("conv1", "conv2", "time_emb_proj", "conv_shortcut")
_EMBEDDINGS = ("time_embedding", "add_embedding")
_IN_ATTENTION = re.compile(r"(.+\.attentions\.\d+\.)(proj_in|proj_out|transformer_blocks\..+)")
_IN_SGM_ATTENTION = re.compile(r"(.+?_\d_)(proj_in|proj_out|transformer_blocks_.+)")


@cache
def sgm_names(family: FamilyName) -> dict[str, str]:
    """SGM's names in a family's full-size UNet, by diffusers paths.

    Layers outside of attention are listed one by one; of an attention block the prefixes, such as
    ``mid_block.attentions.0.`` with ``middle_block_1_``. Smaller UNets have no such names.
    """
    embeddings = [f"{name}.linear_{number}" for name in _EMBEDDINGS for number in (1, 2)]
    layers = ["conv_in", "conv_out", *embeddings]
    residual = ["mid_block.resnets.0", "mid_block.resnets.1"]
    attentions = ["mid_block.attentions.0."]
    # Two residual blocks a level on the way down and three on the way up.
    for level in range(_LEVELS[family]):
        for block, count in ((f"down_blocks.{level}", 2), (f"up_blocks.{level}", 3)):
            residual += [f"{block}.resnets.{index}" for index in range(count)]
            # The level that is lowest on the way up has attention in SDXL alone.
            if family == "sdxl" or block != "up_blocks.0":
                attentions += [f"{block}.attentions.{index}." for index in range(count)]
        if level < _LEVELS[family] - 1:
            layers.append(f"down_blocks.{level}.downsamplers.0.conv")
            layers.append(f"up_blocks.{level}.upsamplers.0.conv")
    layers += [f"{path}.{name}" for path in residual for name in _RESIDUAL]
    names = {path: unet_name(f"{path}.", attentions, 2).rstrip(".") for path in layers}
    names |= {path: unet_name(path, attentions, 2) for path in attentions}
    return {path: name.replace(".", "_") for path, name in names.items()}


def to_sgm(family: FamilyName, path: str) -> str | None:
    """SGM's name of a UNet layer by its diffusers path; None where there is none."""
    if match := _IN_ATTENTION.fullmatch(path):
        prefix = sgm_names(family).get(match[1])
        return None if prefix is None else prefix + match[2].replace(".", "_")
    return sgm_names(family).get(path)


def from_sgm(name: str) -> str | None:
    """The diffusers path of a UNet layer, as in ``input_blocks_1_0_in_layers_2``.

    Within attention, path elements stay joined by ``_``, as in any kohya name.

    Returns:
        None for names that no such UNet has.
    """
    if match := _IN_SGM_ATTENTION.fullmatch(name):
        prefix = _sgm_paths().get(match[1])
        return None if prefix is None else prefix + match[2]
    return None if name.endswith("_") else _sgm_paths().get(name)


@cache
def _sgm_paths() -> dict[str, str]:
    """Diffusers paths by SGM's names: the families differ in the upsamplers alone."""
    return {name: path for family in FAMILIES for path, name in sgm_names(family).items()}


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


def shorten(names: Iterable[object], limit: int = 5) -> str:
    """The first few names and how many there are: ``a, b, … (7 in all)``."""
    listed = [str(name) for name in names]
    if len(listed) <= limit:
        return ", ".join(listed)
    return f"{', '.join(listed[:limit])}, … ({len(listed)} in all)"
