"""Which layout an adapter file has, and which of its tensors belong to which layer.

Read are kohya's layout, with diffusers' names or with those of Stability's code in the UNet, and
diffusers' and PEFT's, which name layers by their paths. Every tensor must be understood: one that
is not is an error, so that no adapter is ever half read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, cast

from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.lora.names import (
    SGM_NAME,
    ModuleKey,
    Part,
    canonical_path,
    from_sgm,
    parse_kohya_name,
    shorten,
)

Layout = Literal["kohya", "kohya-sgm", "diffusers", "peft"]
Kind = Literal["down", "up", "alpha", "mid", "magnitude"]


@dataclass(frozen=True)
class LayerNames:
    """How a layer's tensors are called in a file.

    Attributes:
        tensors: always down and up; mid is the kernel of a convolution whose down matrix has none
            (LoCon's third matrix), magnitude is DoRA's.
    """

    layout: Layout
    tensors: dict[Kind, str] = field(default_factory=dict[Kind, str])


class TensorName(NamedTuple):
    """What the name of a tensor says."""

    key: ModuleKey
    kind: Kind
    layout: Layout


# Names that no readable layout has; the first match names the file.
_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"\.(?:hada|lokr|oft)_", "a LyCORIS layout (LoHa, LoKr or OFT)"),
    (r"\.lora_(?:A|B)\.bias$|\.lora_bias", "LoRA with biases, which other layouts can't hold"),
    (r"\.(?:diff|diff_b|w_norm|b_norm)$", "a file with full differences of weights"),
    (r"^lora_unet_(?:double|single)_blocks|^(?:lora_)?transformer[._]", "Flux or SD 3"),
    (r"^lora_unet_joint_blocks|^diffusion_model\.", "for another kind of model"),
    (r"^model\.diffusion_model\.|^first_stage_model\.", "a whole base model"),
    (r"^emb_params$|^clip_[gl]$|string_to_param", "a textual-inversion embedding"),
)
_KOHYA_KINDS: dict[str, Kind] = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "dora_scale": "magnitude",
}
_KOHYA = re.compile(
    rf"(lora_(?:unet|te[12]?)_[^.]+)\.({'|'.join(map(re.escape, _KOHYA_KINDS))})",
)
# Newest first: what PEFT writes (an adapter's name may be left in), diffusers' older ones.
_PATHS = re.compile(
    r"(?P<path>.+?)(?:"
    r"\.lora_(?P<peft>[AB])(?:\.[^.]+)?\.weight"
    r"|\.(?:lora|lora_linear_layer)\.(?P<linear>down|up)\.weight"
    r"|(?:\.processor)?\.to_(?P<projection>[qkv]|out)_lora\.(?P<processor>down|up)\.weight"
    r"|\.(?P<alpha>alpha)"
    r"|\.(?P<magnitude>lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?)"
    r")"
)
_PART = re.compile(r"(unet|text_encoder_2|text_encoder)\.(.+)")
# First elements that tell the part where the path does not begin with it.
_TOP_LEVEL: dict[Part, tuple[str, ...]] = {
    "unet": (
        "down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "time_embedding.",
        "add_embedding.",
    ),
    "text_encoder": ("text_model.", "encoder.layers.", "text_projection"),
}  # fmt: skip
_PEFT_PREFIX = "base_model.model."


def group_layers(path: Path, tensor_names: Iterable[str]) -> dict[ModuleKey, LayerNames]:
    """The layers of an adapter file with the names of their tensors.

    Raises:
        UserError: it is of another kind (which is named), incomplete, or names a layer twice.
    """
    layers: dict[ModuleKey, LayerNames] = {}
    unknown: list[str] = []
    twice: list[tuple[str, str, ModuleKey]] = []
    for name in sorted(tensor_names):
        parsed = None if _foreign_kind(name) else parse_tensor_name(name)
        if parsed is None:
            unknown.append(name)
            continue
        layer = layers.setdefault(parsed.key, LayerNames(parsed.layout))
        if layer.layout != parsed.layout or parsed.kind in layer.tensors:
            first = next(iter(layer.tensors.values()))
            twice.append((layer.tensors.get(parsed.kind, first), name, parsed.key))
        layer.tensors[parsed.kind] = name
    if unknown or not layers:
        raise _unreadable(path, unknown)
    if twice:
        one, other, key = twice[0]
        raise UserError(
            f"{path} names one layer twice: {one} and {other} are both {key}.",
            "Convert its two halves apart, or get the file from its author again.",
        )
    if incomplete := [missing for layer in layers.values() for missing in _missing(layer)]:
        raise UserError(
            f"{path} is incomplete: it has no {shorten(incomplete)}.", "Get the file again."
        )
    return layers


def parse_tensor_name(name: str) -> TensorName | None:
    """What a tensor of an adapter file is; None for names of no readable layout."""
    return _parse_kohya(name) or _parse_path(name)


def layouts_of(layers: dict[ModuleKey, LayerNames]) -> list[Layout]:
    """The layouts that occur in a file, the commonest first: one, but for odd files."""
    found: list[Layout] = [names.layout for names in layers.values()]
    unet = {names.layout for key, names in layers.items() if key.part == "unet"}
    # Text encoders have the same names in both of kohya's.
    if "kohya-sgm" in unet and "kohya" not in unet:
        found = [layout for layout in found if layout != "kohya"]
    return sorted(set(found), key=lambda layout: (-found.count(layout), layout))


def _parse_kohya(name: str) -> TensorName | None:
    match = _KOHYA.fullmatch(name)
    if match is None:
        return None
    layer, layout = match[1], "kohya"
    inner = layer.removeprefix("lora_unet_")
    if inner != layer and SGM_NAME.match(inner):
        path = from_sgm(inner)
        if path is None:
            return None
        layer, layout = f"lora_unet_{path.replace('.', '_')}", "kohya-sgm"
    key = parse_kohya_name(layer)
    return None if key is None else TensorName(key, _KOHYA_KINDS[match[2]], layout)


def _parse_path(name: str) -> TensorName | None:
    layout: Layout = "peft" if name.startswith(_PEFT_PREFIX) else "diffusers"
    match = _PATHS.fullmatch(name.removeprefix(_PEFT_PREFIX))
    if match is None:
        return None
    part, path = _split_part(match["path"])
    if part is None:
        return None
    if letter := match["projection"]:
        # Diffusers' attention processors called the text encoders' layers like the UNet's.
        unet_name = "to_out.0" if letter == "out" else f"to_{letter}"
        path = f"{path}.{unet_name if part == 'unet' else f'{letter}_proj'}"
    kind: Kind = "magnitude" if match["magnitude"] else "alpha"
    if direction := match["peft"] or match["linear"] or match["processor"]:
        kind = "down" if direction in ("A", "down") else "up"
    return TensorName(ModuleKey(part, canonical_path(part, path)), kind, layout)


def _split_part(path: str) -> tuple[Part | None, str]:
    """The part that a path begins with, or that its first element can only belong to."""
    if match := _PART.fullmatch(path):
        return cast(Part, match[1]), match[2]
    return next((part for part, tops in _TOP_LEVEL.items() if path.startswith(tops)), None), path


def _missing(layer: LayerNames) -> list[str]:
    """The names of the two matrices that a layer can't be without and that are not there."""
    kohya = layer.layout in ("kohya", "kohya-sgm")
    words = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    name = next(iter(layer.tensors.values())).split(".lora_")[0]
    name = name.removesuffix(".alpha").removesuffix(".dora_scale")
    kinds: tuple[Kind, Kind] = ("down", "up")
    return [
        f"{name}.{word}"
        for kind, word in zip(kinds, words, strict=True)
        if kind not in layer.tensors
    ]


def _foreign_kind(tensor_name: str) -> str | None:
    return next((kind for mark, kind in _FOREIGN if re.search(mark, tensor_name)), None)


def _unreadable(path: Path, unknown: list[str]) -> UserError:
    kind = next((kind for name in unknown if (kind := _foreign_kind(name))), None)
    said = f"is {kind}" if kind else "has tensors that no adapter known here has"
    names = f": {shorten(display_name(name[:120]) for name in unknown)}" if unknown else None
    return UserError(
        f"{path} {said}{names or ': it is empty'}.",
        "Rarebit reads LoRA, LoCon and DoRA adapters for Stable Diffusion 1, 2 and XL in the "
        "layouts of kohya, diffusers and PEFT; ask its author for the file as one of these.",
    )
