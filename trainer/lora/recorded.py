"""What an adapter file records of its training: the recipe, and the base model it is for."""

from __future__ import annotations

import json
from typing import Any

from trainer.config.file import validate
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.lora.content import AdapterFile
from trainer.lora.metadata import CONFIG_KEY
from trainer.models import hub
from trainer.models.diffusers_folder import missing_parts
from trainer.models.locate import built_in_models

BASE_KEY = "rarebit.base"


def recipe_of(adapter: AdapterFile) -> TrainingConfig:
    """The configuration that an adapter was trained with, but for what is private: see metadata.

    The folder of pictures is to be filled in.

    Raises:
        UserError: the file records none, or one that this version does not understand; all
            mistakes are listed.
    """
    tree = _config(adapter)
    if tree is None:
        raise UserError(
            f"{adapter.source} records no recipe.",
            "Only adapters trained here do; adapter inspect shows what others say of themselves.",
        )
    return validate(tree, f"the recipe in {adapter.source}")


def recorded_base(adapter: AdapterFile) -> str | None:
    """The name of the base model that the file was trained on, if it is on this machine.

    Whether it is the same is to be told by its fingerprint, `recorded_fingerprint`.
    """
    section = (_config(adapter) or {}).get("base")
    name = section.get("name") if isinstance(section, dict) else None
    if not isinstance(name, str) or BASE_KEY not in adapter.metadata:
        return None
    if name in built_in_models():
        return name
    try:
        snapshot = hub.cached_snapshot(name)
    except (OSError, ValueError):
        return None
    return name if snapshot is not None and not missing_parts(snapshot) else None


def recorded_fingerprint(adapter: AdapterFile) -> str | None:
    """The fingerprint of the base model that the file was trained on."""
    return adapter.metadata.get(BASE_KEY)


def _config(adapter: AdapterFile) -> dict[str, Any] | None:
    try:
        tree = json.loads(adapter.metadata.get(CONFIG_KEY, ""))
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None
