"""Is a word a good trigger? What tokenizer, word lists and text encoder say, in sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from trainer.data.captions import clean_caption, contains_word
from trainer.models.text import Piece
from trainer.triggers.meaning import MOST_COMPARED, Meaning
from trainer.triggers.tokens import Reading
from trainer.triggers.words import Known, Lists, Strength, notes, strength_of, words_ending

Verdict = Literal["good", "weak", "taken"]

MAX_CHARACTERS = 40
"""Longer words are not looked into."""
MOST_PIECES = 3
"""Up to three pieces make a good identifier (arXiv 2208.12242, section 3.2)."""
MEANS_MUCH, MEANS_SOME = 0.5, 0.25
"""Shares of what an everyday word means."""
COMMON = 4.0
"""Zipf frequency from which a piece within a word is read as the word that it spells."""
NOT_LISTED = "No list of 42 languages has it, neither as a word nor as a name or abbreviation."
_SEVERITY: dict[Verdict, int] = {"good": 0, "weak": 1, "taken": 2}
_SYNTAX = frozenset("()[]{}<>:|\\,")
_RUN = re.compile(r"[^\W\d_]+|\d|(?:[^\w\s]|_)+")


@dataclass(frozen=True)
class Judgement:
    """A word, and why to take it as a trigger or not.

    Attributes:
        word: as given, cut to what can be shown.
        reads_like: known words that it moves a sentence towards, as measured on the base model.
        reasons: sentences, the decisive ones first; never empty.
    """

    word: str
    verdict: Verdict
    pieces: tuple[Piece, ...]
    reads_like: tuple[str, ...]
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON, in the form that the command line promises."""
        return {
            "word": self.word,
            "verdict": self.verdict,
            "pieces": [{"text": piece.text, "id": piece.id} for piece in self.pieces],
            "reads_like": list(self.reads_like),
            "reasons": list(self.reasons),
        }


@dataclass
class Evidence:
    """Reasons as they are found, each with the verdict that it would give by itself."""

    found: list[tuple[Verdict, str]] = field(default_factory=list)

    def add(self, verdict: Verdict, reason: str) -> None:
        """One more reason; the same one only once."""
        if (verdict, reason) not in self.found:
            self.found.append((verdict, reason))

    @property
    def verdict(self) -> Verdict:
        """The gravest of all."""
        return max((verdict for verdict, _ in self.found), key=_SEVERITY.__getitem__)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The gravest first."""
        ordered = sorted(self.found, key=lambda one: -_SEVERITY[one[0]])
        return tuple(reason for _, reason in ordered)


def cleaned(word: str) -> str:
    """A word as training would see it, and no longer than is looked into."""
    return clean_caption(word.strip()[: 4 * MAX_CHARACTERS])


def judge(
    word: str,
    read: Callable[[str], Reading],
    lists: Lists,
    measure: Callable[[str], Meaning] | None,
    *,
    class_word: str = "",
    captions: Sequence[str] = (),
) -> Judgement:
    """Judges any text as a trigger word.

    Args:
        read: takes a word apart as the base model's tokenizers do.
        measure: what the base model's text encoders make of it; None where that is not asked.
        class_word: of the user's subject.
        captions: of the user's image set.
    """
    evidence, text = Evidence(), cleaned(word)
    shown = text[:MAX_CHARACTERS] + ("…" if len(text) > MAX_CHARACTERS else "")
    if not text or len(word.strip()) > MAX_CHARACTERS:
        evidence.add("taken", _unusable(word, text))
        pieces = read(text[:MAX_CHARACTERS]).pieces if text else ()
        return Judgement(shown, evidence.verdict, pieces, (), evidence.reasons)
    reading = read(text)
    _form(evidence, word, text)
    _lists(evidence, text, lists)
    _own(evidence, text, class_word, captions)
    _pieces(evidence, text, reading, lists)
    reads_like: tuple[str, ...] = ()
    if measure is not None:
        meaning, count = measure(text), len(reading.pieces)
        _measured(evidence, meaning, count)
        reads_like = meaning.reads_like if _means_some(meaning, count) else ()
    return Judgement(shown, evidence.verdict, reading.pieces, reads_like, evidence.reasons)


def _unusable(word: str, text: str) -> str:
    if len(word.strip()) > MAX_CHARACTERS:
        return f"It has {len(word.strip()):,} characters; a trigger is one short word."
    if word.strip():
        return "Nothing is left of it once control and invisible characters are taken out."
    return "It is empty, and the empty prompt already stands for any picture at all."


def _form(evidence: Evidence, word: str, text: str) -> None:
    """What can be said of the characters alone."""
    if " ".join(unicodedata.normalize("NFC", word).split()) != text:
        evidence.add("weak", "It holds control or invisible characters, which are taken out.")
    runs = _RUN.findall(text)
    letters = [run for run in runs if run[0].isalpha()]
    if not letters:
        evidence.add("taken", f"It has no letters: {_signs(text)}.")
        return
    if " " in text:
        evidence.add("weak", f"It is {len(text.split())} words; a trigger should be one.")
    if any(run.isdigit() for run in runs):
        evidence.add("weak", "Each digit is a piece of its own, which also means a number.")
    marks = {char for run in runs for char in run if not run[0].isalnum()}
    if marks & _SYNTAX:
        evidence.add("weak", "It holds signs that drawing tools read as weights or separators.")
    elif marks:
        evidence.add("weak", "Punctuation splits it into several words.")
    if len(letters) == 1 and _is_single_letter(letters[0]):
        evidence.add("taken", "A single letter occurs everywhere.")
    if text != text.lower():
        evidence.add("good", f"Capitals make no difference: it is read as {text.lower()!r}.")


def _is_single_letter(run: str) -> bool:
    """One letter of an alphabet; a sign such as 犬 is a word (category Lo)."""
    return len(run) == 1 and unicodedata.category(run) != "Lo"


def _signs(text: str) -> str:
    if any(unicodedata.category(char) == "So" for char in text):
        return "an emoji or symbol is read as what it shows"
    if any(char.isdigit() for char in text):
        return "digits are read as numbers"
    return "signs mean something to the text encoder and to drawing tools"


def _lists(evidence: Evidence, text: str, lists: Lists) -> None:
    """What the word means elsewhere, whatever this base model makes of it."""
    runs = [run for run in _RUN.findall(text) if run[0].isalpha()]
    for run in dict.fromkeys(runs):
        subject = "It" if run == text else f"{run!r} in it"
        _known_elsewhere(evidence, run.lower(), subject, lists)
    if runs and not any(verdict != "good" for verdict, _ in evidence.found):
        evidence.add("good", NOT_LISTED)


_BY_STRENGTH: dict[Strength, Verdict] = {"strong": "taken", "some": "weak", "faint": "good"}


def _known_elsewhere(evidence: Evidence, run: str, subject: str, lists: Lists) -> None:
    note, known = notes().get(run), lists.look_up(run)
    strength = strength_of(run, known)
    if note:
        evidence.add(_BY_STRENGTH[note.strength], f"{subject} is known elsewhere: {note.meaning}.")
    if strength and not _is_single_letter(run):
        evidence.add(
            "taken" if strength == "strong" else "weak",
            f"{subject} is {_listed(known)}.",
        )
    if not strength and not note:
        parts = compound(run, lists)
        if parts:
            evidence.add("weak", f"{subject} spells known words: {' + '.join(parts)}.")


def _listed(known: Known) -> str:
    if known.english >= known.other - 1 and known.english:
        return f"a word, name or abbreviation in English texts, {_per_million(known.english)}"
    return f"a word, name or abbreviation in {known.language} texts, {_per_million(known.other)}"


def _per_million(zipf: float) -> str:
    times = 10 ** (zipf - 3)
    if times >= 1:
        return f"about {times:,.0f} times in a million words"
    return f"about {10**zipf:,.0f} times in a billion words"


def compound(word: str, lists: Lists) -> tuple[str, ...]:
    """The two or three common English words that a word is joined from; empty for none."""
    for at in range(1, len(word)):
        head, tail = word[:at], word[at:]
        if not _is_common(head, lists):
            continue
        if _is_common(tail, lists) and max(len(head), len(tail)) >= 3:
            return head, tail
        rest = compound(tail, lists) if at > 1 and len(tail) > 5 else ()
        if len(rest) == 2:
            return head, *rest
    return ()


def _is_common(part: str, lists: Lists) -> bool:
    if len(part) < 3:
        return part in ("a", "i", "my", "me", "we", "is", "to", "it", "of", "no", "go")
    return lists.look_up(part).english >= 4.0 + (len(part) == 3) * 0.5


def _own(evidence: Evidence, text: str, class_word: str, captions: Sequence[str]) -> None:
    """The user's class word and captions."""
    if class_word and (contains_word(text, class_word) or contains_word(class_word, text)):
        evidence.add("taken", f"It is the class word, {class_word!r}, or holds it.")
    holding = sum(contains_word(caption, text) for caption in captions)
    if holding and holding == len(captions):
        evidence.add("good", "Every caption has it already.")
    elif holding:
        evidence.add("weak", f"It stands in {holding} of {len(captions)} captions already.")


def _pieces(evidence: Evidence, text: str, reading: Reading, lists: Lists) -> None:
    """What the tokenizer makes of it."""
    pieces = reading.pieces
    if any(char.isalpha() for char in text):
        for change in reading.changes:
            evidence.add("weak", change)
    if reading.second != pieces:
        evidence.add("weak", "The two tokenizers take it apart differently.")
    if len(pieces) == 1:
        evidence.add("good", f"It is a single piece of the vocabulary, number {pieces[0].id}.")
        _single(evidence, text.lower(), lists)
        return
    parts = f"It is {len(pieces)} pieces"
    if text.isascii():  # else they are parts of bytes, which nobody can read
        parts += f" ({' | '.join(piece.text.removesuffix('</w>') for piece in pieces[:12])})"
    if len(pieces) > MOST_PIECES:
        evidence.add("weak", f"{parts}; up to {MOST_PIECES} bind well to a subject.")
    else:
        evidence.add("good", f"{parts}.")
    if text.isalpha():
        for piece in pieces:
            _spelt(evidence, piece.text, lists)


def _spelt(evidence: Evidence, piece: str, lists: Lists) -> None:
    plain = piece.removesuffix("</w>")
    long_enough = len(plain) >= (3 if piece.endswith("</w>") else 4)
    if long_enough and plain.isalpha() and lists.look_up(plain).english >= COMMON:
        evidence.add("weak", f"The text encoder reads {plain!r} in it, a word of its own.")


def _single(evidence: Evidence, word: str, lists: Lists) -> None:
    if strength_of(word, lists.look_up(word)) or word in notes():
        return
    if word.isalpha() and len(word) >= 6:
        evidence.add("weak", "The vocabulary has it whole: so long a piece is a word or a name.")
    examples = words_ending([word]).get(word, [])[:3]
    if examples:
        evidence.add("weak", f"It is the end of words such as {', '.join(examples)}.")


def _means_some(meaning: Meaning, count: int) -> bool:
    if meaning.share is None or count > MOST_COMPARED:
        return False
    return meaning.share >= MEANS_SOME and meaning.rank >= 0.9


def _measured(evidence: Evidence, meaning: Meaning, count: int) -> None:
    """What this base model's own text encoders make of it."""
    if count > MOST_COMPARED:
        evidence.add("good", "It is too long for its meaning to be measured.")
        return
    if meaning.share is None:
        evidence.add(
            "good",
            "This text encoder tells no known word from nonsense, as if untrained: the verdict "
            "rests on word lists and pieces alone.",
        )
        return
    moves = f"it moves a sentence {100 * meaning.moves:.0f} % as far as an everyday word"
    if meaning.moves < MEANS_SOME and _means_some(meaning, count):  # such as the class word, twice
        moves = f"its embedding stands out from those of rare words, though {moves}"
    if meaning.share >= MEANS_MUCH and meaning.rank >= 0.98:
        like = f" and reads like {', '.join(meaning.reads_like)}" if meaning.reads_like else ""
        evidence.add("taken", f"It means much to this base model: {moves}{like}.")
    elif _means_some(meaning, count):
        evidence.add("weak", f"It means something to this base model: {moves}.")
    else:
        length = ", no more than nonsense of its length" if count > 1 else ""
        evidence.add("good", f"It means little to this base model: {moves}{length}.")
