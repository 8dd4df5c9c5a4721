"""The configuration: documented, frozen, and strict about every value."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trainer.config.fields import (
    all_fields,
    field_help,
    free_settings,
    get_value,
    may_change_on_resume,
    nearest,
    public_values,
    sections,
)
from trainer.config.file import ConfigError, validate, with_values
from trainer.config.schema import AdapterConfig, TrainingConfig

NAN, INF = float("nan"), float("inf")


def message_for(dotted: str, value: object) -> str:
    with pytest.raises(ConfigError) as caught:
        with_values(TrainingConfig(), {dotted: value})
    return caught.value.message


def test_defaults_are_valid_and_frozen() -> None:
    config = TrainingConfig()
    assert config.adapter.alpha is None and config.adapter.rank == 16
    with pytest.raises(ValidationError):
        setattr(config.adapter, "rank", 3)  # noqa: B010  (pyright knows that it is frozen)
    with pytest.raises(ValidationError):
        AdapterConfig.model_validate({"rnak": 3})


def test_every_field_and_section_is_documented() -> None:
    for field in all_fields().values():
        assert len(field.description) > 15, field.name
        assert field.description.endswith("."), field.name
        assert field.expected, field.name
    assert all(section.__doc__ for section in sections().values())


def test_fields_are_those_of_the_model() -> None:
    dumped = TrainingConfig().model_dump()
    names = [f"{section}.{key}" for section, keys in dumped.items() for key in keys]
    assert [field.name for field in all_fields().values()] == names
    rank = all_fields()["adapter.rank"]
    assert (rank.section, rank.key, rank.default) == ("adapter", "rank", 16)
    assert (rank.flag, rank.metavar, rank.title) == ("--rank", "R", "Rank")
    assert rank.description == field_help("adapter.rank")
    with pytest.raises(KeyError):
        field_help("adapter.rnak")


def test_defaults_of_the_fields_make_the_default_configuration() -> None:
    values = {field.name: field.default for field in all_fields().values()}
    plain: dict[str, Any] = {
        name: value.as_posix() if hasattr(value, "as_posix") else value
        for name, value in values.items()
    }
    assert with_values(TrainingConfig(), plain) == TrainingConfig()


@pytest.mark.parametrize(
    ("dotted", "expected", "types"),
    [
        ("adapter.rank", "a whole number from 1 to 1,024", {"integer"}),
        ("adapter.alpha", "a number above 0 up to 4,096, or nothing", {"number", "null"}),
        ("adapter.dropout", "a number from 0 to below 1", {"number"}),
        ("optimizer.learning_rate", "a number above 0 up to 100, or nothing", {"number", "null"}),
        ("checkpoints.keep", "a whole number from 1 upwards", {"integer"}),
        ("training.precision", "one of auto, fp32, bf16, fp16", {"string"}),
        ("images.path", "a path in quotes", {"string"}),
        ("images.background", 'a colour such as "#ffffff"', {"string"}),
        ("images.flip", "true or false", {"boolean"}),
        ("base.name", "a text that is not empty", {"string"}),
        ("captions.trigger", "a text in quotes of at most 60 characters", {"string"}),
        ("previews.prompts", 'a list of texts, such as ["one", "two"]', {"array"}),
    ],
)
def test_what_is_expected_is_said_in_words(dotted: str, expected: str, types: set[str]) -> None:
    field = all_fields()[dotted]
    assert field.expected == expected
    assert field.types == types
    assert field.optional == ("null" in types)
    assert field.choices == (("auto", "fp32", "bf16", "fp16") if "one of" in expected else ())


UNFIT: dict[str, list[object]] = {
    "adapter.rank": [0, -4, 1025, 10**30, 8.5, "8", True, None],
    "adapter.alpha": [0, NAN, INF],
    "adapter.dropout": [1.0, NAN],
    "adapter.unet": [1, "yes"],
    "optimizer.learning_rate": [0, -1e-4, NAN, INF, -INF],
    "optimizer.text_encoder_learning_rate": ["fast"],
    "optimizer.name": ["adamm"],
    "optimizer.warmup": [1.5],
    "training.steps": [0, 10**9],
    "training.seed": [-1],
    "training.ema_decay": [1.0, NAN],
    "objective.min_snr_gamma": [NAN],
    "captions.trigger": ["x" * 61, 5],
    "images.path": [5, ["a"]],
    "images.background": ["white"],
    "previews.prompts": ["one", ["one", 2]],
    "preservation.every": [0],
    "checkpoints.keep": [0],
    "base.name": [""],
}


@pytest.mark.parametrize("dotted", UNFIT)
def test_unfit_values_are_named_with_what_is_expected(dotted: str) -> None:
    """FAULTS 23."""
    for value in UNFIT[dotted]:
        message = message_for(dotted, value)
        assert message.startswith(f"the configuration: {dotted}: ")
        assert message.endswith(f"given, expected {all_fields()[dotted].expected}")


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("previews.guidance", 5),
        ("adapter.alpha", None),
        ("adapter.alpha", 8),
        ("images.path", "~/a b"),
        ("previews.prompts", ["a", ""]),
        ("optimizer.learning_rate", 1e-300),
        ("training.seed", 2**31 - 1),
    ],
)
def test_fit_values_are_taken(dotted: str, value: object) -> None:
    got = get_value(with_values(TrainingConfig(), {dotted: value}), dotted)
    assert (list(got) if isinstance(got, tuple) else got) == value or str(got) == value


def test_contradiction_is_found_beside_other_mistakes_and_names_both_fields() -> None:
    """FAULTS 24."""
    with pytest.raises(ConfigError) as caught:
        validate({"adapter": {"unet": False, "text_encoder": False, "rank": 0}})
    assert "adapter.unet and adapter.text_encoder" in caught.value.message
    fields = [mistake.field for mistake in caught.value.mistakes]
    assert fields == ["adapter.rank", ""]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("adapter.rnak", ["adapter.rank"]),
        ("training.rank", ["adapter.rank"]),
        ("optimizer.learning_rat", ["optimizer.learning_rate"]),
        ("lr", []),
        ("guidance", ["previews.guidance"]),
        ("adaptor", ["[adapter]"]),
        ("training.dropout", ["captions.dropout", "adapter.dropout"]),
        ("zzz.qqq", []),
    ],
)
def test_nearest(wrong: str, right: list[str]) -> None:
    assert nearest(wrong) == right


def test_what_is_declared_of_a_field_is_found() -> None:
    """Private fields never leave the machine; places are free to move when a run goes on."""
    config = with_values(TrainingConfig(), {"concepts": [{"trigger": "ohwx", "path": "x"}]})
    values = public_values(config)
    assert not {"previews", "checkpoints"} & values.keys()
    assert "path" not in values["images"] and "path" not in values["concepts"][0]
    assert values["evaluation"].keys() == {"validation"}
    assert {field.name for field in all_fields().values() if field.place} == {
        *("base.name", "base.vae", "images.path", "adapter.start_from", "preservation.folder"),
        "evaluation.scorers",
    }
    assert may_change_on_resume("concepts.0.path") and may_change_on_resume("training.steps")
    assert not may_change_on_resume("concepts.0.trigger")
    assert not may_change_on_resume("adapter.rank")
    free = free_settings()
    for field in all_fields().values():
        named = field.name in free or f"[{field.section}]" in free
        assert named == (field.resume and not field.place), field.name
    assert all_fields()["adapter.rank"].memory and not all_fields()["previews.every"].memory
