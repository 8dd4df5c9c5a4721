"""What all commands share: how one is declared, how its result is printed, what its failure says.

A command is a typed function: its arguments are the options, its result is printed as lines or,
with ``--json``, as JSON. The page's worker calls the same functions. Modules of commands import
heavy libraries only within functions, so that ``--help`` and mistakes in the arguments answer at
once; and they leave out the import of ``annotations``, since typer reads the types of arguments.
"""

import errno
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields as fields_of
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import typer

from trainer import __version__
from trainer.config.fields import ConfigField, field_help
from trainer.errors import UserError, out_of_memory
from trainer.runs.atomic import REFUSALS, disk_error
from trainer.text import printable
from trainer.training.processes import note_refusal

Function = TypeVar("Function", bound=Callable[..., object])

app = typer.Typer(
    help="Rarebit: a Stable Diffusion LoRA trainer.",
    epilog="Without a command the page opens in the browser; ui --help lists its options. "
    "python launch.py test runs all tests of a copy of the source.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
adapter_app = typer.Typer(help="work on adapter files, yours and anyone's", rich_markup_mode=None)
app.add_typer(adapter_app, name="adapter")


def option(metavar: str | None, help: str, *names: str) -> Any:
    """An option in the place of a parameter's metadata; without names it has the parameter's."""
    return typer.Option(*names, metavar=metavar, help=help, show_default=False)


Base = Annotated[str, option("NAME", field_help("base.name"))]
FileBase = Annotated[
    str | None, option("NAME", "Base model to measure on; unless given, the one it was trained on.")
]
FileTrigger = Annotated[
    str | None, option("WORD", "Its trigger word; unless given, the one in the file.")
]
FileClassWord = Annotated[
    str | None, option("WORD", "Its class word; unless given, the one in the file.")
]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch the model of a hub id where it is not here.")
]
OnlyPictures = Annotated[
    list[str] | None, option("NAME", "Only this picture. Give it once for each.", "--picture")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Options:
    """The base of a dataclass of options: those of a command that takes one."""


def parameters_of(function: Callable[..., object]) -> list[inspect.Parameter]:
    """A command's options: its parameters, but for the configuration's fields."""
    found: list[inspect.Parameter] = []
    for one in inspect.signature(function).parameters.values():
        if _is_options(one.annotation):
            found += parameters_of(one.annotation)
        elif one.kind is not inspect.Parameter.VAR_KEYWORD:
            found.append(one)
    return found


def call(function: Callable[..., Any], given: Mapping[str, object]) -> Any:
    """Calls a command with values for its options, by their names."""
    values = dict(given)
    for name, one in inspect.signature(function).parameters.items():
        if _is_options(one.annotation):
            own = {field.name: values.pop(field.name) for field in fields_of(one.annotation)}
            values[name] = one.annotation(**own)
    return function(**values)


def _is_options(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Options)


def command(
    name: str,
    help: str,
    *,
    group: typer.Typer = app,
    fields: Iterable[ConfigField] = (),
    hidden: bool = False,
) -> Callable[[Function], Function]:
    """Makes a function a command; the function itself stays what it is.

    A function that returns an answer (with `as_dict` for ``--json`` and the page, and `lines` for
    people) gets ``--json``; one that returns an int gives the exit status.

    Args:
        fields: of the configuration, each an option of its own; those that were given come as the
            function's keyword arguments, by their dotted names.
    """

    def declare(function: Function) -> Function:
        parameters = parameters_of(function)
        named = {field.name.replace(".", "__"): field for field in fields}
        parameters += [_parameter(key, field) for key, field in named.items()]
        answers = inspect.signature(function).return_annotation not in (int, None)
        if answers:
            parameters.append(_keyword("json", Json, False))

        def run(**values: Any) -> None:
            as_json = bool(values.pop("json")) if answers else False
            given = {
                named[key].name if key in named else key: value
                for key, value in values.items()
                if key not in named or value is not None
            }
            raise typer.Exit(perform(partial(call, function, given), as_json))

        setattr(run, "__signature__", inspect.Signature(parameters))  # noqa: B010
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        # Longer ones would be cut in the list of commands.
        short = help if len(help) <= 60 else help.split(",")[0].split(";")[0]
        group.command(name, help=help, short_help=short, hidden=hidden)(run)
        return function

    return declare


def _parameter(name: str, field: ConfigField) -> inspect.Parameter:
    """The option of a field of the configuration; None where it is not given."""
    kind = bool if "boolean" in field.types else int if "integer" in field.types else str
    flag = f"{field.flag}/--no-{field.flag[2:]}" if kind is bool else field.flag
    metadata = option(field.metavar or None, field.description, flag)
    return _keyword(name, Annotated[kind | None, metadata], None)


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def perform(work: Callable[[], object], as_json: bool = False) -> int:
    """Does a command's work, prints what it gives, and returns the exit status.

    That is 0; 2 for a mistake of the user's, with one message and a hint on stderr; 130 for Ctrl-C.
    """
    try:
        answer: Any = work()
    except KeyboardInterrupt:
        say("\nStopped.", sys.stderr)
        return 130
    except Exception as error:
        trouble = as_user_error(error)
        if trouble is None:
            raise
        # Of several processes the launcher says it, or where that is another's, the first one.
        if not note_refusal(trouble) and os.environ.get("RANK", "0") == "0":
            say(f"error: {trouble.message}", sys.stderr)
            if trouble.hint:
                say(f"       {trouble.hint}", sys.stderr)
        return 2
    if answer is None or isinstance(answer, int):
        return answer or 0
    say(json.dumps(answer.as_dict(), indent=1) if as_json else "\n".join(answer.lines()))
    return int(getattr(answer, "exit_status", 0))


def as_user_error(error: Exception) -> UserError | None:
    """An exception in words where it is nobody's defect: of the user's, the disk, or memory."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        no_folder = error.errno == errno.ENOENT and not Path(str(error.filename)).parent.exists()
        if no_folder or error.errno in REFUSALS:
            return disk_error(error, "what this command writes or reads")
    torch = sys.modules.get("torch")  # many commands need none
    of_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    if of_gpu or isinstance(error, MemoryError):
        hint = "Close other programs that use it, or ask for smaller pictures."
        return out_of_memory("for this command", hint, "GPU" if of_gpu else "computer")
    return None


def say(text: str, stream: TextIO | None = None, end: str = "\n", before: str = "") -> None:
    """Prints at once. Where nobody reads any more (``… | head``), printing ends, not the work.

    Names may hold what a terminal would obey: that is shown instead.

    Args:
        before: printed as it is, such as what clears the line.
    """
    out = stream or sys.stdout
    try:
        print(before + printable(text), end=end, file=out, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def say_progress(done: int, total: int, what: str) -> None:
    """Tells on stderr how slow work goes."""
    say(f"{what} {done}/{total}" if total > 1 else what, sys.stderr)


say_now = partial(say_progress, 0, 0)
"""Tells on stderr what is about to be done."""


def _print_version(given: bool) -> None:
    if given:
        say(f"rarebit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Only the options that stand before a command."""
