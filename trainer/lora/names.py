"""What the adapted layers are called, in files and in memory.

In memory a layer is known by its part and its path as diffusers and the original CLIP name it. The
path never depends on the installed libraries: transformers 5.6 dropped the ``text_model.`` level
from ``CLIPTextModel``, and a file written without it loses its text encoder in every other tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from trainer.models.families import FAMILIES, FamilyName

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
_UNET_TARGETS: dict[Targets, re.Pattern[str]] = {
    "attention": re.compile(_ATTENTION),
    "feed-forward": re.compile(f"{_ATTENTION}|{_FEED_FORWARD}"),
    "convolution": re.compile(f"{_ATTENTION}|{_FEED_FORWARD}|{_CONVOLUTION}"),
}
_TEXT_TARGETS: dict[Targets, re.Pattern[str]] = {
    "attention": re.compile(_TEXT_ATTENTION),
    # Text encoders have no convolutions.
    "feed-forward": re.compile(f"{_TEXT_ATTENTION}|{_TEXT_FEED_FORWARD}"),
    "convolution": re.compile(f"{_TEXT_ATTENTION}|{_TEXT_FEED_FORWARD}"),
}
_TEXT_TOP_LEVEL = ("embeddings.", "encoder.", "final_layer_norm")

# Path elements that hold an underscore themselves; all others are split there.
_COMPOUNDS = re.compile(
    r"(?<![^_])(?:down_blocks|up_blocks|mid_block|transformer_blocks|to_[qkv]|to_out|"
    r"proj_(?:in|out)|conv_(?:in|out|shortcut)|time_emb_proj|(?:time|add)_embedding|linear_[12]|"
    r"text_model|text_projection|self_attn|[qkv]_proj|out_proj|(?:token|position)_embedding)"
    r"(?![^_])"
)
_TEXT_PREFIXES: dict[str, Part] = {
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
}
_KOHYA_NAME = re.compile(r"(lora_unet|lora_te[12]?)_(.+)")


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
    patterns = _UNET_TARGETS if key.part == "unet" else _TEXT_TARGETS
    return patterns[targets].fullmatch(key.path) is not None


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
    prefix, rest = match.groups()
    joined = _COMPOUNDS.sub(lambda compound: compound[0].replace("_", "\0"), rest)
    path = joined.replace("_", ".").replace("\0", "_")
    part = _TEXT_PREFIXES.get(prefix, "unet")
    return ModuleKey(part, canonical_path(part, path))


def shorten(names: Iterable[object], limit: int = 5) -> str:
    """The first few names and how many there are: ``a, b, … (7 in all)``."""
    listed = [str(name) for name in names]
    if len(listed) <= limit:
        return ", ".join(listed)
    return f"{', '.join(listed[:limit])}, … ({len(listed)} in all)"
