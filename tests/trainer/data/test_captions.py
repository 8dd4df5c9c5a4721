"""Captions: decoding, and the trigger that nothing takes away."""

from __future__ import annotations

import codecs
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.schema import CaptionsConfig
from trainer.data.captions import (
    MAX_CAPTION_BYTES,
    MAX_CAPTION_CHARACTERS,
    caption_variants,
    clean_caption,
    compose_caption,
    contains_word,
    decode_caption,
    protect_trigger,
    without_word,
)

CAFE = "café, déjà vu"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (CAFE.encode("utf-8"), CAFE),
        (codecs.BOM_UTF8 + CAFE.encode("utf-8"), CAFE),
        (CAFE.encode("utf-16"), CAFE),
        (codecs.BOM_UTF16_BE + CAFE.encode("utf-16-be"), CAFE),
        (CAFE.encode("latin-1"), CAFE),
        ("“quoted” €5".encode("cp1252"), "“quoted” €5"),
        (b"odd \x81 byte \xe9", "odd byte é"),
        (b"nul\x00 and bell\x07", "nul and bell"),
        ("ascii".encode("utf-16-le"), "ascii"),
        (b" two\r\nlines\t here \n", "two\nlines here"),
        (b"one\r\rtwo\n \n\nthree", "one\ntwo\nthree"),
        ("one\u2028line\x0b".encode(), "one line"),
        ("cafe\u0301".encode(), "café"),
        ("left\u202egnp\u2066\u200b".encode(), "leftgnp"),
        ("family 👩‍👩‍👧".encode(), "family 👩‍👩‍👧"),
        (b"", ""),
        (b" \n\t", ""),
        (codecs.BOM_UTF8, ""),
    ],
)
def test_the_decoding_rule(data: bytes, text: str) -> None:
    assert decode_caption(data) == text


@pytest.mark.parametrize("character", ["x", "é", "猫", "😀"])
@pytest.mark.parametrize("shift", range(4))
def test_a_megabyte_is_cut_between_characters(character: str, shift: int) -> None:
    text = decode_caption(b"x" * shift + character.encode() * 500_000)
    assert set(text) <= {"x", character}
    assert len(text) in (MAX_CAPTION_CHARACTERS, MAX_CAPTION_BYTES // len(character.encode()))
    assert len(clean_caption(character * 20_000)) == MAX_CAPTION_CHARACTERS


@given(st.binary(max_size=300))
def test_any_bytes_give_clean_lines(data: bytes) -> None:
    text = decode_caption(data)
    text.encode("utf-8")
    for line in text.split("\n") if text else ():
        assert line and line == " ".join(line.split())
    assert "\x00" not in text
    assert decode_caption(text.encode("utf-8")) == text


@pytest.mark.parametrize(
    ("caption", "word", "found"),
    [
        ("a photo of sks dog", "sks", True),
        ("SKS", "sks", True),
        ("a (sks:1.2)", "sks", True),
        ("sks_dog", "sks", True),
        ("asks", "sks", False),
        ("sks2", "sks", False),
        ("sksé", "sks", False),
        ("sks\u0301x", "sks", False),
        ("café", "caf", False),
        ("cafe\u0301 noir", "café", True),
        ("猫ohwx", "ohwx", False),
        ("a c++ book", "c++", True),
        ("a blue  cat", "blue cat", True),
        ("a bluecat", "blue cat", False),
        ("what.ever", "what?ever", False),
        ("a.b", "a.b", True),
        ("axb", "a.b", False),
        ("", "sks", False),
        ("sks", "", False),
    ],
)
def test_whole_words_are_found(caption: str, word: str, found: bool) -> None:
    assert contains_word(caption, word) == found


@pytest.mark.parametrize(
    ("caption", "rest"),
    [
        ("sks, red, blue", "red, blue"),
        ("a photo of sks dog", "a photo of dog"),
        ("red, sks , SKS dog", "red, dog"),
        ("asks", "asks"),
        ("sks", ""),
        ("a portrait of sks's dog", "a portrait of dog"),
        ("the sks’s hat, a sks-dog", "the hat, a dog"),
        ("sks'soup", "'soup"),
    ],
)
def test_a_word_is_taken_out_without_a_gap(caption: str, rest: str) -> None:
    assert without_word(caption, "sks") == rest


def compose(caption: str | None, step: int = 0, image_id: str = "a", **fields: Any) -> str:
    values = {"trigger": "sks", "class_word": "dog", "dropout": 0.0} | fields
    config = CaptionsConfig.model_validate(values)
    return compose_caption(caption, config, seed=1, step=step, image_id=image_id)


Fields = dict[str, Any]


@pytest.mark.parametrize(
    ("caption", "fields", "expected"),
    [
        (None, {}, "sks dog"),
        ("", {}, "sks dog"),
        (None, {"class_word": ""}, "sks"),
        (None, {"trigger": "", "class_word": ""}, ""),
        ("on a beach", {}, "sks dog, on a beach"),
        ("a dog on a beach", {}, "sks, a dog on a beach"),
        ("a SKS dog on a beach", {}, "a SKS dog on a beach"),
        ("on a beach", {"trigger": ""}, "on a beach"),
        ("on a beach", {"prefix": "photo of sks dog"}, "photo of sks dog on a beach"),
        ("on a beach", {"suffix": ", by sks"}, "on a beach, by sks"),
        ("red", {"prefix": "photo,", "suffix": "grain"}, "sks dog, photo, red grain"),
        (None, {"prefix": "photo of", "suffix": ", grain"}, "photo of sks dog, grain"),
        ("on a beach", {"dropout": 1.0, "prefix": "photo"}, "sks dog"),
        ("on a beach", {"dropout": 1.0, "trigger": ""}, "dog"),
    ],
)
def test_captions_are_composed(caption: str | None, fields: Fields, expected: str) -> None:
    assert compose(caption, **fields) == expected


ANY_FIELDS = st.fixed_dictionaries({
    "trigger": st.sampled_from(["sks", "Ohwx", "blue cat", "c++", "a, b"]),
    "prefix": st.sampled_from(["", "photo of", "x,"]),
    "suffix": st.sampled_from(["", ", grain", "sks"]),
    "dropout": st.sampled_from([0.0, 0.5, 1.0]),
    "shuffle_tags": st.booleans(),
    "keep_tags": st.integers(0, 3),
})  # fmt: skip


@given(
    caption=st.one_of(st.none(), st.text(max_size=60), st.just("red, sks dog, blue, green")),
    fields=ANY_FIELDS,
    step=st.integers(0, 10**6),
)
def test_the_trigger_is_always_there(caption: str | None, fields: Fields, step: int) -> None:
    assert contains_word(compose(caption, step, **fields), fields["trigger"])


def test_dropout_happens_as_often_as_asked_and_purely() -> None:
    composed = [compose("on a beach", step, dropout=0.3) for step in range(1000)]
    assert composed == [compose("on a beach", step, dropout=0.3) for step in range(1000)]
    assert 250 < composed.count("sks dog") < 350
    assert composed != [compose("on a beach", step, "b", dropout=0.3) for step in range(1000)]


def test_shuffling_keeps_the_first_tags_and_the_trigger() -> None:
    caption = "portrait, red, green, sks dog, blue, yellow"
    seen = {compose(caption, step, shuffle_tags=True, keep_tags=1) for step in range(60)}
    assert len(seen) > 10
    for composed in seen:
        assert composed.startswith("portrait, sks dog, ")
        assert sorted(composed.split(", ")) == sorted(caption.split(", "))


def test_single_tags_are_left_out_but_for_the_protected() -> None:
    caption = "portrait, red, green, sks dog, blue, Old Hat"
    fields: Fields = {"tag_dropout": 0.5, "keep_tags": 1, "protected_tags": ["old hat"]}
    seen = [compose(caption, step, **fields) for step in range(400)]
    assert seen == [compose(caption, step, **fields) for step in range(400)]
    for tag in ("red", "green", "blue"):
        assert 150 < sum(tag in composed.split(", ") for composed in seen) < 250
    tags = caption.split(", ")
    for composed in seen:
        kept = composed.split(", ")
        assert {"portrait", "sks dog", "Old Hat"} <= set(kept)
        assert kept == [tag for tag in tags if tag in kept]
    assert compose("red, blue", tag_dropout=1.0, keep_tags=0) == "sks dog"
    assert compose("a dog in the sun", tag_dropout=1.0, keep_tags=0) == "sks, a dog in the sun"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("one two sks four five six", "one two sks four five six"),
        ("one two three four five sks", "sks, one two three four five sks"),
        ("one two three sks", "sks, one two three sks"),
        ("none at all of it here", "none at all of it here"),
    ],
)
def test_a_late_trigger_comes_to_the_front(caption: str, expected: str) -> None:
    assert protect_trigger(caption, "sks", lambda text: len(text.split()) <= 3) == expected


@given(st.lists(st.sampled_from(["red", "blue", "sks", "dog,"]), max_size=20), st.integers(2, 9))
def test_the_trigger_survives_any_cut(words: list[str], limit: int) -> None:
    caption = compose(" ".join(words))
    protected = protect_trigger(caption, "sks", lambda text: len(text.split()) <= limit)
    assert contains_word(" ".join(protected.split()[:limit]), "sks")


def test_no_trigger_needs_no_protection() -> None:
    assert protect_trigger("red dog", "", lambda text: False) == "red dog"


def test_one_of_several_lines_is_the_caption() -> None:
    """A pure function of seed, step and picture; each comes up about as often as the others."""
    caption = "on a beach\nat home\nin a sks bag"
    seen = [compose(caption, step) for step in range(900)]
    assert seen == [compose(caption, step) for step in range(900)]
    assert seen != [compose(caption, step, "b") for step in range(900)]
    wanted = {"sks dog, on a beach", "sks dog, at home", "in a sks bag"}
    assert {text for text in wanted if 240 < seen.count(text) < 360} == wanted == set(seen)


@pytest.mark.parametrize(
    ("caption", "wildcards", "expected"),
    [
        ("a {red|blue} sks", True, {"a red sks", "a blue sks"}),
        ("a {red|blue} sks", False, {"a {red|blue} sks"}),
        ("sks {a|{b|c} d}", True, {"sks a", "sks b d", "sks c d"}),
        ("sks {|very }big", True, {"sks big", "sks very big"}),
        ("sks {only} {", True, {"sks {only} {"}),
        ("sks {a|b\nsks c}", True, {"sks {a|b", "sks c}"}),
        ("{sks|dog} one\nsks two", True, {"sks one", "sks, dog one", "sks two"}),
    ],
)
def test_wildcards(caption: str, wildcards: bool, expected: set[str]) -> None:
    assert {compose(caption, step, wildcards=wildcards) for step in range(200)} == expected
    variants = caption_variants(caption, wildcards)
    assert {compose(variant) for variant in variants} == expected


@given(st.text("ab{|}", max_size=40))
def test_any_braces_end(caption: str) -> None:
    assert compose(caption, wildcards=True)
    assert len(caption_variants(caption, True, 10)) <= 10
