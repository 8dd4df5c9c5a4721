"""The adapter in a run's checkpoint, without the run's images or base model."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from torch import Tensor

from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer, Magnitude
from trainer.lora.names import ModuleKey, Part
from trainer.lora.reading import read_adapter
from trainer.runs.layout import step_of
from trainer.training.checkpoints import load_checkpoint

_MATRICES = ("lora_A", "lora_B")
_MAGNITUDE = "magnitude"


def read_any_adapter(path: Path) -> Adapter:
    """An adapter from a file, or from the folder of a checkpoint.

    Raises:
        UserError: as `read_adapter` and `read_checkpoint_adapter`.
    """
    return read_checkpoint_adapter(path) if path.is_dir() else read_adapter(path)


def read_checkpoint_adapter(folder: Path) -> Adapter:
    """The adapter as it was at a checkpoint: its running averages where there are any.

    Raises:
        UserError: the checkpoint is damaged, or the folder is none.
    """
    state = load_checkpoint(folder)
    config = TrainingConfig.model_validate(state.config)
    pairs: dict[ModuleKey, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in (state.ema or state.adapter).items():
        part, _, rest = name.partition("/")
        path, _, matrix = rest.rpartition(".")
        pairs[ModuleKey(_part(part, folder), path)][matrix] = tensor
    layers: dict[ModuleKey, LoraLayer] = {}
    for key, matrices in sorted(pairs.items()):
        if set(matrices) - {_MAGNITUDE} != set(_MATRICES):
            raise UserError(f"The checkpoint {folder} is of another kind of adapter: {key}.")
        down, up = (matrices[name] for name in _MATRICES)
        lengths = matrices.get(_MAGNITUDE)
        magnitude = None if lengths is None else Magnitude(lengths.flatten(), "rows")
        _, alpha = config.adapter.scale_of(str(key))
        layers[key] = LoraLayer(down, up, float(alpha), magnitude)
    return Adapter(layers, source=adapter_label(folder))


def adapter_label(path: Path) -> str:
    """What an adapter is called: its file's name; for a run's result the run's name.

    A run's files are called alike in every run, which says nothing beside another run's.
    """
    step = step_of(path.name.removesuffix(".safetensors"))
    if step is not None and path.parent.name in ("checkpoints", "adapters"):
        return f"{path.resolve().parent.parent.name} at step {step}"
    if path.name == "adapter.safetensors":
        return path.resolve().parent.name
    return path.stem


def _part(name: str, folder: Path) -> Part:
    if name == "unet" or name == "text_encoder" or name == "text_encoder_2":
        return name
    raise UserError(f"The checkpoint {folder} adapts {name}, which is no part of a base model.")
