"""Settings that do nothing are named."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config.effects import idle_settings
from trainer.config.fields import all_fields, get_value
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig


def idle(values: dict[str, Any]) -> dict[str, str]:
    """What is said of a configuration, by field."""
    return {one.field: one.message for one in idle_settings(with_values(TrainingConfig(), values))}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"objective.min_snr_gamma": 3.0},
            {"objective.min_snr_gamma": "objective.weighting is debiased, not min_snr"},
        ),
        ({"objective.min_snr_gamma": 3.0, "objective.weighting": "min_snr"}, {}),
        (
            {"preservation.folder": "mine"},
            {"preservation.folder": "preservation.method is prediction, not pictures"},
        ),
        ({"preservation.folder": "mine", "preservation.method": "pictures"}, {}),
        (
            {"preservation.prompts": ["a cat"], "preservation.method": "pictures"},
            {"preservation.prompts": "not prediction"},
        ),
        (
            {"preservation.every": 3, "preservation.method": "none"},
            {"preservation.every": "not prediction or pictures"},
        ),
        (
            {"preservation.seed": 3, "preservation.weight": 0.0},
            {"preservation.seed": "preservation.weight is 0"},
        ),
        ({"optimizer.schedule_cycles": 2}, {"optimizer.schedule_cycles": "cosine_with_restarts"}),
        ({"optimizer.schedule_cycles": 2, "optimizer.schedule": "cosine_with_restarts"}, {}),
        (
            {
                "optimizer.name": "adamw_schedule_free",
                "optimizer.schedule": "linear",
                "training.ema_decay": 0.9,
            },
            {
                "optimizer.schedule": "optimizer.name is adamw_schedule_free",
                "training.ema_decay": "0.9 has no effect",
            },
        ),
        ({"images.mask_outside": 0.0}, {"images.mask_outside": "not alpha or files"}),
        ({"previews.prompts": ["ohwx --n blurry"]}, {"previews.prompts": "--n would be drawn"}),
        ({"previews.prompts": ["ohwx - a cat, well-lit"]}, {}),
        ({"captions.keep_tags": 3}, {"captions.keep_tags": "captions.shuffle_tags is off"}),
        (
            {"evaluation.board": 3, "evaluation.early_stop": 2, "evaluation.enabled": False},
            {"evaluation.board": "off", "evaluation.early_stop": "evaluation.enabled is off"},
        ),
        (
            {"evaluation.early_stop": 2, "evaluation.every": 0},
            {"evaluation.early_stop": "evaluation.every is 0"},
        ),
        (
            {"optimizer.text_encoder_learning_rate": 1e-5, "adapter.text_encoder": False},
            {"optimizer.text_encoder_learning_rate": "adapter.text_encoder is off"},
        ),
        ({"output.dora_rank": 8}, {"output.dora_rank": "adapter.kind is lora, not dora"}),
        (
            {"optimizer.name": "prodigy", "optimizer.learning_rate": 1e-4},
            {"optimizer.learning_rate": "next to nothing will be learned"},
        ),
        ({"optimizer.name": "prodigy", "optimizer.learning_rate": 1.0}, {}),
        (
            {"optimizer.learning_rate": 1.0},
            {"optimizer.learning_rate": "the adapter will be noise"},
        ),
        ({"optimizer.learning_rate": 4e-3}, {}),
        (
            {"concepts": [{"path": "a", "trigger": "ohwx", "repeats": 3}]},
            {"concepts": "repeats = 3"},
        ),
        (
            {"concepts": [{"path": "a", "trigger": "ohwx", "loss_weight": 0.5}]},
            {"concepts": "loss_weight = 0.5"},
        ),
        ({}, {}),
    ],
)
def test_what_does_nothing_is_named(values: dict[str, Any], said: dict[str, str]) -> None:
    found = idle(values)
    assert found.keys() == said.keys()
    for field, part in said.items():
        assert part in found[field]


def test_presets_set_nothing_in_vain() -> None:
    from trainer.config.presets import PRESETS, apply_preset

    for name in PRESETS:
        assert not idle_settings(apply_preset(TrainingConfig(), name)), name


def test_needs_name_fields_and_values_that_exist() -> None:
    """A field's needs are checked against today's fields; its default meets them or is not set."""
    for field in all_fields().values():
        for name, wanted in field.needs.items():
            values = wanted if isinstance(wanted, list | tuple) else [wanted]
            for one in name.split(" or "):
                if one == "concepts":
                    continue
                needed = all_fields()[one]
                get_value(TrainingConfig(), one)
                known = {*needed.choices, *([None] if needed.optional else [])}
                assert wanted is True or set(values) <= known, (field.name, one)
