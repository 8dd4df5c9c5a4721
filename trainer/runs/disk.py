"""What the file system refuses, as sentences."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager

from trainer.errors import UserError

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
    if error.errno in _NO_SUCH_PATH:
        return DiskError(
            f"The file system has no such path{place}: {error.strerror}.",
            "Give another path: each name in it of at most 255 bytes, and all but the last "
            "folders.",
            "disk_refused",
        )
    return DiskError(
        f"The file system refuses {what}{place}: {error.strerror or error}.",
        "See to the disk and the rights on that folder; a run that has a checkpoint goes on with: "
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
