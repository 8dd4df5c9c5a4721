"""Suggestions: rare, unknown, unused, and far from each other. What is said before training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from trainer.triggers.lab import RARE_FROM, TriggerLab, doubt, far_apart, least_meaning
from trainer.triggers.words import WordLists, english_words, notes


@pytest.mark.parametrize("name", ["tiny-emoji", "sd1", "sd2", "sdxl"])
def test_suggestions_are_good(
    lab: TriggerLab, random_lab: Callable[[str], TriggerLab], lists: WordLists, name: str
) -> None:
    found = (lab if name == "tiny-emoji" else random_lab(name)).suggest(10, class_word="car")
    words = [one.word for one in found]
    assert len(set(words)) == 10
    for one in found:
        assert one.verdict == "good", one.reasons
        assert len(one.pieces) == 1 and one.pieces[0].text == f"{one.word}</w>"
        assert one.pieces[0].id >= RARE_FROM
        assert 3 <= len(one.word) <= 5
        known = lists.look_up(one.word)
        assert known.english == known.other == 0
        assert one.word not in notes() or notes()[one.word].strength == "faint"
        assert one.reads_like == ()
    assert not any(word.endswith(tuple(words)) for word in english_words(1.0))


def test_used_words_are_not_suggested(lab: TriggerLab) -> None:
    first = [one.word for one in lab.suggest(4)]
    captions = [f"a {first[0].upper()} dog", "a dog"]
    second = [one.word for one in lab.suggest(4, captions=captions, used=[first[1]])]
    assert not {first[0], first[1]} & set(second)


def test_the_measured_ranking_puts_known_words_last(lab: TriggerLab) -> None:
    words = ["fox", "ohwx", "dog", "tree"]
    (sense,) = lab.senses("")
    assert least_meaning(words, sense.measure(words))[0] == "ohwx"


def test_far_apart_takes_the_farthest() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    words = ["aaa", "bbb", "ccc", "ddd"]
    none = torch.empty(0, 2)
    assert far_apart(words, vectors, 3, none) == ["aaa", "ddd", "ccc"]
    assert far_apart(words, vectors, 1, vectors[3:]) == ["aaa"]
    assert far_apart(words, vectors, 9, none)[-1] == "bbb"
    assert far_apart([], vectors[:0], 3, none) == []


def test_words_spelled_alike_are_not_both_suggested() -> None:
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    words = ["bsgo", "bsgu", "kltu"]
    assert far_apart(words, vectors, 2, torch.empty(0, 3)) == ["bsgo", "kltu"]


def test_doubt_before_training(lab: TriggerLab) -> None:
    tokenizers = lab.text.tokenizers
    assert doubt("ohwx", tokenizers, "car") is None
    for word in ("dog", "sks", "my cat", "nasa"):
        sentence = doubt(word, tokenizers)
        assert sentence and repr(word) in sentence and "\n" not in sentence
    assert doubt("ohwx", tokenizers, "ohwx") is not None
