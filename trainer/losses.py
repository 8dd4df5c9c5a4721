"""What a prediction's error counts: by its timestep, by its size, and by where it lies.

Notation as in `trainer.diffusion`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config.schema import ObjectiveConfig
from trainer.models.families import PredictionType

LEAST_SNR = 1e-3
"""Noisier timesteps count as if they had this; Stable Diffusion's noisiest has 0.0047."""


def loss_weights(
    alpha_bar: Tensor, timesteps: Tensor, prediction: PredictionType, objective: ObjectiveConfig
) -> Tensor:
    """What each timestep counts, as a factor of the squared error of what the UNet predicts.

    debiased (arXiv 2310.08442, section 4): the factor by which an error of the UNet's output
    becomes one of ``x_0``, scaled to a mean of 1 over the schedule: the noisier, the more. Of
    ``eps`` that is ``1 / sqrt(SNR)``, as in the paper. Of ``v`` it is ``sqrt(1 - alpha_bar)``,
    since ``x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v`` (arXiv 2202.00512, section 4).

    Min-SNR (arXiv 2303.09556, section 3.4): ``min(SNR, gamma)`` on the squared error of ``x_0``,
    which is ``1 / SNR`` of that of ``eps``, and ``1 / (SNR + 1)`` of that of ``v``. An SNR below
    `LEAST_SNR` counts as that, so that pure noise counts too. A gamma of 0 switches weighting off.

    Returns:
        (B,) float32, finite and above 0.
    """
    gamma = None if objective.weighting == "debiased" else objective.min_snr_gamma
    return _all_weights(alpha_bar, prediction, gamma)[timesteps]


@lru_cache(maxsize=4)
def _all_weights(alpha_bar: Tensor, prediction: PredictionType, gamma: float | None) -> Tensor:
    """(T,) float32, the same at each step of a run. A gamma of None: debiased."""
    signal = alpha_bar.to(torch.float64)
    if gamma is None:
        weight = _debiased(signal, prediction)
        return (weight / weight.mean()).to(torch.float32)
    noise = 1.0 - signal
    if gamma == 0:
        return torch.ones_like(alpha_bar, dtype=torch.float32)
    if prediction == "epsilon":  # gamma / SNR, without dividing by an SNR of 0
        weight = torch.where(signal > gamma * noise, gamma * noise / signal, 1.0)
    else:  # SNR / (SNR + 1) is alpha_bar, and gamma / (SNR + 1) is gamma (1 - alpha_bar)
        weight = torch.minimum(signal.clamp_min(LEAST_SNR * noise), gamma * noise)
    return weight.to(torch.float32)


def _debiased(signal: Tensor, prediction: PredictionType) -> Tensor:
    """(T,) weights on the error of eps or v; ``signal`` is alpha_bar."""
    noise = 1.0 - signal
    if prediction == "epsilon":
        return (noise / signal.clamp_min(LEAST_SNR * noise)).sqrt()
    return noise.sqrt()


def huber_widths(alpha_bar: Tensor, timesteps: Tensor, objective: ObjectiveConfig) -> Tensor | None:
    """Up to where errors count by their square, (B,); None: always.

    The schedules of arXiv 2403.16728, section 4: constant c; exponential ``c^(t / T)``; snr
    ``(1 - c) / (1 + sigma)^2 + c`` with ``sigma = 1 / sqrt(SNR)``.
    """
    if objective.loss == "mse":
        return None
    c = objective.huber_c
    if objective.huber_schedule == "constant":
        return torch.full_like(alpha_bar[timesteps], c)
    if objective.huber_schedule == "exponential":
        return c ** (timesteps.to(alpha_bar) / len(alpha_bar))
    signal = alpha_bar[timesteps]
    sigma = ((1.0 - signal) / signal.clamp_min(1e-12)).sqrt()
    return (1.0 - c) / (1.0 + sigma).pow(2) + c


def sample_errors(
    predicted: Tensor,
    wanted: Tensor,
    masks: Tensor | None = None,
    widths: Tensor | None = None,
    *,
    smooth_l1: bool = False,
) -> Tensor:
    """Mean error of each sample in float32: (B, C, H, W) twice to (B,).

    Args:
        masks: (B, 1, H, W), how much each place counts (masked loss). The mean is taken over what
            counts, so that a small subject weighs as much as a large one; none may be 0 everywhere.
        widths: c (B,) of the pseudo-Huber loss ``2 c (sqrt(d^2 + c^2) - c)`` of a difference d
            (arXiv 2403.16728, eq. 5); None: the squared error.
        smooth_l1: the same without the factor c.
    """
    errors = F.mse_loss(predicted.float(), wanted.float(), reduction="none")
    if widths is not None:
        c = widths.view(-1, 1, 1, 1)
        # sqrt(d^2 + c^2) - c, without the difference of two numbers that are nearly equal
        root = errors / ((errors + c * c).sqrt() + c)
        errors = 2.0 * root * (1.0 if smooth_l1 else c)
    if masks is None:
        return errors.mean(dim=(1, 2, 3))
    return (masks * errors).mean(dim=(1, 2, 3)) / masks.mean(dim=(1, 2, 3))


def feature_drift(moved: Tensor, unmoved: Tensor) -> Tensor:
    """How far text features went, relative to their size: (N, L, D) twice to a 0-d mean."""
    change = (moved.float() - unmoved.float()).pow(2).mean(dim=(1, 2))
    return (change / unmoved.float().pow(2).mean(dim=(1, 2)).clamp_min(1e-12)).mean()
