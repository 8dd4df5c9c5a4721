"""Image sets: a folder of pictures and captions, read into one list."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trainer.data.duplicates import duplicate_findings, twin_findings
from trainer.data.findings import Finding
from trainer.data.folders import FolderContents, FoundFile, look_into, repeats_findings, repeats_of
from trainer.data.images import (
    ImageHeader,
    ImageProblem,
    Inspection,
    inspect_image,
    read_file,
    read_header,
)
from trainer.data.maskfiles import take_masks
from trainer.data.names import display_name
from trainer.data.parquet import ParquetRow, forget_tables, open_table
from trainer.data.sidecars import merge_captions, read_sidecars
from trainer.data.tables import read_metadata
from trainer.errors import UserError
from trainer.events import Progress

__all__ = ["Finding", "ImageEntry", "ImageFile", "ImageSet", "scan_image_set"]

MAX_IMAGES = 100_000
FOLDER_RULES = (
    "An image set is a folder of pictures (JPEG, PNG, WebP, AVIF, BMP, GIF, TIFF), with or "
    "without folders in it. Captions are .txt files named like the pictures, or a metadata.jsonl "
    "or metadata.csv with file_name and text, or a parquet table with image and text."
)


@dataclass(frozen=True)
class ImageFile:
    """Where a picture in a file of its own lies."""

    path: Path

    def read(self) -> bytes:
        """The file's bytes. Raises `ImageProblem` where it cannot be read."""
        return read_file(self.path)


@dataclass(frozen=True)
class MaskFile:
    """The mask of a picture, and the SHA-256 of its bytes, in hex, when the set was read."""

    path: Path
    digest: str

    def read(self) -> bytes:
        """The file's bytes. Raises `ImageProblem` where it cannot be read, or was changed."""
        data = read_file(self.path)
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise ImageProblem(
                "The mask has been changed since the image set was read.",
                "Leave the files alone while training is prepared, and start again.",
            )
        return data


@dataclass(frozen=True)
class ImageEntry:
    """A picture that can be trained on, and its caption as it was when the set was read.

    Attributes:
        id: the first 32 hex digits of the SHA-256 of the file's bytes: equal for equal files.
        name: fit for showing: below the set's folder, with "/", invisible characters escaped.
        caption: None where there is none.
        repeats: how often it comes up in an epoch.
        header: size (upright) and kind.
        source: where its bytes are.
        mask: of a file of its own, see `trainer.data.maskfiles`.
    """

    id: str
    name: str
    caption: str | None
    repeats: int
    header: ImageHeader
    source: ImageFile | ParquetRow
    mask: MaskFile | None = None

    def read(self) -> bytes:
        """The picture's file as bytes, the same as when the set was read.

        Raises:
            UserError: it is gone, or another picture by now.
        """
        try:
            data = self.source.read()
        except ImageProblem as problem:
            raise UserError(f"{self.name}: {problem.reason}", problem.hint) from problem
        if hashlib.sha256(data).hexdigest()[: len(self.id)] != self.id:
            raise UserError(
                f"{self.name} has been changed since the image set was read.",
                "Leave the pictures alone while training is prepared, and start again.",
            )
        return data


@dataclass(frozen=True)
class ImageSet:
    """The pictures that can be used, in the order of their names, and what is doubtful.

    Attributes:
        left_out: names of the pictures that cannot be used; a finding says why.
    """

    root: Path
    entries: tuple[ImageEntry, ...]
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """SHA-256, in hex, over the pictures' content, captions and repeats in their order."""
        rows = [[entry.id, entry.caption, entry.repeats] for entry in self.entries]
        return hashlib.sha256(json.dumps(rows).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class _Candidate:
    """A picture before it was opened."""

    name: str
    caption: str | None
    repeats: int
    source: ImageFile | ParquetRow
    mask: MaskFile | None = None

    def entry(self, seen: Inspection) -> ImageEntry:
        return ImageEntry(
            seen.digest[:32],
            self.name,
            self.caption,
            self.repeats,
            seen.header,
            self.source,
            self.mask,
        )


def scan_image_set(
    path: Path,
    *,
    limit: int = MAX_IMAGES,
    progress: Progress | None = None,
    inspect: Callable[[Path], Inspection] = inspect_image,
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
    _check_folder(root)
    contents = look_into(root, limit)
    findings = contents.findings
    candidates = [*_file_candidates(contents), *_table_candidates(contents, limit)]
    if len(candidates) > limit:
        raise UserError(
            f"{root} holds more than {limit:,} pictures.", "Make it smaller, or split it."
        )
    used: list[tuple[_Candidate, Inspection]] = []
    left_out: list[str] = []
    for candidate, result in _inspect_all(candidates, inspect, progress):
        if isinstance(result, ImageProblem):
            findings.append(Finding(candidate.name, "error", f"Left out. {result}"))
            left_out.append(candidate.name)
        else:
            used.append((candidate, result))
    if not used:
        raise _nothing_usable(root, findings)
    findings += _set_findings(used)
    entries = tuple(candidate.entry(inspection) for candidate, inspection in used)
    return ImageSet(root, entries, tuple(findings), tuple(left_out))


def read_captions(path: Path, *, limit: int = MAX_IMAGES) -> list[str]:
    """The captions of a folder's pictures, in their order; decodes no picture.

    Raises:
        UserError: there is no such folder, it holds too much, or no picture.
    """
    root = path.expanduser()
    _check_folder(root)
    contents = look_into(root, limit)
    candidates = [*_file_candidates(contents), *_table_candidates(contents, limit)]
    forget_tables()
    if not candidates:
        raise _nothing_usable(root, contents.findings)
    return [candidate.caption for candidate in candidates if candidate.caption]


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


def _file_candidates(contents: FolderContents) -> Iterator[_Candidate]:
    masks = take_masks(contents)
    contents.findings += masks.findings
    sidecars = read_sidecars(contents.pictures, contents.captions)
    captions = merge_captions(sidecars, read_metadata(contents.metadata, contents.pictures))
    contents.findings += captions.findings
    contents.findings += repeats_findings([*contents.pictures, *contents.tables])
    contents.findings += twin_findings([picture.name for picture in contents.pictures])
    for picture in contents.pictures:
        repeats = repeats_of(picture.name)
        if repeats:
            yield _Candidate(
                display_name(picture.name),
                captions.texts.get(picture.name),
                repeats,
                ImageFile(picture.path),
                _mask_file(masks.of_picture.get(picture.name), contents),
            )


def _mask_file(file: FoundFile | None, contents: FolderContents) -> MaskFile | None:
    """A mask with its digest; None, with a finding, where it cannot be read."""
    if file is None:
        return None
    try:
        data = read_file(file.path)
        read_header(data)
    except ImageProblem as problem:
        contents.doubt(file.name, "error", f"The mask cannot be used. {problem}")
        return None
    return MaskFile(file.path, hashlib.sha256(data).hexdigest())


def _table_candidates(contents: FolderContents, limit: int) -> Iterator[_Candidate]:
    for file in contents.tables:
        repeats = repeats_of(file.name)
        rows = open_table(file, contents.findings, limit) if repeats else ()
        for row in rows:
            yield _Candidate(row.name, row.caption, repeats, row.source)


def _inspect_all(
    candidates: list[_Candidate], inspect: Callable[[Path], Inspection], progress: Progress | None
) -> Iterator[tuple[_Candidate, Inspection | ImageProblem]]:
    """Decode everything on a few threads (decoders release the interpreter); in order."""
    pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
    try:
        results = pool.map(partial(_inspect, inspect), candidates)
        for done, pair in enumerate(zip(candidates, results, strict=True), start=1):
            if progress:
                progress(done, len(candidates), "reading")
            yield pair
    finally:
        pool.shutdown(cancel_futures=True)
        forget_tables()


def _inspect(
    inspect: Callable[[Path], Inspection], candidate: _Candidate
) -> Inspection | ImageProblem:
    try:
        if isinstance(candidate.source, ImageFile):
            return inspect(candidate.source.path)
        return inspect_image(candidate.source.read())
    except ImageProblem as problem:
        return problem


def _set_findings(used: list[tuple[_Candidate, Inspection]]) -> Iterable[Finding]:
    names = [candidate.name for candidate, _ in used]
    digests = [inspection.digest for _, inspection in used]
    thumbnails = np.stack([inspection.thumbnail for _, inspection in used])
    yield from duplicate_findings(names, digests, thumbnails)
    yield from _shared_notes(used)
    if len(used) == 1:
        yield Finding(
            names[0],
            "warning",
            "It is the only picture: the adapter will copy it instead of learning what it shows. "
            "Ten to twenty different ones work well.",
        )


def _shared_notes(used: list[tuple[_Candidate, Inspection]]) -> Iterator[Finding]:
    """What holds for many pictures alike, said once."""
    animated = [candidate.name for candidate, seen in used if seen.header.frames > 1]
    transparent = [candidate.name for candidate, seen in used if seen.transparent]
    uncaptioned = [candidate.name for candidate, _ in used if candidate.caption is None]
    if animated:
        yield Finding.of_several(
            animated,
            "note",
            "Animated, or of several pages: only the first picture is used.",
        )
    if transparent:
        yield Finding.of_several(
            transparent,
            "note",
            "Transparent in parts: these are filled with the background colour "
            "(images.background).",
        )
    if uncaptioned:
        some = len(uncaptioned) < len(used)
        yield Finding.of_several(
            uncaptioned,
            "warning" if some else "note",
            "No caption: trigger and class word will be the caption.",
        )


def _nothing_usable(root: Path, findings: list[Finding]) -> UserError:
    serious = [str(finding) for finding in findings if finding.severity != "note"]
    reasons = f" {' '.join(serious[:3])}" if serious else ""
    more = f" There are {len(serious) - 3} more findings." if len(serious) > 3 else ""
    return UserError(
        f"{display_name(str(root))} holds no picture that can be used.{reasons}{more}",
        FOLDER_RULES,
    )
