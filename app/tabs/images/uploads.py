"""Uploaded pictures, captions and zip files: stored as an image set, or refused whole.

Everything is staged in a folder that appears as a set, or is added to one, only when all of it is
there. Pictures are stored as they came, byte by byte, under names of our own; what they were
called is kept in the set's notes.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
import shutil
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from app.files import Upload, disk_trouble, move_new
from app.tabs.images.archives import Limits, unpack
from app.tabs.images.captions import read_captions, saving
from app.tabs.images.edits import Change, write_captions
from app.tabs.images.imagesets import (
    MAX_TITLE,
    SetFolder,
    SetNotes,
    contents_of,
    free_title,
    make_set,
    read_notes,
    title_for,
    title_of,
    write_notes,
)
from app.tabs.images.storage import Incoming, check_usable, mask_path, write_pictures
from trainer.data.caption_files import find_captions
from trainer.data.findings import merge_findings
from trainer.data.folders import folder_repeats
from trainer.data.images import PICTURE_SUFFIXES
from trainer.data.names import display_name, list_names, matching_key
from trainer.data.pairing import (
    FOCUS_SUFFIX,
    find_focuses,
    looks_like_mask,
    take_masks,
    write_focus,
)
from trainer.data.scan import FolderContents, FoundFile
from trainer.data.sniffing import READ
from trainer.errors import UserError
from trainer.runs.atomic import replacing, temporary_name

_NAMING = (*PICTURE_SUFFIXES, ".zip")
_TWIN = "∕twin-"
"""How a folder begins that a file was put into to tell it from another of its name."""


@dataclass(frozen=True)
class Stored:
    """What became of an upload.

    Attributes:
        pictures, captions, masks, focuses: how many were added.
        remarks: what was doubtful or left out, by the uploaded names.
    """

    image_set: SetFolder
    pictures: int
    captions: int
    remarks: tuple[str, ...]
    masks: int = 0
    focuses: int = 0

    @property
    def title(self) -> str:
        """What the set is called."""
        return title_of(self.image_set)


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
        title: of the new set; without one its name comes from the upload. Both are made another
            where a set has it already.
        into: the set to add to.

    Raises:
        UserError: there is no picture among them that can be used, too much of something, a zip
            file that cannot be trusted, no room, or the set is not the page's own. Nothing is
            stored then.
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
            title = free_title(root, title) if title else title_for(root, _names(uploads))
            return _sort_in(root, files, title, into, limits)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _names(uploads: Sequence[Upload]) -> list[str]:
    """What the pictures and zip files among them are called; where there are none, all."""
    named = [upload for upload in uploads if upload.path.suffix.lower() in _NAMING] or uploads
    return [PurePosixPath(upload.name).stem for upload in named]


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
        if name.startswith("._"):  # macOS's own, beside each file on a foreign disk
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


@dataclass
class _Sorted:
    """What an upload holds.

    Attributes:
        incoming: new pictures.
        later: what comes for pictures that the set has already, by their present names.
        remarks: what is doubtful, or not stored.
    """

    incoming: list[Incoming] = field(default_factory=list[Incoming])
    later: list[Incoming] = field(default_factory=list[Incoming])
    remarks: list[str] = field(default_factory=list[str])


def _sort_in(
    root: Path, files: list[FoundFile], title: str, into: SetFolder | None, limits: Limits
) -> Stored:
    found = _read(files, into)
    incoming, remarks = found.incoming, found.remarks
    if not incoming and not found.later:
        said = dict.fromkeys([*remarks[-1:], *remarks[:2]])
        raise UserError(
            " ".join(["There is no picture among the files.", *said]),
            f"Drop pictures ({READ}), or a zip file of them.",
        )
    if not found.later:
        check_usable(incoming)
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
            if incoming:
                _add(into, incoming)
            remarks += _add_to_pictures(into, found.later)
    came = [*incoming, *found.later]
    captions, masks, focuses = (
        sum(1 for one in came if getattr(one, name)) for name in ("caption", "mask", "focus")
    )
    image_set = into or make_set(root, title, fill)
    return Stored(image_set, len(incoming), captions, tuple(remarks), masks, focuses)


def _read(files: list[FoundFile], into: SetFolder | None) -> _Sorted:
    """The pictures with what belongs to them, and what was doubtful or is neither.

    Captions, masks and places to cut at are looked for among the pictures of the set as well, by
    the names that these came with and those that they have now.
    """
    found = _Sorted()
    contents = FolderContents()
    came_as = _tell_apart(files, found.remarks)
    for name in sorted(came_as):
        contents.add(FoundFile(came_as[name].path, name))
    ignored = [came_as[file.name].shown for file in (*contents.tables, *contents.others)]
    there = _pictures_there(into, contents) if into else {}
    contents.pictures += [FoundFile(file.path, name) for name, file in there.items()]
    take_masks(contents)
    captions, focuses = find_captions(contents), find_focuses(contents)
    for file in contents.pictures:
        caption, mask = captions.get(file.name), contents.masks.get(file.name)
        focus, known = focuses.get(file.name), there.get(file.name)
        name = (known or came_as[file.name]).name
        one = Incoming(name, file.path, caption, focus, mask.path if mask else None)
        if not known:
            found.incoming.append(one)
        elif caption or mask or focus:
            found.later.append(one)
    said = map(str, merge_findings(contents.findings))
    found.remarks += [re.sub(f"{_TWIN}[^/]*/", "", remark) for remark in said]
    videos = list(filter(_is_video, ignored))
    if videos:
        listed = list_names(videos)
        found.remarks.append(f"Not stored, being a video: {listed}. Take single pictures from it.")
    if others := [name for name in ignored if name not in videos]:
        listed = list_names(others)
        found.remarks.append(f"Not stored, being neither picture nor caption: {listed}.")
    return found


def _is_video(name: str) -> bool:
    return (mimetypes.guess_type(name)[0] or "").startswith("video/")


def _tell_apart(files: list[FoundFile], remarks: list[str]) -> dict[str, FoundFile]:
    """The files by names of which each is another's only once.

    Of pictures of one name from several folders each gets a folder of its own, so that none has
    the caption of another. Captions and masks of one name are taken where they are the same.
    """
    groups: dict[str, list[FoundFile]] = defaultdict(list)
    for file in files:
        groups[file.name].append(file)
    apart: dict[str, FoundFile] = {}
    for name, same in groups.items():
        distinct = {_digest(file): file for file in reversed(same)} if same[1:] else {}
        if len(distinct) < 2:
            apart[name] = same[0]
            if same[1:]:
                remarks.append(f"{same[0].shown} came {len(same)} times, and is stored once.")
        elif same[0].kind == "pictures" and not looks_like_mask(PurePosixPath(same[0].stem).name):
            for number, file in enumerate(distinct.values()):
                apart[f"{_TWIN}{number}/{name}"] = file
        else:
            remarks.append(
                f"{same[0].shown} came {len(same)} times, with different content: which belongs to "
                "which picture cannot be told, so none is used. Drop the folders as one zip file."
            )
    return apart


def _digest(file: FoundFile) -> bytes:
    return hashlib.sha256(file.path.read_bytes()).digest()


def _pictures_there(into: SetFolder, new: FolderContents) -> dict[str, FoundFile]:
    """The pictures of a set by the names that they came with, and by their present ones."""
    taken = {matching_key(file.stem) for file in new.pictures}
    old_names = read_notes(into).names
    named = [
        (name, file)
        for file in contents_of(into).pictures
        for name in dict.fromkeys((old_names.get(file.name, file.name), file.name))
    ]
    counts = Counter(name for name, _ in named)
    there: dict[str, FoundFile] = {}
    for number, (name, file) in enumerate(named):
        stem = FoundFile(Path(name), name).stem
        if matching_key(stem) not in taken and not looks_like_mask(PurePosixPath(stem).name):
            there[name if counts[name] == 1 else f"{_TWIN}there-{number}/{name}"] = file
    return there


def _add_to_pictures(image_set: SetFolder, later: list[Incoming]) -> list[str]:
    """What came for pictures that are there; says what it replaces."""
    remarks: list[str] = []
    contents = contents_of(image_set)
    pictures = {file.name: file.path for file in contents.pictures}
    later = [one for one in later if one.name in pictures]  # others were removed meanwhile
    now = read_captions(image_set)
    texts = {one.name: one.caption for one in later if one.caption}
    changes = [Change(name, now[name], text) for name, text in texts.items() if now[name] != text]
    write_captions(image_set, changes, f"{len(changes)} dropped captions")
    if replaced := [display_name(one.picture) for one in changes if one.before]:
        names = list_names(replaced)
        remarks.append(f"{names}: the caption was replaced. Undo brings the old one back.")
    for one in later:
        picture, old = pictures[one.name], contents.masks.get(one.name)
        if one.mask:
            target = mask_path(picture, one.mask)
            with replacing(target) as temporary:
                shutil.copyfile(one.mask, temporary)
            if old:
                remarks.append(f"{display_name(one.name)}: the mask was replaced.")
                if old.path != target:
                    old.path.unlink()
        if one.focus:
            if picture.with_suffix(FOCUS_SUFFIX).exists():
                remarks.append(f"{display_name(one.name)}: the place to cut at was replaced.")
            write_focus(picture, one.focus)
    return remarks


def _add(image_set: SetFolder, incoming: list[Incoming]) -> None:
    """Pictures come in one by one, each after its caption; those that came leave on failure."""
    staging = temporary_name(image_set.hidden / "added")
    staging.mkdir()
    moved: list[Path] = []
    try:
        names = write_pictures(staging, incoming, _next_number(image_set))
        for source in sorted(staging.rglob("*"), key=_last_pictures):
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


def _last_pictures(path: Path) -> int:
    return 0 if path.suffix in (".txt", FOCUS_SUFFIX) else 1 if path.stem.endswith(".mask") else 2


def _next_number(image_set: SetFolder) -> int:
    """One more than the greatest number that a name of the set, past or present, begins with."""
    names = [*read_notes(image_set).names, *(file.name for file in contents_of(image_set).pictures)]
    heads = [PurePosixPath(name).name.partition("-")[0].partition(".")[0] for name in names]
    return max((int(head) for head in heads if head.isdecimal() and len(head) < 9), default=0) + 1
