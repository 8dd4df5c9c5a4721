"""Settings that do nothing are named."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config.effects import idle_settings
from trainer.config.fields import all_fields, get_value
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig

FREE = {"optimizer.name": "adamw_schedule_free"}
ONE: dict[str, Any] = {"path": "a", "trigger": "ohwx"}
ROWS: list[tuple[str, Any, dict[str, Any], str]] = [
    # a field, its value, what is set beside it, and a part of what is said of it; "" for nothing
    ("objective.min_snr_gamma", 3.0, {}, "objective.weighting is debiased, not min_snr"),
    ("objective.min_snr_gamma", 3.0, {"objective.weighting": "min_snr"}, ""),
    ("preservation.folder", "mine", {}, "preservation.method is prediction, not pictures"),
    ("preservation.folder", "mine", {"preservation.method": "pictures"}, ""),
    ("preservation.prompts", ["a cat"], {"preservation.method": "pictures"}, "not prediction"),
    ("preservation.every", 3, {"preservation.method": "none"}, "not prediction or pictures"),
    ("preservation.every", 500, {"training.steps": 400}, "so that nothing is preserved"),
    ("preservation.every", 400, {"training.steps": 400}, ""),
    ("preservation.prompts", ["a cat", "my OHWX"], {"captions.trigger": "ohwx"}, "my OHWX has"),
    ("preservation.seed", 3, {"preservation.weight": 0.0}, "preservation.weight is 0"),
    ("optimizer.schedule_cycles", 2, {}, "cosine_with_restarts"),
    ("optimizer.schedule_cycles", 2, {"optimizer.schedule": "cosine_with_restarts"}, ""),
    ("optimizer.schedule", "linear", FREE, "optimizer.name is adamw_schedule_free"),
    ("training.ema_decay", 0.9, FREE, "0.9 has no effect"),
    ("images.mask_outside", 0.0, {}, "not alpha or files"),
    ("previews.prompts", ["ohwx --n blurry"], {}, "--n is drawn as it stands"),
    ("previews.negative", "bad [name]", {}, "[name] is drawn"),
    ("previews.prompts", ["a [Trigger]", "a [name]"], {}, "[name] is drawn"),
    ("previews.prompts", ["ohwx - a cat, well-lit"], {}, ""),
    ("adapter.targets", "convolution", {"adapter.unet": False}, "Only the UNet has conv"),
    ("adapter.targets", "convolution", {}, ""),
    ("previews.negative", "red", {"previews.guidance": 1.0}, "previews.guidance is 1, not above"),
    ("previews.negative", "red", {}, ""),
    ("adapter.alpha", 4096.0, {}, "multiplies what the adapter does by 256"),
    ("adapter.alpha", 32.0, {}, ""),
    ("captions.keep_tags", 3, {}, "captions.shuffle_tags is off"),
    ("evaluation.board", 3, {"evaluation.enabled": False}, "off"),
    ("evaluation.early_stop", 2, {"evaluation.enabled": False}, "evaluation.enabled is off"),
    ("evaluation.early_stop", 2, {"evaluation.every": 0}, "evaluation.every is 0"),
    ("optimizer.text_encoder_learning_rate", 1e-5, {"adapter.text_encoder": False}, "coder is off"),
    ("output.dora_rank", 8, {}, "adapter.kind is lora, not dora"),
    ("optimizer.learning_rate", 1e-4, {"optimizer.name": "prodigy"}, "next to nothing will be"),
    ("optimizer.learning_rate", 1.0, {"optimizer.name": "prodigy"}, ""),
    ("optimizer.learning_rate", 1.0, {}, "the adapter will be noise"),
    ("optimizer.learning_rate", 4e-3, {}, ""),
    ("concepts", [{**ONE, "repeats": 3}], {}, "repeats = 3"),
    ("concepts", [{**ONE, "loss_weight": 0.5}], {}, "loss_weight = 0.5"),
]


@pytest.mark.parametrize(("field", "value", "beside", "said"), ROWS)
def test_what_does_nothing_is_named(
    field: str, value: Any, beside: dict[str, Any], said: str
) -> None:
    config = with_values(TrainingConfig(), {field: value, **beside})
    found = {one.field: one.message for one in idle_settings(config)}
    assert list(found) == ([field] if said else [])
    assert said in found.get(field, "")


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
