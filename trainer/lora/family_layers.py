"""Every linear layer and convolution of SD 1, SD 2 and SDXL, with the shape of its weight.

Computed from the configs under ``models/configs`` by the rules of ``UNet2DConditionModel`` and
``CLIPTextModel``, without loading diffusers; a test compares it with the real models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from trainer.models.families import FAMILIES, FamilyName
from trainer.models.original_layout import unet_name

Part = Literal["unet", "text_encoder", "text_encoder_2"]
PARTS: tuple[Part, ...] = ("unet", "text_encoder", "text_encoder_2")
Shape = tuple[int, ...]
_Layer = tuple[str, Shape]


class ModuleKey(NamedTuple):
    """A layer: its part, and its path with the ``text_model.`` level in text encoders."""

    part: Part
    path: str

    def __str__(self) -> str:
        return f"{self.part}.{self.path}"


@cache
def family_layers(family: FamilyName) -> dict[ModuleKey, Shape]:
    """All layers of a full-size model: (out, in), or (out, in, height, width)."""
    folder = FAMILIES[family].config_folder("epsilon")
    layers: dict[ModuleKey, Shape] = {}
    for part in PARTS:
        path = folder / part / "config.json"
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            found = _unet(config) if part == "unet" else _text_encoder(config)
            layers |= {ModuleKey(part, name): shape for name, shape in found}
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
    """Diffusers paths by SGM's names: the families differ in the upsamplers alone."""
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


def fitting_families(shapes: Mapping[ModuleKey, Shape]) -> list[FamilyName]:
    """The families whose full-size models have all of these layers."""
    return [family for family in FAMILIES if not unfit_layers(family, shapes)]


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


def _unet(config: Mapping[str, Any]) -> Iterator[_Layer]:
    channels: list[int] = config["block_out_channels"]
    levels, count, embedding = len(channels), config["layers_per_block"], 4 * channels[0]
    depth = config.get("transformer_layers_per_block", 1)
    depths = [depth] * levels if isinstance(depth, int) else depth
    attended = [name.startswith("CrossAttn") for name in config["down_block_types"]]
    yield "conv_in", (channels[0], config["in_channels"], 3, 3)
    yield "conv_out", (config["out_channels"], channels[0], 3, 3)
    yield from _embedding("time_embedding", channels[0], embedding)
    if config.get("addition_embed_type") == "text_time":
        width = config["projection_class_embeddings_input_dim"]
        yield from _embedding("add_embedding", width, embedding)
    for level, width in enumerate(channels):
        inputs = [channels[max(level - 1, 0)], *[width] * (count - 1)]
        # On the way up each residual block also reads what one on the way down gave.
        above = channels[min(level + 1, levels - 1)]
        skipped = [*[width] * count, channels[max(level - 1, 0)]]
        joined = [a + b for a, b in zip([above, *[width] * count], skipped, strict=True)]
        last, up = level == levels - 1, f"up_blocks.{levels - 1 - level}"
        for block, widths in ((f"down_blocks.{level}", inputs), (up, joined)):
            for index, size in enumerate(widths):
                yield from _residual(f"{block}.resnets.{index}", size, width, embedding)
                if attended[level]:
                    path = f"{block}.attentions.{index}"
                    yield from _attention(path, width, depths[level], config)
        if not last:
            yield f"down_blocks.{level}.downsamplers.0.conv", (width, width, 3, 3)
        if level:
            yield f"{up}.upsamplers.0.conv", (width, width, 3, 3)
    for index in range(2):
        yield from _residual(f"mid_block.resnets.{index}", channels[-1], channels[-1], embedding)
    yield from _attention("mid_block.attentions.0", channels[-1], depths[-1], config)


def _embedding(path: str, inputs: int, width: int) -> Iterable[_Layer]:
    return (f"{path}.linear_1", (width, inputs)), (f"{path}.linear_2", (width, width))


def _residual(path: str, inputs: int, outputs: int, embedding: int) -> Iterator[_Layer]:
    yield f"{path}.conv1", (outputs, inputs, 3, 3)
    yield f"{path}.conv2", (outputs, outputs, 3, 3)
    yield f"{path}.time_emb_proj", (outputs, embedding)
    if inputs != outputs:
        yield f"{path}.conv_shortcut", (outputs, inputs, 1, 1)


def _attention(path: str, width: int, depth: int, config: Mapping[str, Any]) -> Iterator[_Layer]:
    kernel = () if config.get("use_linear_projection") else (1, 1)
    yield f"{path}.proj_in", (width, width, *kernel)
    yield f"{path}.proj_out", (width, width, *kernel)
    for index in range(depth):
        block = f"{path}.transformer_blocks.{index}"
        for name, text in (("attn1", width), ("attn2", config["cross_attention_dim"])):
            yield f"{block}.{name}.to_q", (width, width)
            yield f"{block}.{name}.to_k", (width, text)
            yield f"{block}.{name}.to_v", (width, text)
            yield f"{block}.{name}.to_out.0", (width, width)
        yield f"{block}.ff.net.0.proj", (8 * width, width)
        yield f"{block}.ff.net.2", (width, 4 * width)


def _text_encoder(config: Mapping[str, Any]) -> Iterator[_Layer]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    for index in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{layer}.self_attn.{name}", (width, width)
        yield f"{layer}.mlp.fc1", (inner, width)
        yield f"{layer}.mlp.fc2", (width, inner)
    if "CLIPTextModelWithProjection" in config["architectures"]:
        yield "text_projection", (config["projection_dim"], width)
