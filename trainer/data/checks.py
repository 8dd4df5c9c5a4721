"""What is doubtful about an image set once it is fitted to a resolution: one check a function.

A new check is a function in `CHECKS`. A warning has to be worth acting on; what is only worth
knowing is a note. Equal messages become one finding, see `trainer.data.findings.merge_findings`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

from trainer.data.buckets import MAX_BUCKET_ASPECT
from trainer.data.captions import (
    PLACEHOLDER,
    REFUSAL,
    SIDED,
    caption_lines,
    has_wildcards,
    read_prompt_syntax,
    tags_of,
)
from trainer.data.findings import Finding, Severity
from trainer.data.fitted import FittedSet, plan_entry
from trainer.data.names import list_names
from trainer.text import counted

LARGE_CUT = 0.3  # of a picture's area
_MANY_LINES = 20  # in one file, and the words of a line in the mean: captions have no more
_LINE_WORDS = (2, 40)

Doubt = tuple[Sequence[str], Severity, str]
"""Names of what is doubtful, how grave that is, and why; nothing where there are no names."""


def _small_pictures(found: FittedSet) -> Iterator[Doubt]:
    for number, side in enumerate(found.images.sides):
        images = found.images.at(side)
        smaller = [
            picture.entry.name
            for picture in found.fitted
            if picture.in_each_size[number].crop.size
            != plan_entry(picture.entry, images, found.step, upscale=True).size
        ]
        message = (
            f"Smaller than resolution {side} asks for, so trained in a smaller "
            "bucket. Use a larger version, or set images.upscale to enlarge it."
        )
        # Where that is so of all of them, the resolution has no effect.
        yield smaller, "warning" if len(smaller) == len(found.fitted) else "note", message


def _long_captions(found: FittedSet) -> Iterator[Doubt]:
    cut = found.cut_captions or []
    message = (
        f"{len(cut)} captions have more than the {found.captions.max_tokens} tokens that are "
        "read (captions.max_tokens): the rest is cut off. Shorten them, or raise it. The "
        "trigger word is always read."
    )
    yield cut, "warning", message


def _nothing_to_cut(found: FittedSet) -> Iterator[Doubt]:
    """Pictures of which a random crop shows all."""
    whole = [
        picture.entry.name
        for picture in found.fitted
        if picture.entry.size[0] <= picture.crop.resize_width
        and (picture.crop.resize_width, picture.crop.resize_height) == picture.crop.size
    ]
    message = (
        "No larger than the size that it is trained at, so images.random_crop cuts nothing "
        "off. Use a larger version of it, or a lower resolution."
    )
    yield whole if found.images.random_crop else (), "warning", message


def _nothing_to_drop(found: FittedSet) -> Iterator[Doubt]:
    """Captions without tags for what is set about tags, and protected tags that none has."""
    captions = found.captions
    tags = [tags_of(entry.caption or "") for entry in found.captioned]
    known = {tag.casefold() for own in tags for tag in own}
    if captions.tag_dropout or captions.shuffle_tags:
        pairs = zip(found.captioned, tags, strict=True)
        few = [entry.name for entry, own in pairs if len(own) <= captions.keep_tags]
        message = (
            f"It has no more than {counted(captions.keep_tags, 'tag')} between commas "
            "(captions.keep_tags), so none is left out or shuffled."
        )
        yield few, "warning" if len(few) == len(tags) else "note", message
    unknown = [tag for tag in captions.protected_tags if tag.strip().casefold() not in known]
    message = "A protected tag (captions.protected_tags) that no caption has. Check its spelling."
    yield unknown, "warning", message


def _sticking_words(found: FittedSet) -> Iterator[Doubt]:
    names = list_names(list(found.sticking_words), limit=8)
    message = (
        "In nearly all captions, so training can't tell these words from the trigger word. "
        "Keep those that you will write in every prompt too; take out those that belong to "
        "the trigger word."
    )
    yield [names] if names else (), "note", message


def _missing_masks(found: FittedSet) -> Iterator[Doubt]:
    if found.masked and any(found.masked):  # otherwise `_idle_settings` says it once
        pairs = zip(found.entries, found.masked, strict=True)
        message = f'No mask, though images.masks is "{found.images.masks}": all of it counts.'
        yield [entry.name for entry, masked in pairs if not masked], "warning", message


def _idle_settings(found: FittedSet) -> Iterator[Doubt]:
    """Settings that these pictures give nothing to do; `trainer.config.effects` has the others."""
    images, default = found.images, type(found.images).model_fields["background"].default
    texts = [entry.caption or "" for entry in found.entries]
    idle = {
        "images.masks": (
            found.masked is not None and not any(found.masked),
            f'"{images.masks}" has no effect, since no picture here has a mask: all counts.',
        ),
        "images.background": (
            images.background != default
            and not any(entry.header.has_alpha for entry in found.entries),
            f"{images.background} has no effect, since no picture here has transparent pixels.",
        ),
        "captions.shuffle_tags": (
            found.captions.shuffle_tags and not any("," in text for text in texts),
            "It has no effect, since no caption here has tags, with commas between them.",
        ),
        "captions.wildcards": (
            found.captions.wildcards and not any(map(has_wildcards, texts)),
            "It has no effect, since no caption here has a choice such as {red|blue}.",
        ),
    }
    for name, (holds, message) in idle.items():
        yield [name] if holds and texts else (), "warning", message


def _several_captions(found: FittedSet) -> Iterator[Doubt]:
    lines = {entry.name: caption_lines(entry.caption) for entry in found.captioned}
    several = {name: texts for name, texts in lines.items() if len(texts) > 1}
    words = [len(text.split()) for texts in several.values() for text in texts]
    # More likely a text about the picture, a list of tags, or a caption of several paragraphs.
    many = max(map(len, several.values()), default=0) > _MANY_LINES or (
        bool(words) and not _LINE_WORDS[0] < sum(words) / len(words) < _LINE_WORDS[1]
    )
    message = (
        f"Several captions, a line each ({len(words)} in all). One of them is chosen at each "
        "step. Join them in one line if that is not meant, as of tags or of paragraphs."
    )
    yield list(several), "warning" if many else "note", message
    choices = [entry.name for entry in found.captioned if has_wildcards(entry.caption or "")]
    if found.captions.wildcards:
        message = "Choices such as {red|blue}: at each step one option of each is taken."
        yield choices, "note", message
    else:
        message = (
            "Choices such as {red|blue} are trained as they stand, braces and all: "
            "captions.wildcards = true takes one option at each step."
        )
        yield choices, "warning", message


_SENTENCE_WORDS = 4  # the words between two commas: tags have fewer in the mean


def _read_otherwise(found: FittedSet) -> Iterator[Doubt]:
    """Captions that are read in another way than they stand, or that may not be meant so."""
    trigger, tags = (
        found.captions.trigger,
        found.captions.shuffle_tags or found.captions.tag_dropout,
    )
    syntax = (
        "Written as a prompt for another tool. It is trained without backslashes before brackets, "
        "weights, BREAK, codes such as &amp; and what follows the prompt (negative prompt, "
        "settings), and with trigger and class word in place of [trigger] and {class}."
    )
    refusal = (
        "It reads as an answer, an error or a field of some program, not as a caption, and would "
        "be trained. Write what the picture shows, or delete it."
    )
    placeholder = (
        "A wildcard between underscores, or a field of another tool such as [filewords], is "
        "trained as it stands. Write what is meant in its place."
    )
    sided = (
        "It names left, right or a text, which images.flip mirrors at random: the words are then "
        "wrong. Switch it off if they matter."
    )
    sentences = (
        "Sentences rather than tags: captions.shuffle_tags or captions.tag_dropout tears them "
        "apart at their commas. Switch it off for these."
    )
    rules: tuple[tuple[Severity, str, Callable[[str], bool]], ...] = (
        ("note", syntax, lambda text: read_prompt_syntax(text, trigger) != text),
        ("warning", refusal, lambda text: REFUSAL.match(text) is not None),
        (
            "warning",
            placeholder,
            lambda text: (
                PLACEHOLDER.search(read_prompt_syntax(text, trigger)) is not None
                and not REFUSAL.match(text)
            ),
        ),
        ("note", sided, lambda text: found.images.flip and SIDED.search(text) is not None),
        ("note", sentences, lambda text: bool(tags) and _is_sentence(text)),
    )
    for severity, message, holds in rules:
        names = [
            entry.name
            for entry in found.captioned
            if any(holds(text) for text in caption_lines(entry.caption))
        ]
        yield names, severity, message


def _is_sentence(text: str) -> bool:
    tags = tags_of(text)
    return len(tags) > 1 and len(text.split()) >= _SENTENCE_WORDS * len(tags)


def _large_cuts(found: FittedSet) -> Iterator[Doubt]:
    cuts = {picture.entry.name: picture.crop.cut_off for picture in found.fitted}
    large = {name: cut for name, cut in cuts.items() if cut >= LARGE_CUT}
    bucket = (
        f"a bucket (of at most {MAX_BUCKET_ASPECT:.0f}:1, in steps of {found.step} pixels)"
        if found.images.buckets
        else "a square, since images.buckets is off"
    )
    message = (
        f"{share_said(large.values())} % is cut off to fit {bucket}. "
        "If what matters is not in the middle, choose the middle in the Images tab, or cut it."
    )
    yield list(large), "warning", message


def share_said(shares: Collection[float]) -> str:
    """Shares from 0 to 1 in percent, such as "25" or "12 to 25"."""
    least, most = min(shares, default=0.0), max(shares, default=0.0)
    return f"{100 * least:.0f}" + (f" to {100 * most:.0f}" if most - least > 0.005 else "")


def _hidden_pictures(found: FittedSet) -> Iterator[Doubt]:
    colours: dict[str, list[str]] = defaultdict(list)
    for entry in found.entries:
        colour = entry.background(found.images.background)
        if colour != found.images.background:
            colours[colour].append(entry.name)
    for colour, names in colours.items():
        message = (
            f"Nothing of it would be seen on the background {found.images.background}, so it gets "
            f"{colour}. Set images.background to a colour that suits all pictures."
        )
        yield names, "warning", message


CHECKS: tuple[Callable[[FittedSet], Iterator[Doubt]], ...] = (
    *(_small_pictures, _long_captions, _nothing_to_cut, _nothing_to_drop, _sticking_words),
    *(_missing_masks, _idle_settings, _several_captions, _read_otherwise, _large_cuts),
    _hidden_pictures,
)


def findings_of(found: FittedSet) -> list[Finding]:
    """What all checks find."""
    doubts = (doubt for check in CHECKS for doubt in check(found))
    return [Finding.of_several(*doubt) for doubt in doubts if doubt[0]]
