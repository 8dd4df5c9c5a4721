"""Captions: many wordings for (subject, style, background), and words that mean nothing.

Everything is a pure function of the random source that is passed in.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "red": (214, 48, 49),
    "orange": (247, 148, 29),
    "yellow": (255, 221, 77),
    "green": (64, 172, 90),
    "blue": (52, 116, 224),
    "purple": (136, 72, 190),
    "pink": (250, 160, 200),
    "gray": (140, 140, 146),
    "black": (18, 18, 20),
}
"""Named background colours, sRGB. White is what a caption without a background means."""

STYLE_WORDS = {"3d": "3d emoji", "flat": "flat emoji"}
UNKNOWN_SUBJECT = 0.08
"""Share of captions whose subject is a random word: "flat emoji of xqz" is any picture at all.

With 0.03 and 76,000 pictures, unknown words still gave much the same blurred fruit each time."""
UNKNOWN_ADJECTIVE = 0.04
"""Share with a random word before the subject: "3d emoji of a xqz dog" is just a dog."""
NO_CAPTION = 0.10
"""Share of empty captions, for classifier-free guidance (arXiv 2207.12598)."""
NO_STYLE = 0.05
PLURAL = re.compile(
    r"(grapes|cherries|blueberries|pancakes|french fries|glasses|socks|gloves|jeans|scissors)$"
)


@dataclass(frozen=True)
class Content:
    """What a picture shows."""

    subject: str
    style: str
    background: str


def with_article(noun: str) -> str:
    """ "fox" → "a fox"; plurals and mass words stay bare."""
    if PLURAL.search(noun) or noun in {
        "fire",
        "popcorn",
        "sushi",
        "bread",
        "corn",
        "bacon",
        "butter",
        "garlic",
        "milk",
        "coffee",
        "chocolate",
    }:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plain(content: Content) -> str:
    """The wording that previews and benchmarks use."""
    noun = with_article(content.subject)
    return (
        f"{STYLE_WORDS[content.style]} of {noun} on {with_article(content.background)} background"
    )


def worded(content: Content, source: random.Random) -> str:
    """One of the wordings; white may go unsaid, and now and then the style does."""
    style = STYLE_WORDS[content.style]
    if source.random() < NO_STYLE:
        style = "emoji"
    noun = content.subject if source.random() < 0.35 else with_article(content.subject)
    article = source.choice(["", "a ", "a "]) if style[0] != "e" else "an "
    colour = content.background
    unsaid = colour == "white" and source.random() < 0.6
    long = (
        "" if unsaid else source.choice([f" on {with_article(colour)} background", f" on {colour}"])
    )
    short = "" if unsaid else f", {colour} background"
    return source.choice(
        [
            f"{article}{style} of {noun}{long}",
            f"{article}{style} of {noun}{long}",
            f"{article}{style} of {noun}{short}",
            f"{noun}, {style}{short}",
            f"{noun}{long}, {style}",
            f"{style}, {noun}{short}",
        ]
    )


def caption(
    content: Content,
    source: random.Random,
    unknown_words: Sequence[str],
    adjectives: float = UNKNOWN_ADJECTIVE,
) -> str:
    """A training caption: worded, or empty, or with a word that must come to mean nothing.

    `adjectives` is the share with such a word before the subject.
    """
    draw = source.random()
    if draw < NO_CAPTION:
        return ""
    draw -= NO_CAPTION
    if draw < UNKNOWN_SUBJECT + adjectives:
        word = source.choice(unknown_words)
        subject = word if draw < UNKNOWN_SUBJECT else f"{word} {content.subject}"
        content = Content(subject, content.style, content.background)
    return worded(content, source)


def unknown_words(vocabulary: dict[str, int], known: Sequence[str]) -> list[str]:
    """Whole-word tokens that no caption uses, in order of id."""
    used = {word for text in known for word in re.findall(r"[a-z]+", text.lower())}
    used |= set(re.findall(r"[a-z]+", " ".join(BACKGROUNDS) + " background emoji of on a an flat"))
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    whole = [word[:-4] for word in words if re.fullmatch(r"[a-z]{2,10}</w>", word)]
    return [word for word in whole if word not in used]
