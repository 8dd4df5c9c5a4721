"""The UNet's layers by the block names of Stability's own code, which sd-scripts uses for SDXL.

``input_blocks.4.1`` there is ``down_blocks.1.attentions.0`` in diffusers. Both count two residual
blocks a level on the way down and three on the way up, in SD 1, SD 2 and SDXL alike; so one table
serves the three, but for the places of the upsamplers. Smaller UNets have no such names.
"""

from __future__ import annotations

import re

from trainer.models.families import FamilyName

MARK = re.compile(r"(?:input_blocks|middle_block|output_blocks|time_embed_\d|label_emb|out_2$)")
"""How names of this kind begin, after ``lora_unet_``."""

_OUTSIDE = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
}
_RESIDUAL = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}
_BLOCK = re.compile(r"(?:(input|output)_blocks_(\d{1,2})|middle_block)_(\d)_(.+)")
_LEVELS = {"sd1": 4, "sd2": 4, "sdxl": 3}
_IN_ATTENTION = re.compile(r"(.+)\.attentions\.\d+\.(?:proj_in|proj_out|transformer_blocks\..+)")


def from_sgm(name: str) -> str | None:
    """The diffusers path of a UNet layer, as in ``input_blocks_1_0_in_layers_2``.

    Within attention, path elements stay joined by ``_``, as in any kohya name.

    Returns:
        None for names that no such UNet has.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    side, number, inner, rest = match.groups()
    if side is None:
        return _inside(_MIDDLE.get(inner), rest)
    return (
        _going_down(int(number), inner, rest)
        if side == "input"
        else _going_up(int(number), inner, rest)
    )


def to_sgm(family: FamilyName, path: str) -> str | None:
    """The block name of a UNet layer by its diffusers path; None where there is none."""
    for outside, known in _OUTSIDE.items():
        if known == path:
            return outside
    return _names(family).get(path) or _attention_name(family, path)


def _going_down(number: int, inner: str, rest: str) -> str | None:
    level, place = divmod(number - 1, 3)
    if number < 1 or level > 3:
        return None
    if place == 2:  # the last of a level halves the sides
        fits = inner == "0" and rest == "op"
        return f"down_blocks.{level}.downsamplers.0.conv" if fits else None
    kinds = {"0": f"down_blocks.{level}.resnets.{place}"}
    return _inside((kinds | {"1": f"down_blocks.{level}.attentions.{place}"}).get(inner), rest)


def _going_up(number: int, inner: str, rest: str) -> str | None:
    level, place = divmod(number, 3)
    if level > 3:
        return None
    # It follows the attention, and in levels without attention the residual block.
    if rest == "conv":
        fits = place == 2 and inner in ("1", "2")
        return f"up_blocks.{level}.upsamplers.0.conv" if fits else None
    kinds = {"0": f"up_blocks.{level}.resnets.{place}"}
    return _inside((kinds | {"1": f"up_blocks.{level}.attentions.{place}"}).get(inner), rest)


def _inside(block: str | None, rest: str) -> str | None:
    if block is None:
        return None
    if ".resnets." in block:
        return f"{block}.{_RESIDUAL[rest]}" if rest in _RESIDUAL else None
    return f"{block}.{rest}" if re.match(r"proj_in$|proj_out$|transformer_blocks_", rest) else None


def _blocks(family: FamilyName) -> dict[str, str]:
    """Of every residual block and attention the diffusers path and the block name."""
    levels = _LEVELS[family]
    found = {path: f"middle_block_{inner}" for inner, path in _MIDDLE.items()}
    for level in range(levels):
        for kind, inner in (("resnets", 0), ("attentions", 1)):
            for place in range(2):
                path = f"down_blocks.{level}.{kind}.{place}"
                found[path] = f"input_blocks_{3 * level + place + 1}_{inner}"
            for place in range(3):
                found[f"up_blocks.{level}.{kind}.{place}"] = (
                    f"output_blocks_{3 * level + place}_{inner}"
                )
    return found


def _names(family: FamilyName) -> dict[str, str]:
    """Of every layer outside of attention the diffusers path and the block name."""
    found = {
        f"{block}.{layer}": f"{name}_{inner}"
        for block, name in _blocks(family).items()
        if ".resnets." in block
        for inner, layer in _RESIDUAL.items()
    }
    last = _LEVELS[family] - 1
    for level in range(last):
        found[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks_{3 * level + 3}_0_op"
        # Only the lowest level of SD 1 and SD 2 has no attention.
        inner = 1 if level == 0 and family != "sdxl" else 2
        name = f"output_blocks_{3 * level + 2}_{inner}_conv"
        found[f"up_blocks.{level}.upsamplers.0.conv"] = name
    return found


def _attention_name(family: FamilyName, path: str) -> str | None:
    if _IN_ATTENTION.fullmatch(path) is None:
        return None
    block, inside = re.split(r"(?<=\.attentions\.\d)\.", path, maxsplit=1)
    name = _blocks(family).get(block)
    return None if name is None else f"{name}_{inside.replace('.', '_')}"
