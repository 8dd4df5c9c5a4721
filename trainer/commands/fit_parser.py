"""The arguments of ``fit``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.commands.field_flags import add_flags, fit_fields, given_values


def add_fit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``fit`` to the command line."""
    parser = commands.add_parser(
        "fit",
        help="predict the GPU memory of a configuration, and the plan that fits a card",
        epilog="--base takes sd15, sd2, sd2-v and sdxl as well, before anything is downloaded.",
    )
    add_flags(parser, fit_fields())
    parser.add_argument(
        "--vram",
        type=float,
        metavar="GIB",
        help="The card's memory. Unless given: that of this machine's GPU, or 11.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="Start from a TOML file.")
    parser.add_argument("--preset", metavar="NAME", help="Start from a preset.")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="section.key=value",
        help="Set any field of the configuration; can be repeated.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(command=fit_command)


def fit_command(options: argparse.Namespace) -> int:
    """``fit``: the prediction."""
    from trainer.commands.fit import fit

    return fit(
        config_file=options.config,
        preset=options.preset,
        flags=given_values(options, fit_fields()),
        overrides=options.overrides,
        vram=options.vram,
        as_json=options.json,
    )
