"""Parts of a base model that give their weights back while they have nothing to do.

A GPU's parts wait in main memory. Where main memory is all there is, the weights are let go and
read again from the file that they came from: within a second or two, mostly from the system's own
cache of the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import Parameter

from trainer.allocator import give_back_freed_memory
from trainer.models.pages import stay_in_file, stays_in_file

WORTH_BYTES = 64 * 2**20
"""Smaller parts stay: reading them takes longer than it is worth."""

Source = Callable[[], nn.Module]
"""Reads a part again: the same layers, with the same weights."""

_sources: WeakKeyDictionary[nn.Module, Source] = WeakKeyDictionary()


def set_source(module: nn.Module, source: Source) -> None:
    """Says where a part's weights can be read again."""
    _sources[module] = source


def get_source(module: nn.Module) -> Source | None:
    """What `set_source` has said of a part."""
    return _sources.get(module)


def is_resting(module: nn.Module) -> bool:
    """Whether a part's weights have been let go."""
    return next(module.parameters()).is_meta


def rest(module: nn.Module) -> None:
    """Lets a part's weights go, where it is worth it and they can be read again.

    What is no longer as it was read stays: adapters, and anything that is trained.
    """
    if module not in _sources or is_resting(module) or _size(module) < WORTH_BYTES:
        return
    for layer in _own_layers(module).values():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                layer._parameters[name] = Parameter(parameter.to("meta"), requires_grad=False)
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = buffer.to("meta")
    give_back_freed_memory()


def wake(module: nn.Module) -> None:
    """Reads a part's weights again, on the CPU; one that is not resting is left alone.

    Raises:
        UserError: the files are gone, or no longer the same.
    """
    if not is_resting(module):
        return
    fresh = dict(_sources[module]().named_modules())
    for path, layer in _own_layers(module).items():
        layer._parameters.update(fresh[path]._parameters)
        layer._buffers.update(fresh[path]._buffers)
    if any(map(stays_in_file, module.modules())):
        stay_in_file(module)
    give_back_freed_memory()  # what reading took


def _own_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that were read, by the names that they had then, without those of adapters."""
    found: dict[str, nn.Module] = {}
    wrappers: list[str] = []
    for path, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            wrappers.append(f"{path}.")
            found[path] = layer.get_base_layer()
        elif not path.startswith(tuple(wrappers)):
            found[path] = layer
    return found


def _size(module: nn.Module) -> int:
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
