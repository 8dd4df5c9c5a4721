"""The base model of a run, and the memory mode it is in."""

from __future__ import annotations

import warnings
from dataclasses import replace

from trainer.config.schema import TrainingConfig
from trainer.memory.devices import Device
from trainer.memory.ladder import Mode, base_weights, rung_of
from trainer.memory.layers import lean_layers, plain_layers
from trainer.memory.quantized import quantize_base
from trainer.models.base import BaseModel
from trainer.models.load import load_base


def load_training_base(config: TrainingConfig, device: Device) -> BaseModel:
    """The base model in the number format of a run, its weights as ``memory.base_weights`` says.

    Raises:
        UserError: as for `load_base` and `quantize_base`.
    """
    base = load_base(config.base.name, prediction=config.base.prediction, dtype=device.dtype)
    quantize_base(base, base_weights(config), device.torch_device)
    return base


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
