"""``python -m app``: the page. Options as `launch.py` hands them on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from trainer.errors import UserError
from trainer.system import collect_garbage_rarely
from trainer.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves the page until Ctrl-C. Returns 0, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(
        prog="python launch.py ui", description="Rarebit in a browser."
    )
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (127.0.0.1).")
    parser.add_argument("--port", type=_port, default=7860, help="Port to listen on (7860).")
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        default=os.environ.get("RAREBIT_AUTH"),
        help="Ask for a login; needed for any --host but this machine's own. The variable "
        "RAREBIT_AUTH does the same without showing it in the list of processes.",
    )
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="Another name of this machine that the page answers to, as behind a proxy. Its own "
        "name and its addresses are known with --host 0.0.0.0; can be repeated.",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="Train on a Ray cluster whose machines share the folders, one run a card.",
    )
    parser.add_argument("--no-browser", action="store_true", help="Do not open a browser.")
    options = parser.parse_args(arguments)
    if options.ray:
        os.environ["RAREBIT_RAY"] = options.ray
    collect_garbage_rarely()
    from app.server import Address, serve

    try:
        login = _login(options.auth) if options.auth else None
        address = Address(options.host, options.port, login, tuple(options.allow_host))
        serve(address, open_browser=not options.no_browser)
    except UserError as error:
        print(printable(f"error: {error.message}"), file=sys.stderr)
        if error.hint:
            print(printable(f"       {error.hint}"), file=sys.stderr)
        return 2
    return 0


def _login(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if not user or not password:
        raise UserError("--auth needs a user and a password.", "Write it as USER:PASSWORD.")
    return user, password


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError(text)
    return port


if __name__ == "__main__":
    sys.exit(main())
