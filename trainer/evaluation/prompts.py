"""Which prompts are measured: with the trigger, the class word, its neighbours, unrelated things.

Half of the wordings are those of the image set's captions, half are plain ones. The things and the
plain wordings are others than those that training preserves (`trainer.preservation`), so that what
is measured is what training did not preserve.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.cache import TensorCache, content_key
from trainer.data.captions import contains_word, without_word
from trainer.diffusion import encode
from trainer.evaluation.things import KINDS, THINGS, kind_of, things_apart_from
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.text import name_subject

PLAIN = ("a close-up of {}", "an image that shows {}", "here you see {}")
WORDINGS = 3
NEIGHBOURS = 3
UNRELATED = 2

_ADJECTIVES = r"(?:(?!(?:of|in|on|at|by|to|with|and|or|from|for|near|like)\b)[\w-]+\s+){0,3}"


@dataclass(frozen=True)
class PromptSets:
    """What is measured for one concept."""

    trigger: tuple[str, ...]  # prompts with the trigger word
    class_word: tuple[str, ...]  # the same without it
    neighbours: tuple[str, ...]  # things like the class word; empty without a class word
    unrelated: tuple[str, ...]  # other things, and the empty prompt

    @property
    def all(self) -> tuple[str, ...]:
        """Every prompt once."""
        return tuple(
            dict.fromkeys((*self.trigger, *self.class_word, *self.neighbours, *self.unrelated))
        )


def prompt_sets(
    base: BaseModel,
    trigger: str,
    class_word: str,
    device: Device,
    cache: TensorCache,
    captions: Sequence[str] = (),
) -> PromptSets:
    """The prompts for a trigger and a class word on a base model: a pure function of these.

    Args:
        captions: of the image set, with the trigger or without it; none are needed.
    """
    wordings = caption_wordings(captions, trigger, class_word)
    plain = PLAIN[: WORDINGS - len(wordings)]
    subject = name_subject(trigger, class_word)
    without = [wording.format(with_article(class_word)) for wording in wordings]
    with_trigger = [f"{trigger}, {prompt}" for prompt in without]
    with_trigger += [wording.format(with_article(subject)) for wording in plain]
    if class_word:
        without += [wording.format(with_article(class_word)) for wording in plain]
    else:
        without = sorted({without_word(caption, trigger) for caption in captions} - {""})[:2]
    near = neighbours_of(base, class_word, device, cache) if class_word else []
    unrelated = things_apart_from(kind_of(class_word), UNRELATED)
    return PromptSets(
        trigger=tuple(with_trigger),
        class_word=tuple(dict.fromkeys(without)),
        neighbours=tuple(_worded(near, wordings)),
        unrelated=(*_worded([thing for thing in unrelated if thing not in near], wordings), ""),
    )


def caption_wordings(
    captions: Sequence[str], trigger: str, class_word: str, most: int = 2
) -> list[str]:
    """Captions of a set with a gap in place of "a CLASS", such as ``3d emoji of {}, blue
    background``; only those that name the class word. What stands between the article and the
    class word ("a small red car") goes with it.

    The first and the middle one of the sorted captions, so that two differ.
    """
    if not class_word:
        return []
    phrase = rf"\b(?:(?:an?|the)\s+{_ADJECTIVES})?{re.escape(class_word)}\b"
    pattern = re.compile(phrase, re.IGNORECASE)
    plain = {without_word(caption, trigger) for caption in captions}
    found = {pattern.sub("{}", text, count=1) for text in plain if not set(text) & set("{}")}
    ordered = sorted(text for text in found if "{}" in text)
    count = min(most, len(ordered))
    return [ordered[place * len(ordered) // count] for place in range(count)]


def neighbours_of(
    base: BaseModel, class_word: str, device: Device, cache: TensorCache
) -> list[str]:
    """Things like the class word: of its kind where that is known, else by the text encoders."""
    kind = kind_of(class_word)
    things = KINDS[kind][1] if kind else THINGS
    others = [thing for thing in things if not contains_word(class_word, thing)]
    if not kind:
        others = rank_by_similarity(base, class_word, others, device, cache)
    return others[:NEIGHBOURS]


def with_article(words: str) -> str:
    """Such as "a car" and "an owl"; "glasses" have none."""
    if re.search(r"(?<![su])(?<!i)s$", words, re.IGNORECASE):
        return words
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def rank_by_similarity(
    base: BaseModel, word: str, things: Sequence[str], device: Device, cache: TensorCache
) -> list[str]:
    """The things by how like the word they are to this base model's text encoders, most like first.

    Cosine between the mean text features of "a THING" and "a WORD", each relative to the mean
    over all things.
    """
    key = content_key(kind="kinship", base=base.output_key, word=word, things=list(things))
    found = cache.get_or_make(key, lambda: {"order": _order(base, [word, *things], device)})
    return [str(things[int(place)]) for place in found["order"]]


@torch.no_grad()
def _order(base: BaseModel, words: Sequence[str], device: Device) -> Tensor:
    """Places of ``words[1:]`` by their likeness to the first: (N - 1,) int64."""
    features: list[Tensor] = []
    with disabled(base), device.reading(base):
        empty = encode(base, [""], device.torch_device).hidden[0].float()
        for word in words:
            hidden = encode(base, [with_article(word)], device.torch_device).hidden[0].float()
            moved = (hidden - empty)[1:8]  # start token left out, and most of the padding
            features.append(moved.mean(dim=0).cpu())
    stacked = torch.stack(features)
    centred = stacked - stacked.mean(dim=0)
    likeness = torch.nn.functional.cosine_similarity(centred[1:], centred[:1])
    return likeness.argsort(descending=True, stable=True)


def _worded(things: Sequence[str], wordings: Sequence[str]) -> list[str]:
    """Each thing in one wording; the set's and the plain ones take turns."""
    turns = [wording for pair in zip([*wordings, *PLAIN], PLAIN, strict=False) for wording in pair]
    return [
        turns[place % len(turns)].format(with_article(thing)) for place, thing in enumerate(things)
    ]
