"""How a text encoder's tokenizer takes a word apart, alone and inside a caption."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import CLIPTokenizer

from trainer.models.text import Piece, pieces

_BEFORE, _AFTER = "a photo of", "in a garden"
_SINGLE = re.compile(r"([a-z]{3,5})</w>")


@dataclass(frozen=True)
class Reading:
    """What the text encoders see of a word.

    Attributes:
        pieces: by the first tokenizer.
        second: by SDXL's second one; the same, but for damaged vocabularies.
        changes: sentences on where the pieces become others.
    """

    pieces: tuple[Piece, ...]
    second: tuple[Piece, ...]
    changes: tuple[str, ...]


def read_word(tokenizers: Sequence[CLIPTokenizer], word: str) -> Reading:
    """Takes a word apart as every text encoder of a base model does."""
    changes = [text for tokenizer in tokenizers for text in _changes(tokenizer, word)]
    first, second = (tuple(pieces(tokenizers[place], word)) for place in (0, -1))
    return Reading(first, second, tuple(dict.fromkeys(changes)))


def _changes(tokenizer: CLIPTokenizer, word: str) -> list[str]:
    def ids(text: str) -> list[int]:
        return [piece.id for piece in pieces(tokenizer, text)]

    alone, before = ids(word), ids(_BEFORE)
    cases = {
        "inside a caption": (f"{_BEFORE} {word} {_AFTER}", before + alone + ids(f" {_AFTER}")),
        "before a comma": (f"{_BEFORE} {word}, {_AFTER}", before + alone + ids(f", {_AFTER}")),
        "in capitals": (word.upper(), alone),
    }
    found: list[str] = []
    for where, (text, expected) in cases.items():
        seen = pieces(tokenizer, text)
        if [piece.id for piece in seen] != expected:
            shown = " ".join(piece.text.removesuffix("</w>") for piece in seen[:12])
            found.append(f"It is read otherwise {where}: {shown}.")
    return found


@lru_cache(maxsize=4)
def single_tokens(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """Words of 3 to 5 letters that are one vocabulary entry, and its id; the rarest first.

    Only those that come back as they were when decoded and encoded again.
    """
    rarest = sorted(tokenizer.get_vocab().items(), key=lambda entry: -entry[1])
    entries = {m[1]: number for text, number in rarest if (m := _SINGLE.fullmatch(text))}
    encoded = tokenizer(list(entries), add_special_tokens=False)["input_ids"]
    pairs = zip(entries.items(), encoded, strict=True)
    return {word: number for (word, number), ids in pairs if list(ids) == [number]}
