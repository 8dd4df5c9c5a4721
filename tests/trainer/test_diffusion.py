"""Noise, targets and loss weights."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from diffusers import DDPMScheduler

from trainer.config.schema import ObjectiveConfig
from trainer.diffusion import add_noise, clean_and_noise, draw_noise, target
from trainer.losses import LEAST_SNR, huber_widths, loss_weights, sample_errors
from trainer.models.families import PredictionType
from trainer.training.batches import draw_timesteps

USUAL: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULES = {
    "scaled_linear": DDPMScheduler(**USUAL),
    "zero terminal SNR": DDPMScheduler(**USUAL, rescale_betas_zero_snr=True),
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


Weighting = Literal["debiased", "min_snr"]
WEIGHED = torch.tensor([0, 500, 900, 990, 999])
WEIGHTS: list[tuple[Weighting, PredictionType, str, list[float]]] = [
    ("debiased", "epsilon", "scaled_linear", [0.00965, 0.536, 2.76, 4.58, 4.84]),
    ("debiased", "epsilon", "zero terminal SNR", [0.00528, 0.321, 3.32, 5.73, 5.73]),
    ("debiased", "v_prediction", "scaled_linear", [0.039, 1.14, 1.33, 1.33, 1.33]),
    ("debiased", "v_prediction", "zero terminal SNR", [0.0383, 1.14, 1.31, 1.31, 1.31]),
    ("min_snr", "epsilon", "scaled_linear", [0.00425, 1.0, 1.0, 1.0, 1.0]),
    ("min_snr", "epsilon", "zero terminal SNR", [0.00425, 1.0, 1.0, 1.0, 1.0]),
    ("min_snr", "v_prediction", "scaled_linear", [0.00425, 0.276, 0.0142, 0.00519, 0.00466]),
    ("min_snr", "v_prediction", "zero terminal SNR", [0.00425, 0.241, 0.00296, 0.001, 0.001]),
]


@pytest.mark.parametrize(("weighting", "prediction", "schedule", "expected"), WEIGHTS)
def test_weights_at_five_timesteps(
    weighting: Weighting, prediction: PredictionType, schedule: str, expected: list[float]
) -> None:
    alpha_bar, objective = SCHEDULES[schedule].alphas_cumprod, ObjectiveConfig(weighting=weighting)
    weights = loss_weights(alpha_bar, WEIGHED, prediction, objective)
    assert weights.tolist() == pytest.approx(expected, rel=1e-2)
    every = loss_weights(alpha_bar, torch.arange(1000), prediction, objective)
    assert every.isfinite().all() and every.min() > 0
    if weighting == "debiased":
        assert every.diff().min() >= -1e-6  # the noisier, the more
        assert every.double().mean().item() == pytest.approx(1)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_debiased_weights_by_what_an_error_of_the_output_does_to_the_clean_latents(
    schedule: DDPMScheduler, prediction: PredictionType
) -> None:
    alpha_bar = schedule.alphas_cumprod
    seen = alpha_bar / (1 - alpha_bar) > 2 * LEAST_SNR
    steps = torch.arange(len(alpha_bar))[seen]
    weights = loss_weights(alpha_bar, steps, prediction, ObjectiveConfig())
    noised, off = torch.zeros(len(steps), 1, 1, 1), torch.full((len(steps), 1, 1, 1), 1e-2)
    right, _ = clean_and_noise(noised, 0 * off, alpha_bar, steps, prediction)
    wrong, _ = clean_and_noise(noised, off, alpha_bar, steps, prediction)
    ratio = weights / (wrong - right).abs().flatten()
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_the_error_of_the_clean_latents(
    schedule: DDPMScheduler, prediction: PredictionType
) -> None:
    """In every parametrisation the weight on the error of x_0 is min(SNR, gamma)."""
    gamma = 5.0
    alpha_bar = schedule.alphas_cumprod.double()
    snr = (alpha_bar / (1 - alpha_bar))[TIMESTEPS]
    seen = snr > LEAST_SNR
    weights = loss_weights(schedule.alphas_cumprod, TIMESTEPS, prediction, min_snr(gamma))
    # An error e of eps is an error e / sqrt(SNR) of x_0; one of v is e / sqrt(SNR + 1).
    factor = snr if prediction == "epsilon" else snr + 1
    wanted = snr.clamp(max=gamma)[seen]
    torch.testing.assert_close((weights * factor)[seen], wanted, rtol=1e-5, atol=0)


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


def test_multires_noise_keeps_its_size_and_is_of_one_piece() -> None:
    noise = draw_noise((4, 64, 64), 0, seed=1, step=2, multires=0.6)
    assert noise.std() == pytest.approx(1.0, abs=0.05)
    plain, coarse = draw_noise((4, 64, 64), 0, seed=1, step=2), noise
    means = [one.unfold(1, 8, 8).unfold(2, 8, 8).mean((-1, -2)).std() for one in (plain, coarse)]
    assert means[1] > 2 * means[0]


HUBER: list[tuple[str, list[float]]] = [  # at the least noise, in the middle, at the most
    ("constant", [0.1, 0.1, 0.1]),
    ("exponential", [1.0, 0.1**0.5, 0.1**0.999]),
    ("snr", [0.95, 0.231, 0.104]),
]


@pytest.mark.parametrize(("schedule", "expected"), HUBER)
def test_where_a_huber_loss_turns_straight(schedule: Any, expected: list[float]) -> None:
    alpha_bar = SCHEDULES["scaled_linear"].alphas_cumprod
    objective = ObjectiveConfig(loss="huber", huber_c=0.1, huber_schedule=schedule)
    widths = huber_widths(alpha_bar, torch.tensor([0, 500, 999]), objective)
    assert widths is not None
    assert widths.tolist() == pytest.approx(expected, abs=0.01)
    assert huber_widths(alpha_bar, TIMESTEPS, ObjectiveConfig()) is None


def test_huber_is_square_below_and_straight_above() -> None:
    wanted, widths = torch.zeros(2, 4, 8, 8), torch.full((2,), 0.1)
    predicted = torch.stack([torch.full((4, 8, 8), 0.001), torch.full((4, 8, 8), 10.0)])
    assert sample_errors(predicted, wanted, widths=widths).tolist() == pytest.approx(
        [1e-6, 0.2 * (10 - 0.1)], rel=1e-3
    )
    smooth = sample_errors(predicted, wanted, widths=widths, smooth_l1=True)
    assert smooth.tolist() == pytest.approx([1e-5, 2 * (10 - 0.1)], rel=1e-3)


def test_an_error_is_one_number_a_sample() -> None:
    predicted, wanted = torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)
    wanted[1] *= 3
    assert sample_errors(predicted, wanted).tolist() == [1.0, 9.0]
