"""An image set as the page shows it: each picture with its caption, its cut and its doubts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.tabs.images.frames import Frame
from app.tabs.images.imagesets import SetFolder, SetNotes, contents_of, read_notes, scan
from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.buckets import CropPlan
from trainer.data.findings import SEVERITIES, Finding, Severity
from trainer.data.names import display_name
from trainer.data.report import SetReport, describe_set
from trainer.data.sets import ImageEntry, ImageFile
from trainer.errors import UserError

_NOTABLE_CUT = 0.1  # of a picture's area
_BOX = 72  # pixels of the longest side in the drawing of buckets
_left_out: dict[Path, frozenset[str]] = {}


@dataclass(frozen=True)
class PictureView:
    """A picture of a set.

    Attributes:
        name: below the set's folder, exactly as on disk; what the picture is asked for by.
        original: what it was called when it came, or "".
        size: width and height, upright; None where it cannot be opened.
        crop: how training cuts it; None where it is left out.
        findings: doubts about this picture.
    """

    name: str
    original: str
    caption: str
    size: tuple[int, int] | None
    id: str | None
    crop: CropPlan | None
    findings: tuple[Finding, ...]
    read: Callable[[], bytes]

    @property
    def severity(self) -> Severity | None:
        """The gravest of its doubts; None without."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), None)

    @property
    def cut_off(self) -> float:
        """The share of its area that training does not see, from 0 to 1."""
        return _cut_off(self.crop)


@dataclass(frozen=True)
class SetView:
    """An image set.

    Attributes:
        pictures: in the order of their names, those that cannot be used among them.
        report: what ``check-images`` says; None where nothing can be used.
        trouble: why nothing can be used, or "".
    """

    folder: SetFolder
    notes: SetNotes
    frame: Frame
    pictures: tuple[PictureView, ...]
    report: SetReport | None
    trouble: str = ""

    @property
    def title(self) -> str:
        """The set's name."""
        return self.notes.title or self.folder.id

    def place(self, name: str) -> int | None:
        """A picture's number from 0, None where it is gone."""
        return next((i for i, one in enumerate(self.pictures) if one.name == name), None)

    def findings(self) -> list[Finding]:
        """All doubts, the gravest first."""
        if self.report is None:
            return []
        found = list(self.report.findings)
        lacking = self.report.lacking_trigger
        if lacking and len(lacking) < self.report.captions:
            message = "Without the trigger word, which is put in front of them in training."
            found.append(Finding(f"{len(lacking)} captions", "note", message))
        own = [one for picture in self.pictures for one in picture.findings if one not in found]
        return sorted([*found, *own], key=lambda finding: SEVERITIES.index(finding.severity))

    def cuts(self) -> list[float]:
        """The share of each picture's area that training does not see."""
        return [picture.cut_off for picture in self.pictures if picture.crop]

    def boxes(self) -> list[tuple[str, int, int, int]]:
        """Each bucket's name, how many pictures it holds, and its width and height in a drawing."""
        buckets = self.report.buckets if self.report else {}
        sides = [(int(width), int(height)) for width, height in (n.split(" × ") for n in buckets)]
        scale = _BOX / max((max(pair) for pair in sides), default=_BOX)
        return [
            (name, count, max(8, round(scale * width)), max(8, round(scale * height)))
            for (name, count), (width, height) in zip(buckets.items(), sides, strict=True)
        ]


def look_at(folder: SetFolder, frame: Frame) -> SetView:
    """Read a set as training would, with the trigger and class word that are noted for it.

    Raises:
        UserError: its folder holds far too much.
    """
    notes = read_notes(folder)
    try:
        found = scan(folder)
    except UserError as error:
        view = SetView(folder, notes, frame, tuple(_unusable(folder, notes, {})), None, str(error))
    else:
        images = ImagesConfig(path=folder.path)
        captions = CaptionsConfig(trigger=notes.trigger, class_word=notes.class_word)
        report = describe_set(found, images, captions, resolution=frame.resolution, step=frame.step)
        about = _by_picture(report.findings)
        crops = {picture.entry.name: picture.crop for picture in report.fitted}
        usable = [
            _usable(folder, notes, entry, about, crops.get(entry.name)) for entry in found.entries
        ]
        broken = _unusable(folder, notes, about, set(found.left_out))
        pictures = sorted([*usable, *broken], key=lambda picture: picture.name)
        view = SetView(folder, notes, frame, tuple(pictures), report)
    _left_out[folder.path] = frozenset(one.name for one in view.pictures if one.crop is None)
    return view


def known_unusable(path: Path) -> frozenset[str]:
    """The pictures, by name, that a set was last seen to have and cannot use; none before that."""
    return _left_out.get(path, frozenset())


def _by_picture(findings: list[Finding]) -> dict[str, tuple[Finding, ...]]:
    about: dict[str, tuple[Finding, ...]] = defaultdict(tuple)
    for finding in findings:
        for name in dict.fromkeys([finding.name, *finding.pictures]):
            about[name] += (finding,)
    return about


def _usable(
    folder: SetFolder,
    notes: SetNotes,
    entry: ImageEntry,
    about: dict[str, tuple[Finding, ...]],
    crop: CropPlan | None,
) -> PictureView:
    name = entry.name
    if isinstance(entry.source, ImageFile):
        name = entry.source.path.relative_to(folder.path).as_posix()
    size = entry.header.width, entry.header.height
    findings = about.get(entry.name, ())
    if (cut := _cut_off(crop)) >= _NOTABLE_CUT:
        message = (
            f"{100 * cut:.0f} % of it is cut off, shown pale. Is what matters still in the middle?"
        )
        findings = (*findings, Finding(entry.name, "note", message))
    original, caption = notes.names.get(name, ""), entry.caption or ""
    return PictureView(name, original, caption, size, entry.id, crop, findings, entry.source.read)


def _cut_off(crop: CropPlan | None) -> float:
    if crop is None:
        return 0.0
    return 1 - crop.width * crop.height / (crop.resize_width * crop.resize_height)


def _unusable(
    folder: SetFolder,
    notes: SetNotes,
    about: dict[str, tuple[Finding, ...]],
    left_out: set[str] | None = None,
) -> list[PictureView]:
    """The pictures that cannot be opened: those that the scan left out, or without one all."""
    return [
        PictureView(
            name=file.name,
            original=notes.names.get(file.name, ""),
            caption="",
            size=None,
            id=None,
            crop=None,
            findings=about.get(display_name(file.name), ()),
            read=ImageFile(file.path).read,
        )
        for file in contents_of(folder).pictures
        if left_out is None or file.shown in left_out
    ]
