"""Which prompts are preserved, and with which prompts the set's own pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images
from trainer.conditioning import TextSource
from trainer.config.file import with_values
from trainer.config.schema import ImagesConfig, TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.captions import contains_word
from trainer.data.report import fit_pictures
from trainer.data.sets import Picture, scan_image_set
from trainer.evaluation.things import KINDS, kind_of
from trainer.memory.devices import choose_device
from trainer.models.load import load_base
from trainer.preservation.prompts import (
    NEIGHBOURS,
    OTHER_SUBJECTS,
    OTHER_WORD_EVERY,
    OTHERS,
    TURNS,
    PreservedPrompts,
    class_prompts,
    preserved_prompts,
    prompts_for_own_pictures,
)

CAPTIONS = ["ohwx, photo of a car, red", "ohwx, photo of an old car", "bnha, a bird on a car"]
CONCEPTS = [
    {"path": "a", "trigger": "ohwx", "class_word": "car"},
    {"path": "b", "trigger": "bnha", "class_word": "bird"},
]
WORDS = {"captions.trigger": "ohwx", "captions.class_word": "car"}


def everything(found: PreservedPrompts) -> tuple[str, ...]:
    return (*found.captions, *found.class_words, *found.neighbours, *found.others)


@pytest.fixture
def prompts(tiny_base: TinyBase, tmp_path: Path) -> Any:
    def make(captions: list[str], **values: Any) -> PreservedPrompts:
        cache = TensorCache(tmp_path, print)
        config = with_values(TrainingConfig(), values)
        base = load_base(str(tiny_base("sd1")))
        text = TextSource(base, cache, trained=False, device=choose_device("fp32"))
        return preserved_prompts(text, config, captions)

    return make


def test_no_prompt_has_a_trigger_and_every_kind_is_there(prompts: Any) -> None:
    found = prompts(CAPTIONS, concepts=CONCEPTS)
    assert not [text for text in everything(found) if "ohwx" in text or "bnha" in text]
    assert set(found.captions) == {"photo of a car, red", "photo of an old car", "a bird on a car"}
    assert {"car", "bird", "a photo of a car"} <= set(found.class_words)
    # Other things in the phrasings of the captions, with the article that suits them.
    assert any(prompt.startswith("photo of an ") for prompt in found.others)
    assert "photo of a dog, red" in found.others
    assert "a house on a car" not in found.neighbours  # the gap is where the own word was
    assert not [prompt for prompt in found.neighbours if "{" in prompt]
    assert 8 * len(found.neighbours) > len(found.others) > 3 * len(OTHER_SUBJECTS)


@pytest.mark.parametrize(("word", "like"), [("police car", "taxi"), ("teddy bear", "panda")])
def test_things_of_the_class_words_kind_come_before_all_others(
    prompts: Any, word: str, like: str
) -> None:
    """A text encoder alone may call a guitar nearer to a car than a taxi."""
    found = prompts([], **{"captions.trigger": "ohwx", "captions.class_word": word}).neighbours
    near = {text.removeprefix("a photo of a ") for text in found if "a photo of a " in text}
    assert like in near
    of_kind = {thing for thing in OTHERS[kind_of(word) or ""] if not contains_word(word, thing)}
    assert len(near & of_kind) >= min(len(of_kind), NEIGHBOURS) - 2  # "an" ambulance is left out


def test_every_thing_has_a_kind_that_is_measured() -> None:
    assert set(OTHERS) <= set(KINDS)
    assert all(kind_of(thing) in (kind, None) for kind, found in OTHERS.items() for thing in found)
    assert len(set(OTHER_SUBJECTS)) == len(OTHER_SUBJECTS)


def test_ten_prompts_in_a_row_are_of_every_kind() -> None:
    made = PreservedPrompts(("captions",), ("class",), ("neighbours",), ("others",))
    for block in range(3):
        chosen = [made.choose(10 * block + n, seed=1, purpose="x") or "empty" for n in range(10)]
        assert Counter(chosen) == Counter(TURNS)
    first, again, *others = (
        [made.choose(number, seed=seed, purpose=purpose) for number in range(40)]
        for seed, purpose in ((1, "x"), (1, "x"), (2, "x"), (1, "y"))
    )
    assert first == again
    assert first not in others


def test_without_captions_or_class_word_something_is_preserved(prompts: Any) -> None:
    found = prompts([], **{"captions.trigger": "ohwx"})
    assert (found.captions, found.class_words, found.neighbours) == ((), (), ())
    assert all(found.choose(n, seed=0, purpose="x") in ("", *found.others) for n in range(20))


def test_each_own_prompt_comes_first_and_moves_no_other(prompts: Any) -> None:
    without, mine = prompts(CAPTIONS, **WORDS), ["my house", "my dog", "my boat"]
    found = prompts(CAPTIONS, **WORDS, **{"preservation.prompts": mine})
    row, rest = (
        [made.choose(n, seed=0, purpose="x") for n in range(count)]
        for made, count in ((found, 33), (without, 30))
    )
    assert row == [*mine, *rest]


def test_a_trigger_that_is_a_common_word_is_not_preserved(prompts: Any) -> None:
    values = {"captions.trigger": "Dog", "captions.class_word": "car"}
    found = prompts(["dog, photo of a car"], **values, **{"preservation.prompts": ["my dog"]})
    assert not [prompt for prompt in everything(found) if "dog" in prompt.split()]
    assert "a photo of a cat" in found.others


def test_class_prompts() -> None:
    several = with_values(TrainingConfig(), {"concepts": [*CONCEPTS, {"trigger": "dbz"}]})
    assert class_prompts(several) == ["a car", "a bird"]
    assert class_prompts(TrainingConfig()) == [""]


# ---------------------------------------------------------------------- the set's own pictures


@pytest.fixture
def own(tmp_path: Path) -> Any:
    image_set = scan_image_set(make_images(tmp_path / "images", count=1))
    picture = fit_pictures(image_set, ImagesConfig(resolution=64, upscale=True), 32).fitted[0]

    def ask(captions: list[tuple[int, str]], count: int, **values: Any) -> list[Any]:
        pictures = [
            (Picture(picture.entry, picture.crop, concept), text) for concept, text in captions
        ]
        return prompts_for_own_pictures(with_values(TrainingConfig(), values), pictures, count)

    return ask


def test_one_subject(own: Any) -> None:
    captions = [(0, f"ohwx, a car {number}") for number in range(4)]
    found = own(captions, 24, **WORDS)
    prompts = [prompt for _, prompt in found]
    assert not any(contains_word(prompt, "ohwx") for prompt in prompts)
    plain = [prompt for prompt in prompts if prompt.startswith("a car")]
    others = [prompt for prompt in prompts if not prompt.startswith("a car")]
    assert Counter(plain).keys() == {f"a car {number}" for number in range(4)}
    assert len(others) == 24 // OTHER_WORD_EVERY
    assert len({prompt.partition(",")[0] for prompt in others}) > 3, "not always the same word"
    assert found == own(captions, 24, **WORDS), "a function of its arguments"


def test_of_several_subjects_each_is_asked_for_by_the_others_words(own: Any) -> None:
    found = own(
        [(0, "ohwx, a car"), (0, "ohwx, an old car"), (1, "bnha, a bird")], 8, concepts=CONCEPTS
    )
    assert len(found) == 16
    for chosen, prompt in found:
        mine, other = ("ohwx", "bnha") if chosen.concept == 0 else ("bnha", "ohwx")
        assert not contains_word(prompt, mine)
        assert ("car" in prompt) == (chosen.concept == 0)
        assert contains_word(prompt, other) == prompt.startswith(f"{other}, ")
    for concept in (0, 1):
        named = [prompt for chosen, prompt in found if chosen.concept == concept]
        assert sum(", " in prompt for prompt in named) == 4, "half of them"


def test_without_a_trigger_the_pictures_are_what_is_learned(own: Any) -> None:
    assert own([(0, "a car")], 8, **{"captions.class_word": "car"}) == []
    assert own([], 8, **{"captions.trigger": "ohwx"}) == []


def test_a_caption_that_is_the_trigger_alone(own: Any) -> None:
    prompts = [prompt for _, prompt in own([(0, "ohwx")], 6, **{"captions.trigger": "ohwx"})]
    assert prompts.count("") == 4, "guidance rests on the empty prompt"
    assert not any(prompt.startswith(", ") or prompt.endswith(", ") for prompt in prompts)
