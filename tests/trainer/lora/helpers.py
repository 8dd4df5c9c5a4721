"""What the tests of adapters share: outputs of tiny base models, adapters and files to try."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.schema import AdapterConfig
from trainer.diffusion import added_conditioning, encode
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.changes import compare
from trainer.lora.layers import (
    adapted_layers,
    find_layers,
    find_targets,
    parameters_on,
    parts_of,
)
from trainer.lora.names import ModuleKey, Part, Targets, family_layers, parse_kohya_name
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter
from trainer.memory.phases import build
from trainer.models.base import BaseModel
from trainer.models.families import FAMILIES, FamilyName
from trainer.models.identify import BaseFacts

NAMES: tuple[FamilyName, ...] = ("sd1", "sd2", "sdxl")


def adapter_config(**values: Any) -> AdapterConfig:
    return AdapterConfig.model_validate({"targets": "attention"} | values)


def modules_of(base: BaseModel) -> list[nn.Module]:
    return [base.unet, base.vae, *base.text_encoders]


def random_tensor(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def denoise(base: BaseModel) -> Tensor:
    """The UNet's output for a prompt, text encoders and all: gradients reach every layer."""
    text = encode(base, ["a rarebit on a plate"], "cpu")
    added = added_conditioning(text.pooled, [((32, 32), (0, 0), (32, 32))])
    latents = random_tensor(3, 1, 4, 8, 8, dtype=base.unet.dtype)
    return base.unet(
        latents, torch.tensor([500]), text.hidden.to(base.unet.dtype), added_cond_kwargs=added
    ).sample


@torch.no_grad()
def outputs(base: BaseModel) -> dict[Part, Tensor]:
    """What each part gives by itself: the UNet for fixed conditioning, the text encoders."""
    results: dict[Part, Tensor] = {}
    ids = torch.tensor([[49406, 320, 1237, 2368, 49407]])
    for part, module in parts_of(base).items():
        if part != "unet":
            results[part] = module(ids, output_hidden_states=True).hidden_states[-1]
    dtype = base.unet.dtype
    width = int(base.unet.config["cross_attention_dim"])
    added = None
    if base.family.name == "sdxl":
        sizes = torch.tensor([[32, 32, 0, 0, 32, 32]])
        added = {"text_embeds": random_tensor(1, 1, 24, dtype=dtype), "time_ids": sizes}
    results["unet"] = base.unet(
        random_tensor(3, 1, 4, 8, 8, dtype=dtype),
        torch.tensor([500]),
        random_tensor(2, 1, 7, width, dtype=dtype),
        added_cond_kwargs=added,
    ).sample
    return results


def equal(one: Mapping[Part, Tensor], other: Mapping[Part, Tensor]) -> dict[Part, bool]:
    return {part: torch.equal(one[part], other[part]) for part in one}


def all_equal(one: Mapping[Part, Tensor], other: Mapping[Part, Tensor]) -> bool:
    return all(equal(one, other).values())


@torch.no_grad()
def nudge(base: BaseModel, name: str = "default", seed: int = 0) -> None:
    """Random weights for an adapter that is on a base, as if it had trained."""
    for index, layer in enumerate(adapted_layers(base, name).values()):
        named = parameters_on(layer, name)
        named.pop("magnitude", None)
        for number, one in enumerate(named.values()):
            one.copy_(random_tensor(seed + 2 * index + number, *one.shape) * 0.3)


def random_adapter(
    base: BaseModel, scales: Mapping[ModuleKey, tuple[int, float]], seed: int = 0
) -> Adapter:
    """An adapter with a rank and an alpha of its own for each layer."""
    live = find_layers(base)
    layers: dict[ModuleKey, LoraLayer] = {}
    for index, (key, (rank, alpha)) in enumerate(sorted(scales.items())):
        outputs_, *inputs = live[key].weight.shape
        down = random_tensor(seed + 2 * index, rank, *inputs) * 0.3
        up = random_tensor(seed + 2 * index + 1, outputs_, rank, *[1] * (len(inputs) - 1)) * 0.3
        layers[key] = LoraLayer(down, up, alpha)
    return Adapter(layers, base.family.name)


def adapter_for(
    base: BaseModel,
    rank: int | None = 2,
    alpha: float = 2.0,
    targets: Targets = "attention",
    seed: int = 0,
) -> Adapter:
    """A random adapter on all targets; without a rank, ranks and alphas are mixed."""
    keys = find_targets(base, targets)
    mixed = {key: (1 + index % 3, 0.5 + index % 4) for index, key in enumerate(keys)}
    return random_adapter(base, dict.fromkeys(keys, (rank, alpha)) if rank else mixed, seed)


def written(adapter: Adapter, path: Path, **how: Any) -> Adapter:
    """The adapter as it comes back from a file."""
    write_adapter(adapter, path, **how)
    return read_adapter(path)


def layer_files(
    names: Mapping[str, float | None],
    *,
    rank: int = 2,
    width: int = 8,
    outputs: int = 8,
    kernel: tuple[int, ...] = (),
) -> dict[str, Tensor]:
    """The tensors of a kohya file, by the names of its layers and their alphas."""
    tensors: dict[str, Tensor] = {}
    for name, alpha in names.items():
        tensors[f"{name}.lora_down.weight"] = torch.ones(rank, width, *kernel)
        tensors[f"{name}.lora_up.weight"] = torch.ones(outputs, rank, *[1] * len(kernel))
        tensors |= {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
    return tensors


def sized_files(
    names: Mapping[str, float | None], family: FamilyName = "sd1", rank: int = 2
) -> dict[str, Tensor]:
    """As `layer_files`, with the shapes of a full-size model's layers."""
    tensors: dict[str, Tensor] = {}
    for name, alpha in names.items():
        key = parse_kohya_name(name)
        assert key is not None, name
        outputs_, *inputs = family_layers(family)[key]
        tensors[f"{name}.lora_down.weight"] = torch.full((rank, *inputs), 0.01)
        tensors[f"{name}.lora_up.weight"] = torch.full(
            (outputs_, rank, *[1] * (len(inputs) - 1)), 0.01
        )
        tensors |= {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
    return tensors


def change_of(layer: LoraLayer) -> Tensor:
    """alpha / rank · B A as a weight of the layer's shape, by plain multiplication."""
    product = layer.up.flatten(1).double() @ layer.down.flatten(1).double()
    shape = (layer.up.shape[0], *layer.down.shape[1:])
    return (layer.alpha / layer.rank * product).reshape(shape)


def worst_difference(one: Adapter, other: Adapter) -> float:
    """Of the changes of any layer, both having the same layers."""
    assert one.layers.keys() == other.layers.keys()
    return compare(one, other).worst


@cache
def on_meta(name: FamilyName) -> BaseModel:
    """A full-size model, without memory for weights."""
    family = FAMILIES[name]
    return build(BaseFacts(family, "epsilon", family.config_folder("epsilon")), torch.float32)
