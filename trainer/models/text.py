"""Prompts to the tokens of CLIP's text encoders (`trainer.diffusion.encode` makes features).

CLIP reads 75 tokens between its start and its end. A longer prompt is read in chunks, each with a
start, an end and padding of its own, as A1111, Forge and ComfyUI do. A word of up to 8 tokens is
not cut in two but begins the next chunk, as in ComfyUI. (A1111 looks for a comma instead, and
sd-scripts cuts anywhere and keeps one start and one end: these differ in single tokens.) There are
no prompt weights: ``(red:1.2)`` is read as it stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from trainer.data.captions import CHUNK_TOKENS, word_pattern

_REMEMBERED_TEXTS = 4096
_LONGEST_WORD = 8  # tokens; a longer word is cut where its chunk ends


@dataclass(frozen=True)
class Piece:
    """One vocabulary entry; `text` ends in ``</w>`` where the entry ends a word."""

    text: str
    id: int

    @property
    def shown(self) -> str:
        """As people write it; � where a character is cut apart."""
        return readable(self.text)


_known: WeakKeyDictionary[CLIPTokenizer, dict[str, list[int]]] = WeakKeyDictionary()


def token_ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    """The tokens of a text, without start and end; each text is tokenised once."""
    known = _known.setdefault(tokenizer, {})
    if text not in known:
        if len(known) >= _REMEMBERED_TEXTS:
            known.clear()
        known[text] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return known[text]


def with_embeddings(
    tokenizer: CLIPTokenizer, text: str, places: Mapping[str, Sequence[int]]
) -> list[int]:
    """The tokens of a text in which some words stand for learned vectors.

    Args:
        places: for each word the ids that take its place, wherever `contains_word` finds it.
            ComfyUI's ``embedding:`` before it is left out.
    """
    names = sorted(places, key=len, reverse=True)
    words = "|".join(f"({word_pattern(name).pattern})" for name in names)
    text = unicodedata.normalize("NFC", text)
    found: list[int] = []
    end = 0
    for match in re.finditer(rf"(?:\bembedding:)?(?:{words})", text, re.IGNORECASE):
        found += token_ids(tokenizer, text[end : match.start()])
        found += places[names[(match.lastindex or 1) - 1]]
        end = match.end()
    return found + token_ids(tokenizer, text[end:])


def longest_prompt(tokenizer: CLIPTokenizer) -> int:
    """The number of tokens of a text encoder's input: 77, its start and end among them."""
    return cast(int, tokenizer.model_max_length)


def token_chunks(
    tokenizer: CLIPTokenizer,
    text: str,
    max_tokens: int | None = None,
    places: Mapping[str, Sequence[int]] | None = None,
) -> list[list[int]]:
    """The tokens of a text by chunks: at least one, which may be empty.

    Args:
        max_tokens: what is beyond so many whole chunks is cut off; None: nothing is.
        places: as of `with_embeddings`.
    """
    ids = with_embeddings(tokenizer, text, places) if places else token_ids(tokenizer, text)
    size = longest_prompt(tokenizer) - 2
    most = None if max_tokens is None else max(1, max_tokens // CHUNK_TOKENS)
    chunks: list[list[int]] = []
    start = 0
    while start < len(ids) and len(chunks) != most:
        end = start + size
        if end < len(ids) and len(chunks) + 1 != most:
            end = _word_end(tokenizer, ids, end)
        chunks.append(ids[start:end])
        start = end
    return chunks or [[]]


def _word_end(tokenizer: CLIPTokenizer, ids: list[int], end: int) -> int:
    """The last end of a word at or before a place, where there is one near enough."""
    last = ids[end - _LONGEST_WORD : end]
    pieces = tokenizer.convert_ids_to_tokens([max(one, 0) for one in last])
    ends = (one < 0 or piece.endswith("</w>") for one, piece in zip(last, pieces, strict=True))
    found = [place for place, is_end in enumerate(ends, start=1) if is_end]
    return end - len(last) + found[-1] if found else end


def padded_ids(tokenizer: CLIPTokenizer, chunks: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Chunks of tokens as a text encoder takes them, padded to its length.

    Returns:
        (N, 77) ids and the attention mask of the same shape, both int64.
    """
    length = longest_prompt(tokenizer)
    ids = torch.full((len(chunks), length), cast(int, tokenizer.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(chunks):
        whole = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
        ids[row, : len(whole)] = torch.tensor(whole)
        mask[row, : len(whole)] = 1
    return ids, mask


@contextmanager
def learned_words(
    encoder: PreTrainedModel, ids: Tensor, learned: Sequence[Tensor]
) -> Generator[None]:
    """Within the block a text encoder reads learned vectors where ids are below 0.

    Args:
        ids: (R, 77); the encoder is given any others in place of these.
        learned: (n, D) each; together the vectors of the ids -1, -2 …
    """
    where = ids < 0
    if not where.any():
        yield
        return

    def put(_: torch.nn.Module, __: object, features: Tensor) -> Tensor:
        vectors = torch.cat([one.to(features) for one in learned])[-1 - ids[where]]
        return features.masked_scatter(where[..., None].to(features.device), vectors)

    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()


def count_tokens(tokenizers: Sequence[CLIPTokenizer], text: str) -> int:
    """Tokens of a text, start and end not counted: the most of all text encoders."""
    return max(len(token_ids(tokenizer, text)) for tokenizer in tokenizers)


def count_chunks(tokenizers: Sequence[CLIPTokenizer], text: str) -> int:
    """How many chunks the whole of a text takes."""
    return max(len(token_chunks(tokenizer, text)) for tokenizer in tokenizers)


def readable(entry: str) -> str:
    """A vocabulary entry in the characters that its bytes stand for."""
    plain = entry.removesuffix("</w>")
    if not plain.isascii():
        plain = bytes(map(_bytes().__getitem__, plain)).decode(errors="replace")
    return plain


@cache
def _bytes() -> dict[str, int]:
    """The byte that each character of a vocabulary stands for."""
    return {character: byte for byte, character in bytes_to_unicode().items()}


def pieces(tokenizer: CLIPTokenizer, word: str) -> list[Piece]:
    """The vocabulary entries that a word is made of."""
    ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    texts = tokenizer.convert_ids_to_tokens(ids)
    return [Piece(text, identifier) for text, identifier in zip(texts, ids, strict=True)]
