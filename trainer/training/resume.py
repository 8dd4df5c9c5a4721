"""What may change between a stop and going on, and what may not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer.config.fields import free_settings, may_change_on_resume
from trainer.config.file import as_it_began, changes_since
from trainer.config.schema import TrainingConfig
from trainer.data.names import list_names
from trainer.data.pairing import words_of
from trainer.data.sets import Picture
from trainer.errors import UserError
from trainer.training.checkpoints import ImageFacts, TrainingState
from trainer.untyped import is_table

if TYPE_CHECKING:
    from trainer.training.session import Session

NAMES_SHOWN = 5
_EQUAL = "="
"""In the key of a picture that equals another; earlier versions kept only the last of them."""


def check_resumable(session: Session, state: TrainingState, accept_changes: bool) -> list[str]:
    """Compare a prepared session with the state that it is to go on from.

    ``base.name`` and ``images.path`` are free as places; what lies there is compared instead.

    Returns:
        Accepted changes, in sentences for the log.

    Raises:
        UserError: the base model or a fixed field differs, or the image set does and
            ``accept_changes`` is False.
    """
    config = session.config
    if state.base != session.base.fingerprint:
        raise UserError(
            f"The base model {config.base.name} is not the one that this run began with.",
            "Put the old one back, or start a new run.",
        )
    if len(state.config.get("concepts", [])) != len(config.concepts):
        raise UserError(
            "The number of concepts can't change within a run.", "Start a new run for it."
        )
    changed = changed_settings(state.config, config)
    if config.training.steps < state.step:
        raise UserError(
            f"{state.step} steps are done already, more than training.steps "
            f"({config.training.steps}).",
            "Raise training.steps in the run's config.toml. The adapter of an earlier step lies in "
            "the run's folder adapters/ where one was measured.",
        )
    fixed = [key for key in changed if not may_change_on_resume(key)]
    if fixed:
        raise UserError(
            "These settings can't change within a run: "
            + "; ".join(f"{key}: was {changed[key][0]}, is {changed[key][1]}" for key in fixed)
            + ".",
            "Set them back in the run's config.toml, or start a new run. Free to change are: "
            f"{', '.join(free_settings())}.",
        )
    held_out = image_table([picture for picture, _ in session.held_out])
    pictures = image_changes(state.images, image_table(session.pictures), held_out)
    if pictures and not accept_changes:
        raise UserError(
            "The image set has changed since the run was stopped: " + "; ".join(pictures) + ".",
            "Put it back as it was, or go on with: resume RUN --accept-changes",
            "images_changed",
        )
    notes = [f"{key} changed from {old} to {new}" for key, (old, new) in changed.items()]
    if "training.steps" in changed:
        share = f"{100 * session.schedule(state.step):.0f} %"
        notes.append(
            f"The learning-rate schedule now spans {config.training.steps} steps: after step "
            f"{state.step} the rate goes on at {share} of its peak"
        )
    is_velocity = session.base.prediction_type == "v_prediction"
    notes += changes_since(state.config, state.step, is_velocity=is_velocity)
    return notes + [f"image set: {change}" for change in pictures]


def changed_settings(
    before: dict[str, Any], config: TrainingConfig
) -> dict[str, tuple[object, object]]:
    """The fields that were something else when a run began: old and new value by dotted name.

    Args:
        before: the run's configuration as its checkpoint has it. It is read as a configuration,
            since values of earlier versions may have other names today; fields that did not exist
            then were what `as_it_began` says, or else count as unchanged.
    """
    begun = as_it_began(before)
    known = _flat(begun)
    old = _flat(TrainingConfig.model_validate(begun).model_dump(mode="json"))
    new = _flat(config.model_dump(mode="json"))
    return {key: (old[key], new[key]) for key in new if key in known and old[key] != new[key]}


def image_table(pictures: Sequence[Picture]) -> dict[str, ImageFacts]:
    """What is trained on: for each picture its name, the hash of its caption, repeats, mask, and
    the middle of its crop where one was chosen.

    The key is the picture's id; one that shows several concepts has a key for each. Of equal
    pictures the last has that key, and the others a numbered one.
    """
    table: dict[str, ImageFacts] = {}
    for picture in pictures:
        entry = picture.entry
        caption = hashlib.sha256((entry.caption or "").encode()).hexdigest()[:16]
        key = f"{entry.id}+{picture.concept}" if picture.concept else entry.id
        mask = entry.mask.digest if entry.mask else ""
        if key in table:
            equal = sum(other.startswith(f"{key}{_EQUAL}") for other in table)
            table[f"{key}{_EQUAL}{equal}"] = table[key]
        # Earlier versions had no place: it stands there only where one was chosen.
        focus = [] if entry.focus is None else [list(entry.focus[:2])]
        view = [] if entry.focus is None or entry.focus.is_plain else [words_of(entry.focus)]
        table[key] = [entry.name, caption, entry.repeats, mask, *focus, *view]
    return table


def image_changes(
    old: dict[str, ImageFacts], new: dict[str, ImageFacts], held_out: dict[str, ImageFacts]
) -> list[str]:
    """Differences between two image tables, by content.

    Args:
        held_out: what is measured by now, which other pictures change; what was, is not known.
    """
    if not any(_EQUAL in key for key in old):
        new = {key: facts for key, facts in new.items() if _EQUAL not in key}
    both = old.keys() & new.keys()
    changed = {
        "added (or kept out to measure by until now)" if held_out else "added": [
            new[key] for key in new.keys() - old.keys()
        ],
        "kept out to measure by now": [old[key] for key in old.keys() & held_out.keys()],
        "removed": [old[key] for key in old.keys() - new.keys() - held_out.keys()],
        "other caption": [new[key] for key in both if new[key][1] != old[key][1]],
        "other repeats": [new[key] for key in both if new[key][2] != old[key][2]],
        "other mask": [new[key] for key in both if new[key][3:4] != old[key][3:4]],
        "another crop or turn": [new[key] for key in both if new[key][4:] != old[key][4:]],
    }
    return [
        f"{kind}: {list_names(sorted(str(picture[0]) for picture in pictures), NAMES_SHOWN)}"
        for kind, pictures in changed.items()
        if pictures
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted names; those of a concept as ``concepts.0.trigger``."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if key == "concepts":
            item = {str(number): concept for number, concept in enumerate(item)}
        flat |= _flat(item, f"{prefix}{key}.") if is_table(item) else {prefix + key: item}
    return flat
