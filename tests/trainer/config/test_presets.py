"""What Train asks first: every answer sets its fields, and a configuration says its answers."""

from __future__ import annotations

from itertools import product

import pytest

from trainer.config.fields import all_fields, get_value
from trainer.config.file import with_values
from trainer.config.presets import FIRST_ANSWERS, PRESETS, QUESTIONS, answered, answers_of
from trainer.config.schema import TrainingConfig

COMBINED = [
    dict(zip(QUESTIONS, answers, strict=True))
    for answers in product(*(question.answers for question in QUESTIONS.values()))
]


@pytest.mark.parametrize("answers", COMBINED, ids=lambda one: "-".join(one.values()))
def test_answers_come_back_from_what_they_set(answers: dict[str, str]) -> None:
    values = answered(answers)
    for answer in answers.values():
        for name, value in (PRESETS[answer].values if answer in PRESETS else {}).items():
            assert values[name] == value or value == all_fields()[name].default
    config = with_values(TrainingConfig(), values)
    if answers["kind"] == "several":  # known by its subjects
        subject = {"path": "a", "trigger": "ohwx"}
        config = TrainingConfig.model_validate({**config.model_dump(), "concepts": [subject]})
    assert answers_of(config) == answers


def test_an_answer_takes_back_what_the_one_before_has_set() -> None:
    style, thing = answered({"kind": "style"}), answered({"kind": "thing"})
    assert style.keys() == thing.keys() and style["images.flip"] and not thing["images.flip"]
    assert all(get_value(TrainingConfig(), name) == value for name, value in thing.items())


def test_settings_of_ones_own_are_no_answer() -> None:
    values = {**answered(FIRST_ANSWERS), "training.steps": 12, "preservation.weight": 1.5}
    found = answers_of(with_values(TrainingConfig(), values))
    assert found == {"kind": "thing", "length": None, "hold": None}
