"""Which prompts are preserved, and with which prompts the set's own pictures."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.conditioning import TextSource
from trainer.config.concepts import class_words_of, concepts_of, triggers_of
from trainer.config.schema import TrainingConfig
from trainer.data.captions import contains_word, without_word
from trainer.data.sets import Picture
from trainer.evaluation.prompts import caption_wordings, rank_by_similarity, with_article
from trainer.evaluation.things import kind_of
from trainer.seeds import derive_seed

OTHERS: dict[str, tuple[str, ...]] = {
    "animals": (
        "bear", "cat", "cow", "dog", "donkey", "fox", "gorilla", "hamster", "horse", "kangaroo",
        "koala", "lion", "monkey", "mouse", "panda", "pig", "puppy", "rabbit", "raccoon", "tiger",
    ),
    "birds": ("bird", "chick", "crow", "dove", "penguin", "pigeon", "turkey"),
    "small animals": ("dolphin", "fish", "frog", "seal", "snake", "spider", "whale"),
    "vehicles": (
        "ambulance", "bicycle", "boat", "car", "fire engine", "helicopter", "scooter", "ship",
        "taxi", "tram", "van", "wheel",
    ),
    "food": (
        "apple", "bread", "broccoli", "cheese", "cherries", "chocolate", "cookie", "corn", "egg",
        "french fries", "grapes", "hamburger", "lemon", "mango", "onion", "orange", "pancakes",
        "peach", "pear", "pizza", "pumpkin", "sandwich", "watermelon",
    ),
    "plants": ("flower", "leaf", "rose", "tree"),
    "people": ("child", "clown", "face", "man", "woman"),
    "clothes": ("dress", "glasses", "necklace", "ring", "shoe", "suitcase"),
    "beings of tales": ("robot",),
    "household": (
        "anchor", "balloon", "basketball", "bed", "camera", "candle", "chair", "diamond", "door",
        "football", "gift", "guitar", "hammer", "heart", "kite", "laptop", "light bulb", "pencil",
        "scissors", "sword", "table", "telephone", "television", "tent", "trophy", "trumpet",
        "umbrella", "violin", "watch",
    ),
    "buildings": ("city", "house", "window"),
    "places": ("beach", "cloud", "fire", "garden", "mountain", "star", "street", "sun"),
}  # fmt: skip
"""By the kinds of `trainer.evaluation.things`."""

OTHER_SUBJECTS: tuple[str, ...] = tuple(thing for things in OTHERS.values() for thing in things)

STAND_INS: tuple[str, ...] = ("sks", "ohwx", "zwx", "bnha", "qxv", "vnty", "hjx", "olis")
"""Words that hardly mean anything: what any rare word is to the model, but for the trigger."""

WORDINGS = ("{}", "a photo of {}", "a picture of {}", "a drawing of {}", "{} on a plain background")
NEIGHBOURS = 16
CAPTION_WORDINGS = 16
TURNS = (
    "captions", "captions", "class", "neighbours", "neighbours", "neighbours",
    "others", "others", "others", "empty",
)  # fmt: skip
"""Of ten prompts in a row, how many are of which kind."""
OTHER_WORD_EVERY = 3
"""Of so many prompts for own pictures, one has another word in the trigger's place..."""
OTHER_TRIGGER_EVERY = 2  # ...or another concept's trigger, where there are several


@dataclass(frozen=True)
class PreservedPrompts:
    """The prompts to preserve, by kinds that take turns."""

    # The set's own with the trigger taken out: the phrasings that training sees.
    captions: tuple[str, ...]
    class_words: tuple[str, ...]  # the class words in other phrasings
    # Things like the class words, in the captions' phrasings and in others.
    neighbours: tuple[str, ...]
    others: tuple[str, ...]  # all kinds of things, likewise
    own: tuple[str, ...] = ()  # the user's, each of which comes first and once

    def choose(self, number: int, *, seed: int, purpose: str) -> str:
        """Prompt ``number`` of an endless row: a pure function of its arguments.

        Behind the user's own each ten in a row hold every kind as often as `TURNS` says, in another
        order each time.
        """
        if number < len(self.own):
            return self.own[number]
        number -= len(self.own)
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
    text: TextSource, config: TrainingConfig, captions: Sequence[str]
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
            neighbours += _worded(_nearest(text, word), own)
    others = _worded(OTHER_SUBJECTS, wordings)
    kinds = (sorted(plain), class_words, neighbours, others, config.preservation.prompts)
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
    return [with_article(word) for word in class_words_of(config)] or [""]


def _nearest(text: TextSource, word: str) -> list[str]:
    """Things like a class word, most like first, those of its kind before all others."""
    things = [thing for thing in OTHER_SUBJECTS if not contains_word(word, thing)]
    ranked = rank_by_similarity(text.base, word, things, text.device, text.cache)
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
