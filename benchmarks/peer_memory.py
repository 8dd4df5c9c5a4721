"""What other trainers' settings need, by the same predictor: nothing of theirs is run.

Both train in fp16 under autocast with the adapter in float32. diffusers' script
``train_text_to_image_lora`` attaches PEFT's layers, which take a float32 copy of their input, and
keeps VAE and text encoders on the card. sd-scripts (kohya) computes the adapter in the number
format of its input; with cached latents and text nothing else is on the card. Its own UNet is taken
to keep what diffusers' keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from trainer.config.schema import AdapterConfig
from trainer.lora.attach import attach
from trainer.lora.layers import AdaptedLayer
from trainer.memory.modes import set_mode
from trainer.memory.phases import Workload, build, follow_step, optimizer_bytes
from trainer.memory.tracking import bytes_of, tensors_of
from trainer.models.identify import read_facts

Peer = Literal["diffusers script", "kohya"]
PEERS: tuple[Peer, ...] = ("diffusers script", "kohya")

_HALF = torch.float16
_LOWERED = ("linear", "conv2d")
_RAISED = ("layer_norm", "group_norm")


def peer_parts(
    peer: Peer, base_name: str, resolution: int, batch: int, checkpointing: bool
) -> dict[str, float]:
    """Bytes by part of a step of the UNet, rank 16, AdamW."""
    facts = read_facts(base_name)
    base = build(facts, _HALF)
    config = AdapterConfig(rank=16, text_encoder=False)
    attachment = attach(base, config, seed=0)
    parameters = [p for named in attachment.parameters.values() for _, p in named]
    set_mode(base, "plain", checkpointing, trains_text=False)
    if peer == "kohya":
        for module in base.unet.modules():
            if isinstance(module, AdaptedLayer):
                module.forward = MethodType(_added, module)
    base.unet.train()
    weights, text = tensors_of(base.unet), [t for e in base.text_encoders for t in tensors_of(e)]
    work = Workload(
        width=resolution,
        height=resolution,
        precision="fp16",
        adapter=config,
        rows=batch,
        mode="plain",
        checkpointing=checkpointing,
    )
    with cuda_autocast():
        tracker, gradients = follow_step(base, parameters, work, [*weights, *text])
    adapter = bytes_of(parameters)
    # The script computes with SDXL's VAE in float32, as it overflows in fp16.
    vae = bytes_of(tensors_of(base.vae)) // (1 if len(base.text_encoders) > 1 else 2)
    idle = bytes_of(text) + vae if peer == "diffusers script" else 0
    return {
        "base_weights": bytes_of(weights) - adapter,
        "adapter": adapter,
        "gradients": gradients,
        "optimizer": optimizer_bytes("adamw", adapter),
        "activations": tracker.peak - gradients,
        "idle": idle,
    }


def _added(layer: Any, inputs: Tensor) -> Tensor:
    """The adapter's part in the number format of the input, as sd-scripts adds it."""
    name = layer.active_adapters[0]
    part = layer.lora_B[name](layer.lora_A[name](inputs))
    return layer.base_layer(inputs) + part * layer.scaling[name]


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """What autocast does to the layers of these models on CUDA, for tensors of any device.

    Products are computed in fp16 and norms in float32 (torch's documentation, "CUDA Ops that can
    autocast"). A weight's copy in fp16 is kept for the whole step only if the weight trains.
    """
    copies: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def lowered(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.requires_grad and value.is_leaf):
            return value.to(_HALF)
        if value not in copies:
            copies[value] = value.to(_HALF)
        return copies[value]

    def raised(value: Any) -> Any:
        is_half = isinstance(value, Tensor) and value.dtype == _HALF
        return value.float() if is_half else value

    def wrapped(function: Any, cast: Any) -> Any:
        def call(*inputs: Any, **options: Any) -> Any:
            named = {name: cast(value) for name, value in options.items()}
            return function(*(cast(value) for value in inputs), **named)

        return call

    before = {name: getattr(F, name) for name in (*_LOWERED, *_RAISED)}
    try:
        for name in _LOWERED:
            setattr(F, name, wrapped(before[name], lowered))
        for name in _RAISED:
            setattr(F, name, wrapped(before[name], raised))
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)
