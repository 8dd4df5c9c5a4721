"""Pieces of words, against the facts known of CLIP's vocabulary."""

from __future__ import annotations

import pytest
from transformers import CLIPTokenizer

from trainer.models.families import MODELS_FOLDER
from trainer.triggers.tokens import read_word, single_tokens


@pytest.fixture(scope="module")
def tokenizers() -> list[CLIPTokenizer]:
    """Those of SDXL."""
    names = ("clip-tokenizer", "clip-tokenizer-2")
    return [CLIPTokenizer.from_pretrained(MODELS_FOLDER / name) for name in names]


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("sks", {"sks</w>": 48136}),
        ("ohwx", {"ohwx</w>": 47993}),
        ("bnha", {"bnha</w>": 49336}),
        ("TOK", {"tok</w>": 27010}),
    ],
)
def test_single_pieces(tokenizers: list[CLIPTokenizer], word: str, pieces: dict[str, int]) -> None:
    reading = read_word(tokenizers, word)
    assert {piece.text: piece.id for piece in reading.pieces} == pieces
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
