"""Image sets: a folder of pictures and captions, read into one list of entries."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from trainer.data.buckets import CropPlan, Focus
from trainer.data.caption_files import find_captions
from trainer.data.captions import caption_lines
from trainer.data.colours import WHITE
from trainer.data.decoder import inspect_image
from trainer.data.duplicates import duplicate_findings, twin_findings
from trainer.data.findings import Finding, ImageProblem, Severity, merge_findings
from trainer.data.folders import repeats_findings, repeats_of
from trainer.data.images import ImageFacts, ImageHeader, read_file
from trainer.data.masks import MaskFile
from trainer.data.names import display_name, list_names
from trainer.data.pairing import find_focuses, read_folder
from trainer.data.parquet import ParquetRow, forget_tables, open_table
from trainer.data.scan import FolderContents, FoundFile
from trainer.data.sniffing import READ
from trainer.errors import UserError
from trainer.events import Progress

MAX_IMAGES = 100_000
_SEEN = 16  # levels of 255 by which something must differ from its background to be seen
_MOST_COLOUR = 20  # of 255 levels between the channels of an eighth of a mask, on the average
FOLDER_RULES = (
    f"An image set is a folder of pictures ({READ}), with or without folders in it. Captions are "
    ".txt files named like the pictures, or a metadata.jsonl or metadata.csv with file_name and "
    "text, or a parquet table with image and text."
)

Inspect = Callable[[Path], ImageFacts]


@dataclass(frozen=True)
class ImageFile:
    """Where a picture in a file of its own lies."""

    path: Path

    def read(self) -> bytes:
        """The file's bytes. Raises `ImageProblem` where it cannot be read."""
        return read_file(self.path)


@dataclass(frozen=True)
class ImageEntry:
    """A picture that can be trained on, and its caption as it was when the set was read."""

    id: str  # the first 32 hex digits of the SHA-256 of the file's bytes: equal for equal files
    name: str  # fit for showing: below the set's folder, with "/", invisible characters escaped
    caption: str | None  # None where there is none; several are a line each
    repeats: int  # how often it comes up in an epoch
    header: ImageHeader  # size (upright) and kind
    source: ImageFile | ParquetRow  # where its bytes are
    mask: MaskFile | None = None  # of a file of its own, see `trainer.data.masks`
    # How it is seen, and what is to be in the middle of its crop; None: as it is.
    focus: Focus | None = None
    ink: tuple[int, ...] | None = None  # see `trainer.data.images.ImageFacts`

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of what is seen of it, in pixels."""
        own = self.header.width, self.header.height
        return own if self.focus is None else self.focus.size(*own)

    def background(self, wanted: str) -> str:
        """The colour below its transparent parts: the one wanted, where anything is seen on it.

        Otherwise black or white, whichever is farther from the picture's colours.

        Args:
            wanted: "#rrggbb".
        """
        if self.ink is None:
            return wanted
        ground = [int(wanted[at : at + 2], 16) for at in (1, 3, 5)] * 2
        if max(abs(ink - below) for ink, below in zip(self.ink, ground, strict=True)) > _SEEN:
            return wanted
        return "#000000" if sum(self.ink) > 3 * 255 else WHITE

    def read(self) -> bytes:
        """The picture's file as bytes, the same as when the set was read.

        Raises:
            UserError: it is gone, or another picture by now.
        """
        try:
            data = self.source.read()
        except ImageProblem as problem:
            message = f"{self.name}: {problem.reason}"
            raise UserError(message, problem.hint, "images_changed") from problem
        if hashlib.sha256(data).hexdigest()[: len(self.id)] != self.id:
            raise UserError(
                f"{self.name} has been changed since the image set was read.",
                "Leave the pictures alone while training is prepared, and start again.",
                "images_changed",
            )
        return data


@dataclass(frozen=True)
class Picture:
    """An entry, how it is cut, and which of the run's concepts it shows, counted from 0."""

    entry: ImageEntry
    crop: CropPlan
    concept: int = 0
    # How it is cut for each further resolution of ``images.resolutions``.
    others: tuple[CropPlan, ...] = ()

    @property
    def in_each_size(self) -> list[Picture]:
        """The picture as it is cut for each resolution."""
        return [replace(self, crop=crop, others=()) for crop in (self.crop, *self.others)]

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """What SDXL is conditioned on: (height, width) in pixels before fitting, (top, left) of the
        crop, and (height, width) of what is trained on."""
        crop, (width, height) = self.crop, self.entry.size
        return (height, width), (crop.top, crop.left), (crop.height, crop.width)


@dataclass(frozen=True)
class ImageSet:
    """The pictures that can be used, in the order of their names, and what is doubtful."""

    root: Path
    entries: tuple[ImageEntry, ...]
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...] = ()  # names of the pictures that cannot be used; a finding says why
    # Of regularisation pictures, with how many; see `trainer.data.scan`.
    class_folders: Mapping[str, int] = field(default_factory=dict[str, int])
    # What is not trained on since it is kept out to test by, with how many.
    splits: Mapping[str, int] = field(default_factory=dict[str, int])

    def named(self, names: Collection[str]) -> list[ImageEntry]:
        """The entries with these names; all of them where none are given.

        Raises:
            UserError: there is none of a name.
        """
        if unknown := set(names) - {entry.name for entry in self.entries}:
            raise UserError(
                f"{self.root} has no such picture: {list_names(sorted(unknown))}.",
                "Check the name.",
            )
        return [entry for entry in self.entries if not names or entry.name in names]


@dataclass(frozen=True)
class _Listed:
    """A picture before it was opened."""

    name: str
    caption: str | None
    repeats: int
    source: ImageFile | ParquetRow
    mask: FoundFile | None = None
    focus: Focus | None = None

    def inspect(self, inspect: Inspect) -> _Inspected:
        facts = _facts_of(self.source, inspect)
        if isinstance(facts, ImageFacts) and facts.ink == ():
            reason = "It is transparent all over: there is nothing to see."
            facts = ImageProblem(reason, "Export it again, or leave it out.")
        return facts, self.mask and _facts_of(self.mask, inspect)


_Facts = ImageFacts | ImageProblem
_Inspected = tuple[_Facts, _Facts | None]
"""A picture and its mask; a problem where one cannot be used."""


def _facts_of(source: ImageFile | FoundFile | ParquetRow, inspect: Inspect) -> _Facts:
    try:
        if isinstance(source, ParquetRow):
            return inspect_image(source.read())
        return inspect(source.path)
    except ImageProblem as problem:
        return problem


def scan_image_set(
    path: Path,
    *,
    limit: int = MAX_IMAGES,
    progress: Progress | None = None,
    inspect: Inspect = inspect_image,
) -> ImageSet:
    """Read a folder, and decode each of its pictures once to see that it is whole.

    Nothing is written. Pictures that cannot be used are left out, with a finding.

    Args:
        limit: the most pictures that a set may have.
        progress: called with the pictures done and their total, in the caller's thread.
        inspect: decodes a picture that is a file, in some thread. Who reads a set often can give
            one that remembers.

    Raises:
        UserError: there is no such folder, it holds too much, or nothing in it can be used.
    """
    root = path.expanduser()
    listed, contents = _list(root, limit)
    findings = contents.findings
    entries: list[ImageEntry] = []
    used: list[ImageFacts] = []
    left_out: list[str] = []
    for one, (facts, mask) in _inspect_all(listed, inspect, progress):
        if isinstance(facts, ImageProblem):
            findings.append(Finding(one.name, "error", f"Left out. {facts}"))
            left_out.append(one.name)
            continue
        used.append(facts)
        found = (facts.header, one.source, _mask(one, mask, findings), one.focus, facts.ink)
        entries.append(ImageEntry(facts.digest[:32], one.name, one.caption, one.repeats, *found))
    if not used:
        raise _nothing_usable(root, findings)
    said = tuple(merge_findings([*findings, *_set_findings(entries, used)]))
    kept_out = (contents.class_folders, contents.splits)
    return ImageSet(root, tuple(entries), said, tuple(left_out), *kept_out)


def read_captions(path: Path, *, limit: int = MAX_IMAGES) -> list[str]:
    """The captions of a folder's pictures, in their order; decodes no picture.

    Raises:
        UserError: there is no such folder, it holds too much, or no picture.
    """
    root = path.expanduser()
    listed, contents = _list(root, limit)
    forget_tables()
    if not listed:
        raise _nothing_usable(root, contents.findings)
    return [line for one in listed for line in caption_lines(one.caption)]


def _list(root: Path, limit: int) -> tuple[list[_Listed], FolderContents]:
    """The pictures of a folder, none of them opened, and what is doubtful about their names."""
    _check_folder(root)
    contents = read_folder(root, limit)
    listed = [*_listed_files(contents), *_listed_rows(contents, limit)]
    if len(listed) > limit:
        raise UserError(
            f"{root} holds more than {limit:,} pictures.", "Make it smaller, or split it."
        )
    return listed, contents


def _check_folder(root: Path) -> None:
    shown = display_name(str(root))
    try:
        if root.is_dir():
            return
        exists = root.exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise UserError(f"The image folder {shown} does not exist.", "Check the path.")
    raise UserError(f"{shown} is a file, not a folder of pictures.", FOLDER_RULES)


def _listed_files(contents: FolderContents) -> Iterator[_Listed]:
    pictures = contents.pictures
    captions, focuses = find_captions(contents), find_focuses(contents)
    contents.findings += [
        *repeats_findings(one.name for one in (*pictures, *contents.tables)),
        *twin_findings([picture.name for picture in pictures]),
    ]
    for picture in pictures:
        if repeats := repeats_of(picture.name):
            caption, mask = captions.get(picture.name), contents.masks.get(picture.name)
            source, focus = ImageFile(picture.path), focuses.get(picture.name)
            yield _Listed(picture.shown, caption, repeats, source, mask, focus)


def _mask(one: _Listed, facts: _Facts | None, findings: list[Finding]) -> MaskFile | None:
    """A picture's mask; None, with a finding, where it cannot be used."""
    if one.mask is None or facts is None:
        return None
    if isinstance(facts, ImageProblem):
        findings.append(Finding(one.mask.shown, "error", f"The mask cannot be used. {facts}"))
        return None
    if np.ptp(facts.thumbnail.astype(np.int16), axis=2).max() > _MOST_COLOUR:
        message = (
            "By its name it is a picture's mask, but it is in colour: its brightness counts. If it "
            "is a picture of its own, rename it or its folder."
        )
        findings.append(Finding(one.mask.shown, "warning", message))
    return MaskFile(one.mask.path, facts.digest, one.mask.shown)


def _listed_rows(contents: FolderContents, limit: int) -> Iterator[_Listed]:
    for file in contents.tables:
        if repeats := repeats_of(file.name):
            rows = open_table(file, contents.findings, limit)
            for number, (source, caption) in enumerate(rows, start=1):
                yield _Listed(f"{file.shown} row {number}", caption, repeats, source)


def _inspect_all(
    listed: list[_Listed], inspect: Inspect, progress: Progress | None
) -> Iterator[tuple[_Listed, _Inspected]]:
    """Decode everything on a few threads (decoders release the interpreter); in order."""
    pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
    try:
        results = pool.map(partial(_Listed.inspect, inspect=inspect), listed)
        for done, pair in enumerate(zip(listed, results, strict=True), start=1):
            if progress:
                progress(done, len(listed), "reading")
            yield pair
    finally:
        pool.shutdown(cancel_futures=True)
        forget_tables()


def _set_findings(entries: list[ImageEntry], used: list[ImageFacts]) -> Iterator[Finding]:
    """What is doubtful about several pictures; equal ones are merged."""
    names, digests = [one.name for one in entries], [facts.digest for facts in used]
    yield from duplicate_findings(names, digests, np.stack([facts.thumbnail for facts in used]))
    grave: Severity = "warning" if any(one.caption is not None for one in entries) else "note"
    single = (
        "It is the only picture: the adapter will copy it instead of learning what it shows. Ten "
        "to twenty different ones work well."
    )
    filled = (
        "Transparent in parts: these are filled with the background colour (images.background)."
    )
    uncaptioned = "No caption: the trigger word and class word will be the caption."
    for one, facts in zip(entries, used, strict=True):
        if facts.header.frames > 1:
            message = "Animated, or of several pages: only the first picture is used."
            yield Finding(one.name, "note", message)
        if facts.transparent:
            yield Finding(one.name, "note", filled)
        if one.caption is None:
            yield Finding(one.name, grave, uncaptioned)
        if len(entries) == 1:
            yield Finding(one.name, "warning", single)


def _nothing_usable(root: Path, findings: list[Finding]) -> UserError:
    serious = [str(finding) for finding in findings if finding.severity != "note"]
    reasons = f" {' '.join(serious[:3])}" if serious else ""
    more = f" There are {len(serious) - 3} more findings." if len(serious) > 3 else ""
    return UserError(
        f"{display_name(str(root))} holds no picture that can be used.{reasons}{more}", FOLDER_RULES
    )
