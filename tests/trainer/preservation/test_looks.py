"""Which of the set's own pictures are held, with which words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.runs_for_tests import make_images
from trainer.config.file import with_values
from trainer.config.schema import ImagesConfig, TrainingConfig
from trainer.data.captions import contains_word
from trainer.data.report import fit_pictures
from trainer.data.sets import Picture, scan_image_set
from trainer.preservation.looks import OTHER_WORD_EVERY, choose_looks

CONCEPTS = [
    {"path": "a", "trigger": "ohwx", "class_word": "car"},
    {"path": "b", "trigger": "bnha", "class_word": "bird"},
]


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    image_set = scan_image_set(make_images(tmp_path / "images"))
    return fit_pictures(image_set, ImagesConfig(resolution=64, upscale=True), 32).fitted[0]


def looks_of(picture: Picture, captions: list[tuple[int, str]], count: int, **values: Any) -> list:
    pictures = [
        (Picture(picture.entry, picture.crop, concept), caption) for concept, caption in captions
    ]
    return choose_looks(with_values(TrainingConfig(), values), pictures, count)


def test_one_subject(picture: Picture) -> None:
    captions = [(0, f"ohwx, a car {number}") for number in range(4)]
    words = {"captions.trigger": "ohwx", "captions.class_word": "car"}
    looks = looks_of(picture, captions, 24, **words)
    prompts = [prompt for _, prompt in looks]
    assert not any(contains_word(prompt, "ohwx") for prompt in prompts)
    plain = [prompt for prompt in prompts if prompt.startswith("a car")]
    strangers = [prompt for prompt in prompts if not prompt.startswith("a car")]
    assert Counter(plain).keys() == {f"a car {number}" for number in range(4)}
    assert len(strangers) == 24 // OTHER_WORD_EVERY
    assert len({prompt.partition(",")[0] for prompt in strangers}) > 3, "not always the same word"
    assert looks == looks_of(picture, captions, 24, **words), "a function of its arguments"


def test_of_several_subjects_each_is_asked_for_by_the_others_words(picture: Picture) -> None:
    captions = [(0, "ohwx, a car"), (0, "ohwx, an old car"), (1, "bnha, a bird")]
    looks = looks_of(picture, captions, 8, concepts=CONCEPTS)
    assert len(looks) == 16
    for chosen, prompt in looks:
        own, other = ("ohwx", "bnha") if chosen.concept == 0 else ("bnha", "ohwx")
        assert not contains_word(prompt, own)
        assert ("car" in prompt) == (chosen.concept == 0)
        assert contains_word(prompt, other) == prompt.startswith(f"{other}, ")
    for concept in (0, 1):
        named = [prompt for chosen, prompt in looks if chosen.concept == concept]
        assert sum(", " in prompt for prompt in named) == 4, "half of them"


def test_without_a_trigger_the_pictures_are_what_is_learned(picture: Picture) -> None:
    assert looks_of(picture, [(0, "a car")], 8, **{"captions.class_word": "car"}) == []
    assert looks_of(picture, [], 8, **{"captions.trigger": "ohwx"}) == []


def test_a_caption_that_is_the_trigger_alone(picture: Picture) -> None:
    prompts = [p for _, p in looks_of(picture, [(0, "ohwx")], 6, **{"captions.trigger": "ohwx"})]
    assert prompts.count("") == 4, "guidance rests on the empty prompt"
    assert not any(prompt.startswith(", ") or prompt.endswith(", ") for prompt in prompts)
