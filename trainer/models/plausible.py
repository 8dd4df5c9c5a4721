"""Numbers in a model folder's configurations, before a library makes layers of them.

The libraries build what a configuration asks for, and look at the weights afterwards: a width of a
billion takes all memory, a million layers take hours, and NaN in a noise schedule draws black.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import UserError

MAX_LAYERS = 100
"""Of one kind, and entries of a list; SDXL's second text encoder has 32 layers."""
_SMALL = 1024
_MAX_TIMESTEPS = 100_000
_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_HINT = "Download the folder again: it is damaged, or was made by hand."


def check_sizes(path: Path, config: Mapping[str, Any], dimensions: Iterable[int]) -> None:
    """No number of a part's configuration is beyond what its weights are like.

    Args:
        dimensions: of the part's tensors; no width may be greater than the greatest of them.

    Raises:
        UserError: names the field.
    """
    widest = max(_SMALL, *dimensions, 0)
    for name, value in _values(config):
        if isinstance(value, list) and len(value) > MAX_LAYERS:
            raise _unfit(path, name, f"a list of {len(value)} values")
        if isinstance(value, float) and not math.isfinite(value):
            raise _unfit(path, name, str(value))
        limit = MAX_LAYERS if "layers" in name else widest
        # The numbers of tokens make no layers.
        if isinstance(value, int) and abs(value) > limit and not name.endswith("_token_id"):
            raise _unfit(path, name, f"beyond {limit:,}")


def check_factor(path: Path, config: Mapping[str, Any], name: str) -> None:
    """A field that latents are multiplied with is a number above 0, where it is there.

    Raises:
        UserError: it is something else.
    """
    value = config.get(name)
    if value is not None and not (_is_number(value) and value > 0):
        raise _unfit(path, name, "no number above 0")


def check_schedule(path: Path, stated: Mapping[str, Any]) -> None:
    """What a scheduler's configuration says of the noise can be computed with.

    Raises:
        UserError: names the field.
    """
    stated = {name: value for name, value in stated.items() if value is not None}
    steps = stated.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= _MAX_TIMESTEPS:
        raise _unfit(path, "num_train_timesteps", f"no whole number up to {_MAX_TIMESTEPS:,}")
    for name in ("beta_start", "beta_end"):
        if not _is_beta(stated.get(name, 0.01)):
            raise _unfit(path, name, "no number between 0 and 1")
    if stated.get("beta_schedule", "linear") not in _SCHEDULES:
        raise _unfit(path, "beta_schedule", f"none of {', '.join(_SCHEDULES)}")
    betas = stated.get("trained_betas")
    fits = isinstance(betas, list) and len(betas) == steps and all(map(_is_beta, betas))
    if betas is not None and not fits:
        raise _unfit(path, "trained_betas", f"no list of {steps} numbers between 0 and 1")


def _values(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """All values with the name of the field that they are in, however deep."""
    rest: list[tuple[str, object]] = list(config.items())
    while rest:
        name, value = rest.pop()
        yield name, value
        if isinstance(value, dict):
            rest += value.items()
        elif isinstance(value, list):
            rest += [(name, item) for item in value]


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < math.inf  # pyright: ignore[reportArgumentType]


def _is_beta(value: object) -> bool:
    return _is_number(value) and 0 < float(value) < 1  # pyright: ignore[reportArgumentType]


def _unfit(path: Path, name: str, what: str) -> UserError:
    return UserError(f"{path} can't be right: {name[:80]!a} is {what}.", _HINT)
