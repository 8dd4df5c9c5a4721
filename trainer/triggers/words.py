"""What a word means to people: frequency lists of 42 languages, and notes on web abbreviations.

The lists (PyPI ``wordfreq``: web pages, subtitles, books, news, Reddit and Twitter up to 2021)
catch names, brands and acronyms as well as dictionary words, since they count what is written.
Frequencies are on the Zipf scale: 3 is once in a million words, 6 once in a thousand.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data.cache import TensorCache, content_key
from trainer.places import cache_folder

Strength = Literal["strong", "some", "faint"]
"""How much a word means elsewhere: strong is taken, some is weak, faint is only mentioned."""

IN_FULL = ("en", "es", "fr", "de", "it", "pt", "nl", "sv", "nb", "pl")
"""Languages read to the end; of the others the words from Zipf 3 on, in scripts CLIP spells."""
FLOOR = {"en": 1.0}
OTHER_FLOOR = 2.0
WIDTH = 40  # words of more bytes than this in UTF-8 are not listed
_STEPS = 32
_RULES = 1  # raised when what is cached on disk changes its meaning

LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "fa": "Persian", "fi": "Finnish", "fil": "Filipino", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "is": "Icelandic", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian",
    "ms": "Malay", "nb": "Norwegian", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sh": "Serbo-Croatian", "sk": "Slovak", "sl": "Slovenian",
    "sv": "Swedish", "ta": "Tamil", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
_CODES = sorted(LANGUAGES)


@dataclass(frozen=True)
class Known:
    """How often a word is written."""

    english: float = 0.0  # Zipf frequency in English; 0 where it isn't listed
    other: float = 0.0  # the greatest Zipf frequency in another language
    language: str = ""  # that language's English name; empty where there is none


class WordLists:
    """The frequency lists as one table: 64-bit hashes of words, sorted, and their frequencies.

    The table of all languages takes seconds to make and 25 MB; `wordfreq`'s own dictionaries would
    take them in every process, and a gigabyte.
    """

    def __init__(self, table: dict[str, torch.Tensor]) -> None:
        self.hashes = table["hashes"].numpy().view(np.uint64)
        self.english = table["english"].numpy()
        self.other = table["other"].numpy()
        self.language = table["language"].numpy()

    @classmethod
    def open(cls, notice: Callable[[str], None] = lambda _: None) -> WordLists:
        """All lists from the cache folder; made in a few seconds where they aren't there yet.

        Args:
            notice: is told when they are made.
        """

        def build() -> dict[str, torch.Tensor]:
            notice("Reading word lists of 42 languages; the result is kept …")
            return _build(_CODES)

        return cls(_cache(notice).get_or_make(_key(), build))

    @classmethod
    def at_hand(cls) -> WordLists:
        """All lists where they have been made before; else English alone, in a second."""
        table = _cache(lambda _: None).get(_key())
        return cls(_english() if table is None else table)

    def look_up(self, word: str) -> Known:
        """A word's frequencies; case does not matter."""
        plain = unicodedata.normalize("NFC", word).lower()
        if not plain or len(plain.encode("utf-8", "replace")) > WIDTH:
            return Known()
        wanted = _hashes([plain])[0]
        at = int(cast(np.intp, np.searchsorted(self.hashes, wanted)))
        if at == len(self.hashes) or self.hashes[at] != wanted:
            return Known()
        other = float(self.other[at]) / _STEPS
        language = LANGUAGES[_CODES[int(self.language[at])]] if other else ""
        return Known(float(self.english[at]) / _STEPS, other, language)

    def strength(self, word: str) -> Strength | None:
        """How much it says of a word that it is listed; None for nothing.

        Of random strings of three consonants, 60 % stand somewhere in the English list, of four
        1 %, and hardly any of five: the shorter the word, the less it says to be listed.
        """
        known = self.look_up(word)
        if len(word) <= 3:
            if known.english >= 2.8 or known.other >= 3.8:
                return "strong"
            return "some" if known.english >= 1.8 or known.other >= 2.6 else None
        if known.english >= (2.2 if len(word) == 4 else 1.5) or known.other >= 3.0:
            return "strong"
        return "some" if known.english or known.other else None


@dataclass(frozen=True)
class Note:
    """What an abbreviation stands for, where frequency says too little."""

    strength: Strength
    meaning: str


@lru_cache(maxsize=1)
def notes() -> dict[str, Note]:
    """Hand-written notes on abbreviations and hashtags, from ``notes.tsv``."""
    path = Path(__file__).with_name("notes.tsv")
    with path.open(encoding="utf-8", newline="") as file:
        rows: Iterable[Any] = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {word: Note(cast(Strength, strength), meaning) for word, strength, meaning in rows}


@lru_cache(maxsize=1)
def words_by_ending() -> dict[str, list[str]]:
    """The most frequent English words with each ending of three to five letters, at most five."""
    found: dict[str, list[str]] = {}
    for word in english_words(2.5):
        for size in range(3, min(6, len(word))):
            examples = found.setdefault(word[-size:], [])
            if len(examples) < 5:
                examples.append(word)
    return found


def english_words(least: float) -> Iterator[str]:
    """English words of at least a Zipf frequency, the most frequent first."""
    for zipf, words in _buckets("en"):
        if zipf < least:
            return
        yield from words


def _cache(notice: Callable[[str], None]) -> TensorCache:
    return TensorCache(cache_folder() / "words", notice)


def _key() -> str:
    return content_key(
        lists=metadata.version("wordfreq"),
        rules=[_RULES, IN_FULL, FLOOR, OTHER_FLOOR, WIDTH, _STEPS],
    )


def _buckets(language: str) -> Iterator[tuple[float, list[str]]]:
    """(Zipf frequency, words) from the most frequent words downwards."""
    import wordfreq

    name = "best" if language in IN_FULL else "small"
    for centibels, words in enumerate(wordfreq.get_frequency_list(language, name)):
        yield 9 - centibels / 100, words


@lru_cache(maxsize=1)
def _english() -> dict[str, torch.Tensor]:
    return _build(["en"])


def _build(languages: Sequence[str]) -> dict[str, torch.Tensor]:
    """Of some languages: each word's frequency in English, and the greatest in another."""
    words: list[str] = []
    zipfs: list[float] = []
    codes: list[int] = []
    parts: list[np.ndarray] = []
    for language in languages:
        for zipf, bucket in _buckets(language):
            if zipf < FLOOR.get(language, OTHER_FLOOR):
                break
            words += (listed := [word for word in bucket if len(word.encode()) <= WIDTH])
            zipfs += [zipf] * len(listed)
        codes += [_CODES.index(language)] * len(words)
        parts.append(_hashes(words))
        words.clear()
    levels = np.round(np.array(zipfs) * _STEPS).clip(1, 255).astype(np.uint8)
    hashes, place = np.unique(np.concatenate(parts), return_inverse=True)
    code = np.array(codes, np.uint8)
    english, other, language = np.zeros((3, len(hashes)), np.uint8)
    rising = np.argsort(levels, kind="stable")  # the greatest is written last
    is_english = code[rising] == _CODES.index("en")
    english[place[rising[is_english]]] = levels[rising[is_english]]
    foreign = rising[~is_english]
    other[place[foreign]] = levels[foreign]
    language[place[foreign]] = code[foreign]
    arrays = {"hashes": hashes.view(np.int64), "english": english, "other": other}
    return {name: torch.from_numpy(a) for name, a in (arrays | {"language": language}).items()}


def _hashes(words: Sequence[str]) -> np.ndarray:
    """64-bit hashes of words of at most `WIDTH` bytes, the same in every process."""
    fixed = np.array([word.encode() for word in words], dtype=f"S{WIDTH}")
    columns = fixed.view(np.uint64).reshape(len(words), WIDTH // 8)
    mixed = np.full(len(words), 0x9E3779B97F4A7C15, np.uint64)
    for column in cast("NDArray[np.uint64]", columns.T):
        mixed = (mixed ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    return mixed
