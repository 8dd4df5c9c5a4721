"""``fit``: does a configuration fit a card, and what would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.config.file import apply_overrides, read_config, with_values
from trainer.config.presets import apply_preset
from trainer.config.schema import TrainingConfig
from trainer.memory.prediction import FRAGMENTATION, Fit, predict

_STEP_PARTS = {
    "base_weights": "base model's weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer's state",
    "activations": "activations",
}
_OTHER_PARTS = {
    "caching": "while latents are cached",
    "previews": "while previews are drawn",
    "measuring": "while the adapter is measured",
    "export": "while its file is written",
}


def fit(
    *,
    config_file: Path | None,
    preset: str | None,
    flags: Mapping[str, object],
    overrides: Sequence[str],
    vram: float | None,
    as_json: bool,
) -> int:
    """Prints the prediction. Later sources win: file, preset, flags, ``--set``.

    Returns:
        0, whether it fits or not.

    Raises:
        UserError: a mistake in the configuration, or a base model that cannot be recognised.
    """
    config = read_config(config_file) if config_file else TrainingConfig()
    if preset:
        config = apply_preset(config, preset)
    config = apply_overrides(with_values(config, flags, "the command line"), overrides)
    found = predict(config, vram)
    print(json.dumps(found.as_json(), indent=1) if as_json else describe(found))
    return 0


def describe(found: Fit) -> str:
    """A prediction as a table and a sentence or two."""
    parts = found.parts
    step = sum(parts[name] for name in _STEP_PARTS)
    lines = [
        f"{found.base}, {found.resolution} px, batch size {found.batch_size}, {found.precision}: "
        f"predicted for a GPU with {found.vram_gib:g} GiB ({found.vram_source})",
        "",
        *(_row(title, parts[name]) for name, title in _STEP_PARTS.items()),
        _row("a training step, all of these", step),
        *(_row(title, parts[name]) for name, title in _OTHER_PARTS.items()),
        _row("CUDA itself (assumed)", parts["context"]),
        _row(f"gaps in memory (assumed: {FRAGMENTATION:.0%})", parts["fragmentation"]),
        _row("peak", found.peak_gib),
        "",
        _verdict(found),
    ]
    return "\n".join(lines)


def _row(title: str, gib: float) -> str:
    return f"  {title:<36}{gib:7.2f} GiB"


def _verdict(found: Fit) -> str:
    if found.fits:
        return "It fits."
    changes = ", ".join(f"{name}={_shown(value)}" for name, value in found.plan.items())
    if not found.plan_fits:
        return (
            f"It does not fit. The least that is possible is {found.plan_peak_gib:.2f} GiB, with "
            f"{changes or 'the settings as they are'}; a lower images.resolution needs less."
        )
    return (
        f"It does not fit. The fastest plan that does needs {found.plan_peak_gib:.2f} GiB and "
        f"about {found.slowdown:.2f} times as long a step: {changes}"
    )


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
