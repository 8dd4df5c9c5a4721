"""What lies in an image set's folder: found without opening a file whose ending is known."""

from __future__ import annotations

import re
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path, PurePosixPath

from trainer.data.findings import Finding, Severity
from trainer.data.folders import ABOUT_ROLES, special_folders
from trainer.data.images import PICTURE_SUFFIXES
from trainer.data.names import display_name, is_of_system, matching_key
from trainer.data.sniffing import picture_kind
from trainer.errors import UserError
from trainer.plain_files import open_file
from trainer.text import counted

CAPTION_SUFFIXES = (".txt", ".caption")
TABLE_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".json")

_KINDS = {
    **dict.fromkeys(PICTURE_SUFFIXES, "pictures"),
    **dict.fromkeys(CAPTION_SUFFIXES, "captions"),
    **dict.fromkeys(TABLE_SUFFIXES, "metadata"),
    ".parquet": "tables",
    ".focus": "focuses",
}
"""What files are for, by their suffix."""
_UNREAD = {
    **dict.fromkeys((".jxl", ".jp2", ".j2k", ".jpx", ".jpf", ".exr", ".hdr", ".pdf"), "picture"),
    **dict.fromkeys((".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".dng"), "picture"),
    **dict.fromkeys((".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f", ".3fr", ".iiq"), "picture"),
    **dict.fromkeys((".raw", ".rwl", ".kdc", ".dcr", ".svg", ".svgz", ".ai", ".eps"), "picture"),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".clip", ".afphoto", ".ora"), "picture"),
    **dict.fromkeys((".tga", ".dds", ".ico", ".icns", ".ppm", ".pgm", ".pnm", ".pcx"), "picture"),
    **dict.fromkeys((".wmf", ".emf", ".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v"), "picture"),
    **dict.fromkeys((".zip", ".rar", ".7z", ".tar", ".tgz"), "archive"),
    **dict.fromkeys((".tags", ".tag", ".cap", ".wd14", ".prompt", ".text"), "text"),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".yaml", ".yml", ".xml"), "text"),
}
"""What may hold pictures or captions and is not read, by suffix."""
_UNREAD_HINTS = {
    "picture": "Not read, so not trained on. Export what is meant for training as PNG or JPEG.",
    "archive": "An archive is not looked into. Unpack it, if pictures in it are meant.",
    "text": "Not looked at. If these are captions, give each picture a file that ends in .txt, or "
    "save them as CSV with the columns file_name and text.",
    "named": "It is a picture whose name does not end like one, so it is not trained on. Rename "
    "it.",
    "": "Not looked at. If this is a picture, export it as PNG or JPEG.",
}
_SNIFFED = 100  # bytes, which tell what a file is
_LISTS = ("pictures", "captions", "metadata", "tables", "focuses", "others")
# Files about an image set that nobody takes for pictures, whatever their ending.
_ABOUT = frozenset({"README", "LICENSE", "LICENCE", "NOTICE", "ATTRIBUTION"})
# Files per picture allowed before a folder is taken for a whole disk.
_FILES_PER_PICTURE = 10


@dataclass(frozen=True)
class FoundFile:
    """A regular file of an image set."""

    path: Path
    name: str  # the path below the set's folder, with "/" between folders, exactly as it is on disk

    @property
    def shown(self) -> str:
        """The name, fit for showing."""
        return display_name(self.name)

    @property
    def folder(self) -> str:
        """The name's part before the last "/"; "" at the top."""
        return self.name.rpartition("/")[0]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.name[: len(self.name) - len(self.path.suffix)]

    @property
    def kind(self) -> str:
        """What it is for: the name of one of the lists of `FolderContents`."""
        return _KINDS.get(self.path.suffix.casefold(), "others")


@dataclass
class FolderContents:
    """The files of an image set by kind, each kind sorted by name."""

    pictures: list[FoundFile] = field(default_factory=list[FoundFile])
    captions: list[FoundFile] = field(default_factory=list[FoundFile])
    metadata: list[FoundFile] = field(default_factory=list[FoundFile])
    tables: list[FoundFile] = field(default_factory=list[FoundFile])
    focuses: list[FoundFile] = field(default_factory=list[FoundFile])
    others: list[FoundFile] = field(default_factory=list[FoundFile])
    # By the names of their pictures, once `trainer.data.pairing.take_masks` found them.
    masks: dict[str, FoundFile] = field(default_factory=dict[str, FoundFile])
    # Folders of class pictures, and how many each holds; none of their files is in any list.
    class_folders: dict[str, int] = field(default_factory=dict[str, int])
    # The same of what is kept out of a public set to test by, and of what a trainer drew.
    splits: dict[str, int] = field(default_factory=dict[str, int])
    # Of the caption files that are no UTF-8, once `trainer.data.caption_files.find_captions` has
    # found it.
    encoding: str | None = None
    findings: list[Finding] = field(default_factory=list[Finding])

    def add(self, file: FoundFile) -> None:
        """Puts a file into the list of its kind."""
        getattr(self, file.kind).append(file)

    def files(self) -> Iterator[FoundFile]:
        """The files of all kinds, but for what `masks` took out of the pictures."""
        for kind in _LISTS:
            yield from getattr(self, kind)

    def doubt(self, name: str, severity: Severity, message: str) -> None:
        """Adds a finding about a file or folder."""
        self.findings.append(Finding(display_name(name), severity, message))

    def doubt_all(self, shown: Sequence[str], severity: Severity, message: str) -> None:
        """Adds one finding about all of these, where there are any."""
        if shown:
            self.findings.append(Finding.of_several(shown, severity, message))


def look_into(root: Path, limit: int) -> FolderContents:
    """Sort the files below a folder, in all its folders, by what they are for.

    What systems keep for themselves is left out, see `trainer.data.names.is_of_system`.
    Links are followed, but no folder is read twice, so that loops end.

    Raises:
        UserError: more than ``limit`` pictures, or far more files than that.
    """
    contents = FolderContents()
    for count, file in enumerate(_files(root, contents)):
        contents.add(file)
        if len(contents.pictures) > limit or count > _FILES_PER_PICTURE * limit:
            raise UserError(
                f"{root} holds more than {limit:,} pictures or files: too many for an image set.",
                "Point to the folder of the pictures that belong together.",
            )
    for kind in _LISTS:
        getattr(contents, kind).sort(key=attrgetter("name"))
    _put_aside(contents)
    _name_others(contents)
    return contents


def _name_others(contents: FolderContents) -> None:
    """A word on the files that nothing is done with."""
    pictures = {matching_key(picture.stem) for picture in contents.pictures}
    kinds: dict[str, list[str]] = defaultdict(list)
    for file in contents.others:
        kind = _UNREAD.get(file.path.suffix.casefold()) or _by_content(file.path)
        # A camera writes a JPEG beside its raw file.
        if kind == "picture" and matching_key(file.stem) in pictures:
            kind = ""
        if kind or not is_about(file.name):
            kinds[kind].append(file.shown)
    for kind, names in kinds.items():
        contents.doubt_all(names, "warning" if kind else "note", _UNREAD_HINTS[kind])


def _by_content(path: Path) -> str:
    try:
        with open_file(path) as file:
            return "named" if picture_kind(file.read(_SNIFFED)) else ""
    except OSError:
        return ""


def _put_aside(contents: FolderContents) -> None:
    """Takes class pictures and splits out of the lists, with all that belongs to them."""
    special = special_folders([file.name for file in (*contents.pictures, *contents.tables)])
    for (role, folder), count in Counter(special.values()).items():
        (contents.class_folders if role == "class" else contents.splits)[folder] = count
        severity = "warning" if role == "drawn" else "note"
        contents.doubt(folder, severity, f"{counted(count, 'file')}. {ABOUT_ROLES[role]}")
        for kind in _LISTS:
            files: list[FoundFile] = getattr(contents, kind)
            files[:] = [one for one in files if not f"{one.name}/".startswith(f"{folder}/")]


def _files(root: Path, contents: FolderContents) -> Iterator[FoundFile]:
    """All regular files; links to folders come last, so that real names win over links."""
    waiting: deque[tuple[Path, str]] = deque([(root, "")])
    seen: set[tuple[int, int]] = set()
    while waiting:
        folder, prefix = waiting.popleft()
        for child in _children(folder, prefix, seen, contents):
            name = prefix + child.name
            mode = _mode(child, name, contents)
            if stat.S_ISREG(mode):
                yield FoundFile(child, name)
            elif stat.S_ISDIR(mode):
                if child.suffix.casefold() in PICTURE_SUFFIXES:
                    message = "It is a folder named like a picture. Rename it."
                    contents.doubt(name, "warning", message)
                add = waiting.append if child.is_symlink() else waiting.appendleft
                add((child, f"{name}/"))
            elif mode:
                message = "It is a pipe, socket or device, not a file. Remove it."
                contents.doubt(name, "error", message)


def _children(
    folder: Path, prefix: str, seen: set[tuple[int, int]], contents: FolderContents
) -> list[Path]:
    name = prefix.rstrip("/") or str(folder)
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            message = "It is a link to a folder that is read already, and is left out."
            contents.doubt(name, "warning", message)
            return []
        seen.add(identity)
        children = sorted(folder.iterdir(), reverse=True)
    except OSError as error:
        contents.doubt(name, "error", f"The folder cannot be read ({error.strerror}).")
        return []
    if {"config.toml", "events.jsonl"} <= {child.name for child in children}:
        contents.doubt(name, "warning", "It is the folder of a run, so it is not trained on.")
        return []
    # macOS leaves ``.a.heic.icloud`` in place of a.heic where that is not on this machine.
    away = [one.name[1:-7] for one in children if re.fullmatch(r"\..+\.icloud", one.name)]
    shown = [display_name(prefix + one) for one in sorted(away)]
    contents.doubt_all(shown, "warning", "Still in iCloud, so not trained on. Download it first.")
    return [child for child in children if not is_of_system(child.name)]


def _mode(path: Path, name: str, contents: FolderContents) -> int:
    """A path's kind, links followed; 0, with a finding, where there is nothing behind it."""
    try:
        return path.stat().st_mode
    except OSError as error:
        link = "It is a link that leads nowhere" if path.is_symlink() else "It cannot be opened"
        contents.doubt(name, "error", f"{link} ({error.strerror}). Replace or remove it.")
        return 0


def is_about(name: str) -> bool:
    """Whether a file is about the set, and meant for people: ``README.md``."""
    return PurePosixPath(name).stem.upper() in _ABOUT
