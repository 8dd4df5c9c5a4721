"""Files and folders that are complete or absent, never half.

Everything is written beside its target, forced to the disk and then renamed, so that a kill or a
full disk at any moment leaves the old content intact. What a kill leaves behind has a name that
`sweep_orphans` knows.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.errors import UserError
from trainer.system import IS_WINDOWS, replace_file

# Ours, and the ".tmpAbC123" that safetensors leaves when it is killed.
_ORPHAN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp|\.tmp[0-9A-Za-z]{6}")
OLD = 3600.0  # seconds since its last change after which nobody is still writing a temporary file


def temporary_name(path: Path) -> Path:
    """A fresh name beside `path` that `sweep_orphans` recognises."""
    # Cut, since a name may take 255 bytes and no more; a character takes up to four.
    return path.with_name(f".{path.name[:48]}.{secrets.token_hex(4)}.tmp")


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Generator[Path]:
    """Gives a temporary path to write to; on leaving it takes the place of `path`.

    The file gets the mode that the umask asks for, also where the writer chose another
    (safetensors writes 0600). When the block raises, `path` is as it was and nothing is left.

    Args:
        sync: force it to the disk; False where whoever reads it notices what a power cut damages.

    Raises:
        OSError: from the file system, a full disk (``ENOSPC``) among them.
    """
    temporary = temporary_name(path)
    # Creating the file ourselves shows the umask's mode without touching the process's umask.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    mode = os.fstat(descriptor).st_mode & 0o777
    os.close(descriptor)
    try:
        yield temporary
        temporary.chmod(mode)
        if sync:
            _flush_file(temporary)
        replace_file(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        _flush_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file at once; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a whole UTF-8 text with ``\\n`` line ends; see `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON.

    Raises:
        ValueError: for NaN and infinity, which are not JSON.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def publish_folder(temporary: Path, final: Path) -> None:
    """Makes a finished folder appear under its name, with all that it holds on the disk.

    `temporary` is a folder beside `final`, named by `temporary_name`.

    Raises:
        FileExistsError: `final` is there already. Two renames cannot replace a folder without a
            moment in which neither exists, so a caller who wants it replaced removes it first.
    """
    if final.exists():
        raise FileExistsError(f"{final} exists already")
    mode = temporary.stat().st_mode & 0o666  # the umask's, for writers that chose 0600
    for folder, _, names in os.walk(temporary):
        for name in names:
            Path(folder, name).chmod(mode)
            _flush_file(Path(folder, name))
        _flush_folder(Path(folder))
    temporary.rename(final)
    _flush_folder(final.parent)


@contextmanager
def building_folder(final: Path) -> Generator[Path]:
    """Gives an empty folder to fill; on leaving, it is published as `final`.

    When the block raises, nothing is left. See `publish_folder`.
    """
    temporary = temporary_name(final)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish_folder(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep_orphans(folder: Path, *, age: float = 0.0, below: bool = False) -> list[Path]:
    """Removes what writers that were killed left in `folder`; gives what it removed.

    Another's unfinished file looks the same: give `OLD` unless you hold the run's lock.

    Args:
        age: in seconds since its last change; what is younger stays.
        below: in the folders below it as well; links are not followed.
    """
    removed: list[Path] = []
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in [*folders, *files] if _ORPHAN.fullmatch(name)):
            with suppress(OSError):  # another process may have been faster
                if time.time() - path.lstat().st_mtime >= age:
                    remove(path)
                    removed.append(path)
        if not below:
            break
    return removed


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush_file(path: Path) -> None:
    with path.open("r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Forces a rename to the disk where the system lets folders be opened (not on Windows)."""
    if IS_WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_SUCH_PATH = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
REFUSALS = _FULL | _NO_SUCH_PATH | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""What a disk, its rights or a path say, and no defect of this program's."""


class DiskError(UserError):
    """Something could not be written or read; the disk may be full."""


def disk_error(error: OSError, what: str) -> DiskError:
    """The sentence for an error of the file system.

    Args:
        what: what was to be written or read, such as "the previews of step 100".
    """
    name = str(error.filename or "")
    place = f" ({name if len(name) <= 200 else name[:199] + '…'})" if name else ""
    if error.errno in _FULL:
        return DiskError(
            f"The disk is full: there is no room for {what}{place}.",
            "Free some space; a run that has a checkpoint goes on with: resume RUN",
            "disk_full",
        )
    if error.errno in {*_NO_SUCH_PATH, errno.ENOENT}:
        return DiskError(
            f"The file system has no such path{place}: {error.strerror}.",
            "Give another path. A name in it may have 255 bytes, and all before the last must be "
            "folders.",
            "disk_refused",
        )
    return DiskError(
        f"The file system refuses {what}{place}: {error.strerror or error}.",
        "Check the disk, and your rights on that folder; a run that has a checkpoint goes on with: "
        "resume RUN",
        "disk_refused",
    )


@contextmanager
def writing(what: str) -> Generator[None]:
    """Turns an `OSError` within the block into a `DiskError` about ``what``."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, what) from error
