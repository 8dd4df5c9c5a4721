"""Adapters on the live modules of a base model: attach, switch, remove.

A layer's output becomes ``W x + strength · (alpha / rank) · B A x`` (arXiv 2106.09685, eq. 3) for
each adapter on it, or that of LoHa or LoKr (`trainer.lora.adapter`). The wrapped layers are PEFT's,
put in place by ``inject_adapter_in_model``. diffusers' and transformers' own ``add_adapter`` rest
on the same function, but each keeps a register of its own, sets gradient flags when adapters are
switched, and leaves the wrappers in place when the last adapter goes. Here nothing but the layers
knows of adapters, switching one touches no gradient flag, and detaching puts the original modules
back. Nothing is ever merged into the base weights. So all of this is exact.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from trainer.config.schema import AdapterConfig
from trainer.config.section import number_by_pattern
from trainer.errors import UserError
from trainer.lora.adapter import Adapter
from trainer.lora.layers import (
    AdaptedConv2d,
    AdaptedLinear,
    LycorisLayer,
    activate,
    adapted_layers,
    draw_weights,
    find_layers,
    find_targets,
    injected,
    names_on,
    parameters_on,
    parts_of,
    preserved_gradient_flags,
    remove,
    set_initial_magnitude,
    set_weights,
)
from trainer.lora.names import ModuleKey, Part, count_layers
from trainer.lora.rank_mask import mask_ranks
from trainer.lora.words import NEW_TOKENS, new_words
from trainer.memory.quantized import parameter_count
from trainer.models.base import BaseModel
from trainer.seeds import derive_seed


@dataclass(frozen=True)
class Attachment:
    """An adapter in training."""

    name: str  # the adapter's name on this base model
    # For each part that it adapts its trainable parameters, float32, in a fixed order, named such
    # as ``down_blocks.0.….attn1.to_q.lora_A`` whatever the libraries' versions.
    parameters: dict[Part, list[tuple[str, Parameter]]]
    layers: dict[Part, int]  # how many layers it adapts in each part
    base_parameters: int  # parameters of the UNet and the text encoders together
    # Vectors to train by the word that stands for them, (n, D) float32 for each text encoder.
    words: dict[str, list[Parameter]] = field(default_factory=dict[str, list[Parameter]])

    def summary(self) -> str:
        """What trains, in one line."""
        trained = sum(p.numel() for named in self.parameters.values() for _, p in named)
        counts = [f"{len(vectors[0])} for {word}" for word, vectors in self.words.items()]
        return (
            f"trains {count_layers(self.layers)}: {trained:,} parameters, "
            f"{100 * trained / self.base_parameters:.1f} % of {self.base_parameters:,}"
            + (f"; new tokens: {', '.join(counts)}" if counts else "")
        )

    def word_parameters(self) -> dict[str, Parameter]:
        """The vectors of `words` by names such as ``text_encoder_2/ohwx.new_tokens``."""
        return {
            f"{part}/{word}.{NEW_TOKENS}": vectors
            for word, own in self.words.items()
            for part, vectors in zip(("text_encoder", "text_encoder_2"), own, strict=False)
        }


def attach(
    base: BaseModel,
    config: AdapterConfig,
    *,
    seed: int,
    name: str = "default",
    start: Adapter | None = None,
    triggers: Mapping[str, str] | None = None,
) -> Attachment:
    """Puts an adapter to train on the layers that the configuration asks for, or that `start` has.

    A is drawn as PEFT draws it, but as a function of (seed, part, path) alone; B is zero and DoRA's
    magnitudes are those of the weights, so the model's output stays as it was; LoHa and LoKr begin
    so too (`draw_weights`). The parameters are
    float32 whatever the dtype of the base. The adapter's dropout follows the mode of the modules:
    ``unet.train()`` switches it on.

    Args:
        start: gives the layers, their ranks, alphas and weights, and the bundled embeddings; it
            fits the base model.
        triggers: the words that get new tokens, where the configuration asks for these, each with
            its class word.

    Raises:
        ValueError: the name is taken, or can't name a module.
    """
    base_parameters = sum(parameter_count(root) for root in parts_of(base).values())
    if start:
        targets = {key: (layer.rank, layer.alpha) for key, layer in start.layers.items()}
    else:
        targets = {key: config.scale_of(str(key)) for key in chosen_targets(base, config)}
    kind = "lora" if start else config.kind
    masked: list[AdaptedLinear | AdaptedConv2d] = []
    with injected(base, name, targets, config.dropout, kind=kind, factor=config.factor) as new:
        for key, layer in new.items():
            if isinstance(layer, LycorisLayer):
                draw_weights(layer, name, derive_seed(seed, "adapter", key.part, key.path))
                continue
            weights = parameters_on(layer, name)
            down, up = weights["lora_A"].shape, weights["lora_B"].shape
            initial = _initial_down(seed, key, down), torch.zeros(up)
            if start:
                initial = start.layers[key].down, start.layers[key].up
            set_weights(layer, name, *initial, trainable=True)
            if kind == "dora":
                set_initial_magnitude(layer, name)
            elif config.t_lora_min_rank and key.part == "unet":
                masked.append(layer)
    if config.t_lora_min_rank:
        mask_ranks(base, masked, name, config.t_lora_min_rank)
    layers = sorted(adapted_layers(base, name).items(), key=lambda item: item[0])
    parameters: dict[Part, list[tuple[str, Parameter]]] = defaultdict(list)
    for key, layer in layers:
        for matrix, weight in parameters_on(layer, name).items():
            parameters[key.part].append((f"{key.path}.{matrix}", weight))
    words = new_words(base, triggers or {}, config.new_tokens, start)
    if words:
        base.learned[name] = {word: [*vectors] for word, vectors in words.items()}
    return Attachment(
        name=name,
        parameters=dict(parameters),
        layers=dict(Counter(key.part for key, _ in layers)),
        base_parameters=base_parameters,
        words=words,
    )


def chosen_targets(base: BaseModel, config: AdapterConfig) -> list[ModuleKey]:
    """The layers that a configuration asks to adapt.

    Raises:
        UserError: a pattern fits none of them, or none is left.
    """
    found = [
        key
        for key in find_targets(base, config.targets)
        if (config.unet if key.part == "unet" else config.text_encoder)
    ]
    ranks = [number_by_pattern(line)[0] for line in config.ranks]
    for name, patterns in (("only", config.only), ("without", config.without), ("ranks", ranks)):
        check_patterns(f"adapter.{name}", patterns, found)
    wanted = _of(found, config.only) if config.only else found
    left_out = set(_of(wanted, config.without))
    chosen = [key for key in wanted if key not in left_out]
    if not chosen:
        raise UserError(
            "adapter.only and adapter.without leave no layer to adapt.", "Shorten adapter.without."
        )
    return chosen


def check_patterns(field: str, patterns: Iterable[str], keys: list[ModuleKey]) -> None:
    """Refuses a pattern that fits none of the layers.

    Raises:
        UserError: naming it and the field.
    """
    for pattern in patterns:
        if not _of(keys, (pattern,)):
            raise UserError(
                f"{field} has {pattern!r}, which fits no layer that is adapted.",
                f"Layers are called such as {keys[0]}; which kinds there are is decided by "
                "adapter.targets, unet and text_encoder.",
            )


def _of(keys: list[ModuleKey], patterns: Iterable[str]) -> list[ModuleKey]:
    """The layers that one of the patterns fits."""
    return [key for key in keys if any(fnmatchcase(str(key), pattern) for pattern in patterns)]


def set_strength(
    base: BaseModel, name: str, strength: float, text_encoder_strength: float | None = None
) -> None:
    """Sets how strongly an adapter acts: 1 as trained, 0 exactly the base model.

    Args:
        strength: in the UNet.
        text_encoder_strength: in the text encoders; None: the same.

    Raises:
        ValueError: no such adapter.
        UserError: a strength is not a finite number.
    """
    text = strength if text_encoder_strength is None else text_encoder_strength
    check_strength(strength, text)
    _require(base, name)
    base.muted = base.muted - {name} if strength or text else base.muted | {name}
    layers = adapted_layers(base, name)
    set_strengths(base, name, {key: strength if key.part == "unet" else text for key in layers})


def set_strengths(base: BaseModel, name: str, strengths: Mapping[ModuleKey, float]) -> None:
    """Sets how strongly an adapter acts in each of its layers."""
    for key, layer in adapted_layers(base, name).items():
        layer.set_scale(name, strengths[key])
        activate(layer)


def check_strength(*strengths: float) -> None:
    """Refuses strengths that are not finite numbers.

    Raises:
        UserError: naming the value.
    """
    for strength in strengths:
        if not math.isfinite(strength):
            raise UserError(f"An adapter's strength can't be {strength}.", "0 to 1 is usual.")


@contextmanager
def disabled(base: BaseModel) -> Generator[None]:
    """The base model as if it had no adapters; afterwards everything is as it was."""
    layers = list(adapted_layers(base).values())
    were_disabled = [layer.disable_adapters for layer in layers]
    muted, base.muted = base.muted, frozenset(base.learned)
    with preserved_gradient_flags(layers):
        for layer in layers:
            layer.enable_adapters(False)
    try:
        yield
    finally:
        base.muted = muted
        with preserved_gradient_flags(layers):
            for layer, was_disabled in zip(layers, were_disabled, strict=True):
                layer.enable_adapters(not was_disabled)


def attached(base: BaseModel) -> list[str]:
    """Names of the adapters on the base model."""
    names = (name for layer in adapted_layers(base).values() for name in names_on(layer))
    return list(dict.fromkeys(names))


def detach(base: BaseModel, name: str | None = None) -> None:
    """Removes an adapter, or all of them. The others and the base weights stay exactly as they are.

    Raises:
        ValueError: no such adapter.
    """
    if name is not None:
        _require(base, name)
    names = attached(base) if name is None else [name]
    for live in find_layers(base).values():
        remove(live, names)
    for gone in names:
        base.learned.pop(gone, None)
    base.muted -= set(names)


def _require(base: BaseModel, name: str) -> None:
    if name not in attached(base):
        raise ValueError(f"no adapter {name!r} on {base.name}: it has {attached(base) or 'none'}")


def _initial_down(seed: int, key: ModuleKey, shape: torch.Size) -> Tensor:
    """Kaiming-uniform with a = √5, so uniform within 1/√in of 0, as PEFT has it."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "adapter", key.part, key.path))
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)
