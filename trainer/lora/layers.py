"""The live layers of a base model, and PEFT's wrappers around them.

A wrapper leaves the original layer as it is and adds ``strength · (alpha / rank) · B A x`` for each
active adapter, in the order in which they came; with LoHa and LoKr the product of x and a matrix
made of theirs. A wrapper's scales alone say which of its adapters are active; one with scale 0 is
not even computed. No gradient flag changes in passing, though PEFT's own switches set them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.loha.layer import LoHaLayer
from peft.tuners.lokr.layer import LoKrLayer
from peft.tuners.lora import Conv2d as AdaptedConv2d
from peft.tuners.lora import Linear as AdaptedLinear
from torch import Tensor, nn
from torch.nn import Parameter

from trainer.config.adapting import AdapterKind
from trainer.lora.names import PARTS, ModuleKey, Part, Targets, canonical_path, is_target
from trainer.models.base import BaseModel
from trainer.typed_torch import named_modules

LycorisLayer = LoHaLayer | LoKrLayer
AdaptedLayer = AdaptedLinear | AdaptedConv2d | LycorisLayer
_ALWAYS = -1.0
"""PEFT leaves a LoHa or LoKr out where a random number is not above its share: 0 may be drawn."""


@dataclass(frozen=True)
class LiveLayer:
    """A linear layer or convolution in a live model, with or without a wrapper."""

    root: nn.Module  # the UNet or text encoder
    path: str  # from the root, by today's names of the libraries
    module: nn.Linear | nn.Conv2d | AdaptedLayer  # what is there now

    @property
    def original(self) -> nn.Linear | nn.Conv2d:
        """The base model's own layer, under a wrapper or not."""
        return original_layer(self.module)

    @property
    def weight(self) -> Tensor:
        """The base model's weight: (out, in), or (out, in, height, width)."""
        return self.original.weight


def parts_of(base: BaseModel) -> dict[Part, nn.Module]:
    """The modules that can be adapted."""
    return dict(zip(PARTS, [base.unet, *base.text_encoders], strict=False))


def find_layers(base: BaseModel) -> dict[ModuleKey, LiveLayer]:
    """Every linear layer and convolution of the UNet and the text encoders."""
    layers: dict[ModuleKey, LiveLayer] = {}
    for part, root in parts_of(base).items():
        inside_wrapper = "."
        for path, module in named_modules(root):
            if path.startswith(inside_wrapper):
                continue
            if isinstance(module, AdaptedLayer):
                inside_wrapper = f"{path}."
            if isinstance(module, nn.Linear | nn.Conv2d | AdaptedLayer):
                key = ModuleKey(part, canonical_path(part, path))
                layers[key] = LiveLayer(root, path, module)
    return layers


def find_targets(base: BaseModel, targets: Targets = "attention") -> list[ModuleKey]:
    """The layers that training adapts: every one of the kinds asked for whose output is used.

    SDXL reads the last but one layer of its first text encoder, and clip skip an earlier one than
    the last. Those behind have no effect, so an adapter on them would never get a gradient.
    """
    found = [key for key in find_layers(base) if is_target(key, targets)]
    unread = 1 if base.family.name == "sdxl" else base.clip_skip - 1
    count = int(base.text_encoders[0].config.num_hidden_layers)
    last = tuple(f"text_model.encoder.layers.{n}." for n in range(count - unread, count))
    return [key for key in found if key.part != "text_encoder" or not key.path.startswith(last)]


def adapted_layers(base: BaseModel, name: str | None = None) -> dict[ModuleKey, AdaptedLayer]:
    """The layers with any adapter on them, or with the one of this name."""
    return {
        key: live.module
        for key, live in find_layers(base).items()
        if isinstance(live.module, AdaptedLayer) and (name is None or name in names_on(live.module))
    }


@contextmanager
def injected(
    base: BaseModel,
    name: str,
    scales: Mapping[ModuleKey, tuple[int, float]],
    dropout: float = 0.0,
    *,
    kind: AdapterKind = "lora",
    factor: int = -1,
) -> Generator[dict[ModuleKey, AdaptedLayer]]:
    """Wraps layers for a new adapter and gives the wrappers.

    The weights lie on the meta device; the block has to set them (`set_weights`, `draw_weights`).
    When it fails, as for want of memory, the adapter is taken off again. Dropout follows the mode
    of the original layers.

    Args:
        scales: (rank, alpha) of each layer to adapt.
        dropout: not of LoHa and LoKr.
        factor: of LoKr, see its field.

    Raises:
        ValueError: the name is taken, or can't name a module.
        KeyError: the base has no such layer.
    """
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(f"{name!r} can't name an adapter: torch reserves it, or it has a dot")
    if adapted_layers(base, name):
        raise ValueError(f"there is an adapter {name!r} already")
    live = find_layers(base)
    ranks: dict[Part, dict[str, int]] = defaultdict(dict)
    for key, (rank, _) in scales.items():
        ranks[key.part][live[key].path] = rank
    try:
        with preserved_gradient_flags(adapted_layers(base).values()):
            for part, ranks_by_path in ranks.items():
                _wrap(parts_of(base)[part], name, ranks_by_path, dropout, kind, factor)
        layers = adapted_layers(base, name)
        for key, layer in layers.items():
            # PEFT makes everything in training mode, whatever the model is in.
            _alphas(layer)[name] = scales[key][1]
            layer.set_scale(name, 1.0)
            if isinstance(layer, LycorisLayer):
                layer.training = original_layer(layer).training
                layer.module_dropout[name] = _ALWAYS
                continue
            layer.lora_dropout[name].train(original_layer(layer).training)
            for matrices in (layer.lora_A, layer.lora_B):
                if isinstance(matrices[name], nn.Conv2d):
                    # PEFT gives them the class of the frozen layer: one of quantised weights gives
                    # its weight no gradient.
                    matrices[name].__class__ = nn.Conv2d
        for layer in adapted_layers(base).values():
            activate(layer)
        yield layers
    except BaseException:
        for layer in find_layers(base).values():
            remove(layer, [name])
        raise


def _wrap(
    root: nn.Module,
    name: str,
    ranks: Mapping[str, int],
    dropout: float,
    kind: AdapterKind,
    factor: int,
) -> None:
    paths: dict[int, list[str]] = defaultdict(list)
    for path, rank in ranks.items():
        paths[rank].append(path)
    # One pattern for each rank: PEFT tries all of them on every layer.
    patterns = {_any_of(some): rank for rank, some in paths.items()}
    options: dict[str, Any] = {
        "r": next(iter(paths)),
        "rank_pattern": patterns if len(patterns) > 1 else {},
        # A pattern has to match whole paths; a list would match the ends of others as well.
        "target_modules": _any_of(ranks),
    }
    config: PeftConfig
    if kind == "loha":
        config = LoHaConfig(**options)
    elif kind == "lokr":
        config = LoKrConfig(decompose_factor=factor, **options)
    else:
        config = LoraConfig(lora_dropout=dropout, use_dora=kind == "dora", **options)
    # On the meta device nothing is drawn from the global generator.
    inject_adapter_in_model(config, root, name, low_cpu_mem_usage=True)
    # PEFT's register of a model's adapters: it would warn of every further one.
    del root.peft_config


def _any_of(paths: Iterable[str]) -> str:
    return f"^(?:{'|'.join(re.escape(path) for path in paths)})"


def set_weights(
    layer: AdaptedLinear | AdaptedConv2d, name: str, down: Tensor, up: Tensor, *, trainable: bool
) -> None:
    """Gives an injected LoRA its weights, as float32 on the device of the original layer.

    Args:
        down: A, (rank, in) or (rank, in, height, width).
        up: B, (out, rank) or (out, rank, 1, 1).
    """
    device = original_layer(layer).weight.device
    for module, weight in ((layer.lora_A[name], down), (layer.lora_B[name], up)):
        value = weight.detach().to(device, torch.float32, copy=True)
        module.weight = Parameter(value, requires_grad=trainable)


def draw_weights(layer: LycorisLayer, name: str, seed: int) -> None:
    """Gives an injected LoHa or LoKr the weights that training begins with, as float32.

    PEFT's own start, as a function of the seed alone: one matrix is zero, so nothing changes. Of
    LoKr it is LyCORIS's: with W1 at zero, a matrix of few numbers would have to learn alone.
    """
    device = original_layer(layer).weight.device
    kinds = list(parameters_on(layer, name))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for kind in kinds:
            matrices = getattr(layer, kind)
            matrices[name] = Parameter(torch.empty(matrices[name].shape))
        if isinstance(layer, LoKrLayer):
            layer.reset_adapter_parameters_lycoris_way(name)
        else:
            layer.reset_adapter_parameters(name)
    for kind in kinds:
        matrices = getattr(layer, kind)
        matrices[name] = Parameter(matrices[name].detach().to(device))


@torch.no_grad()
def set_initial_magnitude(layer: AdaptedLinear | AdaptedConv2d, name: str) -> None:
    """Gives a DoRA adapter the lengths of the original weight's rows, trainable.

    Computed as PEFT computes those that it divides by: with B = 0 the quotient is exactly 1.
    """
    part = cast(Any, layer.lora_magnitude_vector[name])  # PEFT types its parts as modules
    weight = original_layer(layer).weight.float()
    lengths = part.get_weight_norm(weight, torch.zeros_like(weight), scaling=1.0)
    part.weight = Parameter(lengths.contiguous())


def parameters_on(layer: AdaptedLayer, name: str) -> dict[str, Parameter]:
    """An adapter's live parameters on a layer: ``lora_A`` and ``lora_B``, with DoRA's
    ``magnitude``; or LyCORIS's, such as ``hada_w1_a``."""
    if isinstance(layer, LycorisLayer):
        found: dict[str, Any] = {kind: getattr(layer, kind) for kind in layer.adapter_layer_names}
        return {kind: matrices[name] for kind, matrices in found.items() if name in matrices}
    modules = {"lora_A": layer.lora_A, "lora_B": layer.lora_B}
    if name in (layer.lora_magnitude_vector or {}):
        modules["magnitude"] = layer.lora_magnitude_vector
    return {kind: cast(Parameter, some[name].weight) for kind, some in modules.items()}


def get_weights(layer: AdaptedLayer, name: str) -> tuple[Parameter, Parameter]:
    """A LoRA's A and B on a layer, the live parameters."""
    of_lora = cast(Any, layer)
    return of_lora.lora_A[name].weight, of_lora.lora_B[name].weight


def names_on(layer: AdaptedLayer) -> list[str]:
    """The adapters on a layer, in the order in which they came."""
    return list(cast("dict[str, int]", layer.r))


def plain_adapter(layer: AdaptedLinear | AdaptedConv2d, *others: Any) -> str | None:
    """The name of a layer's only active adapter, where A and B are all that there is to it."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    usual = len(active) == 1 and not (any(others) or layer.disable_adapters or layer.merged)
    if not usual or layer.lora_variant or layer.lora_bias[active[0]]:
        return None
    return active[0]


def scale_on(layer: AdaptedLayer, name: str) -> tuple[int, float]:
    """An adapter's rank and alpha on a layer."""
    return cast("dict[str, int]", layer.r)[name], float(_alphas(layer)[name])


def _alphas(layer: AdaptedLayer) -> dict[str, Any]:
    found: Any = layer.alpha if isinstance(layer, LycorisLayer) else layer.lora_alpha
    return cast("dict[str, Any]", found)


def original_layer(layer: nn.Module) -> nn.Linear | nn.Conv2d:
    """The base model's own layer, under a wrapper or not."""
    original = layer.get_base_layer() if isinstance(layer, AdaptedLayer) else layer
    return cast(nn.Linear | nn.Conv2d, original)


def remove(live: LiveLayer, names: Iterable[str]) -> None:
    """Takes adapters off a layer, and the wrapper with the last of them."""
    layer = live.module
    if not isinstance(layer, AdaptedLayer):
        return
    gone = [name for name in names if name in names_on(layer)]
    with preserved_gradient_flags([layer]):
        # PEFT warns when it has to choose others to be active.
        layer.set_adapter([name for name in layer.active_adapters if name not in gone])
        for name in gone:
            layer.delete_adapter(name)
    if not layer.r:
        parent, _, child = live.path.rpartition(".")
        setattr(live.root.get_submodule(parent), child, live.original)


def activate(layer: AdaptedLayer) -> None:
    """Makes those adapters active whose scale is not 0, in the order in which they came."""
    with preserved_gradient_flags([layer]):
        layer.set_adapter([name for name in names_on(layer) if layer.scaling[name] != 0])


@contextmanager
def preserved_gradient_flags(layers: Iterable[AdaptedLayer]) -> Generator[None]:
    """Undoes what the block does to ``requires_grad`` of adapter parameters."""
    before = [
        (parameter, parameter.requires_grad)
        for layer in layers
        for parameter_name, parameter in layer.named_parameters()
        if not parameter_name.startswith("base_layer.")
    ]
    try:
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
