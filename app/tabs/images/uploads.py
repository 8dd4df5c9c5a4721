"""Uploaded pictures, captions and zip files: stored as an image set, or refused whole.

Everything is staged in a folder that appears as a set, or is added to one, only when all of it is
there. Pictures are stored as they came, byte by byte, under names of our own; what they were
called is kept in the set's notes.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from app.files import Upload, disk_trouble, move_new
from app.tabs.images.archives import Limits, unpack
from app.tabs.images.captions import saving
from app.tabs.images.imagesets import (
    MAX_TITLE,
    SetFolder,
    SetNotes,
    contents_of,
    make_set,
    read_notes,
    write_notes,
)
from app.tabs.images.storage import Incoming, write_pictures
from trainer.data.caption_files import find_captions
from trainer.data.names import display_name, is_of_system, list_names
from trainer.data.scan import FolderContents, FoundFile, folder_repeats
from trainer.errors import UserError
from trainer.runs.atomic import temporary_name


@dataclass(frozen=True)
class Stored:
    """What became of an upload.

    Attributes:
        pictures, captions: how many were added.
        remarks: what was doubtful or left out, by the uploaded names.
    """

    image_set: SetFolder
    pictures: int
    captions: int
    remarks: tuple[str, ...]


def store_uploads(
    root: Path,
    uploads: Sequence[Upload],
    *,
    title: str = "",
    into: SetFolder | None = None,
    limits: Limits | None = None,
) -> Stored:
    """Store uploaded files as a new set, or add them to one of the page's own.

    Args:
        root: the folder of all image sets.
        title: of the new set; without one its name comes from the upload.
        into: the set to add to.

    Raises:
        UserError: there is no picture among them, too much of something, a zip file that cannot
            be trusted, no room, or the set is not the page's own. Nothing is stored then.
    """
    limits = limits or Limits()
    if into:
        into.check_owned()
    with disk_trouble():
        root.mkdir(parents=True, exist_ok=True)
        _check_room(root, sum(upload.path.stat().st_size for upload in uploads), limits)
        staging = temporary_name(root / "upload")
        staging.mkdir()
        try:
            files = _stage(uploads, staging, limits)
            return _sort_in(root, files, title or _title_of(uploads), into, limits)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _check_room(root: Path, needed: int, limits: Limits) -> None:
    if needed > limits.total_bytes:
        raise UserError(
            f"That is {needed / 1e9:,.1f} GB; the limit of an upload is "
            f"{limits.total_bytes / 1e9:,.1f} GB. Nothing was stored.",
            "Upload fewer or smaller pictures.",
        )
    free = shutil.disk_usage(root).free
    # Once in staging, and once more while the set is made.
    if 2 * needed + limits.spare_bytes > free:
        raise UserError(
            f"There is no room for it: {free / 1e9:,.1f} GB are free on the disk. Nothing was "
            "stored.",
            "Free some space, or upload fewer pictures.",
        )


def _stage(uploads: Sequence[Upload], staging: Path, limits: Limits) -> list[FoundFile]:
    """All files that came, those of zip files too, by the names that they came with."""
    files: list[FoundFile] = []
    room = limits.total_bytes
    for number, upload in enumerate(uploads):
        name = upload.name.replace("/", "∕")
        suffix = upload.path.suffix
        if is_of_system(name):
            continue
        if not zipfile.is_zipfile(upload.path) and not name.casefold().endswith(".zip"):
            name = name if PurePosixPath(name).suffix == suffix else name + suffix
            files.append(FoundFile(upload.path, name))
            continue
        folder = staging / str(number)
        folder.mkdir()
        shown = display_name(upload.name[:MAX_TITLE])
        members = unpack(upload.path, shown, folder, replace(limits, total_bytes=room))
        room -= sum(member.path.stat().st_size for member in members)
        names = _without_common_folder([member.name for member in members])
        prefix = f"{PurePosixPath(name).stem}/" if len(uploads) > 1 else ""
        files += [FoundFile(m.path, prefix + n) for m, n in zip(members, names, strict=True)]
    return files


def _without_common_folder(names: list[str]) -> list[str]:
    """Names without the folders that all of them lie in, but for those that mean repeats."""
    while names:
        first, slash, _ = names[0].partition("/")
        common = all(name.startswith(f"{first}/") for name in names)
        if not slash or not common or folder_repeats(first) is not None:
            break
        names = [name[len(first) + 1 :] for name in names]
    return names


def _title_of(uploads: Sequence[Upload]) -> str:
    """A zip file's name serves; that of one picture among many does not."""
    if len(uploads) == 1 and uploads[0].name.casefold().endswith(".zip"):
        return PurePosixPath(uploads[0].name).stem
    return ""


def _sort_in(
    root: Path, files: list[FoundFile], title: str, into: SetFolder | None, limits: Limits
) -> Stored:
    incoming, remarks = _read(files)
    if not incoming:
        raise UserError(
            " ".join(["There is no picture among the files.", *remarks[-1:], *remarks[:2]]),
            "JPEG, PNG, WebP, AVIF, BMP, GIF and TIFF are read, or a zip file of them.",
        )
    before = len(contents_of(into).pictures) if into else 0
    if before + len(incoming) > limits.pictures:
        more = f" with the {before:,} that are there" if before else ""
        raise UserError(
            f"That would be {before + len(incoming):,} pictures{more}; the limit is "
            f"{limits.pictures:,}. Nothing was stored.",
            "Upload fewer. Ten to thirty good ones are enough for most subjects.",
        )

    def fill(folder: Path) -> SetNotes:
        return SetNotes(title=title, names=write_pictures(folder, incoming, 1))

    if into:
        with saving:
            _add(into, incoming)
    captions = sum(1 for picture in incoming if picture.caption)
    return Stored(into or make_set(root, title, fill), len(incoming), captions, tuple(remarks))


def _read(files: list[FoundFile]) -> tuple[list[Incoming], list[str]]:
    """The pictures with their captions, and what was doubtful or is neither."""
    contents = FolderContents()
    for file in sorted(files, key=lambda file: file.name):
        contents.add(file)
    ignored = [file.shown for file in (*contents.tables, *contents.others)]
    captions = find_captions(contents)
    remarks = [str(finding) for finding in contents.findings]
    if ignored:
        remarks.append(f"Not stored, being neither picture nor caption: {list_names(ignored)}.")
    return [
        Incoming(file.name, file.path, captions.get(file.name)) for file in contents.pictures
    ], remarks


def _add(image_set: SetFolder, incoming: list[Incoming]) -> None:
    """Pictures come in one by one, each after its caption; those that came leave on failure."""
    staging = temporary_name(image_set.hidden / "added")
    staging.mkdir()
    moved: list[Path] = []
    try:
        names = write_pictures(staging, incoming, _next_number(image_set))
        for source in sorted(staging.rglob("*"), key=lambda path: path.suffix != ".txt"):
            target = image_set.path / source.relative_to(staging)
            if source.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            move_new(source, target)
            moved.append(target)
        notes = read_notes(image_set)
        write_notes(image_set, replace(notes, names={**notes.names, **names}))
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _next_number(image_set: SetFolder) -> int:
    """One more than the greatest number that a name of the set, past or present, begins with."""
    names = [*read_notes(image_set).names, *(file.name for file in contents_of(image_set).pictures)]
    heads = [PurePosixPath(name).name.partition("-")[0].partition(".")[0] for name in names]
    return max((int(head) for head in heads if head.isdecimal() and len(head) < 9), default=0) + 1
