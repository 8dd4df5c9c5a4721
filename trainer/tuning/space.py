"""What is searched: rate, rank, layers, length and weight, as changes of a configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from trainer.config.concepts import concepts_of, preserved_share
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, "str | float"]
"""Of a trial: all are factors on what the search began with, but for the layers."""

ASKED = "asked.toml"  # file with the settings that a search begins with
LAYERS = ("attention", "feed-forward", "convolution")
_FIELDS = {
    "rate": ("optimizer.learning_rate", "optimizer.text_encoder_learning_rate"),
    "rank": ("adapter.rank", "adapter.start_from"),
    "layers": ("adapter.targets", "adapter.start_from", "adapter.only", "adapter.without"),
    "length": ("training.steps",),
    "weight": ("preservation.weight", "preservation.method"),
}
"""What belongs to each; where the user has given one of these, it is not searched."""
_GUESSES: tuple[Params, ...] = (
    {"rate": 1.6},
    {"layers": "convolution", "weight": 0.6},
    {"weight": 0.4},
    {"length": 1.5},
)
"""Tried first: docs/notes/subjects.md has what they did for others' sets."""


def searched(config: TrainingConfig, given: Collection[str] = ()) -> list[str]:
    """What is left to search.

    Args:
        given: dotted names of the fields that the user has set: these stay.

    Raises:
        UserError: nothing is, or there are several subjects.
    """
    if len(concepts_of(config)) > 1:
        raise UserError(
            "Settings are searched for one subject at a time.", "Choose one of the image sets."
        )
    found = [name for name, fields in _FIELDS.items() if not set(fields) & set(given)]
    adapter = config.adapter
    fixed = {
        "rank": adapter.start_from is not None,
        "layers": bool(adapter.start_from or adapter.only or adapter.without or adapter.ranks),
        "weight": preserved_share(config) == 0,
    }
    left = [name for name in found if not fixed.get(name)]
    if not left:
        raise UserError(
            "Nothing is left to search: rate, rank, layers, steps and weight are all given.",
            "Leave one of them out.",
        )
    return left


def distributions(names: Collection[str]) -> dict[str, BaseDistribution]:
    """What each may be, for the sampler."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    every: dict[str, BaseDistribution] = {
        "rate": FloatDistribution(0.4, 2.5, log=True),
        "rank": CategoricalDistribution((0.5, 1.0, 2.0)),
        "layers": CategoricalDistribution(LAYERS),
        "length": CategoricalDistribution((0.75, 1.0, 1.5)),
        "weight": FloatDistribution(0.25, 2.0, log=True),
    }
    return {name: every[name] for name in names}


def guesses(config: TrainingConfig, names: Collection[str]) -> list[Params]:
    """The trials that come before those of the sampler, each complete."""
    start: Params = dict.fromkeys(names, 1.0)
    if "layers" in names:
        start["layers"] = config.adapter.targets
    found: list[Params] = []
    for guess in _GUESSES:
        params = start | {name: value for name, value in guess.items() if name in names}
        if params not in (start, *found):
            found.append(params)
    return found


def changes(config: TrainingConfig, params: Mapping[str, str | float]) -> dict[str, object]:
    """The fields that a trial sets, by dotted name.

    Args:
        config: what the search began with, every default filled in. Its alpha stays: an adapter
            moves by rate times alpha, and the rate is searched by itself.
    """
    optimizer, adapter = config.optimizer, config.adapter
    found: dict[str, object] = {}
    for name, value in params.items():
        if name == "layers":
            found["adapter.targets"] = value
            continue
        factor = float(value)
        if name == "rate":
            for key in ("learning_rate", "text_encoder_learning_rate"):
                found[f"optimizer.{key}"] = _rounded(factor * (getattr(optimizer, key) or 0))
            if second := optimizer.text_encoder_2_learning_rate:
                found["optimizer.text_encoder_2_learning_rate"] = _rounded(factor * second)
        elif name == "rank":
            found |= {"adapter.rank": max(1, round(factor * adapter.rank))}
            found |= {"adapter.alpha": adapter.alpha}
        elif name == "length":
            found["training.steps"] = max(1, round(factor * config.training.steps))
        else:
            found["preservation.weight"] = _rounded(factor * config.preservation.weight)
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
