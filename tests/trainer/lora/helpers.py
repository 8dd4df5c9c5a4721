"""What the tests of adapters share: outputs of tiny base models, adapters with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.schema import AdapterConfig
from trainer.diffusion import added_conditioning, encode
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.layers import adapted_layers, find_layers, get_weights, original_layer, parts_of
from trainer.lora.names import ModuleKey, Part
from trainer.models.base import BaseModel


def adapter_config(**values: Any) -> AdapterConfig:
    return AdapterConfig.model_validate(values)


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
        down, up = get_weights(layer, name)
        down.copy_(random_tensor(seed + 2 * index, *down.shape) * 0.3)
        up.copy_(random_tensor(seed + 2 * index + 1, *up.shape) * 0.3)


def random_layer(layer: nn.Module, rank: int, alpha: float, seed: int) -> LoraLayer:
    """An adapter for a linear layer or convolution, in kohya's shapes."""
    weight = original_layer(layer).weight
    kernel = weight.shape[2:]
    return LoraLayer(
        down=random_tensor(seed, rank, *weight.shape[1:]) * 0.3,
        up=random_tensor(seed + 1, weight.shape[0], rank, *([1] * len(kernel))) * 0.3,
        alpha=alpha,
    )


def random_adapter(
    base: BaseModel, scales: Mapping[ModuleKey, tuple[int, float]], seed: int = 0
) -> Adapter:
    """An adapter file with a rank and an alpha of its own for each layer."""
    spots = find_layers(base)
    layers = {
        key: random_layer(spots[key].module, rank, alpha, seed + 2 * index)
        for index, (key, (rank, alpha)) in enumerate(sorted(scales.items()))
    }
    return Adapter(layers, base.family.name)


def change_of(layer: LoraLayer) -> Tensor:
    """alpha / rank · B A as a weight of the layer's shape, by plain multiplication."""
    product = layer.up.flatten(1).double() @ layer.down.flatten(1).double()
    shape = (layer.up.shape[0], *layer.down.shape[1:])
    return (layer.alpha / layer.rank * product).reshape(shape)
