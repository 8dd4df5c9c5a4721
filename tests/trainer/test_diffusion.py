"""Noise, targets and loss weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from trainer.config.schema import ObjectiveConfig
from trainer.diffusion import (
    LEAST_SNR,
    add_noise,
    draw_noise,
    draw_timesteps,
    loss_weights,
    squared_error,
    target,
)
from trainer.models.families import PredictionType

SCHEDULES = {
    "scaled_linear": DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ),
    "zero terminal SNR": DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
    ),
}
TIMESTEPS = torch.tensor([0, 1, 250, 500, 998, 999])


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_noising_and_targets_are_those_of_the_scheduler(schedule: DDPMScheduler) -> None:
    latents, noise = torch.randn(2, 6, 4, 8, 8)
    alpha_bar = schedule.alphas_cumprod
    noised = add_noise(latents, noise, alpha_bar, TIMESTEPS)
    torch.testing.assert_close(
        noised,
        schedule.add_noise(latents, noise, TIMESTEPS),  # type: ignore[arg-type]
    )
    velocity = schedule.get_velocity(latents, noise, TIMESTEPS)  # type: ignore[arg-type]
    computed = target(latents, noise, alpha_bar, TIMESTEPS, "v_prediction")
    torch.testing.assert_close(computed, velocity)
    assert target(latents, noise, alpha_bar, TIMESTEPS, "epsilon") is noise


def min_snr(gamma: float) -> ObjectiveConfig:
    return ObjectiveConfig(weighting="min_snr", min_snr_gamma=gamma)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_debiased_weights_the_error_of_the_clean_latents(
    schedule: DDPMScheduler, prediction: PredictionType
) -> None:
    """In every parametrisation the weight on the error of x_0 is the root of the SNR, to scale."""
    alpha_bar = schedule.alphas_cumprod
    every = torch.arange(len(alpha_bar))
    weights = loss_weights(alpha_bar, every, prediction, ObjectiveConfig()).double()
    assert weights.isfinite().all() and weights.mean().item() == pytest.approx(1)
    snr = alpha_bar.double() / (1 - alpha_bar.double())
    seen = snr > 2 * LEAST_SNR
    factor = snr if prediction == "epsilon" else snr + 1
    on_clean = (weights * factor / snr.sqrt())[seen]
    torch.testing.assert_close(on_clean, on_clean[:1].expand_as(on_clean), rtol=1e-5, atol=0)
    picked = loss_weights(alpha_bar, TIMESTEPS, prediction, ObjectiveConfig())
    torch.testing.assert_close(picked.double(), weights[TIMESTEPS])


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_the_error_of_the_clean_latents(
    schedule: DDPMScheduler, prediction: str
) -> None:
    """In every parametrisation the weight on the error of x_0 is min(SNR, gamma)."""
    gamma = 5.0
    alpha_bar = schedule.alphas_cumprod.double()
    weights = loss_weights(schedule.alphas_cumprod, TIMESTEPS, prediction, min_snr(gamma))  # type: ignore[arg-type]
    assert weights.isfinite().all()
    for timestep, weight in zip(TIMESTEPS, weights, strict=True):
        signal = alpha_bar[timestep]
        snr = signal / (1 - signal)
        # An error e of eps is an error e / sqrt(SNR) of x_0; one of v is e / sqrt(SNR + 1).
        factor = snr if prediction == "epsilon" else snr + 1
        wanted = torch.minimum(snr, torch.tensor(gamma).double())
        assert (weight * factor).item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-12)


def test_min_snr_at_zero_terminal_snr() -> None:
    alpha_bar, last = SCHEDULES["zero terminal SNR"].alphas_cumprod, torch.tensor([999])
    assert loss_weights(alpha_bar, last, "epsilon", min_snr(5.0)).item() == 1.0
    assert loss_weights(alpha_bar, last, "v_prediction", min_snr(5.0)).item() == 0.0


def test_gamma_zero_switches_weighting_off() -> None:
    alpha_bar = SCHEDULES["scaled_linear"].alphas_cumprod
    weights = loss_weights(alpha_bar, TIMESTEPS, "epsilon", min_snr(0))
    assert weights.tolist() == [1.0] * len(TIMESTEPS)


def test_timesteps_are_stratified_and_pure() -> None:
    drawn = draw_timesteps(8, seed=1, step=2, timesteps=1000)
    assert sorted((drawn // 125).tolist()) in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 2, 3, 4, 5, 6])
    assert torch.equal(drawn, draw_timesteps(8, seed=1, step=2, timesteps=1000))
    assert not torch.equal(drawn, draw_timesteps(8, seed=1, step=3, timesteps=1000))


def test_timesteps_are_uniform_over_steps() -> None:
    drawn = torch.cat([draw_timesteps(2, seed=0, step=s, timesteps=10) for s in range(2000)])
    counts = torch.bincount(drawn, minlength=10)
    assert counts.sum() == 4000
    assert (counts - 400).abs().max() < 80  # four standard deviations of independent draws


def test_noise_belongs_to_its_slot() -> None:
    first = draw_noise((4, 8, 8), 0, seed=1, step=2)
    assert torch.equal(first, draw_noise((4, 8, 8), 0, seed=1, step=2))
    for other in (
        draw_noise((4, 8, 8), 1, seed=1, step=2),
        draw_noise((4, 8, 8), 0, seed=2, step=2),
        draw_noise((4, 8, 8), 0, seed=1, step=3),
    ):
        assert not torch.equal(first, other)


def test_noise_offset_shifts_whole_channels() -> None:
    plain = draw_noise((4, 8, 8), 0, seed=1, step=2)
    shifted = draw_noise((4, 8, 8), 0, seed=1, step=2, offset=0.1)
    difference = (shifted - plain).flatten(1)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))
    assert difference[:, 0].abs().min() > 0


def test_squared_error_is_one_number_a_sample() -> None:
    predicted, wanted = torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)
    wanted[1] *= 3
    assert squared_error(predicted, wanted).tolist() == [1.0, 9.0]
