"""Prompts to conditioning, exactly as diffusers' pipelines compute it, with gradients if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from trainer.models.base import BaseModel, TextEncoder

Size = tuple[int, int]
"""(height, width) in pixels; or (top, left) for a crop."""


@dataclass(frozen=True)
class TextConditioning:
    """What the UNet attends to.

    Attributes:
        hidden: (B, 77, D) text features.
        pooled: (B, P) of SDXL's second encoder; None for SD 1 and SD 2.
        cut: how many of the prompts were too long and lost their ends.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None
    cut: int

    def rows(self, start: int, stop: int | None = None) -> TextConditioning:
        """The features of some of the prompts."""
        part = slice(start, stop)
        pooled = None if self.pooled is None else self.pooled[part]
        return TextConditioning(self.hidden[part], pooled, self.cut)


@dataclass(frozen=True)
class Piece:
    """One vocabulary entry; `text` ends in ``</w>`` where the entry ends a word."""

    text: str
    id: int


def encode(base: BaseModel, prompts: Sequence[str], device: torch.device | str) -> TextConditioning:
    """Encodes prompts on the device where the text encoders are.

    Gradients flow to whatever requires them; wrap the call in ``torch.no_grad()`` otherwise.
    SD 1 and SD 2: the last hidden state after the final norm. SDXL (arXiv 2307.01952, section
    2.1): the penultimate hidden states of both encoders, concatenated, and the second one's
    pooled projection.

    Returns:
        (B, 77, D) and (B, P) in the text encoder's number format.
    """
    if base.family.name != "sdxl":
        encoder = base.text_encoders[0]
        ids, mask = _tokenize(base.tokenizers[0], encoder, prompts, device)
        hidden = encoder(ids, attention_mask=mask)[0]
        return TextConditioning(hidden.to(encoder.dtype), None, _count_cut(base, prompts))
    states: list[torch.Tensor] = []
    pooled: torch.Tensor | None = None
    for tokenizer, encoder in zip(base.tokenizers, base.text_encoders, strict=True):
        ids, _ = _tokenize(tokenizer, encoder, prompts, device)
        output = encoder(ids, output_hidden_states=True)
        states.append(output.hidden_states[-2])
        if isinstance(encoder, CLIPTextModelWithProjection):
            pooled = output.text_embeds
    hidden = torch.cat(states, dim=-1)  # (B, 77, 768) + (B, 77, 1280) -> (B, 77, 2048)
    return TextConditioning(
        hidden.to(base.text_encoders[-1].dtype), pooled, _count_cut(base, prompts)
    )


def _tokenize(
    tokenizer: CLIPTokenizer,
    encoder: TextEncoder,
    prompts: Sequence[str],
    device: torch.device | str,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    batch = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    ids = batch["input_ids"].to(device)
    wants_mask = bool(getattr(encoder.config, "use_attention_mask", False))
    return ids, batch["attention_mask"].to(device) if wants_mask else None


def _count_cut(base: BaseModel, prompts: Sequence[str]) -> int:
    return sum(not fits_tokens(base, prompt) for prompt in prompts)


def token_limit(base: BaseModel) -> int:
    """How many tokens of a prompt the text encoders see: 75."""
    return min(tokenizer.model_max_length for tokenizer in base.tokenizers) - 2


def count_tokens(base: BaseModel, text: str) -> int:
    """Tokens of a text, start and end not counted."""
    return max(
        len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        for tokenizer in base.tokenizers
    )


def fits_tokens(base: BaseModel, text: str) -> bool:
    """Whether the text encoders see the whole text."""
    return count_tokens(base, text) <= token_limit(base)


def pieces(tokenizer: CLIPTokenizer, word: str) -> list[Piece]:
    """The vocabulary entries that a word is made of."""
    ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    texts = tokenizer.convert_ids_to_tokens(ids)
    return [Piece(text, identifier) for text, identifier in zip(texts, ids, strict=True)]


def added_conditioning(
    base: BaseModel,
    pooled: torch.Tensor | None,
    original_sizes: Sequence[Size],
    crops_top_left: Sequence[Size],
    target_sizes: Sequence[Size],
) -> dict[str, torch.Tensor] | None:
    """SDXL's size and crop conditioning (arXiv 2307.01952, section 2.2) for ``added_cond_kwargs``.

    Args:
        pooled: (B, P) from `encode`.
        original_sizes: B sizes of the pictures before fitting, as (height, width).
        crops_top_left: B corners of the crop in the resized picture, as (top, left).
        target_sizes: B sizes of what is trained on, as (height, width).

    Returns:
        ``text_embeds`` (B, P) and ``time_ids`` (B, 6), the latter in fp32, since bf16 cannot
        tell 1023 from 1024; None for SD 1 and SD 2.
    """
    if pooled is None:
        return None
    rows = [
        (*original, *corner, *target)
        for original, corner, target in zip(
            original_sizes, crops_top_left, target_sizes, strict=True
        )
    ]
    time_ids = torch.tensor(rows, dtype=torch.float32, device=pooled.device)
    return {"text_embeds": pooled, "time_ids": time_ids}
