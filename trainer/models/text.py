"""Prompts to the tokens of CLIP's text encoders (`trainer.diffusion.encode` makes features)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from trainer.models.base import BaseModel

_REMEMBERED_TEXTS = 4096


@dataclass(frozen=True)
class Piece:
    """One vocabulary entry; `text` ends in ``</w>`` where the entry ends a word."""

    text: str
    id: int


_known: WeakKeyDictionary[CLIPTokenizer, dict[str, list[int]]] = WeakKeyDictionary()


def token_ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    """The tokens of a text, without start and end; each text is tokenised once."""
    known = _known.setdefault(tokenizer, {})
    if text not in known:
        if len(known) >= _REMEMBERED_TEXTS:
            known.clear()
        known[text] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return known[text]


def longest_prompt(tokenizer: CLIPTokenizer) -> int:
    """The number of tokens of a text encoder's input: 77, its start and end among them."""
    return cast(int, tokenizer.model_max_length)


def padded_ids(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Prompts as a text encoder takes them, cut and padded to its length.

    Returns:
        (B, 77) ids and the attention mask of the same shape, both int64.
    """
    length = longest_prompt(tokenizer)
    ids = torch.full((len(prompts), length), cast(int, tokenizer.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        tokens = token_ids(tokenizer, prompt)[: length - 2]
        whole = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
        ids[row, : len(whole)] = torch.tensor(whole)
        mask[row, : len(whole)] = 1
    return ids, mask


def token_limit(base: BaseModel) -> int:
    """How many tokens of a prompt the text encoders see: 75."""
    return min(longest_prompt(tokenizer) for tokenizer in base.tokenizers) - 2


def count_tokens(tokenizers: Sequence[CLIPTokenizer], text: str) -> int:
    """Tokens of a text, start and end not counted: the most of all text encoders."""
    return max(len(token_ids(tokenizer, text)) for tokenizer in tokenizers)


def fits_tokens(base: BaseModel, text: str) -> bool:
    """Whether the text encoders see the whole text."""
    return count_tokens(base.tokenizers, text) <= token_limit(base)


def pieces(tokenizer: CLIPTokenizer, word: str) -> list[Piece]:
    """The vocabulary entries that a word is made of."""
    ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    texts = tokenizer.convert_ids_to_tokens(ids)
    return [Piece(text, identifier) for text, identifier in zip(texts, ids, strict=True)]
