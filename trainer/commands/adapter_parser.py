"""The arguments of ``adapter``; the work is in `trainer.commands.adapter`, which loads torch."""

from __future__ import annotations

import argparse
from pathlib import Path

LAYOUTS = ("kohya", "kohya-sgm", "diffusers")
PRECISIONS = ("fp32", "fp16", "bf16")


def add_adapter(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command with its five sub-commands."""
    parser = commands.add_parser("adapter", help="inspect, verify, convert, resize, merge files")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_inspect(actions)
    _add_verify(actions)
    _add_convert(actions)
    _add_resize(actions)
    _add_merge(actions)


def _add_inspect(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("inspect", help="what is in a file, and which rank it needs")
    _add_file(parser)
    _add_json(parser)
    parser.set_defaults(command=inspect_command)


def _add_verify(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("verify", help="in which tools a file works, and on a base model")
    _add_file(parser)
    parser.add_argument("--base", metavar="NAME", help="A base model to compare it with.")
    _add_json(parser)
    parser.set_defaults(command=verify_command)


def _add_convert(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("convert", help="into another layout or precision")
    _add_file(parser)
    parser.add_argument("--layout", choices=LAYOUTS, default="kohya", help="Names (kohya).")
    _add_output(parser)
    parser.set_defaults(command=convert_command)


def _add_resize(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("resize", help="to a smaller rank, keeping the strongest")
    _add_file(parser)
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--rank", type=int, metavar="N", help="Rank of every layer, at most.")
    goal.add_argument(
        "--energy", type=float, metavar="SHARE", help="Share of each layer to keep, as 0.99."
    )
    _add_output(parser)
    parser.set_defaults(command=resize_command)


def _add_merge(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("merge", help="several files into one, or into a base model")
    parser.add_argument("files", nargs="+", metavar="FILE[:STRENGTH]")
    parser.add_argument("--rank", type=int, metavar="N", help="Reduce to this rank by SVD.")
    parser.add_argument(
        "--base", metavar="NAME", help="Merge into this base model; --out is a new folder."
    )
    _add_output(parser)
    parser.set_defaults(command=merge_command)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="The new file.")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="Number format; that of the file unless given."
    )
    parser.add_argument("--force", action="store_true", help="Replace --out if it exists.")
    parser.add_argument(
        "--sidecars", action="store_true", help="Also write the .json and .png that tools show."
    )
    _add_json(parser)


def inspect_command(options: argparse.Namespace) -> int:
    """``adapter inspect``."""
    from trainer.commands.adapter import inspect

    return inspect(options.file, as_json=options.json)


def verify_command(options: argparse.Namespace) -> int:
    """``adapter verify``."""
    from trainer.commands.adapter import verify

    return verify(options.file, base_name=options.base, as_json=options.json)


def convert_command(options: argparse.Namespace) -> int:
    """``adapter convert``."""
    from trainer.commands.adapter import Output, convert

    return convert(options.file, Output.of(options), layout=options.layout)


def resize_command(options: argparse.Namespace) -> int:
    """``adapter resize``."""
    from trainer.commands.adapter import Output, resize

    return resize(options.file, Output.of(options), rank=options.rank, energy=options.energy)


def merge_command(options: argparse.Namespace) -> int:
    """``adapter merge``."""
    from trainer.commands.adapter import Output, merge

    return merge(options.files, Output.of(options), rank=options.rank, base_name=options.base)
