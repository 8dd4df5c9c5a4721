"""What every request passes first: whose it is, whether it guesses passwords, how much it brings.

Gradio stores uploads in a folder as they come. What is broken off would stay there, and so would
what nobody uses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import os
import socket
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from urllib.parse import urlsplit

import filelock
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_READING = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""Of every answer: no other page may frame it, load it or keep hold of its window."""

_UNKNOWN_NAME = (
    "This machine is not known by that name here. Start Rarebit with --allow-host NAME if it is."
)

FREE_GUESSES = 5
LONGEST_WAIT = 60.0
"""Seconds between two guesses, once there were many."""
FORGOTTEN_AFTER = 900.0
_MOST_CLIENTS = 10_000


@dataclass(frozen=True)
class Hosts:
    """The names that the page answers to; any other may be a stranger's (DNS rebinding).

    Attributes:
        names: in lower case, without ports.
        addresses: whether any address in figures is one as well. A rebound name is never one.
        proxied: those under which a proxy may show the page by TLS, while it asks for another.
    """

    names: frozenset[str]
    addresses: bool = False
    proxied: frozenset[str] = frozenset()

    @classmethod
    def of(cls, host: str, given: tuple[str, ...] = ()) -> Hosts:
        """Those of the address that is listened on, and those that were given."""
        names = {"localhost", "127.0.0.1", host, *given}
        if is_open(host):
            own = socket.gethostname()
            names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
        proxied = frozenset(name.casefold() for name in given)
        return cls(frozenset(name.casefold() for name in names), is_open(host), proxied)

    def shows(self, origin: str) -> bool:
        """Whether an Origin header is a proxy's for this page: another port is another program."""
        scheme, _, name = origin.casefold().partition("://")
        return scheme == "https" and name in self.proxied

    def knows(self, netloc: str | None) -> bool:
        """Whether a Host header, such as ``localhost:7860`` or ``[::1]:7860``, is one of them."""
        netloc = netloc or ""
        try:
            parts = urlsplit(f"//{netloc}")
            # What stands behind the brackets of an IPv6 address `urlsplit` leaves out.
            behind = netloc.rpartition("]")[2]
            if parts.netloc != netloc or parts.username is not None or parts.port == 0:
                return False
            if netloc.startswith("[") and behind[:1] not in ("", ":"):
                return False
        except ValueError:
            return False
        name = parts.hostname or ""
        if name in self.names:
            # An IPv6 address without its brackets is no Host header (RFC 3986, 3.2.2).
            return ":" not in name or netloc.startswith("[")
        return self.addresses and _is_address(name)


def is_open(host: str) -> bool:
    """Whether it stands for every address of this machine."""
    return host in ("0.0.0.0", "::")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class OwnPageMiddleware:
    """Answers the page's own requests, and those of scripts; no other site's page.

    Not starlette's base class: it buffers streams.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 400 or 403."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if not self.hosts.knows(headers.get("host")):
            await PlainTextResponse(_UNKNOWN_NAME, 400)(scope, receive, send_closed)
            return
        scope = self._without_forgeries(scope)
        if not _is_own(scope, self.hosts):
            refusal = PlainTextResponse("Refused: this page belongs to another site.", 403)
            await refusal(scope, receive, send_closed)
            return
        await self.app(scope, receive, send_closed)

    def _without_forgeries(self, scope: Scope) -> Scope:
        """Gradio writes these two into the page, as the address that it asks."""
        forwarded = Headers(scope=scope).get("x-forwarded-host")
        dropped = [b"x-gradio-server"]
        dropped += [] if self.hosts.knows(forwarded) else [b"x-forwarded-host"]
        kept = [(name, value) for name, value in scope["headers"] if name.lower() not in dropped]
        return {**scope, "headers": kept}


def _is_own(scope: Scope, hosts: Hosts) -> bool:
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    own = (headers.get("host"), headers.get("x-forwarded-host"))
    known = origin is None or urlsplit(origin).netloc in own or hosts.shows(origin)
    if not known:
        return False
    # Programs other than browsers do not say from where they ask.
    if headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
        return True
    # Someone followed a link to the page.
    followed = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest", "document")
    return (
        scope["method"] in _READING
        and scope["path"] == "/"
        and followed == ("navigate", "document")
    )


class SlowLoginMiddleware:
    """Lets nobody guess passwords quickly: each wrong one makes the next wait longer.

    Args:
        clock: seconds.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self._clock = app, clock
        self._guesses: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 429."""
        if scope["type"] != "http" or scope["path"].rstrip("/") != "/login":
            await self.app(scope, receive, send)
            return
        client = _network(scope)
        wait = self._wait(client)
        if wait > 0:
            text = f"Too many wrong logins. Try again in {math.ceil(wait)} s."
            refusal = PlainTextResponse(text, 429, {"retry-after": str(math.ceil(wait))})
            await refusal(scope, receive, send)
            return

        async def send_judged(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._guesses.pop(client, None)
            await send(message)

        # Counted before it is judged, so that many at once are many.
        count = self._guesses.get(client, (0, 0.0))[0]
        self._guesses[client] = (count + 1, self._clock())
        self._guesses.move_to_end(client)
        while len(self._guesses) > _MOST_CLIENTS:
            self._guesses.popitem(last=False)
        await self.app(scope, receive, send_judged)

    def _wait(self, client: str) -> float:
        count, last = self._guesses.get(client, (0, 0.0))
        passed = self._clock() - last
        if passed > FORGOTTEN_AFTER:
            self._guesses.pop(client, None)
            return 0.0
        due = (
            min(2.0 ** min(count - FREE_GUESSES, 10), LONGEST_WAIT) if count >= FREE_GUESSES else 0
        )
        return max(0.0, due - passed)


def _network(scope: Scope) -> str:
    """Where a request comes from: an address, or the 64 bits of IPv6 that one customer has."""
    host = (scope.get("client") or ("",))[0]
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network(f"{host.partition('%')[0]}/64", strict=False))
    except ValueError:
        return host


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
            text = {408: "The upload came too slowly.", 413: "The upload is too large."}[refused]
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
