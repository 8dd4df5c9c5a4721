"""What training would make of an image set, and everything that is doubtful in it.

Told once: ``check-images``, the start of a training and the page show this report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields

from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.buckets import CropPlan, plan_crop
from trainer.data.captions import compose_caption, contains_word
from trainer.data.findings import SEVERITIES, Finding, ImageProblem
from trainer.data.masks import mask_problem
from trainer.data.names import display_name, list_names
from trainer.data.sets import ImageEntry, ImageSet, Picture
from trainer.errors import UserError

MAX_CAPTION_TOKENS = 75
_STICKING_SHARE = 0.8
_STICKING_CAPTIONS = 4  # with fewer, nearly every word is in nearly every caption
_COMMON_WORDS = frozenset(
    (
        *("a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "with", "is", "are", "it"),
        *("its", "his", "her", "by", "for", "from", "as", "that", "this"),
    )
)


@dataclass(frozen=True)
class SetReport:
    """What an image set comes to at a resolution.

    Attributes:
        path: of the set.
        pictures: how many will train; ``left_out`` will not.
        shown_per_epoch: pictures with their repeats.
        captions: how many pictures have one of their own.
        formats: pictures by format.
        buckets: pictures by size as "width × height", most pictures first.
        lacking_trigger: pictures whose caption lacks the trigger, which is then put in front.
        cut_captions: pictures whose caption has more than 75 tokens; None where not counted.
        sticking_words: words in at least 80 % of the captions, with the number of captions.
        findings: doubts, the gravest first.
        fitted: the pictures that will train, with their cuts.
    """

    path: str
    pictures: int
    left_out: int
    shown_per_epoch: int
    captions: int
    formats: dict[str, int]
    buckets: dict[str, int]
    lacking_trigger: list[str]
    cut_captions: list[str] | None
    sticking_words: dict[str, int]
    findings: list[Finding]
    fitted: list[Picture] = field(repr=False)

    def as_dict(self) -> dict[str, object]:
        """The report as plain values, for JSON."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        del values["fitted"]
        return {**values, "findings": [one.as_dict() for one in self.findings]}


def describe_set(
    image_set: ImageSet,
    images: ImagesConfig,
    captions: CaptionsConfig,
    *,
    resolution: int,
    step: int,
    count_tokens: Callable[[str], int] | None = None,
) -> SetReport:
    """Report on an image set.

    Args:
        resolution, step: in pixels, as the base model has them.
        count_tokens: of a text, without start and end marks; None: captions are not measured.
    """
    images = images.model_copy(update={"resolution": resolution})
    fitted, refused = _fit_entries(image_set.entries, images, step)
    entries = [picture.entry for picture in fitted]
    own = [entry for entry in entries if entry.caption]
    cut = None if count_tokens is None else _cut_captions(entries, captions, count_tokens)
    texts = [entry.caption or "" for entry in own]
    sticking = sticking_words(texts, (captions.trigger, captions.class_word))
    findings = [
        *image_set.findings,
        *refused,
        *_size_findings(fitted, images, step),
        *_caption_findings(cut, sticking, len(own)),
        *_mask_findings(entries, images),
    ]
    sizes = Counter("{} × {}".format(*_size(picture.crop)) for picture in fitted)
    return SetReport(
        path=display_name(str(image_set.root)),
        pictures=len(fitted),
        left_out=len(image_set.left_out) + len(image_set.entries) - len(fitted),
        shown_per_epoch=sum(entry.repeats for entry in entries),
        captions=len(own),
        formats=dict(Counter(entry.header.format for entry in entries).most_common()),
        buckets=dict(sizes.most_common()),
        lacking_trigger=_lacking(own, captions),
        cut_captions=cut,
        sticking_words=sticking,
        findings=sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)),
        fitted=fitted,
    )


def _fit_entries(
    entries: Iterable[ImageEntry], images: ImagesConfig, step: int
) -> tuple[list[Picture], list[Finding]]:
    """The cut of each picture that can be used, and a word on each of the others.

    Args:
        images: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.
    """
    fitted: list[Picture] = []
    refused: list[Finding] = []
    for entry in entries:
        try:
            crop = _plan(entry, images, step, upscale=images.upscale)
            if problem := mask_problem(entry, images, crop):
                raise problem
        except ImageProblem as problem:
            refused.append(Finding(entry.name, "error", f"Left out. {problem}"))
        else:
            fitted.append(Picture(entry, crop))
    return fitted, refused


def fit_pictures(
    image_set: ImageSet,
    images: ImagesConfig,
    step: int,
    captions: CaptionsConfig | None = None,
) -> SetReport:
    """As `describe_set`, where at least one picture must be usable.

    Args:
        images: with its resolution filled in.
        step: bucket sides are multiples of it, in pixels.

    Raises:
        UserError: the resolution does not suit the model, or no picture can be used.
    """
    resolution = images.resolution or 0
    check_resolution(resolution, step)
    words = captions or CaptionsConfig()
    report = describe_set(image_set, images, words, resolution=resolution, step=step)
    if not report.fitted:
        reasons = [finding for finding in report.findings if finding.severity == "error"]
        raise UserError(
            f"None of the {len(image_set.entries)} pictures in {image_set.root} can be used at "
            f"resolution {resolution}: {reasons[-1]}",
            "Use larger pictures, a lower images.resolution, or images.upscale = true.",
        )
    return report


def check_resolution(resolution: int, step: int) -> None:
    """Raises `UserError` unless ``resolution`` is a multiple of ``step``, both in pixels."""
    if resolution % step:
        below = max(step, resolution // step * step)
        raise UserError(
            f"images.resolution {resolution} is not a multiple of {step}, which this base model "
            "needs.",
            f"Use {below} or {below + step}." if below < resolution else f"Use {below}.",
        )


def _plan(entry: ImageEntry, images: ImagesConfig, step: int, *, upscale: bool) -> CropPlan:
    size = entry.header.width, entry.header.height
    return plan_crop(*size, images.resolution or 0, step, images.buckets, upscale)


def _size_findings(fitted: Sequence[Picture], images: ImagesConfig, step: int) -> Iterator[Finding]:
    smaller = [
        picture.entry.name
        for picture in fitted
        if _size(_plan(picture.entry, images, step, upscale=True)) != _size(picture.crop)
    ]
    if smaller:
        message = (
            f"Smaller than resolution {images.resolution} asks for, so trained in a smaller "
            "bucket. Use a larger version, or set images.upscale to enlarge it."
        )
        yield Finding.of_several(smaller, "note", message)


def _size(crop: CropPlan) -> tuple[int, int]:
    return crop.width, crop.height


def _caption_findings(
    cut: Sequence[str] | None, sticking: dict[str, int], captions: int
) -> Iterator[Finding]:
    if cut:
        message = (
            f"{len(cut)} captions have more than {MAX_CAPTION_TOKENS} tokens; the model does not "
            "see the rest. Shorten them. The trigger is always kept."
        )
        yield Finding.of_several(cut, "warning", message)
    if sticking:
        message = (
            f"In nearly all of the {captions} captions, so training can't tell these words from "
            "the trigger: what the pictures have in common sticks to them too. Name what differs "
            "from picture to picture, and leave out what is always there, unless it is the class "
            "word."
        )
        yield Finding(list_names(list(sticking), limit=8), "warning", message)


def _mask_findings(entries: Sequence[ImageEntry], images: ImagesConfig) -> Iterator[Finding]:
    """A word on pictures without the mask that the configuration asks for."""
    if images.masks == "none":
        return
    has_mask = [
        entry.header.has_alpha if images.masks == "alpha" else entry.mask is not None
        for entry in entries
    ]
    without = [entry.name for entry, masked in zip(entries, has_mask, strict=True) if not masked]
    if without:
        message = f'No mask, though images.masks is "{images.masks}": all of it counts.'
        yield Finding.of_several(without, "warning", message)


def _lacking(entries: Sequence[ImageEntry], captions: CaptionsConfig) -> list[str]:
    if not captions.trigger:
        return []
    return [
        entry.name for entry in entries if not contains_word(entry.caption or "", captions.trigger)
    ]


def _cut_captions(
    entries: Sequence[ImageEntry],
    captions: CaptionsConfig,
    count_tokens: Callable[[str], int],
) -> list[str]:
    whole = captions.model_copy(update={"dropout": 0.0, "shuffle_tags": False})
    return [
        entry.name
        for entry in entries
        if count_tokens(compose_caption(entry.caption, whole, seed=0, step=0, image_id=entry.id))
        > MAX_CAPTION_TOKENS
    ]


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


def format_report(report: SetReport) -> str:
    """The report as lines of text for a terminal."""
    lines = [
        f"{report.path}: {_count(report.pictures, 'picture')} can be trained on, "
        f"{report.left_out} left out",
        f"  in an epoch: {report.shown_per_epoch} (with repeats)",
        f"  formats: {_counts(report.formats)}",
        f"  buckets: {_counts(report.buckets)}",
        f"  captions: {report.captions} of {report.pictures}",
    ]
    if report.lacking_trigger:
        names = list_names(report.lacking_trigger)
        lines.append(f"  without the trigger, which will be put in front: {names}")
    if report.cut_captions is not None:
        lines.append(f"  captions over {MAX_CAPTION_TOKENS} tokens: {len(report.cut_captions)}")
    lines += [f"{finding.severity}: {finding}" for finding in report.findings]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
