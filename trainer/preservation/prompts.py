"""Which prompts are kept as they were."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.config.concepts import concepts_of, triggers_of
from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.captions import contains_word, without_word
from trainer.evaluation.prompts import caption_wordings, rank_by_kinship, with_article
from trainer.evaluation.things import kind_of
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.preservation.words import OTHER_SUBJECTS, OTHERS
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
TURNS = ("same", "same", "kin", "near", "near", "near", "others", "others", "others", "empty")
"""Of ten prompts in a row, how many are of which kind."""


@dataclass(frozen=True)
class PreservedPrompts:
    """The prompts to preserve, by kinds that take turns.

    Attributes:
        same: the set's own captions with the trigger taken out: the phrasings that training sees.
        kin: the class words in other phrasings.
        near: things like the class words, in the captions' phrasings and in others.
        others: all kinds of things, likewise, and the user's own prompts.
    """

    same: tuple[str, ...]
    kin: tuple[str, ...]
    near: tuple[str, ...]
    others: tuple[str, ...]

    def choose(self, number: int, *, seed: int, purpose: str) -> str:
        """Prompt ``number`` of an endless row: a pure function of its arguments.

        Each ten in a row hold every kind as often as `TURNS` says, in another order each time.
        """
        block, place = divmod(number, len(TURNS))
        order = random.Random(derive_seed(seed, purpose, "kinds", block))
        kind = order.sample(TURNS, len(TURNS))[place]
        choices = {"same": self.same, "kin": self.kin, "near": self.near, "others": self.others}
        prompts = ("",) if kind == "empty" else choices[kind] or self.others
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
    same = {without_triggers(caption, config) for caption in captions} - {""}
    kin: list[str] = []
    near: list[str] = []
    wordings: list[str] = []
    for concept in concepts_of(config):
        word = concept.class_word
        own = caption_wordings(captions, concept.trigger, word, most=CAPTION_WORDINGS)
        own = [without_triggers(wording, config) for wording in own]
        wordings += own
        if word:
            kin += [word, *(wording.format(with_article(word)) for wording in WORDINGS)]
            near += _worded(_nearest(base, word, device, cache), own)
    others = _worded(OTHER_SUBJECTS, wordings)
    # The user's own prompts get half of the turns of their kind, however few they are.
    prompts = list(config.preservation.prompts)
    others += prompts * (len(others) // len(prompts)) if prompts else []
    kinds = (sorted(same), kin, near, others)
    return PreservedPrompts(*(tuple(_of_others(kind, config)) for kind in kinds))


def class_prompts(config: TrainingConfig) -> list[str]:
    """One prompt for each class word, as DreamBooth has it: "a CLASS"."""
    words = [concept.class_word for concept in concepts_of(config) if concept.class_word]
    return [with_article(word) for word in dict.fromkeys(words)] or [""]


def _nearest(base: BaseModel, word: str, device: Device, cache: TensorCache) -> list[str]:
    """Things like a class word, most like first, those of its kind before all others."""
    things = [thing for thing in OTHER_SUBJECTS if not contains_word(word, thing)]
    ranked = rank_by_kinship(base, word, things, device, cache)
    kin = OTHERS.get(kind_of(word) or "", ())
    return sorted(ranked, key=lambda thing: thing not in kin)[:NEIGHBOURS]


def _of_others(prompts: Sequence[str], config: TrainingConfig) -> list[str]:
    """Those without a trigger word: one that is a common word can't be held and taught at once."""
    triggers = triggers_of(config)
    return [text for text in prompts if not any(contains_word(text, word) for word in triggers)]


def _worded(things: Sequence[str], wordings: Sequence[str]) -> list[str]:
    """Each thing in each phrasing; the captions' come up twice as often as the plain ones."""
    own = [*wordings] * max(1, 2 * len(WORDINGS) // len(wordings)) if wordings else []
    return [
        wording.format(with_article(thing)) for thing in things for wording in [*WORDINGS, *own]
    ]


def without_triggers(text: str, config: TrainingConfig) -> str:
    for concept in concepts_of(config):
        text = without_word(text, concept.trigger)
    return re.sub(r"\s+", " ", text).strip()
