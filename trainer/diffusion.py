"""What is minimised: noise, targets and loss weights. Tensors in, tensors out.

Notation: ``alpha_bar`` (T,) is the cumulative product of the noise schedule; a noised sample is
``x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps`` (DDPM, arXiv 2006.11239, eq. 4), and
``SNR(t) = alpha_bar_t / (1 - alpha_bar_t)``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trainer.config.schema import ObjectiveConfig
from trainer.seeds import derive_seed

Prediction = Literal["epsilon", "v_prediction"]

LEAST_SNR = 1e-3
"""Noisier timesteps count no more; Stable Diffusion's noisiest has 0.0047."""
CLEAN_RANGE = 5.0
"""Beyond which scaled latents of pictures hardly go, in standard deviations."""


def draw_timesteps(count: int, *, seed: int, step: int, timesteps: int) -> Tensor:
    """Timesteps of the samples of one optimizer step, stratified over the schedule.

    The schedule is cut into ``count`` equal parts and each sample gets one of them, all shifted by
    one uniform offset (low-discrepancy sampling, arXiv 2107.00630, appendix I.1): each timestep
    is uniform, and the loss is less noisy than with independent draws. The parts are shuffled, so
    that a sample's place in the batch says nothing about its noise.

    Args:
        count: samples in the whole step, over batches and processes.
        timesteps: length T of the schedule.

    Returns:
        (count,) int64 in [0, T).
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, step, "timesteps"))
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    places = torch.randperm(count, generator=generator)
    return (((places + offset) / count) * timesteps).long().clamp_(max=timesteps - 1)


def draw_noise(
    shape: tuple[int, int, int], slot: int, *, seed: int, step: int, offset: float = 0.0
) -> Tensor:
    """Noise of the sample in place ``slot`` of a step, the same on every device and process count.

    Args:
        shape: (C, H, W) of the sample's latents.
        offset: size of the shift added to each channel (noise offset).

    Returns:
        (C, H, W) float32 on the CPU.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, step, "noise", slot))
    noise = torch.randn(shape, generator=generator)
    if offset:
        noise += offset * torch.randn((shape[0], 1, 1), generator=generator)
    return noise


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor, timesteps: Tensor) -> Tensor:
    """``x_t`` of arXiv 2006.11239, eq. 4. Latents and noise are (B, C, H, W), timesteps (B,)."""
    signal, sigma = _signal_and_sigma(alpha_bar, timesteps)
    return signal * latents + sigma * noise


def target(
    latents: Tensor, noise: Tensor, alpha_bar: Tensor, timesteps: Tensor, prediction: Prediction
) -> Tensor:
    """What the UNet should predict: ``eps``, or ``v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar)
    x_0`` (arXiv 2202.00512, section 4). Shapes as in `add_noise`."""
    if prediction == "epsilon":
        return noise
    signal, sigma = _signal_and_sigma(alpha_bar, timesteps)
    return signal * noise - sigma * latents


def clean_and_noise(
    noised: Tensor, predicted: Tensor, alpha_bar: Tensor, timesteps: Tensor, prediction: Prediction
) -> tuple[Tensor, Tensor]:
    """What a prediction says of ``x_0`` and ``eps``: the inverse of `add_noise` and `target`.

    ``x_0`` is kept within `CLEAN_RANGE`, as a wild prediction at high noise would leave it.
    """
    signal, sigma = _signal_and_sigma(alpha_bar, timesteps)
    if prediction == "epsilon":
        clean = (noised - sigma * predicted) / signal.clamp_min(1e-4)
        noise = predicted
    else:
        clean = signal * noised - sigma * predicted
        noise = signal * predicted + sigma * noised
    return clean.clamp(-CLEAN_RANGE, CLEAN_RANGE), noise


def loss_weights(
    alpha_bar: Tensor, timesteps: Tensor, prediction: Prediction, objective: ObjectiveConfig
) -> Tensor:
    """What each timestep counts, as a factor of the squared error of what the UNet predicts.

    debiased (arXiv 2310.08442): ``1 / sqrt(SNR)`` on the error of ``eps``, which is ``sqrt(SNR)``
    on that of ``x_0``, scaled to a mean of 1 over the schedule. Min-SNR (arXiv 2303.09556, section
    3.4): ``min(SNR, gamma)`` on the error of ``x_0``; a gamma of 0 switches weighting off. An error
    of ``x_0`` is ``1 / SNR`` of that of ``eps``, and ``1 / (SNR + 1)`` of that of ``v``; written so
    that all is finite at zero terminal SNR.

    Returns:
        (B,) float32.
    """
    if objective.weighting == "debiased":
        weights = _debiased(alpha_bar.to(torch.float64), prediction)
        return (weights / weights.mean())[timesteps].to(torch.float32)
    gamma = objective.min_snr_gamma
    if gamma == 0:
        return torch.ones_like(timesteps, dtype=torch.float32)
    signal = alpha_bar.to(torch.float64)[timesteps]
    noise = 1.0 - signal
    if prediction == "epsilon":  # gamma / SNR, without dividing by an SNR of 0
        weight = torch.where(signal > gamma * noise, gamma * noise / signal, 1.0)
    else:  # SNR / (SNR + 1) is alpha_bar, and gamma / (SNR + 1) is gamma (1 - alpha_bar)
        weight = torch.minimum(signal, gamma * noise)
    return weight.to(torch.float32)


def _debiased(signal: Tensor, prediction: Prediction) -> Tensor:
    """(T,) weights on the error of eps or v; ``signal`` is alpha_bar."""
    noise = 1.0 - signal
    if prediction == "epsilon":
        return (noise / signal.clamp_min(LEAST_SNR * noise)).sqrt()
    return (signal * noise).sqrt()  # sqrt(SNR) / (SNR + 1)


def squared_error(predicted: Tensor, wanted: Tensor, masks: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample in float32: (B, C, H, W) twice to (B,).

    Args:
        masks: (B, 1, H, W), how much each place counts. The mean is taken over what counts, so
            that a small subject weighs as much as a large one; no mask may be 0 everywhere.
    """
    errors = (predicted.float() - wanted.float()).pow(2)
    if masks is None:
        return errors.mean(dim=(1, 2, 3))
    return (masks * errors).mean(dim=(1, 2, 3)) / masks.mean(dim=(1, 2, 3))


def feature_drift(moved: Tensor, unmoved: Tensor) -> Tensor:
    """How far text features went, relative to their size: (N, 77, D) twice to a 0-d mean."""
    change = (moved.float() - unmoved.float()).pow(2).mean(dim=(1, 2))
    return (change / unmoved.float().pow(2).mean(dim=(1, 2)).clamp_min(1e-12)).mean()


def _signal_and_sigma(alpha_bar: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    chosen = alpha_bar[timesteps].view(-1, 1, 1, 1)
    return chosen.sqrt(), (1.0 - chosen).sqrt()
