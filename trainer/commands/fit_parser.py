"""The arguments of ``fit``; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.config.file import field_help

FIELDS: dict[str, tuple[str, type, str]] = {
    "--base": ("base.name", str, "NAME"),
    "--resolution": ("images.resolution", int, "PX"),
    "--batch-size": ("training.batch_size", int, "B"),
    "--rank": ("adapter.rank", int, "R"),
}


def add_fit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``fit`` to the command line."""
    parser = commands.add_parser(
        "fit", help="predict the GPU memory of a configuration, and the plan that fits a card"
    )
    for flag, (dotted, kind, metavar) in FIELDS.items():
        help_text = field_help(dotted).replace("%", "%%")
        if flag == "--base":
            help_text += " Or sd15, sd2, sd2-v, sdxl, before anything is downloaded."
        parser.add_argument(flag, dest=dotted, type=kind, metavar=metavar, help=help_text)
    parser.add_argument(
        "--train-text-encoder",
        dest="adapter.text_encoder",
        action=argparse.BooleanOptionalAction,
        help=field_help("adapter.text_encoder"),
    )
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

    dotted_names = [dotted for dotted, _, _ in FIELDS.values()] + ["adapter.text_encoder"]
    flags = {dotted: getattr(options, dotted) for dotted in dotted_names}
    return fit(
        config_file=options.config,
        preset=options.preset,
        flags={dotted: value for dotted, value in flags.items() if value is not None},
        overrides=options.overrides,
        vram=options.vram,
        as_json=options.json,
    )
