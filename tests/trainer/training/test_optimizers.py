"""Optimizers, parameter groups and schedules."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from trainer.config.fields import all_fields
from trainer.config.file import with_values
from trainer.config.optimizers import OPTIMIZERS
from trainer.config.schema import OptimizerConfig, TrainingConfig
from trainer.errors import UserError
from trainer.lora.names import Part
from trainer.training.optimizers import (
    gradient_norm,
    leading_rate,
    make_optimizer,
    make_schedule,
    own_averages,
    parameter_groups,
    rates_in_words,
    set_learning_rates,
)


def _parts() -> dict[Part, list[tuple[str, Parameter]]]:
    def pair() -> list[tuple[str, Parameter]]:
        return [
            ("layer.lora_A", Parameter(torch.ones(2, 3))),
            ("layer.lora_B", Parameter(torch.ones(3, 2))),
        ]

    return {"unet": pair(), "text_encoder": pair()}


RATES: dict[Part, float] = {"unet": 1e-2, "text_encoder": 1e-3}


def test_every_group_keeps_its_own_rate_and_nothing_else_changes() -> None:
    groups = parameter_groups(_parts(), RATES, lora_plus_ratio=4.0)
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.03), groups)
    set_learning_rates(optimizer, 0.5)
    seen = {(g["part"], g["matrix"]): g["lr"] for g in optimizer.param_groups}
    assert seen == {
        ("unet", "A"): 0.005,
        ("unet", "B"): 0.02,
        ("text_encoder", "A"): 0.0005,
        ("text_encoder", "B"): 0.002,
    }
    for group in optimizer.param_groups:
        assert (group["weight_decay"], group["betas"], group["eps"]) == (0.03, (0.9, 0.999), 1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    parts = _parts()
    config = OptimizerConfig.model_validate({"name": name})
    rates: dict[Part, float] = dict.fromkeys(RATES, 1.0 if name == "prodigy" else 1e-2)
    optimizer = make_optimizer(config, parameter_groups(parts, rates))
    parameters = [parameter for named in parts.values() for _, parameter in named]

    def loss() -> torch.Tensor:
        return torch.stack([p.pow(2).sum() for p in parameters]).sum()

    before = loss().item()
    for _ in range(50):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < before
    assert all(not torch.equal(p, torch.ones_like(p)) for p in parameters)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_starts_at_zero_learns(name: str) -> None:
    """B does; a step in shares of a parameter's own size would leave it there."""
    zero = torch.nn.Parameter(torch.zeros(16, 4))
    named = {"unet": [("layer.lora_B.default.weight", zero)]}
    rates: dict[Part, float] = dict.fromkeys(RATES, 1.0 if name == "prodigy" else 1e-2)
    config = OptimizerConfig.model_validate({"name": name})
    optimizer = make_optimizer(config, parameter_groups(named, rates))  # type: ignore[arg-type]
    for _ in range(60):
        optimizer.zero_grad()
        (zero - 1).pow(2).mean().backward()
        optimizer.step()
    assert zero.mean() > 0.3


def test_adamw8bit_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.training.optimizers.find_spec", lambda _: None)
    with pytest.raises(UserError, match="adamw8bit needs the package bitsandbytes"):
        make_optimizer(OptimizerConfig(name="adamw8bit"), parameter_groups(_parts(), RATES))


SCHEDULES = all_fields()["optimizer.schedule"].choices


def factors(total: int = 100, **values: Any) -> list[float]:
    """The schedule's factor at each step of a run."""
    schedule = make_schedule(OptimizerConfig.model_validate(values), total)
    return [schedule(step) for step in range(total)]


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ({"schedule": "constant"}, {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 99: 1.0}),
        ({"schedule": "linear"}, {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.5, 99: 1 / 90}),
        ({"schedule": "cosine"}, {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.5, 70: 0.25}),
        (
            {"schedule": "cosine_with_restarts"},
            {9: 1.0, 10: 1.0, 25: 0.5, 30: 0.25, 40: 1.0, 70: 1.0, 85: 0.5},
        ),
        ({"schedule": "cosine_with_restarts", "schedule_cycles": 1}, {10: 1.0, 55: 0.5, 70: 0.25}),
        ({"schedule": "polynomial"}, {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.25}),
        ({"schedule": "polynomial", "schedule_power": 1.0}, {10: 1.0, 55: 0.5}),
    ],
)
def test_schedules_are_functions_of_the_step(values: Any, at: dict[int, float]) -> None:
    found = factors(warmup=0.1, **values)
    assert {step: found[step] for step in at} == pytest.approx(at, abs=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("total", [1, 2, 7, 400])
def test_no_step_is_taken_in_vain(schedule: str, warmup: float, total: int) -> None:
    """Every schedule heeds the warm-up, reaches the full rate, and is above 0 in each step."""
    found = factors(total, schedule=schedule, warmup=warmup)
    assert all(0.0 < factor <= 1.0 for factor in found)
    assert max(found) == 1.0
    rising = round(warmup * total)
    assert found[:rising] == pytest.approx([(step + 1) / rising for step in range(rising)])


def test_no_schedule_is_another_under_a_second_name() -> None:
    found = {schedule: factors(schedule=schedule) for schedule in SCHEDULES}
    for first, second in combinations(found.values(), 2):
        assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 0.1


def test_the_older_name_of_a_constant_schedule_is_read() -> None:
    named = OptimizerConfig.model_validate({"schedule": "constant_with_warmup"})
    assert named.schedule == "constant"


def test_an_optimizer_that_averages_keeps_its_rate() -> None:
    found = factors(10, name="adamw_schedule_free", schedule="linear", warmup=0.2)
    assert found == [0.5, *[1.0] * 9]


def test_averages_are_those_of_the_paper() -> None:
    """arXiv 2405.15682, eq. 3 to 5, with equal weights: x is the mean of all z after the first."""
    trained = Parameter(torch.zeros(3, 2))
    groups = parameter_groups({"unet": [("x.lora_B", trained)]}, RATES)
    config = OptimizerConfig(name="adamw_schedule_free", weight_decay=0.0)
    optimizer = make_optimizer(config, groups)
    assert torch.equal(own_averages(optimizer, [trained])[0], trained)  # not moved yet
    steps: list[torch.Tensor] = []
    for number in range(5):
        trained.grad = torch.full((3, 2), float(number - 1))
        optimizer.step()
        steps.append(optimizer.state[trained]["z"].clone())
    average = torch.stack(steps).mean(0)
    torch.testing.assert_close(own_averages(optimizer, [trained])[0], average)
    torch.testing.assert_close(trained.detach(), 0.1 * steps[-1] + 0.9 * average)


def test_gradient_norm_is_over_everything() -> None:
    first, second = Parameter(torch.zeros(2)), Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([2.0, 1.0]), torch.tensor([2.0])
    assert gradient_norm([first, second, Parameter(torch.zeros(1))]).item() == 3.0


@pytest.mark.parametrize(
    ("values", "said", "logged"),
    [
        ({}, "adamw at 0.004 (UNet) and 0.006 (text encoder)", 4e-3),
        ({"adapter.text_encoder": False, "optimizer.name": "lion"}, "lion at 0.004 (UNet)", 4e-3),
        (
            {"adapter.unet": False, "optimizer.name": "prodigy"},
            "prodigy, which finds the rate by itself, times 0.006 (text encoder)",
            6e-3,
        ),
    ],
)
def test_the_rates_are_said(values: dict[str, Any], said: str, logged: float) -> None:
    rates = {"optimizer.learning_rate": 4e-3, "optimizer.text_encoder_learning_rate": 6e-3}
    config = with_values(TrainingConfig(), {**rates, **values})
    assert rates_in_words(config) == said
    assert leading_rate(config) == logged


def test_prodigy_refuses_several_rates() -> None:
    with pytest.raises(UserError, match=r"0\.001 and 0\.01 would be"):
        make_optimizer(OptimizerConfig(name="prodigy"), parameter_groups(_parts(), RATES))
