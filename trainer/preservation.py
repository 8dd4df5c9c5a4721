"""Which prompts are kept as they were while something new is learned.

Training on pictures of one subject moves everything that the model draws. On steps that preserve,
the base model's own prediction for other prompts is a target as well (the prior-preservation loss
of DreamBooth, arXiv 2208.12242, section 3.3, with the frozen model as teacher in place of class
pictures, as in learning without forgetting, arXiv 1606.09282).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.config import CaptionsConfig, PreservationConfig
from trainer.data.captions import without_word
from trainer.seeds import derive_seed

CLASS_TEMPLATES = (
    "{}",
    "a {}",
    "a photo of a {}",
    "a picture of the {}",
    "a drawing of a {}",
    "a large {} on a plain background",
)
OTHER_TEMPLATES = ("{}", "a {}", "a picture of a {}")
# Common things of many kinds: what an adapter must not draw into.
OTHER_SUBJECTS = (
    "apple", "bear", "bicycle", "bird", "boat", "bread", "car", "cat", "chair", "cow", "dog",
    "fish", "flower", "fox", "frog", "guitar", "hamburger", "horse", "house", "lemon", "lion",
    "man", "monkey", "mountain", "mouse", "panda", "penguin", "pig", "pizza", "rabbit", "robot",
    "rose", "star", "sun", "tiger", "tree", "umbrella", "watch", "whale", "woman",
)  # fmt: skip


@dataclass(frozen=True)
class PreservedPrompts:
    """The prompts to preserve, in three kinds that take turns.

    Attributes:
        same: the set's own captions with the trigger taken out: the phrasings that training sees.
        kin: the class word in several phrasings, and the empty prompt.
        others: unrelated things, and the user's own prompts.
    """

    same: tuple[str, ...]
    kin: tuple[str, ...]
    others: tuple[str, ...]

    def choose(self, count: int, *, seed: int, step: int) -> list[str]:
        """``count`` prompts, a pure function of seed and step; the kinds alternate."""
        generator = random.Random(derive_seed(seed, step, "preservation"))
        kinds = [kind for kind in (self.same, self.kin, self.others) if kind]
        first = generator.randrange(len(kinds))
        return [generator.choice(kinds[(first + place) % len(kinds)]) for place in range(count)]


def preserved_prompts(
    captions: Sequence[str], config: CaptionsConfig, preservation: PreservationConfig
) -> PreservedPrompts:
    """The prompts that a run preserves.

    Args:
        captions: the captions as they are trained, with the trigger.
    """
    same = {without_word(caption, config.trigger) for caption in captions} - {""}
    kin = [""]
    if config.class_word:
        kin += [template.format(config.class_word) for template in CLASS_TEMPLATES]
    others = [template.format(thing) for thing in OTHER_SUBJECTS for template in OTHER_TEMPLATES]
    # The user's own prompts get half of the turns of their kind, however few they are.
    own = list(preservation.prompts)
    others += own * (len(others) // len(own)) if own else []
    return PreservedPrompts(tuple(sorted(same)), tuple(kin), tuple(others))
