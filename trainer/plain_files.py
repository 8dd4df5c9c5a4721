"""Opening what others chose: ordinary files alone.

A name in a downloaded folder may be a pipe, which waits for ever, or a link to a device that never
ends. A link to a file is as good as the file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import IO, BinaryIO

from trainer.errors import UserError

NOT_PLAIN = "it is a pipe, socket or device, not a file"
MOST_FILES = 2000  # in a folder of a model; those of real ones have some thirty
_WEIGHTS = (
    *(".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack"),
    *(".h5", ".onnx", ".onnx_data", ".pb"),
)
_MOST_TEXT = 64 << 20  # bytes of a vocabulary or configuration, which libraries read whole


def open_file(path: Path) -> BinaryIO:
    """Opens an ordinary file for reading; unlike `open` it never waits.

    Raises:
        OSError: it can't be opened, or is something else.
    """
    _check(path, path.stat().st_mode)
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        _check(path, os.fstat(descriptor).st_mode)  # it may be another one by now
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, NOT_PLAIN, str(path))


def digest_of(stream: IO[bytes]) -> str:
    """SHA-256 hex of all that a stream has from here on."""
    digest = hashlib.sha256()
    while piece := stream.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def check_model_folder(folder: Path) -> None:
    """Sees to it that libraries can read a folder of a model and of its parts.

    Raises:
        UserError: something in it is no ordinary file, or far too large for a text; it is named.
    """
    places = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    files = [path for place in places for path in place.iterdir() if not path.is_dir()]
    if len(files) > MOST_FILES:
        raise UserError(
            f"{folder} holds more than {MOST_FILES} files: it is no model's folder.",
            "Give the folder of one model, as it was downloaded or saved by diffusers.",
        )
    for path in files:
        try:
            status = path.stat()
            _check(path, status.st_mode)
        except FileNotFoundError:
            continue  # a link that leads nowhere is as good as no file
        except OSError as error:
            hint = "Download the folder again, or take it out."
            raise UserError(f"{path} cannot be read: {error.strerror}.", hint) from None
        if status.st_size > _MOST_TEXT and path.suffix.casefold() not in _WEIGHTS:
            raise UserError(
                f"{path} has {status.st_size / 1e6:,.0f} MB: it is no part of a model.",
                "Take it out of the folder.",
            )
