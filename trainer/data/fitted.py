"""An image set as a training uses it, and what its captions, tags and masks amount to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.buckets import CropPlan, plan_crop
from trainer.data.captions import (
    CHUNK_TOKENS,
    caption_lines,
    caption_variants,
    compose_caption,
    contains_word,
    plain_captions,
    read_prompt_syntax,
    tags_of,
)
from trainer.data.sets import ImageEntry, ImageSet, Picture

MAX_TAGS = 1000  # in a report, the commonest
_STICKING_SHARE = 0.8
_STICKING_CAPTIONS = 4  # with fewer, nearly every word is in nearly every caption
_COMMON_WORDS = frozenset(
    (
        *("a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "with", "is", "are", "it"),
        *("its", "his", "her", "by", "for", "from", "as", "that", "this"),
    )
)


@dataclass(frozen=True)
class FittedSet:
    """An image set as a training would use it: what checks and facts are about."""

    image_set: ImageSet  # as it was read
    fitted: list[Picture]  # the pictures that will train, with their cuts
    images: ImagesConfig  # with its resolution filled in
    captions: CaptionsConfig  # how captions are made
    step: int  # bucket sides are multiples of it, in pixels
    # Of a text, see `trainer.models.text`; None: captions are not measured.
    count_chunks: Callable[[str], int] | None = None

    @cached_property
    def entries(self) -> list[ImageEntry]:
        """The pictures that will train."""
        return [picture.entry for picture in self.fitted]

    @cached_property
    def captioned(self) -> list[ImageEntry]:
        """Those with a caption of their own."""
        return [entry for entry in self.entries if entry.caption]

    @cached_property
    def lacking_trigger(self) -> list[str]:
        """Names of pictures whose caption lacks the trigger."""
        trigger = self.captions.trigger
        if not trigger:
            return []
        return [
            entry.name
            for entry in self.captioned
            if not all(
                contains_word(read_prompt_syntax(text, trigger), trigger)
                for text in self.variants(entry)
            )
        ]

    def variants(self, entry: ImageEntry) -> list[str]:
        """All that a picture's caption may be, before the trigger is put in."""
        return caption_variants(entry.caption, self.captions.wildcards)

    @cached_property
    def caption_chunks(self) -> dict[str, int] | None:
        """Chunks that the longest caption of each picture takes, by name; None: not measured."""
        if self.count_chunks is None:
            return None
        words = plain_captions(self.captions)
        return {
            entry.name: max(
                self.count_chunks(compose_caption(text, words, seed=0, step=0, image_id=entry.id))
                for text in self.variants(entry) or [None]
            )
            for entry in self.entries
        }

    @cached_property
    def chunk_counts(self) -> dict[str, int] | None:
        """How many captions take one chunk, two, and so on; None: not measured."""
        if self.caption_chunks is None:
            return None
        counts = Counter(self.caption_chunks.values())
        return {str(number): count for number, count in sorted(counts.items())}

    @cached_property
    def cut_captions(self) -> list[str] | None:
        """Names of pictures whose caption is longer than the model reads; None: not measured."""
        if self.caption_chunks is None:
            return None
        most = self.captions.max_tokens // CHUNK_TOKENS
        return [name for name, count in self.caption_chunks.items() if count > most]

    @cached_property
    def sticking_words(self) -> dict[str, int]:
        texts = [text for entry in self.captioned for text in self.variants(entry)]
        return sticking_words(texts, (self.captions.trigger, self.captions.class_word))

    @cached_property
    def tags(self) -> dict[str, int]:
        """The comma-separated parts of the captions, with the number of captions, most first."""
        words = (self.captions.trigger, self.captions.class_word)
        counts = Counter(
            tag
            for entry in self.captioned
            for text in caption_lines(entry.caption)
            for tag in dict.fromkeys(tags_of(read_prompt_syntax(text, *words)))
        )
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return dict(ranked[:MAX_TAGS])

    @cached_property
    def masked(self) -> list[bool] | None:
        """Whether each picture has the mask that the configuration asks for; None: it asks none."""
        if self.images.masks == "none":
            return None
        of_alpha = self.images.masks == "alpha"
        return [
            entry.header.has_alpha if of_alpha else entry.mask is not None for entry in self.entries
        ]


def plan_entry(entry: ImageEntry, images: ImagesConfig, step: int, *, upscale: bool) -> CropPlan:
    """How a picture is cut. Raises `ImageProblem` as `plan_crop`."""
    return plan_crop(
        *entry.size, images.resolution or 0, step, images.buckets, upscale, focus=entry.focus
    )


def sticking_words(captions: Sequence[str], known: Sequence[str] = ()) -> dict[str, int]:
    """Words in nearly every caption: what the pictures have in common will stick to these too.

    Args:
        captions: of the pictures that have one.
        known: trigger and class word, which are meant to be everywhere.

    Returns:
        The words in lower case and in how many captions they are, most first. Empty for fewer
        than 4 captions.
    """
    if len(captions) < _STICKING_CAPTIONS:
        return {}
    left_out = _COMMON_WORDS | {word for text in known for word in _words(text)}
    counts = Counter(word for caption in captions for word in sorted(_words(caption) - left_out))
    enough = _STICKING_SHARE * len(captions)
    return {word: count for word, count in counts.most_common() if count >= enough}


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.casefold()))
