"""Is a word a good trigger? What tokenizer, word lists and text encoder say, in sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from transformers import CLIPTokenizer

from trainer.answers import Answer
from trainer.data.captions import clean_caption, contains_word
from trainer.models.text import Piece, pieces
from trainer.triggers.meaning import MOST_COMPARED, Meaning
from trainer.triggers.reference import RUDE
from trainer.triggers.words import Known, Strength, WordLists, notes, words_by_ending

_BEFORE, _AFTER = "a photo of", "in a garden"
_SINGLE = re.compile(r"([a-z]{3,5})</w>")


@dataclass(frozen=True)
class Reading:
    """What the text encoders see of a word."""

    pieces: tuple[Piece, ...]  # by the first tokenizer
    second: tuple[Piece, ...]  # by SDXL's second one; the same, but for damaged vocabularies
    changes: tuple[str, ...]  # sentences on where the pieces become others


def read_word(tokenizers: Sequence[CLIPTokenizer], word: str) -> Reading:
    """Takes a word apart as every text encoder of a base model does."""
    changes = [text for tokenizer in tokenizers for text in _changes(tokenizer, word)]
    first, second = (tuple(pieces(tokenizers[place], word)) for place in (0, -1))
    return Reading(first, second, tuple(dict.fromkeys(changes)))


def _changes(tokenizer: CLIPTokenizer, word: str) -> list[str]:
    def ids(text: str) -> list[int]:
        return [piece.id for piece in pieces(tokenizer, text)]

    alone, before = ids(word), ids(_BEFORE)
    cases = {
        "inside a caption": (f"{_BEFORE} {word} {_AFTER}", before + alone + ids(f" {_AFTER}")),
        "before a comma": (f"{_BEFORE} {word}, {_AFTER}", before + alone + ids(f", {_AFTER}")),
        "in capitals": (word.upper(), alone),
    }
    found: list[str] = []
    for where, (text, expected) in cases.items():
        seen = pieces(tokenizer, text)
        if [piece.id for piece in seen] != expected:
            shown = " ".join(piece.shown for piece in seen[:12])
            found.append(f"It is read otherwise {where}: {shown}.")
    return found


@lru_cache(maxsize=4)
def single_tokens(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """Words of 3 to 5 letters that are one vocabulary entry, and its id; the rarest first.

    Only those that come back as they were when decoded and encoded again.
    """
    rarest = sorted(tokenizer.get_vocab().items(), key=lambda entry: -entry[1])
    entries = {m[1]: number for text, number in rarest if (m := _SINGLE.fullmatch(text))}
    encoded = tokenizer(list(entries), add_special_tokens=False)["input_ids"]
    pairs = zip(entries.items(), encoded, strict=True)
    return {word: number for (word, number), ids in pairs if list(ids) == [number]}


Verdict = Literal["good", "weak", "taken"]
Reason = tuple[Verdict, str]  # a sentence, and the verdict that it would give by itself

MAX_CHARACTERS = 40  # longer words are not looked into
MOST_PIECES = 3  # up to three pieces make a good identifier (arXiv 2208.12242, section 3.2)
MEANS_MUCH, MEANS_SOME = 0.5, 0.25  # shares of what an everyday word means
COMMON = 4.0  # zipf frequency from which a piece within a word is read as the word that it spells
NOT_LISTED = "No list of 42 languages has it, neither as a word nor as a name or abbreviation."

_SEVERITY: dict[Verdict, int] = {"good": 0, "weak": 1, "taken": 2}
_BY_STRENGTH: dict[Strength, Verdict] = {"strong": "taken", "some": "weak", "faint": "good"}
_SHORT_WORDS = ("a", "i", "my", "me", "we", "is", "to", "it", "of", "no", "go")
_SYNTAX = frozenset("()[]{}<>:|\\,")
_LEET = {ord(sign): letter for sign, letter in zip("03457$@", "oeastsa", strict=True)}
_RUN = re.compile(r"[^\W\d_]+|\d|(?:[^\w\s]|_)+")


@dataclass(frozen=True)
class Judgement(Answer):
    """A word, and why to take it as a trigger or not."""

    word: str  # as given, cut to what can be shown
    verdict: Verdict
    pieces: tuple[Piece, ...]
    # Known words that it moves a sentence towards, as measured on the base model.
    reads_like: tuple[str, ...]
    reasons: tuple[str, ...]  # sentences, the decisive ones first; never empty
    # What it stands for elsewhere, however little that matters; empty for nothing.
    known_as: str = ""


def cleaned(word: str) -> str:
    """A word as training would see it, and no longer than is looked into."""
    return clean_caption(word.strip()[: 4 * MAX_CHARACTERS])


def judge(
    word: str,
    read: Callable[[str], Reading],
    lists: WordLists,
    meaning: Meaning | None,
    *,
    class_word: str = "",
    captions: Sequence[str] = (),
) -> Judgement:
    """Judges any text as a trigger word.

    Args:
        read: takes a word apart as the base model's tokenizers do.
        meaning: to the base model's text encoders; None where that is not asked.
        class_word: of the user's subject.
        captions: of the user's image set.
    """
    text = cleaned(word)
    shown = text[:MAX_CHARACTERS] + ("…" if len(text) > MAX_CHARACTERS else "")
    length = len(word.strip())
    if not text or length > MAX_CHARACTERS:
        pieces = read(text[:MAX_CHARACTERS]).pieces if text else ()
        reason = "Nothing is in it, but for spaces and control or invisible characters."
        if length > MAX_CHARACTERS:
            reason = f"It has {length:,} characters; a trigger word is one short word."
        return Judgement(shown, "taken", pieces, (), (reason,))
    reading = read(text)
    count = len(reading.pieces)
    found = [*_form(word, text), *_elsewhere(text, lists)]
    if _letters(text) and all(verdict == "good" for verdict, _ in found):
        found.append(("good", NOT_LISTED))
    found += [*_own(text, class_word, captions), *_pieces(text, reading, lists)]
    found += _measured(meaning, count) if meaning else ()
    found.sort(key=lambda reason: -_SEVERITY[reason[0]])
    like = meaning.reads_like if meaning and _means_some(meaning, count) else ()
    reasons = tuple(dict.fromkeys(sentence for _, sentence in found))
    known_as = note.meaning if (note := notes().get(text.lower())) else ""
    return Judgement(shown, found[0][0], reading.pieces, like, reasons, known_as)


def _letters(text: str) -> list[str]:
    """The words in a text: runs of letters."""
    return [run for run in _RUN.findall(text) if run[0].isalpha()]


def _form(word: str, text: str) -> Iterator[Reason]:
    """What can be said of the characters alone."""
    if " ".join(unicodedata.normalize("NFC", word).split()) != text:
        yield "weak", "It holds control or invisible characters, which are taken out."
    runs, letters = _RUN.findall(text), _letters(text)
    if not letters:
        yield "taken", "It has no letters: digits, signs and emoji mean something already."
        return
    if " " in text:
        yield "weak", f"It is {len(text.split())} words; a trigger word should be one."
    if any(run.isdigit() for run in runs):
        yield "weak", "Each digit is a piece of its own, which also means a number."
    marks = {char for run in runs for char in run if not run[0].isalnum()}
    if marks & _SYNTAX:
        yield "weak", "It holds signs that drawing tools read as weights or separators."
    elif marks:
        yield "weak", "Punctuation splits it into several words."
    if len(letters) == 1 and _is_single_letter(letters[0]):
        yield "taken", "A single letter occurs everywhere."
    if text != text.lower():
        yield "good", f"Capitals make no difference: it is read as {text.lower()!r}."


def _is_single_letter(run: str) -> bool:
    """One letter of an alphabet; a sign such as 犬 is a word (category Lo)."""
    return len(run) == 1 and unicodedata.category(run) != "Lo"


def _elsewhere(text: str, lists: WordLists) -> Iterator[Reason]:
    """What the words in it mean elsewhere, whatever this base model makes of them."""
    for word in undisguised(text.lower()):
        strength = lists.strength(word)
        listed = strength == "strong" or (strength and len(word) > 3) or word in notes()
        if reads := rude_root(word) or word * bool(listed):
            yield "taken", f"It reads as {reads!r}, with digits or signs for letters."
            return
    for run in dict.fromkeys(_letters(text)):
        subject, word = "It" if run == text else f"{run!r} in it", run.lower()
        note, strength = notes().get(word), lists.strength(word)
        if note:
            yield _BY_STRENGTH[note.strength], f"{subject} is known elsewhere: {note.meaning}."
        if strength and not _is_single_letter(word):
            yield _BY_STRENGTH[strength], f"{subject} is {_listed(lists.look_up(word))}."
        if not strength and not note and (root := rude_root(word)):
            yield "taken", f"{subject} is {root!r} with vowels left out or changed."
        elif not strength and not note and (parts := compound(word, lists)):
            yield "weak", f"{subject} spells known words: {' + '.join(parts)}."


def _listed(known: Known) -> str:
    in_english = known.english and known.english >= known.other - 1
    language, zipf = ("English", known.english) if in_english else (known.language, known.other)
    times = 10 ** (zipf - 3)
    often = f"{times:,.0f} times in a million"
    if times < 1:
        often = f"{10**zipf:,.0f} times in a billion"
    return f"a word, name or abbreviation in {language} texts, about {often} words"


def undisguised(text: str) -> list[str]:
    """What a word in leetspeak reads as; nothing without a sign that stands for a letter within it,
    since digits at an end are numbers."""
    if not re.search(r"[^\W\d_][013457$@!]{1,4}[^\W\d_]", text):
        return []
    plain = (text.translate(_LEET | {ord(sign): one for sign in "1!"}) for one in "il")
    return [word for word in dict.fromkeys(plain) if word.isalpha()]


def rude_root(word: str) -> str:
    """The rude word that a word stands for by its consonants, endings apart; empty for none.

    At least three of them, and four where there are vowels between them.
    """
    consonants = _without_vowels(word)
    for ending in ("", "s", "d", "r", "rs", "n", "ng", "ngs", "y"):
        stem = consonants.removesuffix(ending) if ending else consonants
        root = next((one for one in RUDE if _without_vowels(one) == stem), "")
        if root and len(stem) >= (3 if word in (consonants, root) else 4):
            return root
    return ""


def _without_vowels(word: str) -> str:
    return re.sub("[aeiou]", "", word)


def compound(word: str, lists: WordLists) -> tuple[str, ...]:
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


def _is_common(part: str, lists: WordLists) -> bool:
    if len(part) < 3:
        return part in _SHORT_WORDS
    return lists.look_up(part).english >= COMMON + (len(part) == 3) * 0.5


def _own(text: str, class_word: str, captions: Sequence[str]) -> Iterator[Reason]:
    if class_word and (contains_word(text, class_word) or contains_word(class_word, text)):
        yield "taken", f"It is the class word, {class_word!r}, or holds it."
    holding = sum(contains_word(caption, text) for caption in captions)
    if holding and holding == len(captions):
        yield "good", "Every caption has it already."
    elif holding:
        yield "weak", f"It stands in {holding} of {len(captions)} captions already."


def _pieces(text: str, reading: Reading, lists: WordLists) -> Iterator[Reason]:
    """What the tokenizer makes of it."""
    pieces = reading.pieces
    if any(char.isalpha() for char in text):
        for change in reading.changes:
            yield "weak", change
    if reading.second != pieces:
        yield "weak", "The two tokenizers take it apart differently."
    if len(pieces) == 1:
        yield "good", f"It is a single piece of the vocabulary, number {pieces[0].id}."
        yield from _single(text.lower(), lists)
        return
    parts = f"It is {len(pieces)} pieces ({' | '.join(piece.shown for piece in pieces[:12])})"
    if len(pieces) > MOST_PIECES:
        yield "weak", f"{parts}; up to {MOST_PIECES} bind well to a subject."
    else:
        yield "good", f"{parts}."
    for piece in pieces if text.isalpha() else ():
        plain = piece.text.removesuffix("</w>")
        long_enough = len(plain) >= (3 if piece.text.endswith("</w>") else 4)
        if long_enough and plain.isalpha() and lists.look_up(plain).english >= COMMON:
            yield "weak", f"The text encoder reads {plain!r} in it, a word of its own."


def _single(word: str, lists: WordLists) -> Iterator[Reason]:
    """A vocabulary entry that no list explains: where it was learned."""
    if lists.strength(word) or word in notes():
        return
    if word.isalpha() and len(word) >= 6:
        yield "weak", "The vocabulary has it whole: so long a piece is a word or a name."
    if examples := words_by_ending().get(word):
        yield "weak", f"It is the end of words such as {', '.join(examples[:3])}."


def _means_some(meaning: Meaning, count: int) -> bool:
    if meaning.share is None or count > MOST_COMPARED:
        return False
    return meaning.share >= MEANS_SOME and meaning.rank >= 0.9


def _measured(meaning: Meaning, count: int) -> Iterator[Reason]:
    """What this base model's own text encoders make of a word of so many pieces."""
    if count > MOST_COMPARED:
        yield "good", "It is too long for its meaning to be measured."
        return
    if meaning.share is None:
        yield (
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
        yield "taken", f"It means much to this base model: {moves}{like}."
    elif _means_some(meaning, count):
        yield "weak", f"It means something to this base model: {moves}."
    else:
        length = ", no more than nonsense of its length" if count > 1 else ""
        yield "good", f"It means little to this base model: {moves}{length}."
