"""Which prompts are preserved, and with which prompts the set's own pictures."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.config.concepts import concepts_of, triggers_of
from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.captions import contains_word, without_word
from trainer.data.sets import Picture
from trainer.evaluation.prompts import caption_wordings, rank_by_similarity, with_article
from trainer.evaluation.things import kind_of
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.preservation.words import OTHER_SUBJECTS, OTHERS, STAND_INS
from trainer.seeds import derive_seed

WORDINGS = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "{} on a plain background",
)
NEIGHBOURS = 16
CAPTION_WORDINGS = 16
TURNS = (
    "captions", "captions", "class", "neighbours", "neighbours", "neighbours",
    "others", "others", "others", "empty",
)  # fmt: skip
"""Of ten prompts in a row, how many are of which kind."""
OTHER_WORD_EVERY = 3
"""Of so many prompts for own pictures, one has another word in the trigger's place..."""
OTHER_TRIGGER_EVERY = 2
"""...or another concept's trigger, where there are several."""


@dataclass(frozen=True)
class PreservedPrompts:
    """The prompts to preserve, by kinds that take turns.

    Attributes:
        captions: the set's own with the trigger taken out: the phrasings that training sees.
        class_words: the class words in other phrasings.
        neighbours: things like the class words, in the captions' phrasings and in others.
        others: all kinds of things, likewise, and the user's own prompts.
    """

    captions: tuple[str, ...]
    class_words: tuple[str, ...]
    neighbours: tuple[str, ...]
    others: tuple[str, ...]

    def choose(self, number: int, *, seed: int, purpose: str) -> str:
        """Prompt ``number`` of an endless row: a pure function of its arguments.

        Each ten in a row hold every kind as often as `TURNS` says, in another order each time.
        """
        block, place = divmod(number, len(TURNS))
        order = random.Random(derive_seed(seed, purpose, "kinds", block))
        kind = order.sample(TURNS, len(TURNS))[place]
        prompts = {
            "captions": self.captions or self.others,
            "class": self.class_words or self.others,
            "neighbours": self.neighbours or self.others,
            "others": self.others,
            "empty": ("",),
        }[kind]
        return random.Random(derive_seed(seed, purpose, "prompt", number)).choice(prompts)


def preserved_prompts(
    base: BaseModel,
    config: TrainingConfig,
    captions: Sequence[str],
    device: Device,
    cache: TensorCache,
) -> PreservedPrompts:
    """The prompts that a run preserves.

    What is near to a class word are things of its kind, where that is known, and then those that
    the base model's own text encoders name.

    Args:
        captions: as they are trained, with their triggers.
    """
    plain = {without_triggers(caption, config) for caption in captions} - {""}
    class_words: list[str] = []
    neighbours: list[str] = []
    wordings: list[str] = []
    for concept in concepts_of(config):
        word = concept.class_word
        own = caption_wordings(captions, concept.trigger, word, most=CAPTION_WORDINGS)
        own = [without_triggers(wording, config) for wording in own]
        wordings += own
        if word:
            class_words += [word, *(wording.format(with_article(word)) for wording in WORDINGS)]
            neighbours += _worded(_nearest(base, word, device, cache), own)
    others = _worded(OTHER_SUBJECTS, wordings)
    # The user's own prompts get half of the turns of their kind, however few they are.
    prompts = list(config.preservation.prompts)
    others += prompts * (len(others) // len(prompts)) if prompts else []
    kinds = (sorted(plain), class_words, neighbours, others)
    return PreservedPrompts(*(tuple(_without_trigger(kind, config)) for kind in kinds))


def prompts_for_own_pictures(
    config: TrainingConfig, pictures: Sequence[tuple[Picture, str]], count: int
) -> list[tuple[Picture, str]]:
    """The set's own pictures with prompts that must not draw them: what a trigger word is not.

    Mostly a picture's caption without its trigger. In turns with it the same with another word in
    the trigger's place, so that not any rare word will do: another concept's trigger, where there
    are several.

    Args:
        pictures: with their captions, as they are trained.
        count: prompts for each concept with a trigger; its pictures take turns.
    """
    found: list[tuple[Picture, str]] = []
    triggers = triggers_of(config)
    strangers = [
        word for word in STAND_INS if not any(contains_word(trigger, word) for trigger in triggers)
    ]
    for number, concept in enumerate(concepts_of(config)):
        own = [pair for pair in pictures if pair[0].concept == number]
        if not (concept.trigger and own):
            continue
        other_triggers = [word for word in triggers if word != concept.trigger]
        others = other_triggers or strangers
        every = OTHER_TRIGGER_EVERY if other_triggers else OTHER_WORD_EVERY
        shuffle = random.Random(derive_seed(config.preservation.seed, "looks", number))
        order = shuffle.sample(own, len(own))
        for index in range(count):
            turn, place = divmod(index, len(order))
            picture, caption = order[place]
            prompt = without_triggers(caption, config)
            if (turn + place) % every == every - 1:
                prompt = ", ".join(filter(None, (others[index % len(others)], prompt)))
            found.append((picture, prompt))
    return found


def class_prompts(config: TrainingConfig) -> list[str]:
    """One prompt for each class word, as DreamBooth has it: "a CLASS"."""
    words = [concept.class_word for concept in concepts_of(config) if concept.class_word]
    return [with_article(word) for word in dict.fromkeys(words)] or [""]


def _nearest(base: BaseModel, word: str, device: Device, cache: TensorCache) -> list[str]:
    """Things like a class word, most like first, those of its kind before all others."""
    things = [thing for thing in OTHER_SUBJECTS if not contains_word(word, thing)]
    ranked = rank_by_similarity(base, word, things, device, cache)
    of_kind = OTHERS.get(kind_of(word) or "", ())
    return sorted(ranked, key=lambda thing: thing not in of_kind)[:NEIGHBOURS]


def _without_trigger(prompts: Sequence[str], config: TrainingConfig) -> list[str]:
    """Those without a trigger word, which can't be preserved and taught at once."""
    triggers = triggers_of(config)
    return [text for text in prompts if not any(contains_word(text, word) for word in triggers)]


def _worded(things: Sequence[str], wordings: Sequence[str]) -> list[str]:
    """Each thing in each phrasing; the captions' come up twice as often as the plain ones."""
    own = [*wordings] * max(1, 2 * len(WORDINGS) // len(wordings)) if wordings else []
    return [
        wording.format(with_article(thing)) for thing in things for wording in [*WORDINGS, *own]
    ]


def without_triggers(text: str, config: TrainingConfig) -> str:
    """A caption without any concept's trigger."""
    for concept in concepts_of(config):
        text = without_word(text, concept.trigger)
    return re.sub(r"\s+", " ", text).strip()
