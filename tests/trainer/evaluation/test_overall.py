"""The verdict in one word, from drawn pictures and from the findings; and the next step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.evaluation.overall import (
    PARTLY,
    WORKS,
    VerdictCode,
    judge,
    refusal,
    verdict_code,
    worst,
)
from trainer.evaluation.pictorial import PictureScores
from trainer.evaluation.verdicts import Candidate, FindingCode
from trainer.events import Meters

LIKE = Meters(0.03, 0.003, 0.004, 0.003, likeness=0.6)
HALF = Meters(0.03, 0.003, 0.004, 0.003, likeness=0.4)
FOREIGN = Meters(0.03, 0.003, 0.004, 0.003, likeness=0.1)
STYLE = Meters(0.001, 0.001, None, 0.001, likeness=0.4)


def drawn(learned: float, taken: float = 0.0, moved: float = 1.0) -> PictureScores:
    return PictureScores({}, {}, 4, {}, {}, learned, taken, moved)


@pytest.mark.parametrize(
    ("meters", "pictures", "found", "expected"),
    [
        (LIKE, drawn(WORKS + 0.01), ["works", "keeps", "still"], "works"),
        (LIKE, drawn(WORKS - 0.01), ["works", "keeps", "still"], "partly"),
        # Predicted well, drawn badly: an unrecognisable style does not work.
        (STYLE, drawn(PARTLY - 0.01), ["works", "keeps", "still"], "not_yet"),
        (STYLE, drawn(PARTLY - 0.01, 0.07), ["works", "leaks", "still"], "not_yet"),
        # Hardly moved: nothing yet. Moved elsewhere: another subject, or broken.
        (HALF, drawn(0.2, moved=0.4), ["works", "keeps", "still"], "not_yet"),
        (HALF, drawn(0.5, moved=0.6), ["works", "keeps", "still"], "wrong_subject"),
        (HALF, drawn(0.5, 0.7, moved=1.2), ["works", "leaks", "still"], "overtrained"),
        # Another subject's adapter: it predicts these pictures a little better than the base.
        (FOREIGN, drawn(0.2, moved=0.4), ["works", "keeps", "still"], "wrong_subject"),
        (FOREIGN, drawn(0.2, moved=0.2), ["works", "keeps", "still"], "not_yet"),
        (FOREIGN, drawn(0.0), ["harmful", "keeps", "still"], "wrong_subject"),
        (FOREIGN, drawn(0.0), ["harmful", "leaks", "moves"], "overtrained"),
        (LIKE, drawn(WORKS + 0.01, 0.15), ["works", "leaks", "still"], "leaks"),
        (LIKE, drawn(WORKS + 0.01, 0.05), ["works", "leaks", "still"], "works"),
        (LIKE, drawn(0.5, 0.5), ["works", "leaks", "still"], "leaks"),
        (LIKE, drawn(0.5, 0.2, moved=0.4), ["works", "leaks", "still"], "not_yet"),
        (LIKE, drawn(WORKS + 0.01, taken=0.4), ["works", "keeps", "still"], "leaks"),
        (LIKE, drawn(WORKS + 0.01, taken=0.1), ["works", "keeps", "overtrained"], "overtrained"),
        (LIKE, drawn(0.0), ["weak", "keeps"], "not_yet"),
        (LIKE, None, ["works", "keeps"], "works"),
        (LIKE, None, ["works", "leaks"], "leaks"),
        (Meters(0.03), None, ["unmeasured", "keeps"], "unmeasured"),
        (Meters(0.03), None, ["unmeasured", "leaks"], "leaks"),
        (Meters(), None, ["dead"], "dead"),
    ],
)
def test_the_word(
    meters: Meters,
    pictures: PictureScores | None,
    found: Sequence[FindingCode],
    expected: VerdictCode,
) -> None:
    assert verdict_code(meters, pictures, found) == expected


def test_a_run_is_never_told_that_its_own_pictures_are_others() -> None:
    still: list[FindingCode] = ["works", "keeps", "still"]
    assert verdict_code(FOREIGN, drawn(0.2, moved=0.4), still, own=True) == "not_yet"
    assert verdict_code(FOREIGN, drawn(0.0), ["harmful", "keeps"], own=True) == "overtrained"


def test_the_worst_subject_stands_for_all() -> None:
    assert worst(["works", "leaks", "partly"]) == "leaks"
    assert worst(["works", "partly"]) == "partly"


LAST = Candidate("adapter.safetensors", 300, 1.0, LIKE)
EARLIER = Candidate("adapters/step-000200.safetensors", 200, 1.0, LIKE)


@pytest.mark.parametrize(
    ("code", "chosen", "values", "next_code", "next_values"),
    [
        ("works", EARLIER, {}, "use", {"checkpoint": EARLIER.file, "strength": 1.0}),
        ("partly", LAST, {}, "train_longer", {"training.steps": 500}),
        ("not_yet", None, {}, "train_longer", {"training.steps": 600}),
        ("overtrained", EARLIER, {}, "use", {"checkpoint": EARLIER.file, "strength": 1.0}),
        ("overtrained", LAST, {}, "train_less", {"training.steps": 150}),
        ("leaks", None, {"captions.class_word": "dog"}, "preserve_more",
         {"preservation.every": 1, "preservation.weight": 6.0}),
        ("leaks", None, {"captions.class_word": "dog", "preservation.method": "none"},
         "preserve_more", {"preservation.method": "prediction"}),
        ("leaks", None, {}, "check_words", {}),
        ("wrong_subject", None, {}, "check_words", {}),
        ("dead", None, {}, "check_rate", {}),
        ("unmeasured", LAST, {}, "give_pictures", {}),
    ],
)  # fmt: skip
def test_the_next_step(
    code: VerdictCode,
    chosen: Candidate | None,
    values: dict[str, object],
    next_code: str,
    next_values: dict[str, object],
) -> None:
    """As data with a code: what it names can be put into a configuration as it is."""
    config = with_values(TrainingConfig(), {"preservation.weight": 3.0, **values})
    verdict = judge(code, config, chosen, LAST)
    step = verdict.next_step
    assert (verdict.code, step.code, step.values) == (code, next_code, next_values)
    assert verdict.says
    assert step.says
    if next_code not in ("use", "check_words"):
        with_values(config, step.values)


def test_going_on_leaves_out_what_ended_it(tmp_path: Path) -> None:
    config = with_values(TrainingConfig(), {"evaluation.early_stop": 2})
    command = judge("not_yet", config, None, LAST, place=tmp_path).next_step.command
    assert command.endswith(f"resume {tmp_path} --steps 600 --set evaluation.early_stop=0")


def test_nothing_is_recommended_that_leaks_or_draws_something_else() -> None:
    refused = ("leaks", "wrong_subject", "not_yet")
    assert all(refusal(code) for code in refused)
    assert not refusal("works")
    assert not refusal("partly")


@pytest.mark.parametrize(
    ("code", "next_code"), [("works", "uncouple"), ("partly", "uncouple"), ("leaks", "check_words")]
)
def test_what_the_trigger_word_has_swallowed_comes_first(code: VerdictCode, next_code: str) -> None:
    verdict = judge(code, TrainingConfig(), LAST, LAST, swallowed=["red scarf"])
    assert verdict.next_step.code == next_code
    assert ("“red scarf”" in verdict.next_step.says) == (next_code == "uncouple")
