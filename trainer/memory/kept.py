"""The base model of a run, with its frozen weights kept as the configuration says."""

from __future__ import annotations

from typing import Literal

import torch

from trainer.config.schema import TrainingConfig
from trainer.memory.devices import Device
from trainer.memory.quantized import Bits, quantize_base
from trainer.models.base import BaseModel
from trainer.models.load import StoredWeights, load_base, stored_weights
from trainer.models.pages import stay_in_file

LARGE_BYTES = 2**28
"""From this size on it pays to keep weights as they are stored: smaller ones are made again in no
time, but so many small layers take time of their own."""


def load_kept(config: TrainingConfig, device: Device) -> BaseModel:
    """`load_base` with the weights of ``memory.base_weights``.

    On a CPU with ``memory.offload``, those of large models stay in their file between their uses.

    Raises:
        UserError: as for `load_base` and `quantize_base`.
    """
    name, prediction = config.base.name, config.base.prediction
    stored = stored_weights(name)
    bits = choose_bits(config.memory.base_weights, stored, device)
    dtype = (stored.half or torch.float16) if bits == "half" else device.dtype
    base = load_base(name, prediction=prediction, dtype=dtype)
    quantize_base(base, bits, device.torch_device)
    if bits == "half" and stored.half is None:
        base.weights = "half"  # rounded by loading
    if device.offload and device.torch_device.type == "cpu" and stored.size >= LARGE_BYTES:
        for module in (base.unet, *base.text_encoders):
            stay_in_file(module)
    return base


def choose_bits(wanted: Literal["auto"] | Bits, stored: StoredWeights, device: Device) -> Bits:
    """What ``memory.base_weights`` comes to for a base model on a device."""
    if wanted == "auto":
        large = stored.half is not None and stored.size >= LARGE_BYTES
        wanted = "half" if large and device.torch_device.type == "cpu" else "full"
    return "full" if wanted == "half" and device.dtype.itemsize == 2 else wanted
