"""The command line, from its arguments to the exit status."""

from __future__ import annotations

from collections.abc import Sequence

# Each of these modules declares its commands when it is imported, in the order of --help.
from trainer.commands import (  # noqa: F401
    adapter,
    check_images,
    doctor,
    evaluate,
    fit,
    generate,
    service,
    train,
    trigger,
)
from trainer.commands.command import app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 2 for a mistake of the user's, 130 for Ctrl-C."""
    try:
        app(None if arguments is None else list(arguments), prog_name="python launch.py")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def entry() -> None:
    """The console script ``rarebit``."""
    raise SystemExit(main())
