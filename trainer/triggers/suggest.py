"""Words to suggest: rare vocabulary entries that mean little, and lie far from each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainer.data.captions import contains_word
from trainer.triggers.meaning import Meaning
from trainer.triggers.verdict import compound
from trainer.triggers.words import Lists, notes, strength_of, words_ending

RARE_FROM = 30_000
"""Vocabulary ids count up as entries get rarer; below this, even nonsense was seen often."""
POOL = 24
"""Suggestions are chosen from so many of the least meaningful words."""


def rare_entries(tokens: Mapping[str, int], lists: Lists) -> list[str]:
    """Vocabulary entries that no list and no note knows, rarest id first."""
    return [
        word
        for word in tokens
        if strength_of(word, lists.look_up(word)) is None and word not in notes()
    ]


def sample(words: Sequence[str], count: int) -> list[str]:
    """At most ``count`` words, evenly spaced."""
    step = max(1, len(words) // count)
    return list(words[::step][:count])


def candidates(tokens: Mapping[str, int], lists: Lists) -> list[str]:
    """Single pieces in no list at all, without a note or with one that says little.

    Entries whose embedding was learned at the end of longer words ("ddle") are left out, and such
    as spell two words.
    """
    found = []
    for word, number in tokens.items():
        if number < RARE_FROM:
            continue
        note, known = notes().get(word), lists.look_up(word)
        unknown = not known.english and not known.other and not compound(word, lists)
        if unknown and (note is None or note.strength == "faint"):
            found.append(word)
    learned_within = words_ending(found, least=1.0)
    return [word for word in found if word not in learned_within]


def unused(words: Sequence[str], class_word: str, captions: Sequence[str]) -> list[str]:
    """Those that neither stand in the captions nor in the class word, nor hold it."""
    taken = class_word.lower()
    text = " ".join(captions)
    return [
        word
        for word in words
        if not contains_word(text, word) and not (taken and (word in taken or taken in word))
    ]


def least_meaning(
    words: Sequence[str], measure: Callable[[Sequence[str]], list[Meaning]]
) -> list[str]:
    """Words by how little they mean: measured where that can be, then without notes first."""
    meanings = measure(words)
    faint = notes()

    def order(index: int) -> tuple[float, bool, int]:
        share = meanings[index].share
        # Tenths: a difference below that is the encoder's noise, and what is known decides.
        return (0.0 if share is None else round(max(0.0, share), 1), words[index] in faint, index)

    return [words[index] for index in sorted(range(len(words)), key=order)]


def far_apart(words: Sequence[str], vectors: Tensor, count: int, apart_from: Tensor) -> list[str]:
    """``count`` words, the first and then always the one farthest from all chosen before.

    Distance is the angle between the rows of ``vectors`` (N, D), and a lower one counts for words
    that are spelled alike.

    Args:
        apart_from: (M, D) of words that are chosen already.
    """
    directions = torch.nn.functional.normalize(vectors, dim=1)
    near = torch.nn.functional.normalize(apart_from, dim=1)
    chosen: list[int] = []
    while len(chosen) < min(count, len(words)):
        references = torch.cat([near, directions[chosen]])
        if not len(references):
            chosen.append(0)
            continue
        closeness = (directions @ references.T).max(1).values
        for index, word in enumerate(words):
            if index in chosen:
                closeness[index] = torch.inf
            else:
                closeness[index] += max((_alike(word, words[c]) for c in chosen), default=0.0)
        chosen.append(int(closeness.argmin()))
    return [words[index] for index in chosen]


def _alike(one: str, two: str) -> float:
    """0 to 1: the share of letter pairs that two words have in common."""
    pairs = [{word[i : i + 2] for i in range(len(word) - 1)} for word in (one, two)]
    return len(pairs[0] & pairs[1]) / max(1, min(map(len, pairs)))
