"""What is doubtful about an image set once it is fitted to a resolution: one check a function.

A new check is a function in `CHECKS`. A warning has to be worth acting on; what is only worth
knowing is a note. Equal messages become one finding, see `trainer.data.findings.merge_findings`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.buckets import MAX_BUCKET_ASPECT, CropPlan, plan_crop
from trainer.data.captions import (
    CHUNK_TOKENS,
    caption_lines,
    caption_variants,
    compose_caption,
    contains_word,
    has_wildcards,
    plain_captions,
    read_prompt_syntax,
    tags_of,
)
from trainer.data.findings import Finding, Severity
from trainer.data.names import list_names
from trainer.data.sets import ImageEntry, ImageSet, Picture
from trainer.text import counted

MAX_TAGS = 1000
"""In a report, the commonest."""
_LARGE_CUT = 0.3
_STICKING_SHARE = 0.8
_MANY_LINES = 20  # in one file: more likely a text about the picture than captions
_STICKING_CAPTIONS = 4  # with fewer, nearly every word is in nearly every caption
_COMMON_WORDS = frozenset(
    (
        *("a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "with", "is", "are", "it"),
        *("its", "his", "her", "by", "for", "from", "as", "that", "this"),
    )
)


@dataclass(frozen=True)
class FittedSet:
    """An image set as a training would use it: what checks and facts are about.

    Attributes:
        image_set: as it was read.
        fitted: the pictures that will train, with their cuts.
        images: with its resolution filled in.
        captions: how captions are made.
        step: bucket sides are multiples of it, in pixels.
        count_chunks: of a text, see `trainer.models.text`; None: captions are not measured.
    """

    image_set: ImageSet
    fitted: list[Picture]
    images: ImagesConfig
    captions: CaptionsConfig
    step: int
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
        counts = Counter(
            tag
            for entry in self.captioned
            for text in caption_lines(entry.caption)
            for tag in dict.fromkeys(tags_of(text))
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
    size = entry.header.width, entry.header.height
    return plan_crop(
        *size, images.resolution or 0, step, images.buckets, upscale, focus=entry.focus
    )


def _small_pictures(found: FittedSet) -> Iterator[Finding]:
    for number, side in enumerate(found.images.sides):
        images = found.images.at(side)
        smaller = [
            picture.entry.name
            for picture in found.fitted
            if picture.in_each_size[number].crop.size
            != plan_entry(picture.entry, images, found.step, upscale=True).size
        ]
        if smaller:
            message = (
                f"Smaller than resolution {side} asks for, so trained in a smaller "
                "bucket. Use a larger version, or set images.upscale to enlarge it."
            )
            yield Finding.of_several(smaller, "note", message)


def _long_captions(found: FittedSet) -> Iterator[Finding]:
    if cut := found.cut_captions:
        message = (
            f"{len(cut)} captions have more than the {found.captions.max_tokens} tokens that are "
            "read (captions.max_tokens): the rest is cut off. Shorten them, or raise it. The "
            "trigger is always kept."
        )
        yield Finding.of_several(cut, "warning", message)


def _nothing_to_cut(found: FittedSet) -> Iterator[Finding]:
    """Pictures of which a random crop shows all."""
    whole = [
        picture.entry.name
        for picture in found.fitted
        if picture.entry.header.width <= picture.crop.resize_width
        and (picture.crop.resize_width, picture.crop.resize_height) == picture.crop.size
    ]
    if whole and found.images.random_crop:
        message = (
            "No larger than what is trained on, so images.random_crop leaves it whole. Use a "
            "larger version of it, or a lower resolution."
        )
        yield Finding.of_several(whole, "warning", message)


def _nothing_to_drop(found: FittedSet) -> Iterator[Finding]:
    """Captions without tags for what is set about tags, and protected tags that none has."""
    captions = found.captions
    tags = [tags_of(entry.caption or "") for entry in found.captioned]
    known = {tag.casefold() for own in tags for tag in own}
    if captions.tag_dropout or captions.shuffle_tags:
        pairs = zip(found.captioned, tags, strict=True)
        few = [entry.name for entry, own in pairs if len(own) <= captions.keep_tags]
        if few:
            message = (
                f"It has no more than {counted(captions.keep_tags, 'tag')} between commas "
                "(captions.keep_tags), so none is left out or shuffled."
            )
            severity: Severity = "warning" if len(few) == len(tags) else "note"
            yield Finding.of_several(few, severity, message)
    if unknown := [tag for tag in captions.protected_tags if tag.strip().casefold() not in known]:
        message = (
            "A protected tag (captions.protected_tags) that no caption has. Check its spelling."
        )
        yield Finding.of_several(unknown, "warning", message)


def _sticking_words(found: FittedSet) -> Iterator[Finding]:
    if words := list(found.sticking_words):
        message = (
            "In nearly all of the captions, so training can't tell these "
            "words from the trigger. That is as it should be for what you will write in prompts "
            "too; leave out what belongs to the trigger."
        )
        yield Finding(list_names(words, limit=8), "note", message)


def _missing_masks(found: FittedSet) -> Iterator[Finding]:
    if found.masked is None:
        return
    if not any(found.masked):
        return  # `_idle_settings` says it once
    pairs = zip(found.entries, found.masked, strict=True)
    if without := [entry.name for entry, masked in pairs if not masked]:
        message = f'No mask, though images.masks is "{found.images.masks}": all of it counts.'
        yield Finding.of_several(without, "warning", message)


def _idle_settings(found: FittedSet) -> Iterator[Finding]:
    """Settings that these pictures give nothing to do; `trainer.config.effects` has the others."""
    images, default = found.images, type(found.images).model_fields["background"].default
    tags = any("," in (entry.caption or "") for entry in found.captioned)
    clear = any(entry.header.has_alpha for entry in found.entries)
    idle = {
        "images.masks": (
            found.masked is not None and not any(found.masked),
            f'"{images.masks}" has no effect, since no picture here has a mask: all counts.',
        ),
        "images.background": (
            images.background != default and not clear,
            f"{images.background} has no effect, since no picture here has transparent pixels.",
        ),
        "captions.shuffle_tags": (
            found.captions.shuffle_tags and not tags,
            "It has no effect, since no caption here has tags, with commas between them.",
        ),
    }
    for name, (is_idle, message) in idle.items():
        if is_idle and found.entries:
            yield Finding(name, "warning", message)


def _several_captions(found: FittedSet) -> Iterator[Finding]:
    lines = {entry.name: len(caption_lines(entry.caption)) for entry in found.captioned}
    if several := [name for name, count in lines.items() if count > 1]:
        message = (
            f"Several captions, a line each ({sum(lines[name] for name in several)} in all). One "
            "of them is chosen at each step. Join them in one line if that is not meant."
        )
        many = max(lines.values()) > _MANY_LINES
        yield Finding.of_several(several, "warning" if many else "note", message)
    if choices := [entry.name for entry in found.captioned if has_wildcards(entry.caption or "")]:
        if found.captions.wildcards:
            message = "Choices such as {red|blue}: at each step one option of each is taken."
            yield Finding.of_several(choices, "note", message)
        else:
            message = (
                "Choices such as {red|blue} are trained as they stand, braces and all: "
                "captions.wildcards = true takes one option at each step."
            )
            yield Finding.of_several(choices, "warning", message)


def _prompt_syntax(found: FittedSet) -> Iterator[Finding]:
    trigger = found.captions.trigger
    written = [
        entry.name
        for entry in found.captioned
        if any(read_prompt_syntax(one, trigger) != one for one in caption_lines(entry.caption))
    ]
    if written:
        message = (
            "Written as a prompt of another tool: brackets without their backslash, words without "
            "weights and [trigger] as the trigger word are trained."
        )
        yield Finding.of_several(written, "note", message)


def _large_cuts(found: FittedSet) -> Iterator[Finding]:
    cuts = {picture.entry.name: picture.crop.cut_off for picture in found.fitted}
    large = {name: cut for name, cut in cuts.items() if cut >= _LARGE_CUT}
    if large:
        least, most = min(large.values()), max(large.values())
        share = f"{100 * least:.0f}" + (f" to {100 * most:.0f}" if most - least > 0.005 else "")
        bucket = (
            f"a bucket (of at most {MAX_BUCKET_ASPECT:.0f} : 1, in steps of {found.step} pixels)"
            if found.images.buckets
            else "a square, since images.buckets is off"
        )
        message = (
            f"{share} % of it is cut off to fit {bucket}. "
            "Is what matters in the middle? If not, cut it yourself."
        )
        yield Finding.of_several(list(large), "warning", message)


def _hidden_pictures(found: FittedSet) -> Iterator[Finding]:
    colours: dict[str, list[str]] = defaultdict(list)
    for entry in found.entries:
        colour = entry.background(found.images.background)
        if colour != found.images.background:
            colours[colour].append(entry.name)
    for colour, names in colours.items():
        message = (
            f"Nothing can be seen on this background ({found.images.background}), so "
            f"{colour} is put below. Set images.background to have one colour below all."
        )
        yield Finding.of_several(names, "warning", message)


CHECKS: tuple[Callable[[FittedSet], Iterator[Finding]], ...] = (
    _small_pictures,
    _long_captions,
    _nothing_to_cut,
    _nothing_to_drop,
    _sticking_words,
    _missing_masks,
    _idle_settings,
    _several_captions,
    _prompt_syntax,
    _large_cuts,
    _hidden_pictures,
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
