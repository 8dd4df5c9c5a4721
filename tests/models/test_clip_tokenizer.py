"""The tokenizer folders read like openai/clip-vit-large-patch14's, offline."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from models.build.tokenizer import byte_symbols, vocabulary

MODELS = Path(__file__).resolve().parents[2] / "models"
FIRST, SECOND = MODELS / "clip-tokenizer", MODELS / "clip-tokenizer-2"

KNOWN_IDS = {
    "!": 0,
    "sks</w>": 48136,
    "ohwx</w>": 47993,
    "bnha</w>": 49336,
    "tok</w>": 27010,
    "a</w>": 320,
    "photo</w>": 1125,
    "<|startoftext|>": 49406,
    "<|endoftext|>": 49407,
}


@pytest.mark.parametrize("folder", [FIRST, SECOND], ids=lambda folder: folder.name)
def test_ids_are_clips(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 49_408
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in KNOWN_IDS} == KNOWN_IDS
    assert tokenizer.model_max_length == 77


@pytest.mark.parametrize(
    ("folder", "padding"), [(FIRST, 49_407), (SECOND, 0)], ids=["first", "second"]
)
def test_padding(folder: Path, padding: int) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer("a photo of sks dog", padding="max_length", max_length=77).input_ids
    assert ids == [49406, 320, 1125, 539, 48136, 1929, 49407] + [padding] * 70


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ohwxman", ["oh", "wx", "man</w>"]),
        ("TOK", ["tok</w>"]),
        ("3d", ["3</w>", "d</w>"]),
        ("xxy5syt00", ["xx", "y</w>", "5</w>", "sy", "t</w>", "0</w>", "0</w>"]),
    ],
)
def test_pieces(text: str, pieces: list[str]) -> None:
    assert CLIPTokenizer.from_pretrained(FIRST).tokenize(text) == pieces


def test_long_text_is_cut() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FIRST)
    ids = tokenizer("dog " * 200, truncation=True).input_ids
    assert (len(ids), ids[-1]) == (77, 49_407)


def test_vocabulary_order() -> None:
    vocab = vocabulary(["i n", "t h"])
    assert len(byte_symbols()) == 256
    assert [vocab[token] for token in ("!", "!</w>", "in", "th", "<|endoftext|>")] == [
        0,
        256,
        512,
        513,
        515,
    ]
