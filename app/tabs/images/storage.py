"""How pictures and captions are written into an image set of the page's own.

Pictures are stored byte by byte under names of our own; a caption is a ``.txt`` file beside its
picture. No name that came from elsewhere becomes a path; a copy keeps the folders of class pictures
and splits as they lie on this disk.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from app.files import disk_trouble, slug
from app.tabs.images.imagesets import (
    SetFolder,
    SetNotes,
    contents_of,
    make_set,
    read_notes,
)
from trainer.data.buckets import Focus
from trainer.data.decoder import inspect_image
from trainer.data.findings import Finding, merge_findings
from trainer.data.folders import MAX_REPEATS, folder_repeats, special_folders
from trainer.data.gather import scan_again
from trainer.data.images import PICTURE_SUFFIXES, ImageProblem
from trainer.data.names import display_name
from trainer.data.pairing import looks_like_mask, write_focus
from trainer.data.parquet import ParquetRow, forget_tables
from trainer.data.scan import FoundFile, look_into
from trainer.data.sets import MAX_IMAGES, ImageEntry, ImageFile
from trainer.errors import UserError
from trainer.text import numbered

_MAX_FOLDERS = 3  # levels of folders that are kept
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")
_MAX_ABOUT = 1 << 20
_ABOUT = ("README.md", "README.txt", "README", "LICENSE", "LICENSE.txt", "LICENSE.md")


@dataclass(frozen=True)
class Incoming:
    """A picture on its way in, by the name that it came with, and its mask."""

    name: str
    source: Path | ParquetRow
    caption: str | None
    focus: Focus | None = None
    mask: Path | None = None


def check_usable(incoming: Sequence[Incoming]) -> None:
    """Raises `UserError` where no picture can be used: that would be an empty set."""
    problems: list[Finding] = []
    for picture in incoming:
        try:
            inspect_image(picture.source if isinstance(picture.source, Path) else b"")
        except ImageProblem as problem:
            problems.append(Finding(display_name(picture.name), "error", str(problem)))
        else:
            return
    said = [str(problem) for problem in merge_findings(problems)[:3]]
    raise UserError("Nothing is stored, since no picture can be used.", "\n".join(said))


def write_pictures(
    folder: Path, incoming: Iterable[Incoming], number: int, *, keep_plain: bool = False
) -> dict[str, str]:
    """Write pictures, captions and masks below a folder; gives the old name of each new one.

    No name looks like that of a mask, so that each picture keeps its own mask, or none.

    Args:
        number: of the first picture; no two get the same stem, so that each has its own caption.
        keep_plain: names of letters, digits and dashes stay as they are.

    Raises:
        OSError: from the file system.
    """
    names: dict[str, str] = {}
    folders: dict[str, str] = {}
    stems: set[str] = set()
    for count, picture in enumerate(incoming, start=number):
        old = PurePosixPath(picture.name)
        below = _own_folder(str(old.parent), folders)
        stem = "-".join(part for part in (f"{count:04d}", slug(old.stem, 32)) if part)
        plain = f"{below}/{old.stem}".casefold()
        if keep_plain and _PLAIN.fullmatch(old.stem) and plain not in stems:
            stem = old.stem
        if looks_like_mask(stem):
            stem = f"{count:04d}"
        while f"{below}/{stem}".casefold() in stems:
            stem = f"{stem}-x"
        stems.add(f"{below}/{stem}".casefold())
        # A table's rows have no suffix: decoders judge by content, so any will do.
        suffix = old.suffix.casefold() if old.suffix.casefold() in PICTURE_SUFFIXES else ".png"
        target = folder / below / f"{stem}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(picture.source, Path):
            shutil.copyfile(picture.source, target)
        else:
            target.write_bytes(_bytes_of(picture.name, picture.source))
        if picture.caption:
            target.with_suffix(".txt").write_text(f"{picture.caption}\n", encoding="utf-8")
        write_focus(target, picture.focus)
        if picture.mask:
            shutil.copyfile(picture.mask, mask_path(target, picture.mask))
        names[target.relative_to(folder).as_posix()] = picture.name
    return names


def mask_path(picture: Path, mask: Path) -> Path:
    """Where the mask of a picture of the page's own lies: ``NAME.mask.png``."""
    suffix = mask.suffix.casefold()
    return picture.with_suffix(f".mask{suffix if suffix in PICTURE_SUFFIXES else '.png'}")


def _bytes_of(name: str, row: ParquetRow) -> bytes:
    try:
        return row.read()
    except ImageProblem as problem:
        raise UserError(f"{display_name(name)}: {problem.reason}", problem.hint) from problem


def _own_folder(old: str, known: dict[str, str]) -> str:
    """A folder of our own for each that came; what its name means it goes on to mean.

    That are repeats, and that it is not of the subject, see `trainer.data.scan`.
    """
    if old == ".":
        return ""
    if old not in known:
        parts = PurePosixPath(old).parts
        kept = parts[-_MAX_FOLDERS:]
        if (special := _special(old)) and len(parts) > _MAX_FOLDERS:
            kept = (PurePosixPath(special).name, *parts[1 - _MAX_FOLDERS :])
        stem = "/".join(map(_own_part, kept))
        taken = set(known.values())
        known[old] = next(name for name in numbered(stem) if name not in taken)
    return known[old]


def _own_part(part: str) -> str:
    repeats = folder_repeats(part)
    name = slug(part if repeats is None else part.partition("_")[2])
    if looks_like_mask(name) or (_special(name) and not _special(part)):
        name = ""
    return (name or "folder") if repeats is None else f"{min(repeats, MAX_REPEATS + 1)}_{name}"


def _special(folder: str) -> str:
    """The part of a folder's path that says it is not of the subject, or ""."""
    found = special_folders([f"{folder}/picture", "picture"])
    return next((path for _, path in found.values()), "")


def copy_set(root: Path, image_set: SetFolder) -> SetFolder:
    """A copy of a set that the page may change: “a copy of police-car”.

    Its captions become .txt files and its masks .mask files beside the pictures, wherever they
    were. Regularisation pictures and splits come along as they are. Pictures that cannot be used
    stay behind.

    Raises:
        UserError: nothing in it can be used, or there is no room.
    """
    title = f"a copy of {image_set.shown}"
    pictures = [_incoming(image_set.path, entry) for entry in scan_again(image_set.path).entries]

    def fill(folder: Path) -> SetNotes:
        names = write_pictures(folder, pictures, 1, keep_plain=True)
        for file in contents_of(image_set).others:
            if file.name in _ABOUT and file.path.stat().st_size < _MAX_ABOUT:
                shutil.copyfile(file.path, folder / file.name)
        for file in _put_aside(image_set.path):
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, target)
        notes = read_notes(image_set)
        return replace(notes, title=title, copied_from=image_set.id, names=names)

    try:
        with disk_trouble():
            return make_set(root, title, fill)
    finally:
        forget_tables()


def _put_aside(root: Path, below: str = "") -> Iterator[FoundFile]:
    """The files of folders that are not trained on as the subject, by their names in the set."""
    contents = look_into(root, MAX_IMAGES)
    for name in (*contents.class_folders, *contents.splits):
        if (root / name).is_file():  # a table is a split by itself
            yield FoundFile(root / name, below + name)
            continue
        inside = f"{below}{name}/"
        for file in look_into(root / name, MAX_IMAGES).files():
            if file.kind != "others":
                yield FoundFile(file.path, inside + file.name)
        yield from _put_aside(root / name, inside)


def _incoming(root: Path, entry: ImageEntry) -> Incoming:
    mask = entry.mask.path if entry.mask else None
    if isinstance(entry.source, ImageFile):
        path = entry.source.path
        name = path.relative_to(root).as_posix()
        return Incoming(name, path, entry.caption, entry.focus, mask)
    return Incoming(entry.name, entry.source, entry.caption)
