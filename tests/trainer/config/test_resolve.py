"""What is left to the base model gets values that suit it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import TinyBase
from trainer.config.file import with_values
from trainer.config.optimizers import OPTIMIZERS
from trainer.config.resolve import resolve
from trainer.config.schema import TrainingConfig
from trainer.models.load import load_base


@pytest.mark.parametrize(
    ("values", "rates"),
    [
        ({}, (4e-3, 6e-3)),
        ({"adapter.rank": 4}, (4e-3, 6e-3)),
        ({"adapter.rank": 32}, (2e-3, 3e-3)),
        ({"adapter.rank": 32, "adapter.alpha": 16.0}, (4e-3, 6e-3)),
        ({"adapter.rank": 64, "optimizer.learning_rate": 1e-2}, (1e-2, 1.5e-3)),
        ({"adapter.rank": 32, "optimizer.name": "prodigy"}, (1.0, 1.0)),
        ({"adapter.rank": 32, "optimizer.name": "lion"}, (4e-4, 6e-4)),
        ({"optimizer.schedule": "constant"}, (2e-3, 3e-3)),
        ({"adapter.kind": "rslora"}, (1e-3, 1.5e-3)),
        ({"adapter.kind": "loha"}, (8e-3, 1.2e-2)),
        ({"optimizer.schedule": "constant", "optimizer.name": "prodigy"}, (1.0, 1.0)),
        ({"optimizer.schedule": "constant", "optimizer.name": "adamw_schedule_free"}, (4e-3, 6e-3)),
    ],
)
def test_rates_of_the_built_in_model_follow_alpha(
    values: dict[str, Any], rates: tuple[float, float]
) -> None:
    optimizer = resolve(with_values(TrainingConfig(), values), load_base("tiny-emoji")).optimizer
    found = (optimizer.learning_rate, optimizer.text_encoder_learning_rate)
    assert found == pytest.approx(rates)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_a_rate_of_its_own(tiny_base: TinyBase, name: str) -> None:
    base = load_base(str(tiny_base("sd1")))
    optimizer = resolve(with_values(TrainingConfig(), {"optimizer.name": name}), base).optimizer
    found = (optimizer.learning_rate, optimizer.text_encoder_learning_rate)
    factor = OPTIMIZERS[name].rate
    assert found == (
        (1.0, 1.0) if factor is None else pytest.approx((1e-4 * factor, 5e-5 * factor))
    )


def test_rates_of_other_models_are_their_familys(tiny_base: TinyBase) -> None:
    base = load_base(str(tiny_base("sd1")))
    config = with_values(TrainingConfig(), {"adapter.rank": 32})
    assert resolve(config, base).optimizer.learning_rate == base.family.learning_rate
