"""Captions by the base model itself, which need no further model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from PIL import Image

from trainer.captioning.candidates import STYLES, class_candidates
from trainer.captioning.classifier import BaseClassifier, Seen
from trainer.captioning.sets import Captioner
from trainer.captioning.wording import Wording
from trainer.memory.devices import choose_device
from trainer.models.load import load_base
from trainer.triggers.lab import open_lab

KNOWN = 0.25
"""A candidate is tried where it means so much of an everyday word to the base (see `Meaning`)."""
KNOWN_STYLE = 0.4
"""Of a style: its words stand where unknown ones make anything look likelier."""


class BaseCaptioner(Captioner):
    """Says the class word, the background and the style that a base model sees.

    Args:
        name: of the base model.
        words: the user's own candidates for the class word, tried whatever they mean.
        check: is called between forward passes; what it raises ends the work.
    """

    def __init__(
        self, name: str, words: Sequence[str] = (), check: Callable[[], None] = lambda: None
    ) -> None:
        self.title = f"the base model {name}"
        self.class_word = ""
        device = choose_device("auto")
        base = load_base(name, dtype=device.dtype)
        device.put(base.unet, *base.text_encoders)
        things = [*dict.fromkeys([*words, *known_words(name, class_candidates())])]
        self.classifier = BaseClassifier(
            base, device, things, known_words(name, STYLES, KNOWN_STYLE), check
        )
        self._seen: dict[str, Seen] = {}

    def caption(self, name: str, picture: Image.Image, wording: Wording) -> str:
        """The words for one picture by itself."""
        seen = self.classifier.look(picture, wording.class_word)
        self._seen[name] = seen
        return seen.caption(wording.purpose, wording.class_word)

    def settle(self, captions: dict[str, str], wording: Wording) -> dict[str, str]:
        """One class word for all and no style, where the pictures are of one thing or person.

        It is the one that most pictures are sure of, if these are at least half of all. The style
        is what all of them share, and is left to the trigger.
        """
        if wording.purpose == "style":
            return captions
        seen = {name: self._seen[name] for name in captions}
        sure = Counter(one.class_word for one in seen.values() if one.class_word)
        word, count = wording.class_word, len(seen)
        if not word and sure:
            word, count = sure.most_common(1)[0]
        self.class_word = word if 2 * count >= len(seen) else ""
        if not wording.class_word:
            self.title += f", which {self._found(seen.values())}"
        return {
            name: replace(one, class_word="", style="").caption(wording.purpose, self.class_word)
            for name, one in seen.items()
        }

    def _found(self, seen: Iterable[Seen]) -> str:
        """What is said of the class word."""
        if self.class_word:
            return f"takes the subject for “{self.class_word}”: give the class word to correct it"
        gains = Counter[str]()
        for one in seen:
            gains.update({word: max(0.0, gain) for word, gain in one.things.items()})
        nearest = ", ".join(word for word, _ in gains.most_common(3))
        return f"is not sure what the pictures show (nearest: {nearest}): give the class word"


def known_words(base_name: str, words: Iterable[str], least: float = KNOWN) -> list[str]:
    """Those of the words that a base model's text encoders know.

    All of them where the encoders are untrained and tell no difference.
    """
    words = list(words)
    meanings = open_lab(base_name).measure(words, "")
    found = [
        word
        for word, meaning in zip(words, meanings, strict=True)
        if meaning.share is None or meaning.share >= least
    ]
    return found or words
