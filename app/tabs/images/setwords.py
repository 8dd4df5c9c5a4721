"""Image sets in words and small drawings: HTML in which every name and caption is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from app.shared import escape
from app.tabs.images.captions_edit import Change
from app.tabs.images.setview import PictureView, SetView
from trainer.data.findings import Finding, Severity
from trainer.data.report import SetReport

_SIGNS: dict[Severity, tuple[str, str]] = {
    "error": ("Cannot be used", "bad"),
    "warning": ("Probably not meant", "warm"),
    "note": ("Worth knowing", "quiet"),
}
_MOST_FINDINGS = 60
_MOST_CHANGES = 40
_LONGEST = 300
_BOX = 72  # pixels of the longest side in the drawing of buckets

NO_SET = (
    '<div class="card"><h2>Begin with pictures</h2>'
    "<p>Drop ten to thirty pictures of one thing, or of one style. Or choose one of the image sets "
    "that are here already.</p></div>"
)
NO_PICTURE = '<p class="quiet">Click a picture to see it and to write its caption.</p>'


def summary(view: SetView) -> str:
    """What a set comes to, in two lines."""
    if view.report is None:
        return (
            '<div class="card wrong"><h2>Nothing here can be trained on</h2>'
            f"<p>{_lines(view.trouble)}</p></div>"
        )
    report = view.report
    parts = [_count(report.pictures, "picture")]
    if report.left_out:
        parts.append(f"{report.left_out} left out")
    if report.shown_per_epoch != report.pictures:
        parts.append(f"{report.shown_per_epoch} with repeats")
    parts.append(f"{report.captions} of {report.pictures} with a caption")
    kind = "" if view.folder.owned else " · read only, the first edit makes a copy"
    return (
        f'<div class="card"><h2>{title(view)}</h2><p>{" · ".join(parts)}</p>'
        f'<p class="quiet">{_in_short(_all_findings(view))}{kind}</p></div>'
    )


def title(view: SetView) -> str:
    """A set's name."""
    return escape(view.notes.title or view.folder.id)


def _in_short(findings: Sequence[Finding]) -> str:
    counts = [(severity, [f for f in findings if f.severity == severity]) for severity in _SIGNS]
    words = {"error": "unusable", "warning": "doubtful", "note": "worth knowing"}
    parts = [f"{len(found)} {words[severity]}" for severity, found in counts if found]
    return ", ".join(parts) + ": see below" if parts else "Nothing is wrong with it"


def findings(view: SetView) -> str:
    """Everything wrong or doubtful with a set, the gravest first."""
    if view.report is None:
        return f"<p>{_lines(view.trouble)}</p>"
    items = _all_findings(view)
    if not items:
        return "<p>Nothing is wrong or doubtful with this image set.</p>"
    more = len(items) - _MOST_FINDINGS
    rest = f"<p class='quiet'>… and {more} more.</p>" if more > 0 else ""
    return f'<ul class="findings">{"".join(map(_item, items[:_MOST_FINDINGS]))}</ul>{rest}'


def _all_findings(view: SetView) -> list[Finding]:
    if view.report is None:
        return []
    found = [*_set_findings(view.report), *view.report.findings]
    found += [
        finding
        for picture in view.pictures
        for finding in picture.findings
        if finding not in view.report.findings
    ]
    return sorted(found, key=lambda finding: [*_SIGNS].index(finding.severity))


def _set_findings(report: SetReport) -> Iterable[Finding]:
    """What the report says of the whole set beside its findings."""
    if report.cut_captions:
        yield Finding(
            f"{len(report.cut_captions)} captions",
            "warning",
            "More than 75 tokens: the model does not see the rest. Shorten them.",
        )
    if report.lacking_trigger and len(report.lacking_trigger) < report.captions:
        yield Finding(
            f"{len(report.lacking_trigger)} captions",
            "note",
            "Without the trigger word, which is put in front of them in training.",
        )


def _item(finding: Finding, *, named: bool = True) -> str:
    sign, colour = _SIGNS[finding.severity]
    name = f"<b>{html.escape(_cut(finding.name))}</b> " if named else ""
    message = html.escape(_cut(finding.message))
    return f'<li><span class="tag {colour}">{sign}</span> {name}{message}</li>'


def buckets(view: SetView) -> str:
    """How pictures fall into buckets: a box of each shape, with how many it holds."""
    if view.report is None or not view.report.buckets:
        return ""
    frame = view.frame
    guess = "" if frame.known else ", going by the base model's name"
    sizes = [(_sides(name), count) for name, count in view.report.buckets.items()]
    longest = max(max(sides) for sides, _ in sizes)
    boxes = "".join(_box(sides, count, longest) for sides, count in sizes)
    cut = [picture.cut_off for picture in view.pictures if picture.crop]
    words = (
        f"What is cut off is shown pale in the pictures above: {100 * sum(cut) / len(cut):.0f} % "
        f"on average, at most {100 * max(cut):.0f} %."
        if max(cut) >= 0.005
        else "Nothing is cut off."
    )
    return (
        f'<p class="quiet">At {frame.resolution} pixels{guess}: each picture is resized and cut to '
        f"one of these sizes. {words}</p>"
        f'<div class="buckets">{boxes}</div>'
    )


def _box(sides: tuple[int, int], count: int, longest: int) -> str:
    width, height = (max(8, round(_BOX * side / longest)) for side in sides)
    return (
        f'<figure><div style="width:{width}px;height:{height}px"></div>'
        f"<figcaption>{sides[0]} × {sides[1]}<br>{_count(count, 'picture')}</figcaption></figure>"
    )


def _sides(name: str) -> tuple[int, int]:
    """Of a bucket by its name in the report, "width × height"."""
    width, _, height = name.partition(" × ")
    return int(width), int(height)


def picture_facts(view: SetView, picture: PictureView) -> str:
    """What there is to say of one picture."""
    facts = []
    if picture.size:
        facts.append(f"{picture.size[0]} × {picture.size[1]} pixels")
    if picture.crop:
        facts.append(f"trained at {picture.crop.width} × {picture.crop.height}")
        facts.append(f"{100 * picture.cut_off:.0f} % cut off" if picture.cut_off > 0.005 else "")
    if picture.original and picture.original != picture.name:
        facts.append(f"came as {escape(_cut(picture.original, 80))}")
    items = "".join(_item(finding, named=False) for finding in picture.findings)
    doubts = f'<ul class="findings">{items}</ul>' if items else ""
    return f'<p class="quiet">{" · ".join(filter(None, facts))}</p>{doubts}'


def changes(found: Sequence[Change], total: int) -> str:
    """What an edit would change, before and after."""
    if not found:
        return "<p>No caption would change.</p>"
    rows = "".join(
        f"<tr><th scope='row'>{escape(change.picture)}</th><td>{_caption(change.before)}</td>"
        f"<td>{_caption(change.after)}</td></tr>"
        for change in found[:_MOST_CHANGES]
    )
    more = len(found) - _MOST_CHANGES
    rest = f"<p class='quiet'>… and {more} more.</p>" if more > 0 else ""
    return (
        f"<p>{len(found)} of {total} captions would change.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Changes">'
        "<table class='plain'><thead><tr><th scope='col'>Picture</th>"
        "<th scope='col'>Now</th><th scope='col'>Then</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{rest}"
    )


def _caption(text: str) -> str:
    return escape(_cut(text)) if text else '<span class="quiet">no caption</span>'


def conflict(theirs: str) -> str:
    """The caption that another tab saved, for the one that is told."""
    return (
        '<div class="card wrong" role="alert"><h2>Changed in another tab</h2>'
        "<p>This caption was saved elsewhere while you were typing. Nothing was overwritten. "
        f"It says now:</p><blockquote>{_caption(theirs)}</blockquote>"
        "<p>Yours stands above.</p></div>"
    )


def _cut(text: str, limit: int = _LONGEST) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _lines(text: str) -> str:
    return "<br>".join(html.escape(line) for line in text.splitlines())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
