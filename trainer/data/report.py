"""Everything wrong or doubtful in an image set, before training: what ``check-images`` shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.buckets import plan_crop
from trainer.data.captions import compose_caption, contains_word
from trainer.data.findings import Finding
from trainer.data.names import display_name, list_names
from trainer.data.problems import ImageProblem
from trainer.data.sets import ImageEntry, ImageSet

MAX_CAPTION_TOKENS = 75
_STICKING_SHARE = 0.8
_STICKING_CAPTIONS = 4  # with fewer, nearly every word is in nearly every caption
_COMMON_WORDS = frozenset(
    (
        *("a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "with", "is", "are", "it"),
        *("its", "his", "her", "by", "for", "from", "as", "that", "this"),
    )
)
_SEVERITIES = ("error", "warning", "note")


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

    def as_dict(self) -> dict[str, object]:
        """The report as plain values, for JSON."""
        findings = [
            {"name": one.name, "severity": one.severity, "message": one.message}
            for one in self.findings
        ]
        return {**asdict(self), "findings": findings}


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
    fitted = _fit_entries(image_set.entries, images, resolution, step)
    findings = [*image_set.findings, *fitted.findings]
    own = [entry for entry in fitted.usable if entry.caption]
    cut = None if count_tokens is None else _cut_captions(fitted.usable, captions, count_tokens)
    if cut:
        findings.append(_cut_finding(cut))
    texts = [entry.caption or "" for entry in own]
    sticking = sticking_words(texts, (captions.trigger, captions.class_word))
    if sticking:
        findings.append(_sticking_finding(sticking, len(own)))
    findings += _mask_findings(fitted.usable, images)
    return SetReport(
        path=display_name(str(image_set.root)),
        pictures=len(fitted.usable),
        left_out=len(image_set.left_out) + len(image_set.entries) - len(fitted.usable),
        shown_per_epoch=sum(entry.repeats for entry in fitted.usable),
        captions=len(own),
        formats=dict(Counter(entry.header.format for entry in fitted.usable).most_common()),
        buckets=dict(fitted.buckets.most_common()),
        lacking_trigger=_lacking(own, captions),
        cut_captions=cut,
        sticking_words=sticking,
        findings=sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity)),
    )


@dataclass
class _Fitted:
    """Entries that have a bucket, how many have which, and a word on the others."""

    usable: list[ImageEntry] = field(default_factory=list)
    buckets: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def _fit_entries(
    entries: Sequence[ImageEntry], images: ImagesConfig, resolution: int, step: int
) -> _Fitted:
    fitted = _Fitted()
    smaller: list[str] = []
    for entry in entries:
        size = entry.header.width, entry.header.height
        try:
            crop = plan_crop(*size, resolution, step, images.buckets, images.upscale)
        except ImageProblem as problem:
            fitted.findings.append(Finding(entry.name, "error", f"Left out. {problem}"))
            continue
        fitted.usable.append(entry)
        fitted.buckets[f"{crop.width} × {crop.height}"] += 1
        full = plan_crop(*size, resolution, step, images.buckets, upscale=True)
        if (crop.width, crop.height) != (full.width, full.height):
            smaller.append(entry.name)
    if smaller:
        fitted.findings.append(_smaller_finding(smaller, resolution))
    return fitted


def _smaller_finding(names: Sequence[str], resolution: int) -> Finding:
    return Finding.of_several(
        names,
        "note",
        f"Smaller than resolution {resolution} asks for, so trained in a smaller bucket. Use a "
        "larger version, or set images.upscale to enlarge it.",
    )


def _cut_finding(names: Sequence[str]) -> Finding:
    return Finding.of_several(
        names,
        "warning",
        f"{len(names)} captions have more than {MAX_CAPTION_TOKENS} tokens; the model does not see "
        "the rest. Shorten them. The trigger is always kept.",
    )


def _sticking_finding(words: dict[str, int], captions: int) -> Finding:
    return Finding(
        list_names(list(words), limit=8),
        "warning",
        f"In nearly all of the {captions} captions, so training can't tell these words from the "
        "trigger: what the pictures have in common sticks to them too. Name what differs from "
        "picture to picture, and leave out what is always there, unless it is the class word.",
    )


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
    counts = Counter(word for caption in captions for word in _words(caption) - left_out)
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
