"""Which modules are on the device, and which wait in main memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.memory import devices
from trainer.memory.devices import Device


class Moved(nn.Module):
    """Stands for a model: notes where it is, with the meta device in the place of a card."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.device("cpu")

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        yield SimpleNamespace(device=self.place)

    def _apply(self, fn: Any, recurse: bool = True) -> Moved:
        try:
            self.place = fn(torch.empty(0, device=self.place)).device
        except NotImplementedError:  # nothing can be copied from the meta device
            self.place = torch.device("cpu")
        return self


def places(*modules: Moved) -> list[str]:
    return [module.place.type for module in modules]


def test_modules_take_turns_on_the_device() -> None:
    unet, vae, text = Moved(), Moved(), Moved()
    device = Device(torch.device("meta"), "bf16", offload=True)
    device.put(unet, text)
    with device.instead([vae], [unet, text]):
        assert places(unet, vae, text) == ["cpu", "meta", "cpu"]
    assert places(unet, vae, text) == ["meta", "cpu", "meta"]
    device.put_away(text)
    base: Any = SimpleNamespace(unet=unet, text_encoders=[text])
    with device.reading(base):
        assert places(unet, text) == ["cpu", "meta"]
    assert places(unet, text) == ["meta", "cpu"]


def test_without_offload_nothing_leaves() -> None:
    unet, vae = Moved(), Moved()
    device = Device(torch.device("meta"), "bf16")
    device.put(unet)
    device.put_away(unet)
    with device.instead([vae], [unet]):
        assert places(unet, vae) == ["meta", "meta"]
    assert places(unet, vae) == ["meta", "cpu"]


def test_weights_in_16_bits_of_an_older_file_are_read_as_full() -> None:
    config = with_values(TrainingConfig(), {"memory.base_weights": "half"})
    assert config.memory.base_weights == "full"


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_every_kind_of_gpu_is_freed_and_measured(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own functions, which torch names alike, but for Apple's."""
    freed: list[str] = []
    fake = SimpleNamespace(
        empty_cache=lambda: freed.append(kind),
        get_device_properties=lambda index: SimpleNamespace(total_memory=8 << 30),
        recommended_max_memory=lambda: 8 << 30,
        max_memory_allocated=lambda device: 3 << 30,
        driver_allocated_memory=lambda: 3 << 30,
        is_bf16_supported=lambda: True,
    )
    monkeypatch.setattr(torch, kind, fake)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(kind))
    devices.empty_cache()
    assert freed == [kind]
    assert devices.card_bytes() == 8 << 30
    assert devices.peak_bytes(torch.device(kind)) == 3 << 30


def test_without_a_gpu_there_is_nothing_to_free() -> None:
    devices.empty_cache()
    assert devices.card_bytes() is None
