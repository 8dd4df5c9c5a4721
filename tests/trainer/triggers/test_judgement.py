"""Verdicts: on words that mean something, on nonsense, and on any text at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from tests.corpus.names import NAUGHTY
from trainer.models.families import MODELS_FOLDER
from trainer.triggers.judgement import (
    MAX_CHARACTERS,
    Judgement,
    compound,
    judge,
    read_word,
    rude_root,
    single_tokens,
)
from trainer.triggers.lab import TriggerLab
from trainer.triggers.meaning import Meaning
from trainer.triggers.words import WordLists

TAKEN = (
    "dog paris emma toyota pikachu ikea nasa lgbt nsfw ufc bts nba rpg gta TOK photo fox man "
    "naruto zendaya minecraft gpu html covid nvidia hetalia artgerm hund собака drwho adog "
    "labubu skibidi cheems btch fckng biatch h4ck3r l33t b1tch n00b"
)
WEAK = "sks dbz mgs bnha ohwxman vkplm l77t ddle agirl mufc tlou ilovecats"
GOOD = "ohwx OHWX qjvk xqz"


def one(lab: TriggerLab, word: str, **given: object) -> Judgement:
    """The verdict on a single word."""
    (found,) = lab.judge([word], **given)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("word", "verdict"),
    [(word, "taken") for word in TAKEN.split()]
    + [(word, "weak") for word in WEAK.split()]
    + [(word, "good") for word in GOOD.split()],
)
def test_known_cases(lab: TriggerLab, word: str, verdict: str) -> None:
    found = one(lab, word)
    assert found.verdict == verdict, found.reasons
    assert found.word == word
    assert found.reasons


@pytest.mark.parametrize(
    ("word", "verdict", "reason"),
    [
        ("", "taken", "Nothing is in it"),
        ("  \t\n\0\x01\u202e", "taken", "control or invisible"),
        ("oh\x07wx", "weak", "control or invisible"),
        *((text, "taken", "no letters") for text in ("🐸", "123", "?!")),
        ("x", "taken", "single letter"),
        ("犬", "taken", "Japanese"),
        ("ohwx 7", "weak", "2 words"),
        ("my cat", "taken", "'cat'"),
        ("emma2", "taken", "'emma'"),
        ("(ohwx)", "weak", "drawing tools"),
        ("ohwx-qjvk", "weak", "Punctuation"),
        ("sks", "weak", "rifle"),
        ("TOK", "taken", "Capitals make no difference: it is read as 'tok'"),
        ("ddle", "weak", "middle"),
        ("h4ck3r", "taken", "reads as 'hacker'"),
        ("l33t", "taken", "reads as 'leet'"),
        ("btch", "taken", "'bitch' with vowels left out"),
        ("skibidi", "taken", "a series of videos"),
        ("dcks", "taken", "'dick' with vowels left out"),
        ("x" * 1_000_000, "taken", "1,000,000 characters"),
        ("a b " * 250_000, "taken", "characters"),
    ],
)
def test_any_input_is_answered_in_words(
    lab: TriggerLab, word: str, verdict: str, reason: str
) -> None:
    found = one(lab, word)
    assert found.verdict == verdict, found.reasons
    assert any(reason in text for text in found.reasons), found.reasons
    assert len(str(found.as_dict())) < 5_000


def test_what_the_base_model_measures_and_what_lists_know_are_separate_reasons(
    lab: TriggerLab,
) -> None:
    fox, paris = one(lab, "fox"), one(lab, "paris")
    assert any(text.startswith("It means much to this base model") for text in fox.reasons)
    assert fox.reads_like and "fox" not in fox.reads_like
    assert any(text.startswith("It means little to this base model") for text in paris.reasons)
    assert paris.reads_like == ()
    for found in (fox, paris):
        assert any("English texts" in text for text in found.reasons)


def test_a_class_word_means_as_much_beside_itself(lab: TriggerLab) -> None:
    """ "A photo of dog dog" is "a photo of dog" still, and dog a known word all the same."""
    found = one(lab, "dog", class_word="dog")
    assert found.reads_like
    assert any(text.startswith("It means much to this base model") for text in found.reasons)


def test_a_known_word_that_hardly_moves_the_sentence_is_said_to_stand_out(lab: TriggerLab) -> None:
    still = Meaning(share=0.6, rank=1.0, moves=0.1, reads_like=())
    found = judge("ohwx", lab.read, lab.lists, still)
    (reason,) = (text for text in found.reasons if text.startswith("It means much"))
    assert "embedding stands out" in reason and "though it moves a sentence 10 %" in reason
    moving = judge("ohwx", lab.read, lab.lists, replace(still, moves=0.6))
    assert "stands out" not in " ".join(moving.reasons)


@pytest.mark.parametrize(
    ("share", "rank", "like"), [(0.3, 1.0, ("dog",)), (0.3, 0.8, ()), (0.2, 1.0, ())]
)
def test_likeness_is_told_of_what_means_more_than_rare_words(
    lab: TriggerLab, share: float, rank: float, like: tuple[str, ...]
) -> None:
    measured = Meaning(share, rank, moves=0.3, reads_like=("dog",))
    assert judge("ohwx", lab.read, lab.lists, measured).reads_like == like


def test_class_word_and_captions(lab: TriggerLab) -> None:
    for class_word in ("ohwx", "red ohwx"):
        assert one(lab, "ohwx", class_word=class_word).verdict == "taken"
    assert one(lab, "xqz", captions=["a xqz car", "a car"]).verdict == "weak"
    everywhere = one(lab, "xqz", captions=["a xqz car", "xqz, red"])
    assert everywhere.verdict == "good"
    assert "Every caption has it already." in everywhere.reasons


def test_words_are_judged_alone(lab: TriggerLab) -> None:
    """A verdict does not depend on which other words are asked about."""
    words = ["ohwx", "dog", "", "qjvk", "dog"]
    together = lab.judge(words)
    for word, found in zip(words, together, strict=True):
        alone = one(lab, word)
        assert (found.verdict, found.pieces) == (alone.verdict, alone.pieces)


@settings(max_examples=150)
@given(
    st.one_of(
        st.text(),
        st.sampled_from(list(NAUGHTY)),
        st.text("abcxyz019 ,-é犬🐸'\"()\0\u202e", max_size=60),
    )
)
def test_any_text_has_a_verdict(lab: TriggerLab, word: str) -> None:
    found = one(lab, word)
    assert found.verdict in ("good", "weak", "taken")
    assert found.reasons and all(found.reasons)
    assert len(found.word) <= MAX_CHARACTERS + 1
    assert not any(ord(char) < 32 for char in found.word)
    if found.verdict == "good":
        assert found.word.isalpha() and found.pieces


def test_hostile_names(lab: TriggerLab) -> None:
    assert all(found.reasons for found in lab.judge(list(NAUGHTY)))


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_an_untrained_encoder_leaves_the_verdict_to_the_lists(
    random_lab: Callable[[str], TriggerLab], name: str
) -> None:
    random = random_lab(name)
    verdicts = {word: one(random, word) for word in ("dog", "emma", "sks", "ohwx", "zwx")}
    said = [found.verdict for found in verdicts.values()]
    assert said == ["taken", "taken", "weak", "good", "good"]
    for found in verdicts.values():
        assert any("as if untrained" in text for text in found.reasons)
        assert found.reads_like == ()


@pytest.mark.parametrize(
    ("word", "parts"), [("agirl", "a girl"), ("redhouse", "red house"), ("ilovecats", ""), ("", "")]
)
def test_compounds(lists: WordLists, word: str, parts: str) -> None:
    assert " ".join(compound(word, lists)) == parts


@pytest.fixture(scope="module")
def tokenizers() -> list[CLIPTokenizer]:
    """Those of SDXL."""
    names = ("clip-tokenizer", "clip-tokenizer-2")
    return [CLIPTokenizer.from_pretrained(MODELS_FOLDER / name) for name in names]


@pytest.mark.parametrize(
    ("word", "number"), [("sks", 48136), ("ohwx", 47993), ("bnha", 49336), ("TOK", 27010)]
)
def test_single_pieces(tokenizers: list[CLIPTokenizer], word: str, number: int) -> None:
    reading = read_word(tokenizers, word)
    assert [(piece.text, piece.id) for piece in reading.pieces] == [(f"{word.lower()}</w>", number)]
    assert reading.second == reading.pieces
    assert not reading.changes


def test_several_pieces(tokenizers: list[CLIPTokenizer]) -> None:
    texts = [piece.text for piece in read_word(tokenizers, "ohwxman").pieces]
    assert texts == ["oh", "wx", "man</w>"]
    assert len(read_word(tokenizers, "xxy5syt00").pieces) == 7


@pytest.mark.parametrize(
    ("word", "where"), [("sks!", "before a comma"), ("straße", "in capitals"), ("a'", "a comma")]
)
def test_changes_within_captions_are_told(
    tokenizers: list[CLIPTokenizer], word: str, where: str
) -> None:
    assert any(where in change for change in read_word(tokenizers, word).changes)


def test_single_tokens(tokenizers: list[CLIPTokenizer]) -> None:
    tokens = single_tokens(tokenizers[0])
    assert len(tokens) == 13_649
    assert tokens["sks"] == 48136
    ids = list(tokens.values())
    assert ids == sorted(ids, reverse=True)
    assert all(3 <= len(word) <= 5 and word.isalpha() for word in tokens)


@pytest.mark.parametrize("word", ["qjvk", "zwx", "shkt", "bndt", "dkc", "tchb", "sltx", "salto"])
def test_some_consonants_are_not_rude(word: str) -> None:
    assert rude_root(word) == ""


def test_what_a_suggestion_is_known_as(lab: TriggerLab) -> None:
    """Whatever little is known stands beside it, also where it does not matter."""
    assert one(lab, "ohwx").known_as.startswith("a hashtag for the weather in Ohio")
    assert one(lab, "qjvk").known_as == ""
