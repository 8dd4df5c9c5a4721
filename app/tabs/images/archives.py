"""Zip files from anywhere: unpacked whole into a folder, or refused whole.

Nothing that an archive says about itself is believed: names never become paths (members are
written under numbers), and `zipfile` reads no more of a member than its size in the list.
"""

from __future__ import annotations

import io
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainer.data.names import display_name, is_of_system
from trainer.data.scan import FoundFile
from trainer.errors import UserError

_ARCHIVES = (
    ".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".cab", ".jar", ".cbz",
    ".cbr", ".iso",
)  # fmt: skip
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Deflate reaches 1 : 1032. Pictures and captions stay far below; a small archive may be anything.
MAX_RATIO = 200
SMALL = 16_000_000
# The list of some 100,000 members, which is read in about a second.
_MAX_LIST_BYTES = 8 << 20
_PLAIN_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(frozen=True)
class Limits:
    """What may be uploaded.

    Attributes:
        pictures: that a set may have.
        total_bytes: of an upload, unpacked.
        spare_bytes: of the disk that must stay free.
        members: files and folders in an archive.
        member_bytes: of one of them, unpacked.
    """

    pictures: int = 1000
    total_bytes: int = 4_000_000_000
    spare_bytes: int = 500_000_000
    members: int = 10_000
    member_bytes: int = 512_000_000


def unpack(archive: Path, shown: str, folder: Path, limits: Limits) -> list[FoundFile]:
    """Unpack a zip file's members into a folder, under numbers with the members' suffixes.

    Hidden members (names that begin with a dot, ``__MACOSX``) are judged and left out.

    Args:
        shown: what the archive is called in messages.
        folder: exists, and belongs to this call; who asked removes it when this raises.

    Returns:
        The files, by the names that they have in the archive.

    Raises:
        UserError: the archive is no zip file, damaged, encrypted, too large, or holds what no
            picture set holds: paths that lead out of it, links, devices, archives.
        OSError: from the file system.
    """
    with _opened(archive, shown) as zipped:
        entries = zipped.infolist()
        if reason := _fault_of_all(entries, archive.stat().st_size, limits):
            raise _refusal(shown, reason, "Pack fewer or smaller pictures.")
        for entry in entries:
            reason, hint = _fault(entry, limits)
            if reason:
                raise _refusal(shown, reason, hint)
        written: list[FoundFile] = []
        for number, entry in enumerate(entry for entry in entries if not entry.is_dir()):
            suffix = PurePosixPath(entry.filename).suffix
            suffix = suffix if _PLAIN_SUFFIX.fullmatch(suffix) else ""
            path = folder / f"{number:06d}{suffix}"
            _write(zipped, entry, path, shown)
            name = _plain(entry.filename)
            if any(map(is_of_system, name.split("/"))):
                path.unlink()
            else:
                written.append(FoundFile(path, name))
        return written


@contextmanager
def _opened(path: Path, shown: str) -> Iterator[zipfile.ZipFile]:
    """The archive; what the reader raises for a bad one is the archive's fault."""
    with path.open("rb", buffering=0) as stream:
        try:
            with zipfile.ZipFile(_Bounded(stream)) as zipped:
                yield zipped
        except (UserError, OSError):
            raise
        except OverflowError as error:
            reason = "its list of files is far too long"
            raise _refusal(shown, reason, "Pack fewer pictures.") from error
        except Exception as error:  # zipfile raises a dozen kinds for what strangers send
            reason = "it is damaged or no zip file"
            raise _refusal(shown, reason, "Make it or copy it again.") from error


class _Bounded(io.BufferedReader):
    """`zipfile` reads the list of members, whose size the archive itself names, in one go.

    It also goes where the archive says that a member begins, be it before the file.
    """

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == io.SEEK_SET and offset < 0:
            raise zipfile.BadZipFile
        return super().seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_LIST_BYTES:
            raise OverflowError
        return super().read(size)


def _fault_of_all(entries: list[zipfile.ZipInfo], packed: int, limits: Limits) -> str:
    """What is wrong with the members together; "" for nothing."""
    if len(entries) > limits.members:
        return f"it holds {len(entries):,} files; the limit is {limits.members:,}"
    total = sum(entry.file_size for entry in entries)
    # Against the file's own size: what members say that they take may overlap.
    if total > SMALL and total > MAX_RATIO * packed:
        return f"it unpacks to {total // packed:,} times its size, as no pictures do"
    if total > limits.total_bytes:
        limit = f"the limit is {limits.total_bytes / 1e9:,.1f} GB"
        return f"it unpacks to {total / 1e9:,.1f} GB; {limit}"
    return ""


def _plain(name: str) -> str:
    """A member's name without what means nothing in it, such as ``./`` in front."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _fault(member: zipfile.ZipInfo, limits: Limits) -> tuple[str, str]:
    """What is wrong with a member by what the archive says of it, and the way out; "" for nothing.

    Paths and links would do no harm, since neither is ever made: no picture set has them.
    """
    name, size = _short(member.filename), member.file_size
    parts = member.filename.replace("\\", "/").split("/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    usual = (0, stat.S_IFDIR if member.is_dir() else stat.S_IFREG)
    out = parts[0] == "" or parts[0][1:2] == ":" or ".." in parts or "\0" in member.orig_filename
    nested = PurePosixPath(member.filename).suffix.casefold() in _ARCHIVES
    limit = f"the limit is {limits.member_bytes / 1e6:,.0f} MB"
    themselves = "Pack the pictures themselves."
    faults = (
        (out, f"{name} would be written outside the image set", themselves),
        (kind not in usual, f"{name} is a link or a device, not a file", themselves),
        (member.flag_bits & _ENCRYPTED, "it is encrypted", "Pack it without a password."),
        (member.compress_type not in _METHODS, f"{name} is packed in a way that is not read",
         "Make a plain zip file (deflate)."),
        (nested, f"{name} is an archive in the archive", themselves),
        (size > limits.member_bytes, f"{name} has {size / 1e6:,.0f} MB; {limit}", "Leave it out."),
    )  # fmt: skip
    return next(((reason, hint) for wrong, reason, hint in faults if wrong), ("", ""))


def _write(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, shown: str) -> None:
    """Write one member. Its CRC is checked at its end."""
    with zipped.open(member) as source, path.open("wb") as target:
        begin = source.read(4)
        if begin == b"PK\x03\x04":
            reason = f"{_short(member.filename)} is an archive in the archive"
            raise _refusal(shown, reason, "Pack the pictures themselves.")
        target.write(begin)
        shutil.copyfileobj(source, target, 1 << 20)


def _short(name: str) -> str:
    return f"“{display_name(name[:60])}{'…' if len(name) > 60 else ''}”"


def _refusal(shown: str, reason: str, hint: str) -> UserError:
    return UserError(f"{shown} was not taken: {reason}. Nothing of it was stored.", hint)
