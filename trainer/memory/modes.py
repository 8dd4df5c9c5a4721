"""Putting a live base model into a memory mode."""

from __future__ import annotations

import warnings
from dataclasses import replace

from trainer.config.schema import TrainingConfig
from trainer.memory.devices import Device
from trainer.memory.ladder import Mode, rung_of
from trainer.memory.layers import lean_layers, plain_layers
from trainer.models.base import BaseModel


def with_bounded_rows(device: Device, config: TrainingConfig) -> Device:
    """On a GPU: forward passes without gradients have no more rows than fit where training does."""
    if device.torch_device.type != "cuda":
        return device
    return replace(device, rows=rung_of(config).rows_without_gradients)


def set_mode(base: BaseModel, mode: Mode, checkpointing: bool, *, trains_text: bool) -> None:
    """Sets what the frozen layers keep, on a live base model with an adapter on it.

    Args:
        mode: plain, lean or feed_forward.
        checkpointing: full gradient checkpointing as well.
    """
    for module in (base.unet, *base.text_encoders):
        if mode == "plain":
            plain_layers(module)
        else:
            lean_layers(module, recompute_feed_forward=mode == "feed_forward")
    if checkpointing:
        base.unet.enable_gradient_checkpointing()
    else:
        base.unet.disable_gradient_checkpointing()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # older versions have only these names
        for encoder in base.text_encoders:
            if checkpointing and trains_text:
                encoder.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                encoder.gradient_checkpointing_disable()
