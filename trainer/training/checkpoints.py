"""Exact training state: what it is, and how it is written so that it is never half there.

A checkpoint is a folder of safetensors and JSON files with a ``manifest.json`` of their sizes and
SHA-256 sums. It is written beside its final name, synced, renamed, and only then are older ones
pruned. There is no rng_state to save: everything random is a function of (seed, step, purpose).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import Notice
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.names import ModuleKey, Part, largest_shape
from trainer.lora.reading import read_adapter
from trainer.lora.words import NEW_TOKENS, tensors_of_words
from trainer.runs.atomic import building_folder
from trainer.runs.layout import RunFolder, step_of
from trainer.untyped import is_sequence, is_table

ImageFacts = list[Any]
"""Of a picture: name, caption hash, repeats and mask's digest (lacking in old checkpoints)."""

FORMAT = 1
_TENSORS = ("adapter", "ema", "optimizer")
_FACTS = ("step", "ema_steps", "scaler", "config", "images", "base", "setback")
_OTHERS = "Use an earlier checkpoint of the run, or a file in its folder adapters."
_FILES = (*(f"{name}.safetensors" for name in _TENSORS), "state.json")


@dataclass
class TrainingState:
    """All that has to survive for a resumed run to equal one that never stopped."""

    step: int  # optimizer steps done
    adapter: dict[str, Tensor]  # the adapter's parameters by "part/name", float32
    # Their averages in the same order, by EMA or by the optimizer; empty without.
    ema: dict[str, Tensor]
    ema_steps: int  # updates of the averages so far
    optimizer: dict[str, Any]  # ``state_dict()`` of the optimizer
    # ``state_dict()`` of the fp16 gradient scaler, empty in other precisions.
    scaler: dict[str, Any]
    config: dict[str, Any]  # the whole configuration, as JSON values
    images: dict[str, ImageFacts]  # what was trained on, by the pictures' ids
    base: str  # fingerprint of the base model
    # The step after whose numbers, which were not finite, the learning rate was halved; 0: never.
    setback: int = 0


def save_checkpoint(run: RunFolder, state: TrainingState, keep: int) -> Path:
    """Write a checkpoint and prune older ones, newest ``keep`` stay.

    Later ones are pruned too: they are damaged, or of a way that the run did not go.

    Returns:
        The folder ``checkpoints/step-000123``.

    Raises:
        OSError: the disk is full or the folder can't be written; older checkpoints are untouched.
    """
    tensors = {"adapter": state.adapter, "ema": state.ema, "optimizer": {}}
    tree = _flatten(state.optimizer, "optimizer", tensors["optimizer"])
    facts = {"format": FORMAT, "optimizer": tree, **{name: getattr(state, name) for name in _FACTS}}
    files = {f"{name}.safetensors": save(_contiguous(tensors[name])) for name in _TENSORS}
    files["state.json"] = json.dumps(facts).encode()
    manifest = {
        file: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for file, data in files.items()
    }
    files["manifest.json"] = json.dumps(manifest, indent=1).encode()
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    final = run.checkpoint(state.step)
    with building_folder(final) as temporary:
        for file, data in files.items():
            (temporary / file).write_bytes(data)
        # One of this step can only be left from a run that went back behind it: a damaged one.
        shutil.rmtree(final, ignore_errors=True)
    folders = list_checkpoints(run)
    here = folders.index(final)
    for folder in [*folders[here + 1 :], *folders[: max(0, here + 1 - keep)]]:
        shutil.rmtree(folder)
    return final


def list_checkpoints(run: RunFolder) -> list[Path]:
    """The checkpoint folders of a run, oldest first; unfinished ones are not among them."""
    return [run.checkpoint(step) for step in run.checkpoint_steps()]


def load_latest(run: RunFolder, notice: Notice) -> TrainingState:
    """The newest checkpoint that is whole. Damaged ones are named through ``notice``.

    Raises:
        UserError: there is none.
    """
    for folder in reversed(list_checkpoints(run)):
        try:
            return load_checkpoint(folder)
        except UserError as damage:
            notice(f"{damage.message} Going back to the one before it.")
    raise UserError(
        f"{run.path} has no checkpoint to go on from.",
        f"Start it again in a new folder: python launch.py train --config {run.config}",
    )


def load_before(run: RunFolder, step: int) -> TrainingState | None:
    """The newest whole checkpoint of fewer steps; None where there is none."""
    for earlier in reversed([at for at in run.checkpoint_steps() if at < step]):
        with suppress(UserError):
            return load_checkpoint(run.checkpoint(earlier))
    return None


def load_checkpoint(folder: Path) -> TrainingState:
    """Read one checkpoint, after its sizes and SHA-256 sums were found right.

    Raises:
        UserError: a file is missing, was changed, or has another format; it is named.
    """
    files = _verified_files(folder)
    facts = json.loads(files["state.json"])
    if facts["format"] != FORMAT:
        raise UserError(
            f"{folder} has checkpoint format {facts['format']}, this version reads {FORMAT}.",
            "Resume it with the version of Rarebit that made it.",
        )
    tensors = {name: load(files[f"{name}.safetensors"]) for name in _TENSORS}
    tensors["optimizer"] = _unflatten(facts["optimizer"], tensors["optimizer"])
    return TrainingState(**tensors, **{name: facts[name] for name in _FACTS if name in facts})


def _verified_files(folder: Path) -> dict[str, bytes]:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        sums = {file: (manifest[file]["size"], manifest[file]["sha256"]) for file in _FILES}
        files = {file: (folder / file).read_bytes() for file in _FILES}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = error if isinstance(error, OSError) else "its manifest.json is damaged"
        raise UserError(f"The checkpoint {folder} can't be read: {reason}.", _OTHERS) from error
    for file, data in files.items():
        if (len(data), hashlib.sha256(data).hexdigest()) != sums[file]:
            raise UserError(f"The checkpoint {folder} is damaged: {file} was changed.", _OTHERS)
    return files


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, since an optimizer may have one tensor in two places, which safetensors refuses.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for ``value``, its tensors moved into ``tensors`` under their path.

    Containers are tagged, since JSON has no tuples and no integer keys. ``json`` writes floats
    so that they read back exactly.
    """
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, dict):
        table = cast("dict[str | int, Any]", value)
        items = [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in table.items()]
        return {"dict": items}
    if is_sequence(value):
        items = [_flatten(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} can't be saved in a checkpoint")


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not is_table(value):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in content}
    items = [_unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def copy_to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies on the CPU, which later steps don't change."""
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True)
        for name, tensor in tensors.items()
    }


def read_any_adapter(path: Path) -> Adapter:
    """An adapter from a file, from the folder of a checkpoint, or the result of a run's folder.

    Raises:
        UserError: as `read_adapter` and `read_checkpoint_adapter`.
    """
    if (result := path / "adapter.safetensors").is_file() and (path / "config.toml").is_file():
        path = result
    return read_checkpoint_adapter(path) if path.is_dir() else read_adapter(path)


def read_checkpoint_adapter(folder: Path) -> Adapter:
    """The adapter as it was at a checkpoint: its running averages where there are any.

    Raises:
        UserError: the checkpoint is damaged, or the folder is none.
    """
    state = load_checkpoint(folder)
    config = TrainingConfig.model_validate(state.config)
    trained: dict[ModuleKey, dict[str, Tensor]] = defaultdict(dict)
    vectors: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in (state.ema or state.adapter).items():
        part, _, rest = name.partition("/")
        path, _, kind = rest.rpartition(".")
        if kind == NEW_TOKENS:
            vectors[path].append(tensor)
            continue
        trained[ModuleKey(_part(part, folder), path)][kind] = tensor
    layers: dict[ModuleKey, LoraLayer] = {}
    words = tensors_of_words(vectors)
    for key, tensors in sorted(trained.items()):
        scale = config.adapter.scale_of(str(key))
        try:
            layers[key] = LoraLayer.of_trained(tensors, scale, largest_shape(key))
        except (KeyError, ValueError):
            message = f"The checkpoint {folder} is of another kind of adapter: {key}."
            raise UserError(message, _OTHERS) from None
    return Adapter(layers, source=adapter_label(folder), embeddings=words)


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
