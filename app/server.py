"""How the page is served: on this machine only, closed to everyone else unless asked."""

from __future__ import annotations

import atexit
import errno
import ipaddress
import os
import shutil
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from app.gate import (
    BoundsMiddleware,
    Hosts,
    OwnPageMiddleware,
    SlowLoginMiddleware,
    is_open,
    make_folder,
    sweep_folders,
)
from app.sending import LightMiddleware
from trainer import places
from trainer.errors import UserError
from trainer.runs.atomic import OLD, sweep_orphans

LARGEST_UPLOAD = "1gb"  # a zip of a large image set
MOST_WINDOWS = 50
"""Of a browser that are remembered, the latest used: gradio 6.31 keeps a copy of all components for
each, 1.4 MB here, also when it is closed. An open one asks every two seconds."""


@dataclass(frozen=True)
class Address:
    """Where the page is served, and to whom.

    Attributes:
        login: (user, password), or None for everyone on this machine.
        names: other names of this machine that the page answers to.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    login: tuple[str, str] | None = None
    names: tuple[str, ...] = ()


def serve(address: Address, open_browser: bool = True) -> None:
    """Serves the page until Ctrl-C or SIGTERM. What trains goes on without it.

    Raises:
        UserError: the port is taken, or the address would be open to everyone.
    """
    check_address(address)
    _prepare_environment()
    # Gradio takes seconds to import: only when it is sure to be needed.
    from app import jobs, languages, sending
    from app.page import build_page
    from app.tabs.runs import pictures
    from app.theme import make_theme, read_head, read_style

    sweep_leftovers()
    page = build_page()
    page.queue(default_concurrency_limit=None, max_size=200)
    page.launch(
        server_name=_in_url(address.host),
        server_port=address.port,
        auth=address.login,
        theme=make_theme(),
        css=read_style(),
        head=f"{sending.style_links()}{read_head()}",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=LARGEST_UPLOAD,
        app_kwargs={
            "middleware": middleware(address, Path(os.environ["GRADIO_TEMP_DIR"])),
            "routes": [*pictures.routes(), *languages.routes(), *sending.routes()],
            **dict.fromkeys(("docs_url", "redoc_url", "openapi_url")),
        },
        state_session_capacity=MOST_WINDOWS,
        quiet=True,
        prevent_thread_lock=True,
    )
    jobs.keep_queue_moving()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    url = _url(address)
    print(f"Rarebit is at {url}  (Ctrl-C ends the page; what trains goes on)", flush=True)
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if open_browser and (has_display or not sys.platform.startswith("linux")):
        webbrowser.open(url)
    silent = SilentConnections(page.server.server_state.connections)
    while not ended.wait(5.0):
        silent.sweep()
    page.close(verbose=False)


class SilentConnections:
    """Ends connections that ask for nothing: each takes one of the files that a process may open.

    The server itself waits for the end of a request's headers for ever.

    Args:
        connections: those of a uvicorn server, which adds to them and takes away.
        patience: seconds between requests, and for the headers of one.
        most: of such connections; beyond them the oldest go at once.
        clock: seconds.
    """

    def __init__(
        self,
        connections: Iterable[Any],
        patience: float = 30.0,
        most: int = 300,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections, self._patience, self._most = connections, patience, most
        self._clock, self._silent_since = clock, dict[Any, float]()

    def sweep(self) -> None:
        """Ends what has been silent for too long, as far as earlier calls have seen it."""
        now, known = self._clock(), self._silent_since
        silent = [one for one in list(self._connections) if not _is_asking(one)]
        self._silent_since = {one: known.get(one, now) for one in silent}
        oldest = sorted(self._silent_since, key=self._silent_since.__getitem__)
        for place, one in enumerate(oldest, start=self._most - len(oldest)):
            if place < 0 or now - self._silent_since[one] >= self._patience:
                one.loop.call_soon_threadsafe(one.transport.abort)


def _is_asking(connection: Any) -> bool:
    """Whether a request is answered on it."""
    cycle = connection.cycle
    return cycle is not None and not cycle.response_complete


def middleware(address: Address, uploads: Path | None = None) -> list[Middleware]:
    """What a request passes first, in this order; `uploads` is the folder where they are stored."""
    return [
        Middleware(OwnPageMiddleware, hosts=Hosts.of(address.host, address.names)),
        Middleware(SlowLoginMiddleware),
        Middleware(LightMiddleware),
        *([Middleware(BoundsMiddleware, folder=uploads)] if uploads else []),
    ]


def check_address(address: Address) -> None:
    """Sees to it that the page can be served there, and that strangers have to log in.

    Raises:
        UserError: it cannot, or they would not have to.
    """
    host, port = address.host, address.port
    if not _is_loopback(host) and address.login is None:
        raise UserError(
            f"On {host} everyone in the network could use this machine.",
            "Give a login with --auth USER:PASSWORD, or leave --host away.",
        )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reasons = {
                errno.EADDRINUSE: (
                    f"Port {port} is taken; perhaps Rarebit is running already.",
                    f"Look at {_url(address)}, or choose another port with --port {port + 1}.",
                ),
                errno.EACCES: (
                    f"Port {port} may not be used by this account.",
                    "Choose one from 1024 on: --port 7860.",
                ),
            }
            otherwise = (
                f"The address {host} is none of this machine's: {error.strerror or error}.",
                "Leave --host away, or give one of this machine's own addresses.",
            )
            raise UserError(*reasons.get(error.errno or 0, otherwise)) from error


def _url(address: Address) -> str:
    host = "localhost" if is_open(address.host) else _in_url(address.host)
    return f"http://{host}:{address.port}"


def _in_url(host: str) -> str:
    """A host as addresses and Host headers write it: IPv6 in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def sweep_leftovers() -> None:
    """Removes what a server that was killed left of uploads, copies and deletions."""
    from app.tabs.images.imagesets import list_sets

    sweep_folders()
    hidden = [one.hidden for one in list_sets(places.DATASETS)]
    for folder in [places.RUNS, places.DATASETS, *hidden]:
        sweep_orphans(folder, age=OLD)


def _prepare_environment() -> None:
    """Gradio reads these when it is imported."""
    temporary = make_folder()
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ALLOWED_PATHS": "",
        "GRADIO_SHARE": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_SSR_MODE": "False",
        "GRADIO_TEMP_DIR": str(temporary),
    }
    # It asks itself whether it has started, and no proxy can answer that.
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, [known, "127.0.0.1", "localhost", "::1"]))
