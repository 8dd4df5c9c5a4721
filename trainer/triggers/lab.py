"""The trigger lab: judges words for a base model, and suggests better ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from trainer.data.cache import TensorCache
from trainer.data.captions import clean_caption, contains_word
from trainer.models.load import TextPart, load_text_part
from trainer.places import cache_folder
from trainer.triggers.judgement import (
    Judgement,
    Reading,
    cleaned,
    compound,
    judge,
    read_word,
    single_tokens,
)
from trainer.triggers.meaning import CLASSES, EncoderSense, Meaning, strongest
from trainer.triggers.words import WordLists, english_words, notes

SUGGESTIONS = 5
RARE_ENTRIES = 200  # so many vocabulary entries show what a rare one does to a text encoder
RARE_FROM = 30_000
"""Vocabulary ids count up as entries get rarer; below this, even nonsense was seen often."""
POOL = 24  # suggestions are chosen from so many of the least meaningful words
_MOST_SENSES = 8


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
        rare = [word for word in self.tokens if not self.lists.strength(word)]
        rare = [word for word in rare if word not in notes()]
        self.rare = rare[:: max(1, len(rare) // RARE_ENTRIES)][:RARE_ENTRIES]
        self.cache = TensorCache(cache_folder() / "triggers", notice)
        self._senses: dict[tuple[str, ...], list[EncoderSense]] = {}

    def judge(
        self, words: Sequence[str], class_word: str = "", captions: Sequence[str] = ()
    ) -> list[Judgement]:
        """A verdict with reasons on each text, whatever it is."""
        texts = list(dict.fromkeys(text for word in words if (text := cleaned(word))))
        meanings = dict(zip(texts, self.measure(texts, class_word), strict=True))
        return [
            judge(
                word,
                self.read,
                self.lists,
                meanings.get(cleaned(word)),
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
        used: Sequence[str] = (),
    ) -> list[Judgement]:
        """``count`` rare words that mean least, far from each other.

        Args:
            used: words that are taken already: the suggestions lie far from them too.
        """
        taken = {text for word in used if (text := cleaned(word))}
        free = unused(self.candidates, clean_caption(class_word), captions)
        free = [word for word in free if word not in {text.lower() for text in taken}]
        ranked = least_meaning(free, self.measure(free, class_word))
        size = max(2 * count, POOL)
        judged = self.judge(ranked[: 2 * max(count, POOL)], class_word, captions)
        good = {one.word: one for one in judged if one.verdict == "good"}
        pool = list(good)[:size]
        vectors, far_from = (
            torch.cat([sense.vectors(some) for sense in self.senses(class_word)], dim=1)
            for some in (pool, sorted(taken))
        )
        return [good[word] for word in far_apart(pool, vectors, count, far_from)]

    def measure(self, words: Sequence[str], class_word: str) -> list[Meaning]:
        """What words mean to the one of the text encoders that makes most of them."""
        by_encoder = [sense.measure(words) for sense in self.senses(class_word)]
        return [strongest(meanings) for meanings in zip(*by_encoder, strict=True)]

    def read(self, word: str) -> Reading:
        return read_word(self.text.tokenizers, word)

    @cached_property
    def candidates(self) -> list[str]:
        """Rare single pieces in no list at all, without a note or with one that says little.

        Left out are entries whose embedding was learned at the end of longer words ("ddle"), and
        such as spell two words.
        """
        found: list[str] = []
        for word, number in self.tokens.items():
            note, known = notes().get(word), self.lists.look_up(word)
            unknown = not known.english and not known.other and not compound(word, self.lists)
            if number >= RARE_FROM and unknown and (note is None or note.strength == "faint"):
                found.append(word)
        endings = {word[-n:] for word in english_words(1.0) for n in (3, 4, 5) if len(word) > n}
        return [word for word in found if word not in endings]

    def senses(self, class_word: str) -> list[EncoderSense]:
        """The text encoders, calibrated for a class word."""
        name = clean_caption(class_word)
        classes = (name,) if name else CLASSES
        if classes not in self._senses:
            if len(self._senses) >= _MOST_SENSES:
                self._senses.clear()
            pairs = zip(self.text.tokenizers, self.text.text_encoders, strict=True)
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
                for number, (tokenizer, encoder) in enumerate(pairs)
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

    By tokenizer and word lists alone, without a text encoder.
    """
    found = judge(
        trigger,
        lambda word: read_word(tokenizers, word),
        WordLists.at_hand(),
        None,
        class_word=clean_caption(class_word),
    )
    if found.verdict == "good":
        return None
    return (
        f"The trigger word {found.word!r} is {found.verdict}. {found.reasons[0]} "
        "Images suggests others, and so does the command trigger."
    )


def unused(words: Iterable[str], class_word: str, captions: Sequence[str]) -> list[str]:
    """Those that neither stand in the captions nor in the class word, nor hold it."""
    taken, text = class_word.lower(), " ".join(captions)
    free = [word for word in words if not (taken and (word in taken or taken in word))]
    return [word for word in free if not contains_word(text, word)]


def least_meaning(words: Sequence[str], meanings: Sequence[Meaning]) -> list[str]:
    """Words by how little they mean: measured where that can be, then without notes first."""

    def order(index: int) -> tuple[float, bool]:
        share = meanings[index].share
        # Tenths: a difference below that is the encoder's noise, and what is known decides.
        return 0.0 if share is None else round(max(0.0, share), 1), words[index] in notes()

    return [words[index] for index in sorted(range(len(words)), key=order)]


def far_apart(words: Sequence[str], vectors: Tensor, count: int, far_from: Tensor) -> list[str]:
    """``count`` words, the first and then always the one farthest from all chosen before.

    Distance is the angle between the rows of ``vectors`` (N, D), and a lower one counts for words
    that are spelled alike.

    Args:
        far_from: (M, D) of words that are chosen already.
    """
    directions = torch.nn.functional.normalize(vectors, dim=1)
    near = torch.nn.functional.normalize(far_from, dim=1)
    chosen: list[int] = []
    while len(chosen) < min(count, len(words)):
        references = torch.cat([near, directions[chosen]])
        if not len(references):
            chosen.append(0)
            continue
        closeness = (directions @ references.T).max(1).values
        for index, word in enumerate(words):
            closeness[index] += max((_alike(word, words[c]) for c in chosen), default=0.0)
        closeness[chosen] = torch.inf
        chosen.append(int(closeness.argmin()))
    return [words[index] for index in chosen]


def _alike(one: str, two: str) -> float:
    """0 to 1: the share of letter pairs that two words have in common."""
    pairs = [{word[i : i + 2] for i in range(len(word) - 1)} for word in (one, two)]
    return len(pairs[0] & pairs[1]) / max(1, min(map(len, pairs)))
