"""The command line, from its arguments to the exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points

from typer.exceptions import TyperException

from trainer.commands.command import app, perform
from trainer.errors import UserError
from trainer.system import collect_garbage_rarely

# Each of these modules declares its commands when it is imported, in the order of --help.
for _module in (
    *("adapter", "adapter_repair", "caption", "check_images", "doctor", "evaluate"),
    *("fit", "generate", "import_settings", "mask", "prove", "publish", "service"),
    *("train", "trigger", "tune"),
):
    import_module(f"trainer.commands.{_module}")

# Read by GNU's OpenMP when torch is loaded. By default threads that wait for each other spin for
# milliseconds: beside two busy processes on two cores a step of the built-in model then took 4 to
# 17 s instead of 0.17 s; with 10,000 turns 0.39 s there, and 0.17 s alone.
_SPIN = {"GOMP_SPINCOUNT": "10000"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 2 for a mistake of the user's, 130 for Ctrl-C."""
    collect_garbage_rarely()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update(_SPIN | os.environ)
    # diffusers loads it wherever it is installed, and it warns that an optional package is not.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    given = None if arguments is None else list(arguments)
    try:
        return app(given, prog_name="python launch.py", standalone_mode=False) or 0
    except TyperException as mistake:  # in the arguments: said as all mistakes are
        context = getattr(mistake, "ctx", None)
        asked = context.command_path if context else "python launch.py"
        hint = f"{asked} --help lists what it takes."
        return perform(partial(_refuse, UserError(mistake.format_message(), hint)))


def _refuse(error: UserError) -> None:
    raise error


def entry() -> None:
    """The console script ``rarebit``: commands of other packages too, as the page's ``ui``."""
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else "ui"
    for plugin in entry_points(group="rarebit.commands", name=name):
        raise SystemExit(plugin.load()(arguments[1:]))
    raise SystemExit(main(arguments))
