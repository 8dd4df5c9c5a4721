"""Words that stand for learned vectors in prompts: textual inversion (arXiv 2208.01618).

Files hold them bundled with an adapter, or alone. The second is what tools call an embedding: its
file is named as the word. Both are called ``clip_l``, with SDXL's second encoder ``clip_g``; A1111
has ``string_to_param.*`` and ``emb_params`` where there is one text encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import Embedding, Module, Parameter

from trainer.data.captions import clean_caption
from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.lora.adapter import Adapter
from trainer.lora.layouts import OUTPUT
from trainer.lora.reading import shape_text
from trainer.lora.writing import write_tensors
from trainer.memory.devices import DTYPES, Precision
from trainer.models.base import BaseModel
from trainer.models.text import token_ids
from trainer.runs.layout import safe_name
from trainer.text import numbered

NEW_TOKENS = "new_tokens"
"""What the vectors of a word are called among the parameters of a run."""
_NAMES = ("clip_l", "clip_g")
_OF_A1111 = "string_to_param.*"
_OUTPUT_ONLY = (
    "It is an output embedding of OneTrainer, which takes the place of what the text encoder gives "
    "and is not used here: train it there without that option. "
)


def new_words(
    base: BaseModel, triggers: Mapping[str, str], count: int, start: Adapter | None
) -> dict[str, list[Parameter]]:
    """Vectors to train for trigger words, (n, D) float32 for each text encoder.

    They begin as the tokens of the class word, or of the trigger word itself where there is none.

    Args:
        triggers: with the class word of each.
        count: n of those that begin anew; 0: none does.
        start: gives the vectors that are bundled with it.
    """
    begun = vectors_for(base, start) if start else {}
    known = {word.casefold() for word in begun}
    for trigger, class_word in triggers.items() if count else ():
        if clean_caption(trigger).casefold() in known or not clean_caption(trigger):
            continue
        text = clean_caption(class_word) or clean_caption(trigger)
        begun[clean_caption(trigger)] = [
            _of_tokens(encoder.get_input_embeddings(), token_ids(tokenizer, text), count)
            for tokenizer, encoder in zip(base.tokenizers, base.text_encoders, strict=True)
        ]
    return {
        word: [Parameter(one.detach().to(torch.float32, copy=True)) for one in vectors]
        for word, vectors in begun.items()
    }


def _of_tokens(table: Module, ids: list[int], count: int) -> Tensor:
    """(count, D): the tokens' own vectors in their order, each as often as the others."""
    return cast(Embedding, table).weight[[ids[row * len(ids) // count] for row in range(count)]]


def tensors_of_words(
    words: Mapping[str, Iterable[Tensor]],
) -> dict[str, dict[str, Tensor]]:
    """Copies of vectors by word, as `Adapter.embeddings` has them."""
    return {
        word: {
            name: one.detach().to("cpu", torch.float32, copy=True)
            for name, one in zip(_NAMES, vectors, strict=False)
        }
        for word, vectors in words.items()
    }


def vectors_for(base: BaseModel, adapter: Adapter) -> dict[str, list[Tensor]]:
    """An adapter's bundled embeddings, (n, D) for each text encoder of a base.

    Raises:
        UserError: one is of another form, or for another base model.
    """
    found: dict[str, list[Tensor]] = {}
    widths = [int(encoder.config.hidden_size) for encoder in base.text_encoders]
    for word, tensors in adapter.embeddings.items():
        names = _NAMES if len(widths) > 1 else ("clip_l", _OF_A1111)
        own = [tensors[name] for name in names if name in tensors]
        own = [one[None] if one.dim() == 1 else one for one in own]
        fits = [one.shape[-1] for one in own] == widths and word.strip()
        if not fits or len({one.shape[:-1] for one in own}) > 1:
            sizes = ", ".join(f"{name} {shape_text(one)}" for name, one in tensors.items())
            raise UserError(
                f"{adapter.source} has a bundled embedding, {display_name(word[:80])}, that does "
                f"not fit {base.name} ({base.family.title}): {display_name(sizes[:200])}.",
                (_OUTPUT_ONLY if all(name.endswith(OUTPUT) for name in tensors) else "")
                + "adapter convert FILE --embeddings drop --out NEW.safetensors leaves it out.",
            )
        found[word] = own
    return found


def write_embeddings(adapter: Adapter, folder: Path, precision: Precision) -> list[Path]:
    """Writes each bundled embedding as a file of its own.

    A1111 and ComfyUI call it by the file's name, diffusers loads it with ``load_textual_inversion``
    (for SDXL one tensor into each text encoder).

    Raises:
        OSError: from the file system.
    """
    files: list[Path] = []
    for word, vectors in adapter.embeddings.items():
        tensors = {name: one.to(DTYPES[precision], copy=True) for name, one in vectors.items()}
        if len(tensors) == 1:
            tensors = {"emb_params": next(iter(tensors.values()))}
        folder.mkdir(parents=True, exist_ok=True)
        names = (folder / f"{stem}.safetensors" for stem in numbered(safe_name(word)))
        file = next(name for name in names if name not in files)
        write_tensors(file, tensors, {"rarebit.word": word})
        files.append(file)
    return files
