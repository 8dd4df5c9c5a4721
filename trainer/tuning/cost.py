"""What a training costs, counted before it starts: in forward passes of one picture.

A trained picture counts as three, since its backward pass takes about twice the forward pass.
Text encoders, VAE and loading are left out.
"""

from __future__ import annotations

from trainer.config.concepts import preserved_share
from trainer.config.schema import TrainingConfig

TRAINED = 3
DENOISING = 15 * 2
"""Passes of one drawing that is measured: 15 steps with guidance."""
DRAWN = 4
"""Captions of the set that are drawn: with the trigger word, without it, and by the base model."""
_MEASUREMENT = 51  # docs/measuring.md
_LISTENING = 3 * 7 * 2 * DENOISING  # three ways, at most seven prompts, two seeds
_BOARD = 13  # cells
_PREVIEWS = 3  # prompts that are drawn where none are given


def step_cost(config: TrainingConfig) -> float:
    """One optimizer step, with what is preserved."""
    training = config.training
    rows = training.batch_size * training.accumulation
    return TRAINED * rows * (1 + preserved_share(config) / config.preservation.every)


def look_cost(config: TrainingConfig) -> float:
    """Meters, drawings and previews at one step of a run that is searched with."""
    return _MEASUREMENT + 3 * DRAWN * DENOISING + _preview_cost(config)


def end_cost(config: TrainingConfig) -> float:
    """What is measured and drawn at the end of a run, and its first previews."""
    strengths = 3 * _MEASUREMENT
    board = _BOARD * config.evaluation.board * DENOISING
    drawings = 3 * DRAWN * DENOISING + _LISTENING
    measured = strengths + drawings + board if config.evaluation.enabled else 0
    return measured + 2 * _preview_cost(config)


def run_cost(config: TrainingConfig) -> float:
    """A whole run, as `train` does it."""
    steps, previews, evaluation = config.training.steps, config.previews, config.evaluation
    between = (steps - 1) // previews.every * _preview_cost(config) if previews.every else 0
    if evaluation.enabled and evaluation.every:
        between += (steps - 1) // evaluation.every * _MEASUREMENT
    return steps * step_cost(config) + between + end_cost(config)


def _preview_cost(config: TrainingConfig) -> float:
    previews = config.previews
    passes = previews.inference_steps * (2 if previews.guidance > 1 else 1)
    return (len(previews.prompts) or _PREVIEWS) * previews.count * passes
