"""Runs of earlier versions go on as they began.

A run's ``config.toml`` and its checkpoints have every field that their version had. What is not
there did not exist, and today's default may mean something else: ``before`` in the field says what
such a run did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.fields import all_fields
from trainer.untyped import as_table, is_mapping, is_table


def as_it_began(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration with all that its version did without naming it.

    Args:
        tree: {section: {key: value}} as the run has it.
    """
    filled = {name: dict(values) if is_mapping(values) else values for name, values in tree.items()}
    _leave_out_warmup(filled)
    for field in all_fields().values():
        section = filled.setdefault(field.section, {})
        if "before" in field.schema and is_table(section):
            section.setdefault(field.key, field.schema["before"])
    return filled


def changes_since(tree: Mapping[str, Any], step: int, *, is_velocity: bool) -> list[str]:
    """What a run that goes on does otherwise than its version did, in sentences.

    Args:
        tree: as the run's checkpoint has it.
        step: steps done.
        is_velocity: the base model predicts velocity.
    """
    changes: list[str] = []
    debiased = as_table(tree.get("objective")).get("weighting") == "debiased"
    if is_velocity and debiased and "vae" not in as_table(tree.get("base")):
        changes.append(
            "This run began with an earlier version, in which noisy timesteps of a v-prediction "
            "model counted less than others; they count more now (see objective.weighting)."
        )
    optimizer, training = as_table(tree.get("optimizer")), as_table(tree.get("training"))
    warmup = optimizer.get("warmup", 0.0) * training.get("steps", 0)
    heeded = optimizer.get("schedule") != "constant"
    if heeded and step < warmup and not _has_cycles(optimizer):
        changes.append(
            "This run began with an earlier version and is in its warm-up, whose rate is now "
            "one step ahead."
        )
    return changes


def _has_cycles(optimizer: Mapping[str, Any]) -> bool:
    """Whether a run's version had schedules with cycles, and a warm-up before each of them."""
    return "schedule_cycles" in optimizer


def _leave_out_warmup(tree: dict[str, Any]) -> None:
    """A constant schedule did not heed the warm-up."""
    optimizer = as_table(tree.get("optimizer"))
    if optimizer.get("schedule") == "constant" and not _has_cycles(optimizer):
        tree["optimizer"] = {**optimizer, "warmup": 0.0}
