"""A server that speaks OpenAI's protocol, well or badly."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


@dataclass
class Fake:
    """What the server does, and what it has seen.

    Attributes:
        mode: good, slow, markup, empty, html, error400, error401, error404, error500, redirect,
            hang, trickle, cut, huge or list.
        at_once: most requests that were there at a time.
    """

    mode: str = "good"
    text: str = "a dog on a sofa"
    requests: list[dict] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at_once: int = 0
    address: str = ""
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    gate: threading.Event = field(default_factory=threading.Event)


MARKUP = "<think>A dog?</think>\nSure, here is a caption:\n```\n**A dog**, on a <b>sofa</b>\n```"


@contextmanager
def serving(fake: Fake) -> Iterator[Fake]:
    """The server on a free port, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def do_POST(self) -> None:
            with fake.lock:
                fake.now += 1
                fake.at_once = max(fake.at_once, fake.now)
            try:
                self._post()
            finally:
                with fake.lock:
                    fake.now -= 1

        def _post(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            url = body["messages"][0]["content"][1]["image_url"]["url"]
            picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
            fake.requests.append({**body, "path": self.path})
            fake.sizes.append(picture.size)
            fake.keys.append(self.headers.get("Authorization"))
            self._answer()

        def _answer(self) -> None:
            mode, text = fake.mode, fake.text
            if mode == "slow":
                fake.gate.wait(5)
            if mode == "hang":
                fake.gate.wait(20)
                return
            if mode.startswith("error"):
                message = {"error": {"message": "no <b>vision</b> here"}}
                return self._send(int(mode[5:]), json.dumps(message).encode())
            if mode == "redirect":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/secret")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            if mode == "html":
                return self._send(200, b"<html><body>welcome</body></html>")
            if mode == "trickle":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                for _ in range(100):
                    if fake.gate.wait(0.05):
                        return None
                    self.wfile.write(b" ")
                return None
            if mode == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices"')
                return None
            content: object = {"empty": "", "markup": MARKUP, "huge": "a " * 4_000_000}.get(
                mode, text
            )
            if mode == "list":
                content = [{"type": "text", "text": text}]
            answer = {"choices": [{"message": {"content": content}}]}
            return self._send(200, json.dumps(answer).encode())

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except OSError:
                time.sleep(0)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fake.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        fake.gate.set()
        server.shutdown()
        server.server_close()
