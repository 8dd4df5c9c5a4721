"""Zip files from anywhere: unpacked whole into a folder, or refused whole.

Nothing that an archive says about itself is believed: names never become paths (members are
written under numbers), and sizes are counted while unpacking.
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from trainer.data.names import display_name
from trainer.errors import UserError

ARCHIVE_SUFFIXES = frozenset(
    (
        *(".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".cab", ".jar"),
        *(".cbz", ".cbr", ".iso"),
    )
)
_PIECE = 1 << 20
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Deflate reaches 1 : 1032. Pictures and captions stay far below; small things may be anything.
_MAX_RATIO = 200
_SMALL = 1 << 20
# All members together; small ones are judged from this size on, or 4,000 of them would hide 4 GB.
_SMALL_TOTAL = 64 << 20
# What the list of members may take: some 100,000 of them, read in about a second.
_MAX_LIST_BYTES = 8 << 20


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold.

    Attributes:
        members: files and folders.
        total_bytes, member_bytes: unpacked, of all and of one.
    """

    members: int = 10_000
    total_bytes: int = 4 << 30
    member_bytes: int = 512_000_000


@dataclass(frozen=True)
class Member:
    """A file of an archive, and where it lies now.

    Attributes:
        name: as the archive has it, with "/" between folders.
    """

    name: str
    path: Path


def unpack(archive: Path, shown: str, folder: Path, limits: ArchiveLimits) -> list[Member]:
    """Unpack a zip file's members into a folder, under numbers with the members' suffixes.

    Hidden members (names that begin with a dot, ``__MACOSX``) are judged and left out.

    Args:
        shown: what the archive is called in messages.
        folder: exists, and belongs to this call; who asked removes it when this raises.

    Raises:
        UserError: the archive is no zip file, damaged, encrypted, too large, or holds what no
            picture set holds: paths that lead out of it, links, devices, archives.
        OSError: from the file system.
    """
    with _opened(archive, shown) as zipped:
        entries = zipped.infolist()
        if len(entries) > limits.members:
            raise _refusal(
                shown,
                f"it holds {len(entries):,} files; the limit is {limits.members:,}",
                "Pack fewer pictures.",
            )
        names: set[str] = set()
        for entry in entries:
            _judge(entry, shown, limits)
            if entry.filename in names:
                name = _short(entry.filename)
                raise _refusal(shown, f"it holds {name} twice", "Pack the pictures again.")
            names.add(entry.filename)
        members = [entry for entry in entries if not entry.is_dir()]
        _check_total(sum(member.file_size for member in members), archive, shown, limits)
        return _write_all(zipped, members, shown, folder, limits)


@contextmanager
def _opened(path: Path, shown: str) -> Iterator[zipfile.ZipFile]:
    """The archive; what the reader raises for a bad one is the archive's fault."""
    with path.open("rb") as stream:
        try:
            with zipfile.ZipFile(_Bounded(stream)) as zipped:  # pyright: ignore[reportArgumentType]
                yield zipped
        except (UserError, OSError):
            raise
        except _TooLong as error:
            reason = "its list of files is far too long"
            raise _refusal(shown, reason, "Pack fewer pictures.") from error
        except Exception as error:
            reason = "it is damaged or no zip file"
            raise _refusal(shown, reason, "Make it or copy it again.") from error


def _judge(member: zipfile.ZipInfo, shown: str, limits: ArchiveLimits) -> None:
    """Refuse a member by what the archive says of it."""
    name = _short(member.filename)
    parts = member.filename.replace("\\", "/").split("/")
    drive = len(parts[0]) > 1 and parts[0][1] == ":"
    if parts[0] == "" or drive or ".." in parts or "\0" in member.orig_filename:
        reason = f"{name} would be written outside the image set"
        raise _refusal(shown, reason, "Pack the pictures themselves, without paths.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if member.is_dir() else stat.S_IFREG):
        what = "a link" if kind == stat.S_IFLNK else "a device or pipe"
        raise _refusal(shown, f"{name} is {what}, not a file", "Pack the pictures themselves.")
    if member.flag_bits & _ENCRYPTED:
        raise _refusal(shown, "it is encrypted", "Pack it without a password.")
    if member.compress_type not in _METHODS:
        reason = f"{name} is packed in a way that is not read"
        raise _refusal(shown, reason, "Make a plain zip file (deflate).")
    if PurePosixPath(member.filename).suffix.casefold() in ARCHIVE_SUFFIXES:
        reason = f"{name} is an archive in the archive"
        raise _refusal(shown, reason, "Unpack it, and pack the pictures themselves.")
    if member.file_size > limits.member_bytes:
        size = f"{member.file_size / 1e6:,.0f} MB"
        raise _refusal(
            shown, f"{name} has {size}; the limit is {limits.member_bytes / 1e6:,.0f} MB", ""
        )
    _check_ratio(member.file_size, member.compress_size, name, shown)


def _check_ratio(unpacked: int, packed: int, name: str, shown: str) -> None:
    if unpacked > _SMALL and unpacked > _MAX_RATIO * max(packed, 1):
        ratio = unpacked // max(packed, 1)
        reason = f"{name} unpacks to {ratio:,} times its size, as no picture does"
        raise _refusal(shown, reason, "Leave it out.")


def _check_total(total: int, archive: Path, shown: str, limits: ArchiveLimits) -> None:
    # Against the file's own size: what members say that they take may overlap.
    packed = archive.stat().st_size
    if total > _SMALL_TOTAL and total > _MAX_RATIO * packed:
        reason = f"it unpacks to {total // packed:,} times its size, as no pictures do"
        raise _refusal(shown, reason, "Leave it out.")
    if total > limits.total_bytes:
        raise _refusal(
            shown,
            f"it unpacks to {total / 1e9:,.1f} GB; the limit is {limits.total_bytes / 1e9:,.1f} GB",
            "Pack fewer or smaller pictures.",
        )


def _write_all(
    zipped: zipfile.ZipFile,
    members: list[zipfile.ZipInfo],
    shown: str,
    folder: Path,
    limits: ArchiveLimits,
) -> list[Member]:
    written: list[Member] = []
    total = 0
    for number, info in enumerate(members):
        path = folder / f"{number:06d}{_suffix(info.filename)}"
        total += _write(zipped, info, path, shown, limits.total_bytes - total)
        if any(part.startswith((".", "__MACOSX")) for part in info.filename.split("/")):
            path.unlink()
        else:
            written.append(Member(info.filename, path))
    return written


def _write(
    zipped: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, shown: str, room: int
) -> int:
    """Write one member; gives its size as it was counted. Its CRC is checked at its end."""
    size = 0
    with zipped.open(info) as source, path.open("wb") as target:
        while piece := source.read(_PIECE):
            if size == 0 and piece.startswith(b"PK\x03\x04"):
                name = _short(info.filename)
                reason = f"{name} is an archive in the archive"
                raise _refusal(shown, reason, "Pack the pictures themselves.")
            size += len(piece)
            if size > room or size > info.file_size:
                raise _refusal(shown, "it unpacks to more than it says", "Leave it out.")
            target.write(piece)
    return size


def _suffix(name: str) -> str:
    """A member's suffix where it is harmless: it is all of a name that reaches the disk."""
    suffix = PurePosixPath(name).suffix
    return suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) < 10 else ""


def _short(name: str) -> str:
    return f"“{display_name(name[:60])}{'…' if len(name) > 60 else ''}”"


def _refusal(shown: str, reason: str, hint: str) -> UserError:
    return UserError(f"{shown} was not taken: {reason}. Nothing of it was stored.", hint)


class _TooLong(Exception):
    """The archive asks for more memory than its list of files may take."""


class _Bounded:
    """A file of which no more than `_MAX_LIST_BYTES` is read at once.

    `zipfile` reads the list of members, whose size the archive itself names, in one go.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_LIST_BYTES:
            raise _TooLong
        data = self._stream.read(size if size >= 0 else _MAX_LIST_BYTES + 1)
        if len(data) > _MAX_LIST_BYTES:
            raise _TooLong
        return data
