"""What is asked: each kind of prompt says what it should and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.evaluation.test_drift import DEVICE
from trainer.data.cache import TensorCache
from trainer.data.captions import contains_word
from trainer.evaluation.prompts import (
    NEIGHBOURS,
    caption_wordings,
    neighbours_of,
    prompt_sets,
    with_article,
)
from trainer.evaluation.things import KINDS, THINGS, kind_of, things_apart_from
from trainer.models.load import load_base
from trainer.preservation.prompts import OTHER_SUBJECTS

CAPTIONS = ["3d emoji of a car, red background", "a Car in the snow", "ohwx, two cars", "{odd} car"]


@pytest.mark.parametrize("class_word", ["car", "owl", "police car", "mug tree", ""])
@pytest.mark.parametrize("captions", [[], CAPTIONS])
def test_each_set_keeps_to_itself(
    tiny_base: TinyBase, tmp_path: Path, class_word: str, captions: list[str]
) -> None:
    base = load_base(str(tiny_base("sd1")))
    cache = TensorCache(tmp_path, print)
    sets = prompt_sets(base, "ohwx", class_word, DEVICE, cache, captions)
    assert sets == prompt_sets(base, "ohwx", class_word, DEVICE, cache, captions)
    assert sets.trigger
    assert all(contains_word(prompt, "ohwx") for prompt in sets.trigger)
    others = (*sets.class_word, *sets.neighbours, *sets.unrelated)
    assert not any(contains_word(prompt, "ohwx") for prompt in others)
    assert "" in sets.unrelated
    assert not set(sets.neighbours) & set(sets.unrelated)
    assert bool(sets.neighbours) == bool(class_word)
    if class_word:
        assert all(contains_word(prompt, class_word) for prompt in sets.class_word)
        outside = (*sets.neighbours, *sets.unrelated)
        assert not any(contains_word(prompt, class_word) for prompt in outside)
    assert set(sets.all) == {*sets.trigger, *others}
    assert len(sets.all) == len(set(sets.all))


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ([], []),
        (["a picture"], []),
        (["ohwx, a car"], ["{}"]),
        (["photo of an old car"], ["photo of {}"]),
        (["photo of the very old car"], ["photo of {}"]),
        (["a photo of car"], ["a photo of {}"]),
        (["a girl in a small red car"], ["a girl in {}"]),
        (["old car, white"], ["old {}, white"]),
        (["3d emoji of a car, blue", "3d emoji of a car, red"], ["3d emoji of {}, blue",
                                                                "3d emoji of {}, red"]),
        (["cars and carts"], []),
        (["a {strange} car"], []),
    ],
)  # fmt: skip
def test_wordings_of_captions(captions: list[str], expected: list[str]) -> None:
    assert caption_wordings(captions, "ohwx", "car") == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [("car", "a car"), ("owl", "an owl"), ("glasses", "glasses"), ("bus", "a bus"),
     ("dress", "a dress"), ("iris", "an iris")],
)  # fmt: skip
def test_articles(words: str, expected: str) -> None:
    assert with_article(words) == expected


def test_what_is_measured_is_not_what_is_preserved() -> None:
    assert set(THINGS).isdisjoint(OTHER_SUBJECTS)
    assert len(set(THINGS)) == len(THINGS)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("car", "vehicles"), ("Police Car", "vehicles"), ("dogs", "animals"),
     ("teddy bear", "animals"), ("owl", "birds"), ("emoji", "pictures"), ("quux", None),
     ("", None)],
)  # fmt: skip
def test_kinds(word: str, kind: str | None) -> None:
    assert kind_of(word) == kind


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_unrelated_things_are_of_other_kinds(kind: str | None) -> None:
    chosen = things_apart_from(kind, 3)
    kinds = {kind_of(thing) for thing in chosen}
    assert len(kinds) == 3
    assert kind not in kinds


def test_an_unknown_class_word_gets_neighbours_from_the_text_encoder(
    tiny_base: TinyBase, tmp_path: Path
) -> None:
    base = load_base(str(tiny_base("sdxl")))
    found = neighbours_of(base, "quux", DEVICE, TensorCache(tmp_path, print))
    assert len(set(found)) == NEIGHBOURS
    assert set(found) <= set(THINGS)
