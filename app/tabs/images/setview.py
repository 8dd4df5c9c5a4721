"""An image set as the page shows it: each picture with its caption, its cut and its doubts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.tabs.images.frames import Frame
from app.tabs.images.imagesets import SetFolder, SetNotes, contents_of, read_notes, scan
from app.tabs.images.thumbnails import Wanted
from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.buckets import CropPlan, plan_crop
from trainer.data.findings import Finding, Severity
from trainer.data.names import display_name
from trainer.data.problems import ImageProblem
from trainer.data.report import SetReport, describe_set
from trainer.data.sets import ImageEntry, ImageFile, ImageSet, Progress
from trainer.errors import UserError

_NOTABLE_CUT = 0.1  # of a picture's area
_left_out: dict[Path, frozenset[str]] = {}


@dataclass(frozen=True)
class PictureView:
    """A picture of a set.

    Attributes:
        name: below the set's folder, exactly as on disk; what the picture is asked for by.
        original: what it was called when it came, or "".
        size: width and height, upright; None where it cannot be opened.
        crop: how training cuts it; None where it is left out.
        findings: doubts about this picture alone.
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
    def shown(self) -> str:
        """The name, fit for showing."""
        return display_name(self.name)

    @property
    def severity(self) -> Severity | None:
        """The gravest of its doubts; None without."""
        found = {finding.severity for finding in self.findings}
        order: tuple[Severity, ...] = ("error", "warning", "note")
        return next((severity for severity in order if severity in found), None)

    @property
    def cut_off(self) -> float:
        """The share of its area that training does not see, from 0 to 1."""
        if self.crop is None:
            return 0.0
        whole = self.crop.resize_width * self.crop.resize_height
        return 1 - self.crop.width * self.crop.height / whole

    def wanted(self) -> Wanted:
        """Its thumbnail."""
        return Wanted(self.read, self.id, self.crop)


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

    def place(self, name: str) -> int | None:
        """A picture's number from 0, None where it is gone."""
        return next((i for i, one in enumerate(self.pictures) if one.name == name), None)


def look_at(folder: SetFolder, frame: Frame, progress: Progress | None = None) -> SetView:
    """Read a set as training would, with the trigger and class word that are noted for it.

    Raises:
        UserError: its folder holds far too much.
    """
    view = _look_at(folder, frame, progress)
    _left_out[folder.path] = frozenset(one.name for one in view.pictures if one.crop is None)
    return view


def known_unusable(path: Path) -> frozenset[str]:
    """The pictures, by name, that a set was last seen to have and cannot use; none before that."""
    return _left_out.get(path, frozenset())


def _look_at(folder: SetFolder, frame: Frame, progress: Progress | None) -> SetView:
    notes = read_notes(folder)
    try:
        found = scan(folder, progress)
    except UserError as error:
        pictures = tuple(_unusable(folder, notes, ()))
        return SetView(folder, notes, frame, pictures, None, str(error))
    images = ImagesConfig(path=folder.path)
    report = describe_set(
        found,
        images,
        CaptionsConfig(trigger=notes.trigger, class_word=notes.class_word),
        resolution=frame.resolution,
        step=frame.step,
    )
    usable = [
        _usable(folder, notes, entry, report.findings, images, frame) for entry in found.entries
    ]
    broken = _unusable(folder, notes, report.findings, found)
    pictures = sorted([*usable, *broken], key=lambda picture: picture.name)
    return SetView(folder, notes, frame, tuple(pictures), report)


def _usable(
    folder: SetFolder,
    notes: SetNotes,
    entry: ImageEntry,
    findings: list[Finding],
    images: ImagesConfig,
    frame: Frame,
) -> PictureView:
    name = entry.name
    if isinstance(entry.source, ImageFile):
        name = entry.source.path.relative_to(folder.path).as_posix()
    size = entry.header.width, entry.header.height
    try:
        crop = plan_crop(*size, frame.resolution, frame.step, images.buckets, images.upscale)
    except ImageProblem:
        crop = None
    about = [finding for finding in findings if _is_about(finding, entry.name)]
    original = notes.names.get(name, "")
    picture = PictureView(
        name, original, entry.caption or "", size, entry.id, crop, (), entry.source.read
    )
    if picture.cut_off >= _NOTABLE_CUT:
        about.append(_cut_finding(picture))
    return PictureView(**{**picture.__dict__, "findings": tuple(about)})


def _unusable(
    folder: SetFolder,
    notes: SetNotes,
    findings: tuple[Finding, ...] | list[Finding],
    found: ImageSet | None = None,
) -> list[PictureView]:
    """The pictures that cannot be opened: those that the scan left out, or without one all."""
    left_out = None if found is None else set(found.left_out)
    return [
        PictureView(
            file.name,
            notes.names.get(file.name, ""),
            "",
            None,
            None,
            None,
            tuple(finding for finding in findings if _is_about(finding, file.shown)),
            _reader(file.path),
        )
        for file in contents_of(folder).pictures
        if left_out is None or file.shown in left_out
    ]


def _reader(path: Path) -> Callable[[], bytes]:
    return ImageFile(path).read


def _is_about(finding: Finding, shown: str) -> bool:
    return finding.name == shown or shown in finding.pictures


def _cut_finding(picture: PictureView) -> Finding:
    share = f"{100 * picture.cut_off:.0f} %"
    return Finding(
        picture.shown,
        "note",
        f"{share} of it is cut off, shown pale. Is what matters still in the middle?",
    )
