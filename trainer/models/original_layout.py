"""The weights of a base model by the names of the original code (ldm, sgm), as in single files.

An own inverse of the names that diffusers converts from, after the original modules: the UNet of
``openaimodel.py``, the VAE's ``model.py``, and open_clip's text transformer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

from trainer.models.base import BaseModel
from trainer.models.families import FamilyName
from trainer.models.original_names import UNET, VAE, VAE_ATTENTION

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_tensors(base: BaseModel) -> Tensors:
    """All weights of a base model by their original names, in its number formats."""
    layers = int(base.unet.config["layers_per_block"])
    unet, vae = base.unet.state_dict(), base.vae.state_dict()
    tensors = {f"{UNET}{unet_name(key, unet, layers)}": unet[key] for key in unet}
    tensors |= {f"{VAE}{vae_name(key, vae)}": vae_value(key, vae[key]) for key in vae}
    return tensors | text_tensors(base.family.name, [e.state_dict() for e in base.text_encoders])


def text_tensors(family: FamilyName, encoders: Sequence[Tensors]) -> Tensors:
    """The text encoders' weights; names with or without the level ``text_model.``."""
    first = {
        f"text_model.{key.removeprefix('text_model.')}": value for key, value in encoders[0].items()
    }
    if family == "sdxl":
        tensors = {f"conditioner.embedders.0.transformer.{key}": first[key] for key in first}
        return tensors | open_clip(encoders[1], "conditioner.embedders.1.model.")
    if family == "sd2":
        return open_clip(first, "cond_stage_model.model.")
    return {f"cond_stage_model.transformer.{key}": first[key] for key in first}


def unet_name(key: str, names: Iterable[str], layers: int) -> str:
    """The original name of a diffusers UNet tensor; `layers` is layers_per_block."""
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
    if found is None:
        return _middle_name(key)
    side, block, kind, place, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if side == "down":
        first = block * (layers + 1) + 1
        if kind == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{rest.removeprefix('conv.')}"
        where = f"input_blocks.{first + place}"
    else:
        first = block * (layers + 1)
        if kind == "upsamplers":
            slot = (
                2 if any(name.startswith(f"up_blocks.{block}.attentions") for name in names) else 1
            )
            return f"output_blocks.{first + layers}.{slot}.{rest}"
        where = f"output_blocks.{first + place}"
    return f"{where}.0.{_resnet(rest)}" if kind == "resnets" else f"{where}.1.{rest}"


def _middle_name(key: str) -> str:
    found = re.fullmatch(r"mid_block\.(\w+)\.(\d+)\.(.*)", key)
    assert found is not None, key
    if found[1] == "attentions":
        return f"middle_block.1.{found[3]}"
    return f"middle_block.{2 * int(found[2])}.{_resnet(found[3])}"


def _resnet(rest: str) -> str:
    part, _, end = rest.rpartition(".")
    return f"{_RESNET[part]}.{end}"


def vae_name(key: str, names: Iterable[str]) -> str:
    """The original name of a diffusers VAE tensor."""
    blocks = 1 + max(
        int(found[1]) for name in names if (found := re.match(r"encoder\.down_blocks\.(\d+)", name))
    )
    name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}", name)
    name = name.replace("resnets.", "block.")
    found = re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)", name)
    return f"{found[1]}mid.attn_1.{VAE_ATTENTION[found[2]]}.{found[3]}" if found else name


def vae_value(key: str, value: torch.Tensor) -> torch.Tensor:
    """The original attention is made of 1 x 1 convolutions."""
    is_projection = "attentions" in key and value.ndim == 2
    return value[:, :, None, None] if is_projection else value


def open_clip(tensors: Tensors, prefix: str) -> Tensors:
    """A transformers CLIP text model in open_clip's layout, where q, k and v are one matrix."""
    result: Tensors = {}
    for key, value in tensors.items():
        name = key.removeprefix("text_model.")
        name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
        name = name.replace("embeddings.token_embedding", "token_embedding")
        name = name.replace("encoder.layers.", "transformer.resblocks.")
        name = name.replace("final_layer_norm", "ln_final").replace("layer_norm", "ln_")
        name = name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        if name == "text_projection.weight":
            result[prefix + "text_projection"] = value.T
        elif ".self_attn.q_proj." in name:
            others = [tensors[key.replace("q_proj", f"{part}_proj")] for part in "kv"]
            joined = name.replace("self_attn.q_proj.", "attn.in_proj_")
            result[prefix + joined] = torch.cat([value, *others])
        elif ".self_attn.out_proj." in name:
            result[prefix + name.replace("self_attn", "attn")] = value
        elif ".self_attn." not in name:
            result[prefix + name] = value
    return result
