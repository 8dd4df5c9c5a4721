"""The trigger lab: judges words for a base model, and suggests better ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from transformers import CLIPTokenizer

from trainer.data.cache import TensorCache
from trainer.data.captions import clean_caption
from trainer.models.load import TextPart, load_text_part
from trainer.places import cache_folder
from trainer.triggers import suggest
from trainer.triggers.meaning import CLASSES, EncoderSense, Meaning, combined
from trainer.triggers.tokens import Reading, read_word, single_tokens
from trainer.triggers.verdict import Judgement, cleaned, judge
from trainer.triggers.words import WordLists, lists_at_hand

RARE_ENTRIES = 200
SUGGESTIONS = 5


class TriggerLab:
    """Everything that judging words for one base model needs, loaded once.

    Args:
        text: the base model's text encoders.
        lists: the word lists; opened unless given.
        notice: is told before something that takes seconds.
    """

    def __init__(
        self,
        text: TextPart,
        lists: WordLists | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.text = text
        self.notice = notice
        self.lists = lists or WordLists.open(notice=notice)
        self.tokens = single_tokens(text.tokenizers[0])
        self.rare = suggest.sample(suggest.rare_entries(self.tokens, self.lists), RARE_ENTRIES)
        self.cache = TensorCache(cache_folder() / "triggers", notice)
        self._senses: dict[tuple[str, ...], list[EncoderSense]] = {}

    def judge(
        self, words: Sequence[str], class_word: str = "", captions: Sequence[str] = ()
    ) -> list[Judgement]:
        """A verdict with reasons on each text, whatever it is."""
        senses = self.senses(class_word)
        texts = list(dict.fromkeys(text for word in words if (text := cleaned(word))))
        meanings = dict(zip(texts, measured(senses, texts), strict=True))
        return [
            judge(
                word,
                self.read,
                self.lists,
                meanings.__getitem__,
                class_word=clean_caption(class_word),
                captions=captions,
            )
            for word in words
        ]

    def suggest(
        self,
        count: int = SUGGESTIONS,
        class_word: str = "",
        captions: Sequence[str] = (),
        beside: Sequence[str] = (),
    ) -> list[Judgement]:
        """``count`` rare words that mean least, far from each other.

        Args:
            beside: words that are used already: the suggestions lie far from them too.
        """
        senses = self.senses(class_word)
        free = suggest.unused(
            suggest.candidates(self.tokens, self.lists), clean_caption(class_word), captions
        )
        free = [word for word in free if word not in {text.lower() for text in beside}]
        ranked = suggest.least_meaning(free, lambda words: measured(senses, words))
        judged = self.judge(ranked[: 2 * max(count, suggest.POOL)], class_word, captions)
        good = [one.word for one in judged if one.verdict == "good"]
        pool = good[: max(2 * count, suggest.POOL)]
        vectors = torch.cat([sense.vectors(pool) for sense in senses], dim=1)
        used = [text for word in beside if (text := cleaned(word))]
        apart = torch.cat([sense.vectors(used) for sense in senses], dim=1)
        chosen = suggest.far_apart(pool, vectors, count, apart)
        by_word = {one.word: one for one in judged}
        return [by_word[word] for word in chosen]

    def read(self, word: str) -> Reading:
        """The word's pieces."""
        return read_word(self.text.tokenizers, word)

    def senses(self, class_word: str) -> list[EncoderSense]:
        """The text encoders, calibrated for a class word."""
        name = clean_caption(class_word)
        classes = (name,) if name else CLASSES
        if classes not in self._senses:
            if len(self._senses) >= 8:
                self._senses.clear()
            self._senses[classes] = [
                EncoderSense(
                    tokenizer,
                    encoder,
                    classes=classes,
                    rare=self.rare,
                    cache=self.cache,
                    fingerprint=f"{self.text.fingerprint} {number}",
                    notice=self.notice,
                )
                for number, (tokenizer, encoder) in enumerate(
                    zip(self.text.tokenizers, self.text.text_encoders, strict=True)
                )
            ]
        return self._senses[classes]


@lru_cache(maxsize=1)
def open_lab(base_name: str) -> TriggerLab:
    """The lab of a base model; the last one stays loaded. Slow work is announced on stderr.

    Raises:
        UserError: the base model can't be found or read.
    """
    return TriggerLab(load_text_part(base_name), notice=lambda text: print(text, file=sys.stderr))


def doubt(trigger: str, tokenizers: Sequence[CLIPTokenizer], class_word: str = "") -> str | None:
    """What to warn of before training with a trigger word; None where it is good.

    By tokenizer and word lists alone, in half a second.
    """
    found = judge(
        trigger,
        lambda word: read_word(tokenizers, word),
        lists_at_hand(),
        None,
        class_word=clean_caption(class_word),
    )
    if found.verdict == "good":
        return None
    return (
        f"The trigger word {found.word!r} is {found.verdict}. {found.reasons[0]} "
        "The command trigger says more, and suggests others."
    )


def measured(senses: Sequence[EncoderSense], words: Sequence[str]) -> list[Meaning]:
    """What words mean to a base model: to that of its text encoders that makes most of them."""
    by_encoder = [sense.measure(words) for sense in senses]
    return [combined(meanings) for meanings in zip(*by_encoder, strict=True)]
