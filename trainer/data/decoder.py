"""Pictures from anywhere, decoded in a process that can be ended.

A file of a few megabytes can keep a decoder busy for minutes, each kind in ways of its own, or
crash it. So what a stranger may have made is opened in a helper: `trainer.data.images` in a process
that has a budget of processor time for each picture. Helpers are started when there is something to
decode, serve one picture at a time, and end when there is nothing more.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from PIL import Image

from trainer.data import images
from trainer.data.colours import WHITE
from trainer.data.images import ImageFacts, ImageProblem, ImageSource
from trainer.places import PROJECT
from trainer.runs.atomic import write_text
from trainer.system import CREATION_FLAGS, NEW_SESSION
from trainer.untyped import as_table

try:
    import resource
except ImportError:  # Windows: only the time that the picture takes is bounded
    resource = None

CPU_SECONDS = 5  # of a helper's processor time, for any picture, …
PIXELS_PER_SECOND = 4_000_000
"""… and a second more for so many pixels: 21 s for the largest. Decoders do 20 times as many."""
PATIENCE_SECONDS = 300.0
"""On the clock, where a disk does not answer or processor time is not counted."""
IDLE_SECONDS = 30.0

_TOO_LONG = "It takes too long to decode, as no sound picture does."
_CRASHED = "It is damaged: its decoder crashed."


def inspect_image(source: ImageSource) -> ImageFacts:
    """As `trainer.data.images.inspect_image`, in a helper."""
    return ImageFacts.of(*_ask("inspect", source))


def load_rgb(source: ImageSource, background: str = WHITE) -> Image.Image:
    """As `trainer.data.images.load_rgb`, in a helper."""
    told, pixels = _ask("rgb", source, background)
    return Image.frombytes("RGB", tuple(told["size"]), pixels)


def read_texts(path: Path) -> dict[str, str]:
    """As `trainer.data.images.read_texts`, in a helper; a picture that takes too long has none."""
    try:
        told, _ = _ask("texts", path)
    except ImageProblem:
        return {}
    return told["texts"]


def _ask(verb: str, source: ImageSource, background: str = "") -> tuple[dict[str, Any], bytes]:
    given = source if isinstance(source, bytes) else b""
    path = None if isinstance(source, bytes) else str(Path(source).absolute())
    request = {"verb": verb, "path": path, "background": background, "seconds": CPU_SECONDS}
    with images.open_source(source):
        pass  # what can be said without a helper is
    helper = _pool.take()
    try:
        told, data = helper.ask(request, given)
    except (OSError, ValueError, EOFError):
        raise helper.problem() from None
    except BaseException:
        helper.end()  # in the middle of an answer
        raise
    _pool.give_back(helper)
    if "reason" in told:
        raise ImageProblem(told["reason"], told["hint"])
    return told, data


# -- the side that asks


class _Helper:
    """A process that decodes, and the pipes to it."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer.data.decoder"],
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=NEW_SESSION,  # Ctrl-C is for whoever asks, whose end ends this
            creationflags=CREATION_FLAGS,
        )
        self.impatient = False

    def ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Raises OSError, ValueError or EOFError where the process has ended."""
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None and answers is not None
        timer = threading.Timer(PATIENCE_SECONDS, self._lose_patience)
        timer.start()
        try:
            _send(requests, request, data)
            told, content = _receive(answers)
            if "pixels" not in told:
                return told, content
            # So that memory stays flat, large ones are decoded one at a time.
            with images.large_picture:
                _send(requests, {})
                return _receive(answers)
        finally:
            timer.cancel()

    def _lose_patience(self) -> None:
        self.impatient = True
        self.process.kill()

    def problem(self) -> ImageProblem:
        """Why there is no answer, once the process has been ended."""
        self.end()
        expired = getattr(signal, "SIGXCPU", None)
        too_long = self.impatient or (expired and self.process.returncode == -expired)
        hint = "Save it again with an image editor, or leave it out."
        return ImageProblem(_TOO_LONG if too_long else _CRASHED, hint)

    def end(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Pool:
    """Helpers that are idle; after a while without pictures none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Helper] = []
        self._used_at = 0.0
        self._watched = False

    def take(self) -> _Helper:
        with self._lock:
            while self._idle:
                helper = self._idle.pop()
                if helper.process.poll() is None:
                    return helper
        return _Helper()

    def give_back(self, helper: _Helper) -> None:
        with self._lock:
            self._idle.append(helper)
            self._used_at = time.monotonic()
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(IDLE_SECONDS / 4)
            with self._lock:
                if time.monotonic() - self._used_at < IDLE_SECONDS:
                    continue
                idle, self._idle, self._watched = self._idle, [], False
            for helper in idle:
                helper.end()
            return

    def forget(self) -> None:
        """In a forked process: the helpers are the other one's."""
        self.__init__()


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


# -- what both sides say: a line of JSON, and the bytes whose number it gives


def _send(stream: IO[bytes], message: dict[str, Any], data: bytes = b"") -> None:
    stream.write(json.dumps({**message, "bytes": len(data)}).encode() + b"\n")
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    message = json.loads(stream.readline() or b"")
    data = stream.read(message["bytes"])
    if len(data) != message["bytes"]:
        raise EOFError
    return message, data


# -- the side that answers


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers requests until their end."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    seconds = CPU_SECONDS

    def opened(pixels: int) -> None:
        _allow(seconds + math.ceil(pixels / PIXELS_PER_SECOND))
        if pixels > images.LARGE_PIXELS:
            _send(answers, {"pixels": pixels})
            _receive(requests)

    images.when_opened = opened
    for request, data in _requests(requests):
        seconds = request["seconds"]
        _allow(seconds)
        try:
            _send(answers, *_answer(request, data))
        except ImageProblem as problem:
            _send(answers, {"reason": problem.reason, "hint": problem.hint})


def _requests(stream: IO[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    with contextlib.suppress(ValueError, EOFError):
        while True:
            yield _receive(stream)


def _allow(seconds: int) -> None:
    """Bounds the processor time from now on; the system ends a process that takes more."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = math.ceil(used.ru_utime + used.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _answer(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    path: str | None = request["path"]
    source = data if path is None else Path(path)
    if request["verb"] == "texts":
        return {"texts": images.read_texts(Path(request["path"]))}, b""
    if request["verb"] == "rgb":
        picture = images.load_rgb(source, request["background"])
        return {"size": picture.size}, picture.tobytes()
    told = asdict(images.inspect_image(source))
    return told, told.pop("thumbnail").tobytes()


# -- what was found when they were last decoded


SETTLED_NS = 2_000_000_000
"""A file that was changed this short ago may change again without showing it in its times."""


class ScanCache:
    """What was found of the pictures of one image set, in a file: decoding takes minutes.

    A picture that has the same place, size and times as then is taken to be the same; where it is
    read again for its latents, its bytes are compared with the digest as always.

    Args:
        folder: where such files lie.
        root: the set's folder.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        name = hashlib.sha256(str(root.expanduser().resolve()).encode(errors="replace")).hexdigest()
        self.path = folder / f"{name[:32]}.json"
        self._known = self._read()
        self._present: dict[str, Any] = {}

    def inspect(self, path: Path) -> ImageFacts:
        """As `inspect_image`, which is called for what is new or changed; in any thread."""
        try:
            status = path.stat()
        except (OSError, ValueError):
            return inspect_image(path)
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        identity = [status.st_dev, status.st_ino, status.st_size, changed]
        row = self._known.get(str(path))
        found = _facts(row, identity)
        if found is None:
            found = inspect_image(path)
            thumbnail = base64.b64encode(found.thumbnail.tobytes()).decode()
            row = {"identity": identity, **asdict(found), "thumbnail": thumbnail}
        if time.time_ns() - changed > SETTLED_NS:
            self._present[str(path)] = row
        return found

    def save(self) -> None:
        """Keeps what was inspected since the file was read; a full disk only costs time."""
        if self._present == self._known:
            return
        with suppress(OSError, ValueError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self._present))

    def _read(self) -> dict[str, Any]:
        try:
            rows = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return as_table(rows)


def _facts(row: Any, identity: list[int]) -> ImageFacts | None:
    """What a row was made from; None where it is of another file, or has been tampered with."""
    try:
        if row["identity"] != identity:
            return None
        return ImageFacts.of(row, base64.b64decode(row["thumbnail"]))
    except (KeyError, TypeError, ValueError):
        return None


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
