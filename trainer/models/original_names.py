"""Names of tensors in single files, brought to those of the original code. Imports no torch.

Tools have written other names for the same weights: text encoders of SD 1 without the level
``text_model.`` (as transformers up to 4.6 had them), VAE attention by diffusers' names, and
UNets of which only the running average is there, by names without dots (ldm's ``LitEma``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from trainer.models.safetensors_header import SafetensorsHeader

UNET = "model.diffusion_model."
VAE = "first_stage_model."  # prefixes of tensors in the layout of the original code (ldm and sgm)
AVERAGES = "model_ema."  # prefix of the UNet's running average
INPUT = UNET + "input_blocks.0.0.weight"  # the UNet's first convolution, (320, 4, 3, 3)

_TEXT = re.compile(
    r"(cond_stage_model\.transformer|conditioner\.embedders\.0\.transformer)"
    r"\.(embeddings|encoder|final_layer_norm)\."
)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention in diffusers' names until 0.17, by those of today."""
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
"""The original names of a VAE's attention, by diffusers'."""
_VAE_ATTENTION = VAE_ATTENTION | {old: VAE_ATTENTION[new] for old, new in _OLD_ATTENTION.items()}
_ATTENTION = re.compile(rf"(\.mid\.attn_1\.)({'|'.join(map(re.escape, _VAE_ATTENTION))})(?=\.)")


def standard_name(name: str) -> str:
    """The original code's name of a tensor that a file has under this one."""
    name = _TEXT.sub(r"\1.text_model.\2.", name)
    if name.startswith(VAE):
        return _ATTENTION.sub(lambda found: found[1] + _VAE_ATTENTION[found[2]], name)
    return name


def standard_names(names: Iterable[str]) -> dict[str, str]:
    """The file's name of each tensor, by its standard name."""
    return {standard_name(name): name for name in names}


def averaged_name(name: str) -> str:
    """The name of a UNet tensor's running average: ``model_ema.diffusion_modelout2bias``."""
    return AVERAGES + name.removeprefix("model.").replace(".", "")


def in_standard_names(header: SafetensorsHeader, *probes: str) -> SafetensorsHeader:
    """A header with standard names; of a UNet that is there as an average, those of the probes."""
    tensors = {standard_name(name): entry for name, entry in header.tensors.items()}
    for probe in probes:
        average = tensors.get(averaged_name(probe))
        if average is not None:
            tensors.setdefault(probe, average)
    return replace(header, tensors=tensors)


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """Where a VAE's tensors lie in a file, by their standard names, or by diffusers' names.

    The file is a VAE alone, in one of the two layouts, or a whole checkpoint; empty for others.
    """
    every = list(names)
    if any(name.startswith(VAE) for name in every):
        every = [name for name in every if name.startswith(VAE)]
        return {key: name for key, name in standard_names(every).items() if ".loss." not in key}
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    every = [name for name in every if name.startswith(parts)]
    if any("down_blocks." in name for name in every):
        old = re.compile(rf"(\.attentions\.0\.)({'|'.join(_OLD_ATTENTION)})(?=\.)")
        return {old.sub(lambda f: f[1] + _OLD_ATTENTION[f[2]], name): name for name in every}
    return {standard_name(VAE + name): name for name in every}
