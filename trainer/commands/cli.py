"""The command line: a thin layer over the library's public functions.

Heavy libraries are imported by the commands that need them, so that ``--help`` and mistakes in
the arguments answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.commands.adapter_parser import add_adapter
from trainer.commands.field_flags import add_flags, given_values, train_fields
from trainer.commands.fit_parser import add_fit
from trainer.config.fields import field_help
from trainer.errors import UserError
from trainer.runs.disk import REFUSALS, disk_error

Command = Callable[[argparse.Namespace], int]

NO_MEMORY = """The GPU's memory is not enough for this command.
       Close other programs that use the GPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 2 for a mistake of the user's, 130 for Ctrl-C."""
    options = build_parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":  # the first process says it
            return 2
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"       {error.hint}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        trouble = disk_error(error, "what this command writes or reads")
        print(f"error: {trouble.message}\n       {trouble.hint}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; many commands need no torch
            raise
        print(f"error: {NO_MEMORY}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python launch.py", description="Rarebit: a Stable Diffusion LoRA trainer."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    _add_resume(commands)
    _add_worker(commands)
    _add_service(commands)
    _add_generate(commands)
    _add_trigger(commands)
    _add_check_images(commands)
    _add_evaluate(commands)
    add_fit(commands)
    add_adapter(commands)
    _add_doctor(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("train", help="train an adapter from a folder of pictures")
    add_flags(parser, train_fields())
    _add_concepts(parser)
    parser.add_argument("--run", type=Path, metavar="DIR", help="Run folder; must not exist yet.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="Start from a TOML file.")
    parser.add_argument("--preset", metavar="NAME", help="Start from a preset.")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="section.key=value",
        help="Set any field of the configuration; can be repeated. See docs/configuration.md.",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="Train with N processes on this machine, one a GPU; they share each batch.",
    )
    parser.set_defaults(command=train_command)


def _add_concepts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--concept",
        dest="concepts",
        action="append",
        default=[],
        metavar="DIR:TRIGGER[:CLASS]",
        help="One of several concepts for one adapter, in place of --images, --trigger and "
        "--class-word; give it once for each.",
    )


def _add_resume(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("resume", help="go on exactly where a run stopped")
    parser.add_argument("run", type=Path, metavar="RUN", help="The run's folder, or its name.")
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="Go on although the image set has changed since.",
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="As for train; may differ from it."
    )
    parser.set_defaults(command=resume_command)


def _add_worker(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    # What --processes starts; not in the list of commands, since nobody types it.
    parser = commands.add_parser("worker")
    parser.add_argument("run", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--accept-changes", action="store_true")
    parser.set_defaults(command=worker_command)


def _add_service(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    # What the page starts for everything but training; not in the list of commands either.
    parser = commands.add_parser("service")
    parser.set_defaults(command=service_command)


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="draw pictures, with any number of adapters")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH[:TEXT_STRENGTH]]",
        help="An adapter file and how strongly it acts, 1 unless given, and how strongly in the "
        "text encoder, if not the same; can be repeated.",
    )
    parser.add_argument(
        "--base", default="tiny-emoji", metavar="NAME", help=field_help("base.name")
    )
    parser.add_argument("--negative", default="", metavar="TEXT", help="What not to draw.")
    parser.add_argument("--count", type=int, default=4, metavar="N", help="Pictures (4).")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="First seed (1).")
    parser.add_argument(
        "--inference-steps", type=int, default=25, metavar="N", help="Denoising steps (25)."
    )
    parser.add_argument(
        "--guidance", type=float, default=5.0, metavar="G", help="Guidance scale (5)."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="Where PNGs go.")
    parser.set_defaults(command=generate_command)


def _add_trigger(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("trigger", help="judge trigger words, or suggest rare ones")
    parser.add_argument("words", nargs="*", metavar="WORD", help="Words to judge.")
    parser.add_argument(
        "--base", default="tiny-emoji", metavar="NAME", help=field_help("base.name")
    )
    parser.add_argument(
        "--class-word", default="", metavar="WORD", help=_escaped(field_help("captions.class_word"))
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="An image set whose captions count as used."
    )
    parser.add_argument("--count", type=int, default=5, metavar="N", help="Suggestions (5).")
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="Draw each word alone, with the same seeds."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(command=trigger_command)


def _add_check_images(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "check-images", help="everything wrong or doubtful in an image set, before training"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", nargs="?")
    parser.add_argument(
        "--base", default="tiny-emoji", metavar="NAME", help=field_help("base.name")
    )
    parser.add_argument("--trigger", default="", metavar="WORD")
    parser.add_argument("--class-word", default="", metavar="WORD")
    parser.add_argument("--resolution", type=int, metavar="PX")
    parser.add_argument(
        "--masks",
        choices=("none", "alpha", "files"),
        default="none",
        help=_escaped(field_help("images.masks")),
    )
    _add_concepts(parser)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(command=check_images_command)


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "evaluate", help="whether the trigger word works, whether it leaks, and what to use"
    )
    parser.add_argument(
        "place", type=Path, metavar="RUN_OR_ADAPTER", help="A run's folder or name, or any file."
    )
    parser.add_argument("--base", metavar="NAME", help="Instead of the one it was trained on.")
    parser.add_argument("--trigger", metavar="WORD", help="Instead of what the file says.")
    parser.add_argument("--class-word", metavar="WORD", help="Instead of what the file says.")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="The image set, to measure likeness by."
    )
    parser.add_argument(
        "--scorers", type=Path, metavar="DIR", help=_escaped(field_help("evaluation.scorers"))
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(command=evaluate_command)


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("doctor", help="what this machine has, and a self-test")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(command=doctor_command)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def train_command(options: argparse.Namespace) -> int:
    """``train``: into a new run folder, to the end."""
    from trainer.commands.train import train

    return train(
        config_file=options.config,
        preset=options.preset,
        flags=given_values(options, train_fields()),
        overrides=options.overrides,
        concepts=options.concepts,
        run=options.run,
        processes=options.processes,
    )


def resume_command(options: argparse.Namespace) -> int:
    """``resume``: go on with a run."""
    from trainer.commands.train import resume

    return resume(options.run, accept_changes=options.accept_changes, processes=options.processes)


def worker_command(options: argparse.Namespace) -> int:
    """One of the processes of ``train --processes N``."""
    from trainer.commands.train import worker

    return worker(options.run, resume=options.resume, accept_changes=options.accept_changes)


def service_command(options: argparse.Namespace) -> int:
    """What the page asks questions of; see `trainer.commands.worker`."""
    from trainer.commands.service import service

    return service()


def generate_command(options: argparse.Namespace) -> int:
    """``generate``: PNG files into a folder."""
    from trainer.commands.generate import generate

    return generate(
        prompt=options.prompt,
        negative=options.negative,
        base_name=options.base,
        adapters=options.adapter,
        count=options.count,
        seed=options.seed,
        inference_steps=options.inference_steps,
        guidance=options.guidance,
        out=options.out,
    )


def trigger_command(options: argparse.Namespace) -> int:
    """``trigger``: verdicts and suggestions."""
    from trainer.commands.trigger import trigger

    return trigger(
        options.words,
        base_name=options.base,
        class_word=options.class_word,
        images=options.images,
        count=options.count,
        pictures=options.pictures,
        as_json=options.json,
    )


def check_images_command(options: argparse.Namespace) -> int:
    """``check-images``: the report on an image set, or on those of several concepts."""
    from trainer.commands.check_images import check_images
    from trainer.config.concepts import parse_concept
    from trainer.config.file import with_values
    from trainer.config.schema import TrainingConfig

    if (options.folder is None) == (not options.concepts):
        raise UserError(
            "check-images needs a folder, or concepts, and not both.",
            "Such as: check-images DIR --trigger WORD, or: check-images --concept DIR:WORD:CLASS",
        )
    values: dict[str, object] = {
        "base.name": options.base,
        "images.path": str(options.folder or "."),
        "images.resolution": options.resolution,
        "images.masks": options.masks,
        "captions.trigger": options.trigger,
        "captions.class_word": options.class_word,
        "concepts": [parse_concept(text) for text in options.concepts],
    }
    config = with_values(TrainingConfig(), values, "the command line")
    return check_images(config, as_json=options.json)


def evaluate_command(options: argparse.Namespace) -> int:
    """``evaluate``: the meters of a run or an adapter file."""
    from trainer.commands.evaluate import evaluate

    return evaluate(
        options.place,
        base_name=options.base,
        trigger=options.trigger,
        class_word=options.class_word,
        images=options.images,
        scorers=options.scorers,
        as_json=options.json,
    )


def doctor_command(options: argparse.Namespace) -> int:
    """``doctor``: the report on this machine."""
    from trainer.commands.doctor import main as doctor

    return doctor(as_json=options.json)
