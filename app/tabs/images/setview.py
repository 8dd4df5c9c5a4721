"""An image set as the page shows it: each picture with its caption, its cut and its doubts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.tabs.images.imagesets import SetFolder, SetNotes, contents_of, read_notes
from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.buckets import CropPlan
from trainer.data.checks import LARGE_CUT, share_said
from trainer.data.findings import SEVERITIES, Finding, Severity
from trainer.data.gather import scan_again
from trainer.data.names import display_name
from trainer.data.report import SetReport, describe_set
from trainer.data.scan import FoundFile
from trainer.data.sets import ImageEntry, ImageFile
from trainer.errors import UserError
from trainer.models.identify import BaseFacts, BaseIdentity, facts_of, read_facts, short_name_of

_NOTABLE_CUT = 0.1  # of a picture's area
_BOX = 72  # pixels of the longest side in the drawing of buckets
_seen: dict[Path, SetView] = {}
_MOST_SEEN = 32


@dataclass(frozen=True)
class PictureView:
    """A picture of a set.

    Attributes:
        name: below the set's folder, exactly as on disk; what the picture is asked for by.
        original: what it was called when it came, or "".
        entry: what the scan read of it; None where it cannot be opened.
        crop: how training cuts it; None where it is left out.
        findings: doubts about this picture.
        read: gives its file as bytes.
    """

    name: str
    original: str
    entry: ImageEntry | None
    crop: CropPlan | None
    findings: tuple[Finding, ...]
    read: Callable[[], bytes]

    @property
    def caption(self) -> str:
        """Its caption, or ""."""
        return (self.entry.caption if self.entry else None) or ""

    @property
    def severity(self) -> Severity | None:
        """The gravest of its doubts; None without."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), None)

    @property
    def cut_off(self) -> float:
        """The share of its area that training does not see, from 0 to 1."""
        return self.crop.cut_off if self.crop else 0.0


@dataclass(frozen=True)
class SetView:
    """An image set.

    Attributes:
        base: the base model that it is looked at for.
        pictures: in the order of their names, those that cannot be used among them.
        report: what ``check-images`` says; None where nothing can be used.
        trouble: why nothing can be used, or "".
    """

    folder: SetFolder
    notes: SetNotes
    base: BaseFacts
    pictures: tuple[PictureView, ...]
    report: SetReport | None
    trouble: str = ""

    @property
    def title(self) -> str:
        """The set's name."""
        return self.notes.title or self.folder.id

    @property
    def masks(self) -> int:
        """How many of the pictures that train have a mask of their own."""
        return sum(1 for one in self.pictures if one.crop and one.entry and one.entry.mask)

    @property
    def base_is_here(self) -> bool:
        """Whether the base model was read, and not judged by its name."""
        return isinstance(self.base, BaseIdentity)

    def place(self, name: str) -> int | None:
        """A picture's number from 0, None where it is gone."""
        return next((i for i, one in enumerate(self.pictures) if one.name == name), None)

    def picture(self, name: str) -> PictureView:
        """A picture.

        Raises:
            UserError: it is gone.
        """
        found = next((one for one in self.pictures if one.name == name), None)
        if found is None:
            raise UserError("The picture was removed in another tab.", "Choose another one.")
        return found

    def findings(self) -> list[Finding]:
        """All doubts, the gravest first."""
        if self.report is None:
            return []
        found = list(self.report.findings)
        lacking = self.report.lacking_trigger
        if lacking and len(lacking) < self.report.captions:
            message = "Without the trigger word, which is put in front of them in training."
            found.append(Finding(f"{len(lacking)} captions", "note", message))
        found += _cuts(
            {one.entry.name: one.crop for one in self.pictures if one.entry and one.crop}
        )
        return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))

    @property
    def names(self) -> frozenset[str]:
        """The pictures' names as findings have them."""
        return frozenset(display_name(one.name) for one in self.pictures)

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


def look_at(folder: SetFolder, base: str) -> SetView:
    """Read a set as training with a base model would, with the words that are noted for it.

    Raises:
        UserError: its folder holds far too much.
    """
    notes, facts = read_notes(folder), base_facts(base)
    found, report, trouble = None, None, ""
    try:
        found = scan_again(folder.path)
        report = describe_set(
            found,
            ImagesConfig(path=folder.path, resolution=facts.resolution),
            CaptionsConfig(trigger=notes.trigger, class_word=notes.class_word),
            step=facts.resolution_step,
        )
    except UserError as error:
        name = notes.title or folder.shown
        trouble = str(error).replace(display_name(str(folder.path)), name)
    crops = {picture.entry.name: picture.crop for picture in report.fitted} if report else {}
    about: dict[str, tuple[Finding, ...]] = defaultdict(tuple)
    for finding in report.findings if report else ():
        for name in {finding.name, *finding.pictures}:
            about[name] += (finding,)

    def view(file: FoundFile, entry: ImageEntry | None = None) -> PictureView:
        shown = entry.name if entry else file.shown
        read = entry.source.read if entry else ImageFile(file.path).read
        crop, original = crops.get(shown), notes.names.get(file.name, "")
        findings = (*about[shown], *_cuts({shown: crop} if crop else {}))
        return PictureView(file.name, original, entry, crop, findings, read)

    files = {file.shown: file for file in contents_of(folder).pictures}
    entries = found.entries if found else ()
    # The row of a table has no file of its own.
    usable = [view(files.get(one.name, FoundFile(folder.path, one.name)), one) for one in entries]
    broken = [file for name, file in files.items() if found is None or name in found.left_out]
    pictures = sorted([*usable, *map(view, broken)], key=lambda picture: picture.name)
    seen = _seen[folder.path] = SetView(folder, notes, facts, tuple(pictures), report, trouble)
    for old in list(_seen)[:-_MOST_SEEN]:
        _seen.pop(old, None)
    return seen


def last_seen(path: Path) -> SetView | None:
    """The set in a folder as it was last looked at; None before that."""
    return _seen.get(path)


def _cuts(crops: Mapping[str, CropPlan]) -> Iterator[Finding]:
    """What is cut off of pictures, as one finding, where it is no warning of the report."""
    cuts = {name: crop.cut_off for name, crop in crops.items()}
    cuts = {name: cut for name, cut in cuts.items() if _NOTABLE_CUT <= cut < LARGE_CUT}
    if cuts:
        share = share_said(cuts.values())
        message = f"{share} % is cut off, shown pale. Is what matters still in the middle?"
        yield Finding.of_several(list(cuts), "note", message)


def base_facts(base: str) -> BaseFacts:
    """The facts of a base model by its name; of what is nowhere and says nothing, those of SD 1."""
    try:
        return read_facts(base)
    except UserError:
        return facts_of(short_name_of(base) or "sd15")
