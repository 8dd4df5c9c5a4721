"""Does it still listen? Which words of a prompt change what is drawn with the trigger word.

Drawings are compared in the space `simple`: colours, layout and outlines. With v(w) the change of
their features by words w after the trigger with its class word, and b(w) that by w after the class
word of the base model, with the same seeds:

    heard    = |v(w)| / |b(w)|, at most 1   1: they change as much as with the class word; 0: none
    without  = the same of the class word with the adapter
    already  = how far the trigger word by itself goes from the base model's drawing of the class
               word towards that with w: 1 where it draws w unasked

That something changes does not say that the scene is drawn well; that nothing does, is deafness.
Scenes are words that no caption has. The captions' own words may have been swallowed: drawn
unasked, and leaving them out changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.captions import contains_word, without_word, word_pattern
from trainer.evaluation.meters import MeasuredConcept
from trainer.evaluation.pictorial import HOW, Vector, features
from trainer.evaluation.verdicts import AdapterFinding
from trainer.generation.sampling import Drawing, draw
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.scenes import in_scene, scenes_for
from trainer.text import name_subject

MOST = 3
SEEDS = (201, 202)
DEAF = 0.3  # less than this share of what the words change with the class word is not listening
UNHEARD, SWALLOWED = 0.6, 0.75
"""A word of the captions is swallowed that changes less, and that the trigger word draws so far
unasked: between what was measured of words in every caption and of ordinary ones."""


@dataclass(frozen=True)
class Heard:
    """What some words of a prompt do; see the head of this file."""

    words: str
    heard: float
    without: float
    already: float
    weight: float  # |b(w)|², what the base model itself makes of the words


@dataclass(frozen=True)
class Listening:
    """What it makes of scenes that no picture shows, and of its captions' words."""

    scenes: tuple[Heard, ...]
    captions: tuple[Heard, ...]
    # The scenes' mean, each counted as the base model knows it; None without scenes.
    listens: float | None
    swallowed: tuple[str, ...]  # words of the captions that the trigger word draws, asked or not


def measure_listening(
    base: BaseModel, concept: MeasuredConcept, device: Device, side: int
) -> Listening:
    """Draws scenes and caption words with the adapter that is on the model, and without it.

    UNet and text encoders have to be on the device.

    Args:
        side: of the square pictures, in pixels.
    """
    captions = [text for _, text in (*concept.trained, *concept.validation)]
    scenes = scenes_for(concept.class_word, captions, MOST)
    words = caption_words(captions, concept.trigger, concept.class_word)

    def seen(subject: str) -> Vector:
        """(1 + words, seeds, features)."""
        prompts = [subject, *(in_scene(subject, concept.class_word, scene) for scene in scenes)]
        prompts += [", ".join(filter(None, (subject, text))) for text in words]
        drawings = [
            Drawing(prompt, "", seed, side, side, *HOW) for prompt in prompts for seed in SEEDS
        ]
        shown = [np.asarray(picture) for picture in draw(base, drawings, device)]
        rows = np.stack([np.concatenate(features(picture)) for picture in shown])
        return rows.reshape(len(prompts), len(SEEDS), -1)

    trigger = seen(name_subject(concept.trigger, concept.class_word))
    without = seen(concept.class_word)
    with disabled(base):
        plain = seen(concept.class_word)
    wanted = plain[1:] - plain[:1]
    weights = np.square(wanted).sum(axis=(1, 2)).clip(1e-9)

    def heard(rows: Vector) -> Vector:
        return np.sqrt(np.square(rows[1:] - rows[:1]).sum(axis=(1, 2)) / weights).clip(0, 1)

    already = ((trigger[:1] - plain[:1]) * wanted).sum(axis=(1, 2)) / weights
    columns = zip([*scenes, *words], heard(trigger), heard(without), already, weights, strict=True)
    found = [Heard(text, *map(float, numbers)) for text, *numbers in columns]
    return _told(found[: len(scenes)], found[len(scenes) :])


def _told(scenes: Sequence[Heard], captions: Sequence[Heard]) -> Listening:
    total = sum(one.weight for one in scenes)
    listens = sum(one.heard * one.weight for one in scenes) / total if total > 0 else None
    swallowed = [one.words for one in captions if one.heard < UNHEARD and one.already > SWALLOWED]
    return Listening(tuple(scenes), tuple(captions), listens, tuple(swallowed))


def caption_words(captions: Sequence[str], trigger: str, class_word: str) -> list[str]:
    """What captions say besides trigger and class word, the most frequent first: tags, and what
    follows the class word in a sentence."""
    found: Counter[str] = Counter()
    for caption in captions:
        for part in re.split(r"[,.;]", without_word(caption, trigger)):
            if class_word and contains_word(part, class_word):
                part = word_pattern(class_word).split(part, maxsplit=1)[-1]
            found[" ".join(part.split())] += 1
    # What few captions say is no habit of the pictures.
    often = [text for text, count in found.most_common() if text and 4 * count >= len(captions)]
    return often[:MOST]


def listening_findings(found: Listening) -> Iterator[AdapterFinding]:
    """In words: whether it listens, and what the trigger word has swallowed."""
    if found.listens is not None:
        scenes = ", ".join(f"“{one.words}”" for one in found.scenes)
        if found.listens < DEAF:
            says = (
                f"It hardly follows the prompt: {scenes} change next to nothing of what it draws."
            )
            hint = " Try an earlier adapter or a lower strength."
            yield AdapterFinding("deaf", says + hint, False)
        else:
            share = f"{found.listens:.0%} as much" if found.listens < 0.95 else "as much"
            says = f"It follows the prompt: {scenes} change the drawing {share} as without it."
            yield AdapterFinding("listens", says, True)
    if found.swallowed:
        words = ", ".join(f"“{text}”" for text in found.swallowed)
        yield AdapterFinding(
            "swallowed",
            f"The trigger word has swallowed {words}: it comes unasked, and leaving the words out "
            "changes little. Show it in fewer of the pictures, or mask it.",
            False,
        )
