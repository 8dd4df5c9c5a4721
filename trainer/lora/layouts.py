"""Which layout an adapter file has, and which of its tensors belong to which layer.

Read are kohya's layout, with diffusers' names or with those of Stability's code in the UNet, and
diffusers' and PEFT's, which name layers by their paths. Every tensor must be understood: one that
is not is an error, so that no adapter is ever half read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.lora.names import ModuleKey, Part, canonical_path, parse_kohya_name, shorten
from trainer.lora.sgm import MARK, from_sgm

Layout = Literal["kohya", "kohya-sgm", "diffusers", "peft"]
Kind = Literal["down", "up", "alpha", "mid", "magnitude"]


@dataclass(frozen=True)
class LayerNames:
    """A layer's tensors by their names in the file; None where there is none.

    Attributes:
        mid: the kernel of a convolution whose down matrix has none (LoCon's third matrix).
        magnitude: of DoRA.
    """

    down: str
    up: str
    alpha: str | None
    layout: Layout
    mid: str | None = None
    magnitude: str | None = None


@dataclass(frozen=True)
class _Parsed:
    key: ModuleKey
    kind: Kind
    layout: Layout


# What the names that no readable layout has are the mark of; the first match names the file.
_FOREIGN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), layout)
    for pattern, layout in (
        (r"\.(?:hada|lokr|oft)_", "a LyCORIS layout (LoHa, LoKr or OFT)"),
        (r"\.lora_(?:A|B)\.bias$|\.lora_bias", "LoRA with biases, which other layouts can't hold"),
        (r"\.(?:diff|diff_b|w_norm|b_norm)$", "a file with full differences of weights"),
        (r"^lora_unet_(?:double|single)_blocks|^(?:lora_)?transformer[._]", "Flux or SD 3"),
        (r"^lora_unet_joint_blocks|^diffusion_model\.", "for another kind of model"),
        (r"^model\.diffusion_model\.|^first_stage_model\.", "a whole base model"),
        (r"^emb_params$|^clip_[gl]$|string_to_param", "a textual-inversion embedding"),
    )
)

_KOHYA_KINDS: dict[str, Kind] = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "dora_scale": "magnitude",
}
_KOHYA = re.compile(
    r"(lora_(?:unet|te[12]?)_[^.]+)\.(lora_(?:down|up|mid)\.weight|alpha|dora_scale)"
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
_UNET_TOP_LEVEL = (
    "down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "time_embedding.",
    "add_embedding.",
)  # fmt: skip
_TEXT_TOP_LEVEL = ("text_model.", "encoder.layers.", "text_projection")
_PEFT_PREFIX = "base_model.model."
_SHOWN = 120
"""Characters of a name from the file in messages."""


def group_layers(path: Path, tensor_names: Iterable[str]) -> dict[ModuleKey, LayerNames]:
    """The layers of an adapter file with the names of their tensors.

    Raises:
        UserError: it is of another kind (which is named), incomplete, or names a layer twice.
    """
    found: dict[tuple[ModuleKey, Layout], dict[Kind, str]] = {}
    unknown: list[str] = []
    for name in sorted(tensor_names):
        parsed = None if _foreign(name) else parse_tensor_name(name)
        if parsed is None:
            unknown.append(name)
            continue
        tensors = found.setdefault((parsed.key, parsed.layout), {})
        if parsed.kind in tensors:
            raise _twice(path, parsed.key, tensors[parsed.kind], name)
        tensors[parsed.kind] = name
    if unknown or not found:
        raise _unreadable(path, unknown)
    _check_complete(path, found)
    layers: dict[ModuleKey, LayerNames] = {}
    for (key, layout), tensors in found.items():
        if key in layers:
            raise _twice(path, key, layers[key].down, tensors["down"])
        layers[key] = LayerNames(
            tensors["down"],
            tensors["up"],
            tensors.get("alpha"),
            layout,
            tensors.get("mid"),
            tensors.get("magnitude"),
        )
    return layers


def parse_tensor_name(name: str) -> _Parsed | None:
    """What a tensor of an adapter file is; None for names of no readable layout."""
    parsers: tuple[Callable[[str], _Parsed | None], ...] = (_parse_kohya, _parse_path)
    return next((found for parse in parsers if (found := parse(name)) is not None), None)


def layouts_of(layers: Mapping[ModuleKey, LayerNames]) -> list[Layout]:
    """The layouts that occur in a file, the commonest first: one, but for odd files."""
    counted: dict[Layout, int] = {}
    for names in layers.values():
        # Text encoders have the same names in both of kohya's.
        counted[names.layout] = counted.get(names.layout, 0) + 1
    if "kohya-sgm" in counted and not any(
        key.part == "unet" and names.layout == "kohya" for key, names in layers.items()
    ):
        counted.pop("kohya", None)
    return sorted(counted, key=lambda layout: (-counted[layout], layout))


def _parse_kohya(name: str) -> _Parsed | None:
    match = _KOHYA.fullmatch(name)
    if match is None:
        return None
    layer, kind = match[1], _KOHYA_KINDS[match[2]]
    inner = layer.removeprefix("lora_unet_")
    if inner != layer and MARK.match(inner):
        translated = from_sgm(inner)
        if translated is None:
            return None
        key = parse_kohya_name(f"lora_unet_{translated.replace('.', '_')}")
        return None if key is None else _Parsed(key, kind, "kohya-sgm")
    key = parse_kohya_name(layer)
    return None if key is None else _Parsed(key, kind, "kohya")


def _parse_path(name: str) -> _Parsed | None:
    layout: Layout = "peft" if name.startswith(_PEFT_PREFIX) else "diffusers"
    match = _PATHS.fullmatch(name.removeprefix(_PEFT_PREFIX))
    if match is None:
        return None
    kind: Kind = "magnitude" if match["magnitude"] else "alpha"
    if not match["alpha"] and not match["magnitude"]:
        direction = match["peft"] or match["linear"] or match["processor"]
        kind = "down" if direction in ("A", "down") else "up"
    part, path = _split_part(match["path"])
    if part is None:
        return None
    if match["projection"]:
        path = f"{path}.{_projection(part, match['projection'])}"
    return _Parsed(ModuleKey(part, canonical_path(part, path)), kind, layout)


def _split_part(path: str) -> tuple[Part | None, str]:
    """The part that a path begins with, or that its first element can only belong to."""
    match = _PART.fullmatch(path)
    parts: dict[str, Part] = {
        "unet": "unet",
        "text_encoder": "text_encoder",
        "text_encoder_2": "text_encoder_2",
    }
    if match is not None:
        return parts[match[1]], match[2]
    if path.startswith(_UNET_TOP_LEVEL):
        return "unet", path
    return ("text_encoder" if path.startswith(_TEXT_TOP_LEVEL) else None), path


def _projection(part: Part, letter: str) -> str:
    """Diffusers' attention processors called the text encoders' layers like the UNet's."""
    if part == "unet":
        return "to_out.0" if letter == "out" else f"to_{letter}"
    return f"{letter}_proj"


def _check_complete(
    path: Path, found: Mapping[tuple[ModuleKey, Layout], Mapping[Kind, str]]
) -> None:
    words = {"kohya": ("lora_down", "lora_up"), "kohya-sgm": ("lora_down", "lora_up")}
    incomplete = [
        f"{_layer_name(next(iter(tensors.values())))}.{word}"
        for (_, layout), tensors in found.items()
        for kind, word in zip(("down", "up"), words.get(layout, ("lora_A", "lora_B")), strict=True)
        if kind not in tensors
    ]
    if incomplete:
        raise UserError(
            f"{path} is incomplete: it has no {shorten(incomplete)}.", "Get the file again."
        )


def _layer_name(tensor_name: str) -> str:
    name = tensor_name.split(".lora_")[0]
    return name.removesuffix(".alpha").removesuffix(".dora_scale")


def _twice(path: Path, key: ModuleKey, one: str, other: str) -> UserError:
    return UserError(
        f"{path} names one layer twice: {one} and {other} are both {key}.",
        "Convert its two halves apart, or get the file from its author again.",
    )


def _foreign(tensor_name: str) -> str | None:
    return next((layout for mark, layout in _FOREIGN if mark.search(tensor_name)), None)


def _unreadable(path: Path, unknown: list[str]) -> UserError:
    layouts = (_foreign(tensor_name) for tensor_name in unknown)
    layout = next((layout for layout in layouts if layout), None)
    kind = f"is {layout}" if layout else "has tensors that no adapter known here has"
    shown = [display_name(name[:_SHOWN]) for name in unknown]
    names = f": {shorten(shown)}" if unknown else ": it is empty"
    return UserError(
        f"{path} {kind}{names}.",
        "Rarebit reads LoRA, LoCon and DoRA adapters for Stable Diffusion 1, 2 and XL in the "
        "layouts of kohya, diffusers and PEFT; ask its author for the file as one of these.",
    )
