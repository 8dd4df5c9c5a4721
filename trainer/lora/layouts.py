"""Which layout an adapter file has, told from the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from trainer.errors import UserError
from trainer.lora.names import ModuleKey, parse_kohya_name, shorten

_SUFFIXES = (".lora_down.weight", ".lora_up.weight", ".alpha")

# What the names that kohya's layout lacks are the mark of; the first match names the file.
_FOREIGN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), layout)
    for pattern, layout in (
        (r"\.dora_scale$|lora_magnitude_vector", "DoRA, which tools compute differently"),
        (r"\.(?:hada|lokr|oft)_", "a LyCORIS layout (LoHa, LoKr or OFT)"),
        (r"\.lora_mid\.", "LoCon with a third matrix"),
        (r"^lora_unet_(?:double|single)_blocks|^(?:lora_)?transformer[._]", "Flux or SD 3"),
        (r"^lora_unet_(?:input_blocks|middle_block|output_blocks)", "kohya with SGM block names"),
        (r"^base_model\.model\.", "the PEFT layout"),
        (r"\.lora_[AB]\.|\.lora\.(?:down|up)\.|_lora\.(?:down|up)\.", "the diffusers layout"),
        (r"^model\.diffusion_model\.|^first_stage_model\.", "a whole base model"),
        (r"^emb_params$|^clip_[gl]$|string_to_param", "a textual-inversion embedding"),
    )
)


def group_kohya(path: Path, tensor_names: Iterable[str]) -> dict[ModuleKey, str]:
    """The layers of a kohya file with their names in it.

    Raises:
        UserError: the file is in another layout, incomplete, or names a layer twice.
    """
    kinds: dict[str, set[str]] = {}
    unknown: list[str] = []
    for tensor_name in sorted(tensor_names):
        suffix = next((s for s in _SUFFIXES if tensor_name.endswith(s)), "")
        name = tensor_name.removesuffix(suffix)
        if not suffix or parse_kohya_name(name) is None or _foreign_layout(tensor_name):
            unknown.append(tensor_name)
        else:
            kinds.setdefault(name, set()).add(suffix)
    if unknown or not kinds:
        raise _unreadable(path, unknown)
    incomplete = [
        f"{name}{suffix}"
        for name, present in kinds.items()
        for suffix in _SUFFIXES[:2]
        if suffix not in present
    ]
    if incomplete:
        raise UserError(
            f"{path} is incomplete: it has no {shorten(incomplete)}.", "Get the file again."
        )
    layers: dict[ModuleKey, str] = {}
    for name in kinds:
        key = parse_kohya_name(name)
        assert key is not None
        if key in layers:
            raise UserError(f"{path} names one layer twice: {layers[key]} and {name}.")
        layers[key] = name
    return layers


def _foreign_layout(tensor_name: str) -> str | None:
    return next((layout for mark, layout in _FOREIGN if mark.search(tensor_name)), None)


def _unreadable(path: Path, unknown: list[str]) -> UserError:
    layouts = (_foreign_layout(tensor_name) for tensor_name in unknown)
    layout = next((layout for layout in layouts if layout), None)
    kind = f"is {layout}" if layout else "has tensors that no adapter in kohya's layout has"
    names = f": {shorten(unknown)}" if unknown else ": it is empty"
    return UserError(
        f"{path} {kind}{names}.",
        "Rarebit reads adapters for Stable Diffusion in kohya's layout, with names such as "
        "lora_unet_….lora_down.weight, which trainers and model sites offer most.",
    )
