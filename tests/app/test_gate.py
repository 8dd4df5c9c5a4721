"""How much may come from a browser, and what stays of it. Clocks and limits are the test's."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn

from app.gate import PREFIX, Bounds, BoundsMiddleware, make_folder, sweep_folders
from app.server import LARGEST_UPLOAD, SilentConnections
from app.tabs.images import archives
from trainer.places import PROJECT

CHUNK = b"x" * 1000
Result = TypeVar("Result")


class Gone(Exception):
    """What a framework raises when the other side has gone."""


class Page:
    """Stores an upload as gradio does: in a file beside the others, moved when it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.whole, self.held = folder, 0, asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        part = self.folder / f"tmp{id(scope)}"
        with part.open("wb") as file:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                file.write(message["body"])
                more = message["more_body"]
        self.whole += 1
        (self.folder / str(self.whole)).mkdir()
        part.rename(self.folder / str(self.whole) / "a.png")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """In a thread of its own: a browser's test leaves a running loop in the main one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def ask(door: BoundsMiddleware, messages: Iterable[Any], path: str = "/upload") -> int:
    """The status that a request gets; after the messages nothing more comes."""
    return run(asked(door, messages, path))


async def asked(door: BoundsMiddleware, messages: Iterable[Any], path: str = "/upload") -> int:
    coming, told = iter(messages), []

    async def receive() -> Any:
        for message in coming:
            return message
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        told.append(message)

    length = sum(len(one.get("body", b"")) for one in messages) if isinstance(messages, list) else 0
    headers = [(b"content-length", str(length).encode())] if length else []
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    try:
        await door(scope, receive, send)
    except Gone:
        return 0
    return told[0]["status"]


def body(count: int, *, whole: bool = True) -> list[Any]:
    parts = [{"type": "http.request", "body": CHUNK, "more_body": True} for _ in range(count)]
    return [*parts, {"type": "http.request", "body": b"", "more_body": False}] if whole else parts


GONE = {"type": "http.disconnect"}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_broken_off_leaves_nothing(page: Page) -> None:
    door = BoundsMiddleware(page, page.folder)
    assert ask(door, body(3)) == 200 and left(page.folder) == ["a.png"]
    for _ in range(5):
        assert ask(door, [*body(3, whole=False), GONE]) == 0
    assert left(page.folder) == ["a.png"]


def test_it_spares_those_that_still_come(page: Page) -> None:
    door = BoundsMiddleware(page, page.folder)

    async def both() -> None:
        slow = asyncio.create_task(asked(door, body(2, whole=False)))
        while not left(page.folder):
            await asyncio.sleep(0)
        assert await asked(door, [*body(1, whole=False), GONE]) == 0
        assert len([name for name in left(page.folder) if name.startswith("tmp")]) == 2
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    run(both())
    assert left(page.folder) == []


def test_too_much_is_broken_off(page: Page) -> None:
    door = BoundsMiddleware(page, page.folder, Bounds(body=5000, waiting_bytes=20_000))
    assert ask(door, body(6), "/queue/join") == 413  # a JSON body of 100 MB
    assert ask(door, body(5), "/queue/join") == 200
    assert ask(door, body(30)) == 413
    assert ask(door, body(10)) == 200


def test_a_slow_one_is_ended_and_a_steady_one_is_not(page: Page) -> None:
    now = [0.0]
    door = BoundsMiddleware(page, page.folder, Bounds(patience=10, rate=1000), clock=lambda: now[0])

    def dripping(seconds: float) -> Iterable[Any]:
        for message in body(50):
            now[0] += seconds
            yield message

    assert ask(door, dripping(0.9)) == 200
    assert ask(door, dripping(3.0)) == 408
    assert page.whole == 1 and left(page.folder) == ["a.png"]
    now_bounds = Bounds(patience=0.0, rate=1e9)
    assert ask(BoundsMiddleware(page, page.folder, now_bounds), body(2, whole=False)) == 408


def test_only_so_many_come_at_once(page: Page) -> None:
    door = BoundsMiddleware(page, page.folder, Bounds(at_once=3))

    async def many() -> list[int]:
        waiting = [asyncio.create_task(asked(door, body(1, whole=False))) for _ in range(3)]
        while len(left(page.folder)) < 3:
            await asyncio.sleep(0)
        for _ in range(20):  # until each waits for more: wait_for swallows an earlier cancel
            await asyncio.sleep(0)
        refused = [await asked(door, body(1)) for _ in range(200)]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return refused

    assert run(many()) == [503] * 200
    assert ask(door, body(1)) == 200


@pytest.mark.parametrize("bounds", [{"waiting_bytes": 3500}, {"waiting_files": 3}])
def test_uploads_that_nobody_uses_make_room_once_they_are_old(page: Page, bounds: Any) -> None:
    door = BoundsMiddleware(page, page.folder, Bounds(**bounds))
    for _ in range(3):
        assert ask(door, body(1)) == 200
    assert ask(door, body(1)) == 413
    long_ago = time.time() - 7200
    os.utime(page.folder / "2" / "a.png", (long_ago, long_ago))
    assert ask(door, body(1)) == 200
    assert not (page.folder / "2" / "a.png").exists()
    assert len(left(page.folder)) == 3


async def answer_slowly(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = scope["path"] == "/stream"
        await send({"type": "http.response.body", "body": b"x", "more_body": more})
        while more and (await receive())["type"] != "http.disconnect":
            pass


@pytest.fixture
def served() -> Iterator[tuple[uvicorn.Server, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(answer_slowly, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield server, listening.getsockname()[1]
    server.should_exit = server.force_exit = True
    thread.join()
    listening.close()


def test_connections_that_ask_for_nothing_are_ended(served: tuple[uvicorn.Server, int]) -> None:
    server, port = served
    now = [0.0]
    silent = SilentConnections(server.server_state.connections, 30, 3, lambda: now[0])

    def opened(begin: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(begin)
        return connection

    stream = opened(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    assert stream.recv(1000)
    half = opened(b"POST /upload HTTP/1.1\r\nHost: x\r\nX-A: b")
    again = opened(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert again.recv(1000)
    again.sendall(b"GET / HTT")
    for seconds in (0.0, 29.0):
        now[0] = seconds
        silent.sweep()
    assert opened(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").recv(1000)  # all before it is done
    for seconds in (31.0, 61.0):
        now[0] = seconds
        silent.sweep()
    for connection in (half, again):
        with suppress(ConnectionResetError):
            while connection.recv(1000):
                pass
    many = [opened(b"G") for _ in range(9)]
    while len(server.server_state.connections) < 10:
        time.sleep(0.01)
    silent.sweep()
    while len(server.server_state.connections) > 4:
        time.sleep(0.01)
    left: Any = list(server.server_state.connections)
    assert [one.scope["path"] for one in left if one.cycle is not None] == ["/stream"]
    for connection in (stream, *many):
        connection.close()


def test_the_folder_of_a_killed_page_is_swept_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, signal\nfrom app.gate import make_folder\n"
        "(make_folder() / 'a.png').write_bytes(b'x')\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    killed = list(tmp_path.glob(f"{PREFIX}*/a.png"))
    assert len(killed) == 1
    mine = make_folder()
    (mine / "b.png").write_bytes(b"x")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    sweep_folders()
    assert not killed[0].parent.exists()
    assert (mine / "b.png").exists() and mine.stat().st_mode & 0o077 == 0


def test_the_limits_in_the_docs_are_those_of_the_code() -> None:
    text = " ".join((PROJECT / "docs" / "images.md").read_text(encoding="utf-8").split())
    limits, bounds = archives.Limits(), Bounds()
    for said in (
        f"At most {limits.pictures:,} pictures a set and {limits.total_bytes / 1e9:g} GB an upload",
        f"({LARGEST_UPLOAD.replace('gb', ' GB')} a file as it is sent)",
        f"{limits.spare_bytes / 1e6:g} MB of the disk stay free",
        f"more than {limits.members:,} files",
        f"more than {limits.member_bytes / 1e6:g} MB",
        f"more than {archives.SMALL / 1e6:g} MB and more than {archives.MAX_RATIO} times its size",
        f"at most {bounds.waiting_bytes / 1e9:g} GB and {bounds.waiting_files:,} files wait",
        f"at most {bounds.at_once}; one that brings less than {bounds.rate / 1e3:g} kB a second",
    ):
        assert said in text, said
