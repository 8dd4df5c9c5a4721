"""Which of the set's own pictures are held, and with which words: what a trigger word is not."""

from __future__ import annotations

import random
from collections.abc import Sequence

from trainer.config.concepts import concepts_of, triggers_of
from trainer.config.schema import TrainingConfig
from trainer.data.captions import contains_word
from trainer.data.sets import Picture
from trainer.preservation.prompts import without_triggers
from trainer.preservation.words import STAND_INS
from trainer.seeds import derive_seed

OTHER_WORD_EVERY = 3
"""Of so many looks, one has another word in the trigger's place..."""
OTHER_TRIGGER_EVERY = 2
"""...or another concept's trigger, where there are several."""


def choose_looks(
    config: TrainingConfig, pictures: Sequence[tuple[Picture, str]], count: int
) -> list[tuple[Picture, str]]:
    """Pictures with prompts that must not draw them.

    Mostly a picture's caption without its trigger. In turns with it the same with another word in
    the trigger's place, so that not any rare word will do: another concept's trigger, where there
    are several.

    Args:
        pictures: with their captions, as they are trained.
        count: looks for each concept with a trigger; its pictures take turns.
    """
    looks = []
    for number, concept in enumerate(concepts_of(config)):
        own = [pair for pair in pictures if pair[0].concept == number]
        if not (concept.trigger and own):
            continue
        other_triggers = [word for word in triggers_of(config) if word != concept.trigger]
        others = other_triggers or _strangers(config)
        every = OTHER_TRIGGER_EVERY if other_triggers else OTHER_WORD_EVERY
        order = random.Random(derive_seed(config.preservation.seed, "looks", number)).sample(
            own, len(own)
        )
        for look in range(count):
            turn, place = divmod(look, len(order))
            picture, caption = order[place]
            prompt = without_triggers(caption, config)
            if (turn + place) % every == every - 1:
                prompt = ", ".join(filter(None, (others[look % len(others)], prompt)))
            looks.append((picture, prompt))
    return looks


def _strangers(config: TrainingConfig) -> list[str]:
    """Words that nobody trains."""
    triggers = triggers_of(config)
    return [
        word for word in STAND_INS if not any(contains_word(trigger, word) for trigger in triggers)
    ]
