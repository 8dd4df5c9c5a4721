"""The arguments of ``adapter``; the work is in `trainer.commands.adapter`, which loads torch."""

from __future__ import annotations

import argparse
from pathlib import Path

LAYOUTS = ("kohya", "kohya-sgm", "diffusers")
BASE_LAYOUTS = ("folder", "single-file")
PRECISIONS = ("fp32", "fp16", "bf16")


def add_adapter(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command with its sub-commands."""
    parser = commands.add_parser("adapter", help="inspect, verify, convert, resize, merge, extract")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_inspect(actions)
    _add_verify(actions)
    _add_convert(actions)
    _add_resize(actions)
    _add_merge(actions)
    _add_extract(actions)
    _add_recipe(actions)
    _add_download(actions)


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
    parser.add_argument("--base", metavar="NAME", help="A base model to compare predictions on.")
    _add_output(parser)
    parser.set_defaults(command=convert_command)


def _add_resize(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("resize", help="to a smaller rank, keeping the strongest")
    _add_file(parser)
    _add_goal(parser)
    parser.add_argument(
        "--base",
        metavar="NAME",
        help="A base model to compare predictions on, needed for DoRA; the one that it was trained "
        "on unless given, if that is here.",
    )
    _add_output(parser)
    parser.set_defaults(command=resize_command)


def _add_merge(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("merge", help="several files into one, or into a base model")
    parser.add_argument("files", nargs="+", metavar="FILE[:STRENGTH]")
    parser.add_argument("--rank", type=int, metavar="N", help="Reduce to this rank by SVD.")
    parser.add_argument(
        "--base", metavar="NAME", help="Merge into this base model; --out is a new one."
    )
    parser.add_argument(
        "--layout", choices=BASE_LAYOUTS, help="Of the new base model; that of --base unless given."
    )
    _add_output(parser)
    parser.set_defaults(command=merge_command)


def _add_extract(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("extract", help="from a tuned base model and the one before")
    parser.add_argument("--base", required=True, metavar="NAME", help="The model before.")
    parser.add_argument("--tuned", required=True, metavar="NAME", help="The model after.")
    _add_goal(parser)
    _add_output(parser)
    parser.set_defaults(command=extract_command)


def _add_recipe(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("recipe", help="the configuration that a file was trained with")
    _add_file(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="TOML", help="The new file.")
    parser.add_argument("--force", action="store_true", help="Replace --out if it exists.")
    _add_json(parser)
    parser.set_defaults(command=recipe_command)


def _add_download(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("download", help="a zip with the picture and texts that tools show")
    _add_file(parser)
    parser.add_argument("--name", default="", help="Of the files in it; the title unless given.")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="The run's last preview unless given."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="ZIP", help="The new file.")
    parser.add_argument("--force", action="store_true", help="Replace --out if it exists.")
    _add_json(parser)
    parser.set_defaults(command=download_command)


def _add_goal(parser: argparse.ArgumentParser) -> None:
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--rank", type=int, metavar="N", help="Rank of every layer, at most.")
    goal.add_argument(
        "--energy", type=float, metavar="SHARE", help="Share of each layer to keep, as 0.99."
    )


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
    from trainer.commands.adapter import convert
    from trainer.commands.adapter_output import Output

    return convert(options.file, Output.of(options), layout=options.layout, base_name=options.base)


def resize_command(options: argparse.Namespace) -> int:
    """``adapter resize``."""
    from trainer.commands.adapter import resize
    from trainer.commands.adapter_output import Output

    return resize(
        options.file,
        Output.of(options),
        rank=options.rank,
        energy=options.energy,
        base_name=options.base,
    )


def merge_command(options: argparse.Namespace) -> int:
    """``adapter merge``."""
    from trainer.commands.adapter import merge
    from trainer.commands.adapter_output import Output

    return merge(
        options.files,
        Output.of(options),
        rank=options.rank,
        base_name=options.base,
        layout=options.layout,
    )


def extract_command(options: argparse.Namespace) -> int:
    """``adapter extract``."""
    from trainer.commands.adapter_models import extract
    from trainer.commands.adapter_output import Output

    return extract(
        options.base,
        options.tuned,
        Output.of(options),
        rank=options.rank,
        energy=options.energy,
    )


def recipe_command(options: argparse.Namespace) -> int:
    """``adapter recipe``."""
    from trainer.commands.adapter import recipe

    return recipe(options.file, options.out, force=options.force, as_json=options.json)


def download_command(options: argparse.Namespace) -> int:
    """``adapter download``."""
    from trainer.commands.adapter import download

    return download(
        options.file,
        options.out,
        name=options.name,
        picture=options.picture,
        force=options.force,
        as_json=options.json,
    )
