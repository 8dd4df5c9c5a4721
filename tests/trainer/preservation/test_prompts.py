"""Which prompts are held in place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyBase
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.captions import contains_word
from trainer.evaluation.things import KINDS, kind_of
from trainer.memory.devices import choose_device
from trainer.models.load import load_base
from trainer.preservation.prompts import (
    NEIGHBOURS,
    TURNS,
    PreservedPrompts,
    class_prompts,
    preserved_prompts,
)
from trainer.preservation.words import OTHER_SUBJECTS, OTHERS

CAPTIONS = ["ohwx, photo of a car, red", "ohwx, photo of an old car", "bnha, a bird on a car"]
CONCEPTS = [
    {"path": "a", "trigger": "ohwx", "class_word": "car"},
    {"path": "b", "trigger": "bnha", "class_word": "bird"},
]
WORDS = {"captions.trigger": "ohwx", "captions.class_word": "car"}


@pytest.fixture
def prompts(tiny_base: TinyBase, tmp_path: Path) -> Any:
    def make(captions: list[str], **values: Any) -> PreservedPrompts:
        base = load_base(str(tiny_base("sd1")))
        cache = TensorCache(tmp_path, print)
        config = with_values(TrainingConfig(), values)
        return preserved_prompts(base, config, captions, choose_device("fp32"), cache)

    return make


def test_no_prompt_has_a_trigger_and_every_kind_is_there(prompts: Any) -> None:
    found = prompts(CAPTIONS, concepts=CONCEPTS)
    everything = (*found.same, *found.kin, *found.near, *found.others)
    assert not [prompt for prompt in everything if "ohwx" in prompt or "bnha" in prompt]
    assert set(found.same) == {"photo of a car, red", "photo of an old car", "a bird on a car"}
    assert {"car", "bird", "a photo of a car"} <= set(found.kin)
    # Other things in the phrasings of the captions, with the article that suits them.
    assert any(prompt.startswith("photo of an ") for prompt in found.others)
    assert "photo of a dog, red" in found.others
    assert "a house on a car" not in found.near  # the gap is where the concept's own word was
    assert not [prompt for prompt in found.near if "{" in prompt]
    assert 8 * len(found.near) > len(found.others) > 3 * len(OTHER_SUBJECTS)


@pytest.mark.parametrize(("word", "kin"), [("police car", "taxi"), ("teddy bear", "panda")])
def test_things_of_the_class_words_kind_are_near_before_all_others(
    prompts: Any, word: str, kin: str
) -> None:
    """A text encoder alone may call a guitar nearer to a car than a taxi."""
    found = prompts([], **{"captions.trigger": "ohwx", "captions.class_word": word})
    near = {text.removeprefix("a photo of a ") for text in found.near if "a photo of a " in text}
    assert kin in near
    of_kind = {thing for thing in OTHERS[kind_of(word) or ""] if not contains_word(word, thing)}
    assert len(near & of_kind) >= min(len(of_kind), NEIGHBOURS) - 2  # "an" ambulance is left out


def test_every_thing_has_a_kind_that_is_measured() -> None:
    assert set(OTHERS) <= set(KINDS)
    assert all(kind_of(thing) in (kind, None) for kind, found in OTHERS.items() for thing in found)
    assert len(set(OTHER_SUBJECTS)) == len(OTHER_SUBJECTS)


def test_ten_prompts_in_a_row_hold_every_kind() -> None:
    made = PreservedPrompts(("same",), ("kin",), ("near",), ("others",))
    for block in range(3):
        chosen = [made.choose(10 * block + n, seed=1, purpose="x") or "empty" for n in range(10)]
        assert Counter(chosen) == Counter(TURNS)
    rows = [
        [made.choose(number, seed=seed, purpose=purpose) for number in range(40)]
        for seed, purpose in ((1, "x"), (1, "x"), (2, "x"), (1, "y"))
    ]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert rows[0] != rows[3]


def test_without_captions_or_class_word_something_is_still_held(prompts: Any) -> None:
    found = prompts([], **{"captions.trigger": "ohwx"})
    assert (found.same, found.kin, found.near) == ((), (), ())
    assert all(found.choose(n, seed=0, purpose="x") in ("", *found.others) for n in range(20))


def test_own_prompts_get_half_of_the_turns_of_others(prompts: Any) -> None:
    found = prompts(CAPTIONS, **WORDS, **{"preservation.prompts": ["my house"]})
    assert found.others.count("my house") == len(found.others) // 2


def test_a_trigger_that_is_a_common_word_is_not_held(prompts: Any) -> None:
    values = {"captions.trigger": "Dog", "captions.class_word": "car"}
    found = prompts(["dog, photo of a car"], **values, **{"preservation.prompts": ["my dog"]})
    everything = (*found.same, *found.kin, *found.near, *found.others)
    assert not [prompt for prompt in everything if "dog" in prompt.split()]
    assert "a photo of a cat" in found.others


def test_class_prompts() -> None:
    several = with_values(TrainingConfig(), {"concepts": [*CONCEPTS, {"trigger": "dbz"}]})
    assert class_prompts(several) == ["a car", "a bird"]
    assert class_prompts(TrainingConfig()) == [""]
