"""Bounds of what a browser sends: how much, how many at once, for how long, and what stays of it.

Gradio stores uploads in a folder as they come. What is broken off would stay there, and so would
what nobody uses.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import filelock
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "rarebit-page-"
_LOCK = ".lock"
_lock: filelock.BaseFileLock | None = None


@dataclass(frozen=True)
class Bounds:
    """What may come.

    Attributes:
        body: bytes of a request that is no upload.
        at_once: uploads that come in at the same time.
        waiting_bytes, waiting_files: of all uploads that lie there, used or not.
        patience: seconds that an upload may take beside those for its bytes.
        rate: bytes a second that an upload has at least.
        unused: seconds after which an upload may go where there is no room.
    """

    body: int = 8 << 20
    at_once: int = 16
    waiting_bytes: int = 8_000_000_000
    waiting_files: int = 20_000
    patience: float = 60.0
    rate: float = 10_000.0
    unused: float = 3600.0


class BoundsMiddleware:
    """Refuses what is too much, and removes what was broken off.

    Args:
        folder: where uploads are stored.
        clock: seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app, self.folder, self.bounds = app, folder, bounds or Bounds()
        self._clock, self._active = clock, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 408, 413 or 503."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
        elif scope["path"].rstrip("/").endswith("/upload"):
            await self._upload(scope, receive, send)
        else:
            await self._pass(scope, receive, send, self.bounds.body)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get("content-length", "0")
        expected = int(length) if length.isdecimal() and len(length) < 20 else 0
        self._active += 1
        try:
            if self._active > self.bounds.at_once:
                refusal = PlainTextResponse("Too many uploads at once: try again soon.", 503)
                await refusal(scope, receive, send)
            elif (room := await asyncio.to_thread(self._room, expected)) <= expected:
                text = "There is no room among the uploads that wait: store or drop those first."
                await PlainTextResponse(text, 413)(scope, receive, send)
            else:
                await self._pass(scope, receive, send, room)
        finally:
            self._active -= 1
            if not self._active:
                self._sweep()

    async def _pass(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        """The request, as long as it keeps to its bounds; beyond them it is broken off."""
        began, got, refused, started, whole = self._clock(), 0, 0, False, False

        async def bounded() -> Message:
            nonlocal got, refused, whole
            if refused:
                return {"type": "http.disconnect"}
            if whole:  # what comes now is only that the other side has gone
                return await receive()
            left = began + self.bounds.patience + got / self.bounds.rate - self._clock()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.0))
            except asyncio.TimeoutError:
                refused = 408
                return {"type": "http.disconnect"}
            got += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if got > most:
                refused = 413
                return {"type": "http.disconnect"}
            return message

        async def noting(message: Message) -> None:
            nonlocal started
            if refused and not started:
                return  # what is answered to a broken request is said below
            started = True
            await send(message)

        try:
            await self.app(scope, bounded, noting)
        except Exception:
            if not refused:
                raise
        if refused and not started:
            text = {408: "It came too slowly.", 413: "It is too large."}[refused]
            headers = {"connection": "close"}
            await PlainTextResponse(text, refused, headers)(scope, receive, send)

    def _room(self, wanted: int) -> int:
        """Bytes that may still come; the oldest unused uploads go where there are too few."""
        stored = sorted(self._stored(), key=lambda one: one[1])
        size, count = sum(one[2] for one in stored), len(stored)
        for path, changed, length in stored:
            full = size + wanted >= self.bounds.waiting_bytes or count >= self.bounds.waiting_files
            if not full or time.time() - changed < self.bounds.unused:
                break
            with suppress(OSError):
                path.unlink()
                size, count = size - length, count - 1
        return self.bounds.waiting_bytes - size if count < self.bounds.waiting_files else 0

    def _stored(self) -> Iterator[tuple[Path, float, int]]:
        for folder, _, files in os.walk(self.folder):
            for name in files:
                path = Path(folder, name)
                with suppress(OSError):
                    status = path.stat()
                    yield path, status.st_mtime, status.st_size

    def _sweep(self) -> None:
        """Removes what uploads that were broken off have left, while none comes in.

        Whole ones lie a folder deeper.
        """
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name.startswith("tmp") and path.is_file():
                path.unlink(missing_ok=True)


def make_folder() -> Path:
    """A folder for what browsers send to this page, readable by this account alone."""
    global _lock
    folder = Path(tempfile.mkdtemp(prefix="rarebit-new-"))
    _lock = filelock.FileLock(folder / _LOCK)
    _lock.acquire()  # goes with the process, however that ends
    return folder.rename(folder.with_name(folder.name.replace("rarebit-new-", PREFIX)))


def sweep_folders() -> None:
    """Removes the folders of pages that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        own = getattr(os, "getuid", lambda: 0)
        with suppress(OSError, filelock.Timeout):
            if folder.is_symlink() or folder.stat().st_uid != own():
                continue
            with filelock.FileLock(folder / _LOCK, timeout=0):
                rmtree(folder, ignore_errors=True)
