"""What a word means to people: frequency lists of 42 languages, and notes on web abbreviations.

The lists (PyPI ``wordfreq``: web pages, subtitles, books, news, Reddit and Twitter up to 2021)
catch names, brands and acronyms as well as dictionary words, since they count what is written.
Frequencies are on the Zipf scale: 3 is once in a million words, 6 once in a thousand.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch

from trainer.data.cache import TensorCache, content_key
from trainer.places import cache_folder

Strength = Literal["strong", "some", "faint"]
"""How much a word means elsewhere: strong is taken, some is weak, faint is only mentioned."""

IN_FULL = ("en", "es", "fr", "de", "it", "pt", "nl", "sv", "nb", "pl")
"""Languages read to the end; of the others the words from Zipf 3 on, in scripts CLIP spells."""
FLOOR = {"en": 1.0}
OTHER_FLOOR = 2.0
WIDTH = 40
"""Words of more bytes than this in UTF-8 are not listed."""
_STEPS = 32
_RULES = 1
"""Raised when what is kept on disk changes its meaning."""

LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "ca": "Catalan",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fil": "Filipino",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mk": "Macedonian",
    "ms": "Malay",
    "nb": "Norwegian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sh": "Serbo-Croatian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sv": "Swedish",
    "ta": "Tamil",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
_CODES = sorted(LANGUAGES)


@dataclass(frozen=True)
class Known:
    """How often a word is written.

    Attributes:
        english: Zipf frequency in English; 0 where it isn't listed.
        other: the greatest Zipf frequency in another language.
        language: that language's English name; empty where there is none.
    """

    english: float
    other: float
    language: str


@dataclass(frozen=True)
class Note:
    """What an abbreviation stands for, where frequency says too little."""

    strength: Strength
    meaning: str


class Lists(Protocol):
    """Where a word can be looked up."""

    def look_up(self, word: str) -> Known:
        """A word's frequencies; case does not matter."""
        ...


class EnglishList:
    """The English list alone, which is read in a fraction of a second."""

    def look_up(self, word: str) -> Known:
        """As `WordLists.look_up`; what other languages know stays unknown."""
        plain = _plain(word)
        return Known(next((zipf for zipf, words in _buckets("en") if plain in words), 0), 0, "")


class WordLists:
    """The frequency lists as one table: 64-bit hashes of words, sorted, and their frequencies."""

    def __init__(self, table: dict[str, torch.Tensor]) -> None:
        self.hashes = table["hashes"].numpy().view(np.uint64)
        self.english = table["english"].numpy()
        self.other = table["other"].numpy()
        self.language = table["language"].numpy()

    @classmethod
    def open(cls, notice: Callable[[str], None] = lambda _: None) -> WordLists:
        """The table from the cache folder, made in a few seconds where it isn't there yet.

        Args:
            notice: is told when it is made.
        """
        cache, key = TensorCache(cache_folder() / "words", notice), _key()
        table = cache.get(key)
        if table is None:
            notice("Reading word lists of 42 languages; the result is kept …")
            table = _build()
            with suppress(OSError):  # it only costs the seconds again
                cache.put(key, table)
        return cls(table)

    def look_up(self, word: str) -> Known:
        """A word's frequencies; case does not matter."""
        plain = _plain(word)
        if not plain or len(plain.encode("utf-8", "replace")) > WIDTH:
            return Known(0, 0, "")
        wanted = _hashes([plain])[0]
        at = int(np.searchsorted(self.hashes, wanted))
        if at == len(self.hashes) or self.hashes[at] != wanted:
            return Known(0, 0, "")
        other = float(self.other[at]) / _STEPS
        language = LANGUAGES[_CODES[int(self.language[at])]] if other else ""
        return Known(float(self.english[at]) / _STEPS, other, language)


def lists_at_hand() -> Lists:
    """All lists where their table has been made before, else the English one."""
    table = TensorCache(cache_folder() / "words", lambda _: None).get(_key())
    return EnglishList() if table is None else WordLists(table)


def _key() -> str:
    return content_key(
        lists=metadata.version("wordfreq"),
        rules=[_RULES, IN_FULL, FLOOR, OTHER_FLOOR, WIDTH, _STEPS],
    )


def _plain(word: str) -> str:
    return unicodedata.normalize("NFC", word).lower()


def strength_of(word: str, known: Known) -> Strength | None:
    """How much a frequency says about a word of this length.

    Of random strings of three consonants, 60 % stand somewhere in the English list, of four 1 %,
    and hardly any of five: the shorter the word, the less it says to be listed.
    """
    if len(word) <= 3:
        if known.english >= 2.8 or known.other >= 3.8:
            return "strong"
        return "some" if known.english >= 1.8 or known.other >= 2.6 else None
    if known.english >= (2.2 if len(word) == 4 else 1.5) or known.other >= 3.0:
        return "strong"
    return "some" if known.english or known.other else None


@lru_cache(maxsize=1)
def notes() -> dict[str, Note]:
    """Hand-written notes on abbreviations and hashtags, from ``notes.tsv``."""
    path = Path(__file__).with_name("notes.tsv")
    with path.open(encoding="utf-8", newline="") as file:
        rows: Iterable[Any] = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {word: Note(cast(Strength, strength), meaning) for word, strength, meaning in rows}


def words_ending(endings: Iterable[str], least: float = 2.5) -> dict[str, list[str]]:
    """The most frequent English words with each ending, at most five; no entry where none has it.

    Args:
        endings: of three to five letters.
        least: Zipf frequency of the rarest words that count.
    """
    wanted = frozenset(endings)
    found: dict[str, list[str]] = {}
    for zipf, words in _buckets("en"):
        if zipf < least:
            break
        for word in words:
            for size in (3, 4, 5):
                if word[-size:] in wanted and len(word) > size:
                    found.setdefault(word[-size:], []).append(word)
    return {ending: words[:5] for ending, words in found.items()}


def _buckets(language: str) -> Iterable[tuple[float, list[str]]]:
    """(Zipf frequency, words) from the most frequent words downwards."""
    import wordfreq

    name = "best" if language in IN_FULL else "small"
    for centibels, words in enumerate(wordfreq.get_frequency_list(language, name)):
        yield 9 - centibels / 100, words


def _build() -> dict[str, torch.Tensor]:
    hashes: list[np.ndarray] = []
    levels: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    for code, language in enumerate(_CODES):
        words, zipfs = _words_of(language)
        hashes.append(_hashes(words))
        levels.append(np.round(np.array(zipfs) * _STEPS).clip(1, 255).astype(np.uint8))
        codes.append(np.full(len(words), code, np.uint8))
    return _merged(np.concatenate(hashes), np.concatenate(levels), np.concatenate(codes))


def _words_of(language: str) -> tuple[list[str], list[float]]:
    words: list[str] = []
    zipfs: list[float] = []
    for zipf, bucket in _buckets(language):
        if zipf < FLOOR.get(language, OTHER_FLOOR):
            break
        kept = [word for word in bucket if len(word) <= WIDTH and len(word.encode()) <= WIDTH]
        words += kept
        zipfs += [zipf] * len(kept)
    return words, zipfs


def _merged(hashes: np.ndarray, levels: np.ndarray, codes: np.ndarray) -> dict[str, torch.Tensor]:
    unique, place = np.unique(hashes, return_inverse=True)
    is_english = codes == _CODES.index("en")
    english = np.zeros(len(unique), np.uint8)
    other = np.zeros(len(unique), np.uint8)
    language = np.zeros(len(unique), np.uint8)
    english[place[is_english]] = levels[is_english]
    foreign = np.flatnonzero(~is_english)
    rising = foreign[np.argsort(levels[foreign], kind="stable")]  # the greatest is written last
    other[place[rising]] = levels[rising]
    language[place[rising]] = codes[rising]
    arrays = {"hashes": unique.view(np.int64), "english": english, "other": other}
    return {
        name: torch.from_numpy(array) for name, array in (arrays | {"language": language}).items()
    }


def _hashes(words: Sequence[str]) -> np.ndarray:
    """64-bit hashes of words of at most `WIDTH` bytes, the same in every process."""
    fixed = np.array([word.encode() for word in words], dtype=f"S{WIDTH}")
    columns = fixed.view(np.uint64).reshape(len(words), WIDTH // 8)
    mixed = np.full(len(words), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns.T:
        mixed = (mixed ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    return mixed
