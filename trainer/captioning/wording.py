"""What a caption for training should say: instructions for models, and what is made of answers.

What all pictures of a set share is what the trigger and the class word are to stand for; a caption
says what differs from picture to picture. Never torch.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.answers import Answer
from trainer.data.captions import clean_caption, clean_lines, without_word, word_pattern
from trainer.data.fitted import sticking_words
from trainer.errors import UserError

Purpose = Literal["thing", "person", "style"]
MOST_WORDS = 50
"""About what fits 75 tokens."""
GREATEST_WORDS = 300
MAX_PROMPT = 4000
GENERAL, CHARACTER = 0.35, 0.85
"""From so much on a tagger says a tag, and the name of a character: what WD14's pages advise."""

_INSTRUCTIONS: dict[Purpose, str] = {
    "thing": "Say what is around it: background, surroundings, light, angle, distance, and "
    "anything else in the picture. Call the main subject only {subject}; do not describe its own "
    "shape, colours, material or markings.",
    "person": "Say what the person does and wears, pose, expression, surroundings, light, angle "
    "and distance. Call the person only {subject}; do not describe face, eyes, age, body or skin, "
    "and hair only where it is unusual.",
    "style": "Say what is shown: subjects, what they do, their colours, surroundings and "
    "composition. Say nothing of style, medium, technique, artist or mood.",
}
_PLAIN_SUBJECT = {"thing": "by its common name", "person": "“person”", "style": ""}
_FORM = (
    "Write one caption of this picture to train an image model with: plain words, separated by "
    "commas, at most {words} words, in English. {what} No introduction, no quotation marks, no "
    "markup, nothing that cannot be seen, and no guesses."
)

# What goes along with a word that is taken out: "in a" of "in a red hat, smiling".
_LED_IN_BY = r"(?:\b(?:in|on|at|of|with|and|by|an?|the) ){1,3}"

# What chat models put around an answer.
_THOUGHTS = re.compile(r"(?is)<(think|thinking|reasoning)>.*?(?:</\1>|\Z)")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,99}>|<\|[^<>|]{0,60}\|>")
_FENCE = re.compile(r"(?m)^[ \t]{0,8}```.*$")
_MARKS = re.compile(
    r"(?m)^[ \t]{0,8}(?:#{1,6}|[-*•>]|\d{1,2}[.)])[ \t]|(?<!\w)[*_`]{1,3}|[*_`]{1,3}(?!\w)"
)
_OPENING = re.compile(
    r"(?i)^(?:sure|certainly|of course|okay|ok|here(?:'s| is| are))\b[^:\n]{0,80}:|"
    r"^(?:caption|description|answer|tags) ?:"
)


@dataclass(frozen=True)
class Wording:
    """How captions are to be."""

    purpose: Purpose = "thing"  # what the set is to teach
    # trigger, class_word: of the set, or "".
    trigger: str = ""
    class_word: str = ""
    leave_out: tuple[str, ...] = ()  # words and phrases that no caption may have
    prompt: str = ""  # instead of the purpose's instructions; ``{class}`` is the class word
    words: int = MOST_WORDS  # of a caption, at most

    @property
    def instruction(self) -> str:
        """What a model that follows instructions is asked."""
        name = clean_caption(self.class_word)
        if self.prompt.strip():
            return self.prompt.strip()[:MAX_PROMPT].replace("{class}", name or "subject")
        subject = f"“{name}”" if name else _PLAIN_SUBJECT[self.purpose]
        what = _INSTRUCTIONS[self.purpose].format(subject=subject)
        if self.leave_out:
            what += f" Never use these words: {', '.join(self.leave_out)}."
        return _FORM.format(words=self.words, what=what)

    def finish(self, answer: str) -> str:
        """A caption of one line from a model's answer: its markup and what is to be left out gone.

        Of an answer over `words` words the first ones stay, up to a comma or a full stop.
        """
        text = _plain(answer)
        return _shortened(_tidied(_without(text, (*self.leave_out, self.trigger))), self.words)


def check_wording(wording: Wording) -> Wording:
    """The same, where it makes sense.

    Raises:
        UserError: a number or a text is out of range.
    """
    if not 1 <= wording.words <= GREATEST_WORDS:
        raise UserError(
            f"A caption can't be limited to {wording.words} words.", f"Use 1 to {GREATEST_WORDS}."
        )
    if len(wording.prompt) > MAX_PROMPT:
        raise UserError(f"The prompt is longer than {MAX_PROMPT} characters.", "Shorten it.")
    return wording


def _plain(answer: str) -> str:
    text = html.unescape(_THOUGHTS.sub(" ", answer[:20_000]))
    text = _TAG.sub(" ", _FENCE.sub("", text)).strip()
    text = _OPENING.sub("", text, count=1)
    lines = [line.strip() for line in _MARKS.sub("", text).splitlines()]
    text = clean_caption(", ".join(line.rstrip(",;") for line in lines if line))
    return text.strip("\"“”'‘’ ")


def _tidied(text: str) -> str:
    """Without the gaps that words leave which were taken out, and without doubles."""
    text = re.sub(r" ([,.;:])", r"\1", text)
    text = re.sub(r"\b(an?|the) (?=(?:an?|the|of|on|in|with|and)\b|[,.])", "", text, flags=re.I)
    parts = [part.strip(" .;:") for part in text.split(",")]
    return ", ".join(dict.fromkeys(part for part in parts if re.search(r"\w", part)))


def _shortened(text: str, most: int) -> str:
    if len(text.split()) <= most:
        return text
    parts, count = list[str](), 0
    for part in text.split(", "):
        count += len(part.split())
        if count > most:
            break
        parts.append(part)
    return ", ".join(parts) or " ".join(text.split()[:most])


# ------------------------------------------------------------------------------ the report


@dataclass(frozen=True)
class WordReport(Answer):
    """What is doubtful in the captions of a set."""

    # Words in at least 80 % of the captions, with how many have them. Training can't tell them
    # from the trigger.
    common: Mapping[str, int]
    # Those of them that are in every caption: the trigger will come to mean them.
    swallowed: tuple[str, ...]
    over_long: tuple[str, ...]  # pictures whose caption has more than `Wording.words` words

    def lines(self) -> Iterable[str]:
        if self.common:
            yield "in nearly every caption: " + ", ".join(
                f"{word} ({count})" for word, count in self.common.items()
            )
        if self.swallowed:
            yield f"in every caption, so the trigger word will mean it: {', '.join(self.swallowed)}"
        if self.over_long:
            yield f"too long: {', '.join(self.over_long)}"


def report_words(captions: Mapping[str, str], wording: Wording) -> WordReport:
    """What is doubtful in captions by picture; empty ones are not counted."""
    texts = {name: clean_lines(text) for name, text in captions.items() if text.strip()}
    known = (wording.trigger, wording.class_word)
    common = sticking_words(list(texts.values()), known)
    return WordReport(
        common,
        tuple(word for word, count in common.items() if count == len(texts)),
        tuple(name for name, text in texts.items() if _longest(text) > wording.words),
    )


def without_words(captions: Mapping[str, str], words: Sequence[str]) -> dict[str, str]:
    """Captions by picture with words taken out of each, and the gaps closed."""
    return {
        name: "\n".join(filter(None, (_without(line, words) for line in text.split("\n"))))
        for name, text in captions.items()
    }


def _without(line: str, words: Sequence[str]) -> str:
    rest = line
    for word in filter(None, map(clean_caption, words)):
        found = word_pattern(word).pattern
        rest = re.sub(rf"(?i){_LED_IN_BY}{found}(?= ?(?:,|\Z))", "", rest)
        rest = without_word(rest, word)
    return line if rest == line else _tidied(rest)


def _longest(text: str) -> int:
    return max(len(line.split()) for line in text.split("\n"))
