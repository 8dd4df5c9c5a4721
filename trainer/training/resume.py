"""What may change between a stop and going on, and what may not."""

from __future__ import annotations

from typing import Any

from trainer.config.fields import may_change_on_resume
from trainer.errors import UserError
from trainer.training.checkpoints import TrainingState
from trainer.training.session import Session, image_table

SHOWN = 5


def check_resumable(session: Session, state: TrainingState, accept_changes: bool) -> list[str]:
    """Compare a prepared session with the state that it is to go on from.

    ``base.name`` and ``images.path`` are free as places; what lies there is compared instead.

    Returns:
        Accepted changes, in sentences for the log.

    Raises:
        UserError: the base model or a fixed field differs, or the image set does and
            ``accept_changes`` is False.
    """
    if state.base != session.base.fingerprint:
        raise UserError(
            f"The base model {session.config.base.name} is not the one that this run began with.",
            "Put the old one back, or start a new run.",
        )
    old, new = _flat(state.config), _flat(session.config.model_dump(mode="json"))
    if len(state.config.get("concepts", [])) != len(session.config.concepts):
        raise UserError(
            "The number of concepts can't change within a run.", "Start a new run for it."
        )
    changed = [key for key in new if key in old and old[key] != new[key]]
    fixed = [
        f"{key}: was {old[key]}, is {new[key]}" for key in changed if not may_change_on_resume(key)
    ]
    if fixed:
        raise UserError(
            "These settings can't change within a run: " + "; ".join(fixed) + ".",
            "Set them back in the run's config.toml, or start a new run. Free to change are: "
            "training.steps, checkpoints, previews, evaluation (not its validation), output.",
        )
    notes = [f"{key} changed from {old[key]} to {new[key]}" for key in changed]
    pictures = _image_changes(state.images, image_table(session.pictures))
    if pictures and not accept_changes:
        raise UserError(
            "The image set has changed since the run was stopped: " + "; ".join(pictures) + ".",
            "Put it back as it was, or go on with: resume RUN --accept-changes",
            "images_changed",
        )
    return notes + [f"image set: {change}" for change in pictures]


def _image_changes(old: dict[str, list[Any]], new: dict[str, list[Any]]) -> list[str]:
    """Differences between two image tables, by content."""
    added = [new[key][0] for key in new.keys() - old.keys()]
    removed = [old[key][0] for key in old.keys() - new.keys()]
    both = old.keys() & new.keys()
    captions = [new[key][0] for key in both if new[key][1] != old[key][1]]
    repeats = [new[key][0] for key in both if new[key][2] != old[key][2]]
    masks = [new[key][0] for key in both if new[key][3:] != old[key][3:]]
    kinds = {
        "added": added,
        "removed": removed,
        "other caption": captions,
        "other repeats": repeats,
        "other mask": masks,
    }
    return [f"{kind}: {_few(names)}" for kind, names in kinds.items() if names]


def _few(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if key == "concepts":  # a list of tables
            item = {str(number): concept for number, concept in enumerate(item)}
        flat |= _flat(item, f"{name}.") if isinstance(item, dict) else {name: item}
    return flat
