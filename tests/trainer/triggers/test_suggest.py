"""Suggestions: rare, unknown, unused, and far from each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from trainer.triggers import suggest
from trainer.triggers.lab import TriggerLab
from trainer.triggers.words import WordLists, notes, words_ending


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
        assert one.pieces[0].id >= suggest.RARE_FROM
        assert 3 <= len(one.word) <= 5
        known = lists.look_up(one.word)
        assert known.english == known.other == 0
        assert one.word not in notes() or notes()[one.word].strength == "faint"
        assert not words_ending([one.word], least=1.0)
        assert one.reads_like == ()


def test_used_words_are_not_suggested(lab: TriggerLab) -> None:
    first = [one.word for one in lab.suggest(4)]
    captions = [f"a {first[0].upper()} dog", "a dog"]
    second = [one.word for one in lab.suggest(4, captions=captions, beside=[first[1]])]
    assert not {first[0], first[1]} & set(second)


def test_the_measured_ranking_puts_known_words_last(lab: TriggerLab) -> None:
    words = ["fox", "ohwx", "dog", "tree"]
    (sense,) = lab.senses("")
    assert suggest.least_meaning(words, sense.measure)[0] == "ohwx"


def test_far_apart_takes_the_farthest() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    words = ["aaa", "bbb", "ccc", "ddd"]
    none = torch.empty(0, 2)
    assert suggest.far_apart(words, vectors, 3, none) == ["aaa", "ddd", "ccc"]
    assert suggest.far_apart(words, vectors, 1, vectors[3:]) == ["aaa"]
    assert suggest.far_apart(words, vectors, 9, none)[-1] == "bbb"
    assert suggest.far_apart([], vectors[:0], 3, none) == []


def test_words_spelled_alike_are_kept_apart() -> None:
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    words = ["bsgo", "bsgu", "kltu"]
    assert suggest.far_apart(words, vectors, 2, torch.empty(0, 3)) == ["bsgo", "kltu"]
