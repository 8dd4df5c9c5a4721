"""``adapter``: inspect, verify, convert, resize, merge, extract and pass on adapter files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainer.answers import Answer
from trainer.commands.command import FileClassWord, FileTrigger, adapter_app, command, option
from trainer.errors import UserError
from trainer.places import shown

if TYPE_CHECKING:
    from trainer.commands.adapter_files import Extracted, Merged, Written
    from trainer.lora.inspection import AdapterInspection
    from trainer.lora.verify import Proof

File = Annotated[Path, typer.Argument(metavar="FILE")]
Out = Annotated[Path, option("FILE", "The new file.")]
Precision = Annotated[
    Literal["fp32", "fp16", "bf16"] | None,
    option(None, "Number format; that of the file unless given."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace --out if it exists.")]
Sidecars = Annotated[
    bool, typer.Option("--sidecars", help="Also write the .json and .png that tools show.")
]
Rank = Annotated[int | None, option("N", "Rank of every layer, at most.")]
Energy = Annotated[
    float | None, option("SHARE", "Share of each layer's change to keep, such as 0.99.")
]
ComparedBase = Annotated[str | None, option("NAME", "A base model to compare it with.")]
LeaveOut = Annotated[
    bool,
    typer.Option("--leave-out-unknown", help="Read what is understood, and name what is lost."),
]
Embeddings = Annotated[
    Literal["keep", "drop"],
    option(None, "Keep embeddings that are in the file, or drop them (keep)."),
]


@dataclass(frozen=True)
class Passed(Answer):
    """Files that were written beside the adapter, with what to say of them."""

    facts: dict[str, object]
    said: list[str]

    def as_dict(self) -> dict[str, object]:
        return self.facts

    def lines(self) -> list[str]:
        return self.said


@command("inspect", "say what is in a file, and which rank it needs", group=adapter_app)
def inspect(file: File, *, leave_out_unknown: LeaveOut = False) -> "AdapterInspection":
    """What is in an adapter file.

    Raises:
        UserError: it can't be read.
    """
    from trainer.lora.inspection import inspect_file

    return inspect_file(file, leave_out_unknown=leave_out_unknown)


@command("verify", "say in which tools a file works, and on a base model", group=adapter_app)
def verify(
    file: File, *, base: ComparedBase = None, leave_out_unknown: LeaveOut = False
) -> "Proof":
    """In which tools an adapter file works, and how it lies on a base model.

    Raises:
        UserError: it can't be read, or does not fit the base model.
    """
    from trainer.lora.verify import verify_file
    from trainer.models.load import load_base

    on = None if base is None else load_base(base)
    return verify_file(file, on, leave_out_unknown=leave_out_unknown)


@command("convert", "write a file in another layout or precision", group=adapter_app)
def convert(
    file: File,
    *,
    layout: Annotated[
        Literal["kohya", "kohya-sgm", "diffusers"],
        option(None, "Whose names its layers get (kohya)."),
    ] = "kohya",
    base: ComparedBase = None,
    out: Out,
    precision: Precision = None,
    force: Force = False,
    sidecars: Sidecars = False,
    leave_out_unknown: LeaveOut = False,
    embeddings: Embeddings = "keep",
) -> "Written":
    """Write an adapter in another layout or precision.

    Raises:
        UserError: it can't be read, has no form in the layout, or the output exists.
    """
    from trainer.commands.adapter_files import BaseOnDevice, Output, read_source, write

    output = Output(out, precision, force, sidecars).checked([file])
    adapter = read_source(file, leave_out_unknown, embeddings)
    on = None if base is None else BaseOnDevice.load(base)
    return write(adapter, adapter, output, file, layout, on)


@command("resize", "write a file with a smaller rank", group=adapter_app)
def resize(
    file: File,
    *,
    rank: Rank = None,
    energy: Energy = None,
    keep_likeness: Annotated[
        float | None,
        option("SHARE", "Share of its likeness to keep, such as 0.99; each layer gets a rank."),
    ] = None,
    images: Annotated[Path | None, option("DIR", "Pictures to measure likeness on.")] = None,
    trigger: FileTrigger = None,
    class_word: FileClassWord = None,
    base: Annotated[
        str | None,
        option(
            "NAME",
            "Base model to compare predictions on, needed for DoRA. Unless given: the one that it "
            "was trained on, where that is here.",
        ),
    ] = None,
    out: Out,
    precision: Precision = None,
    force: Force = False,
    sidecars: Sidecars = False,
    leave_out_unknown: LeaveOut = False,
    embeddings: Embeddings = "keep",
) -> "Written":
    """Write an adapter with smaller ranks; of DoRA, LoHa and other kinds a plain one.

    Raises:
        UserError: it can't be read, it needs a base model and none is known, or the output exists.
    """
    from trainer.commands.adapter_files import BaseOnDevice, Output, read_source, write
    from trainer.lora import editing
    from trainer.lora.loading import check_fit, plain_on

    _one_goal({"--rank": rank, "--energy": energy, "--keep-likeness": keep_likeness})
    output = Output(out, precision, force, sidecars).checked([file])
    adapter = read_source(file, leave_out_unknown, embeddings)
    if keep_likeness is not None:
        from trainer.commands.adapter_repair import keep_likeness_of

        measured_by = (images, trigger, class_word, base)
        return keep_likeness_of(file, adapter, keep_likeness, output, measured_by)
    on = BaseOnDevice.of([adapter], base)
    if not adapter.needs_base:
        result = editing.resize(adapter, rank=rank, energy=energy)
        most = max(result.ranks)
        notes = [f"No layer needs more than rank {most}."] if rank and most < rank else []
        return write(adapter, result, output, file, on=on, notes=notes)
    if on is None:
        raise UserError(
            f"{file} is {adapter.other_kinds}: what it changes depends on the base model.",
            "Name the base model with --base, to compute it there.",
        )
    check_fit(on.base, adapter)
    result = editing.approximate(on.base, adapter, rank=rank, energy=energy).adapter
    return write(plain_on(on.base, adapter), result, output, file, on=on)


@command("merge", "put several files into one, or into a base model", group=adapter_app)
def merge(
    files: Annotated[list[str], typer.Argument(metavar="FILE[:STRENGTH]")],
    *,
    rank: Annotated[int | None, option("N", "Reduce to this rank by SVD.")] = None,
    base: Annotated[
        str | None, option("NAME", "Merge into this base model; --out is a new one.")
    ] = None,
    layout: Annotated[
        Literal["folder", "single-file"] | None,
        option(None, "Layout of the new base model; that of --base unless given."),
    ] = None,
    out: Out,
    precision: Precision = None,
    force: Force = False,
    sidecars: Sidecars = False,
    leave_out_unknown: LeaveOut = False,
    embeddings: Embeddings = "keep",
) -> "Written | Merged":
    """Write several adapters as one, or into a base model.

    Raises:
        UserError: a file can't be read, they don't fit together, or the output exists.
    """
    from trainer.commands.adapter_files import (
        BaseOnDevice,
        Output,
        merge_into_base,
        read_source,
        write,
    )
    from trainer.generation.stack import AdapterUse
    from trainer.lora import editing

    choices = [AdapterUse.parse(text) for text in files]
    two = [choice.label for choice in choices if choice.text_encoder_strength is not None]
    if two:
        raise UserError(
            f"merge takes one strength for each file, not two: {', '.join(two)}.",
            "Write FILE:STRENGTH, such as cat.safetensors:0.8.",
        )
    chosen = [(choice.file, choice.strength) for choice in choices]
    output = Output(out, precision, force, sidecars)
    if base is not None:
        return merge_into_base(chosen, output, rank, base, layout)
    if layout is not None:
        raise UserError("--layout has no meaning without --base.", "Leave it out.")
    paths = [path for path, _ in chosen]
    output.checked(paths)
    adapters = [(read_source(path, leave_out_unknown, embeddings), by) for path, by in chosen]
    other = next((adapter for adapter, _ in adapters if not adapter.is_plain), None)
    if rank is None and other is not None and not other.needs_base:
        raise UserError(
            f"{other.source} is {other.other_kinds}: merged exactly, it has full rank.",
            "Give the rank of the merged adapter with --rank.",
        )
    whole = result = editing.merge(adapters, [path.stem for path in paths])
    on = None
    if rank is not None:
        result = editing.resize(whole, rank=rank)
        on = BaseOnDevice.of([adapter for adapter, _ in adapters], None)
    return write(whole, result, output, paths[0], on=on)


@command("extract", "make an adapter of a tuned base model and its base", group=adapter_app)
def extract(
    *,
    base: Annotated[str, option("NAME", "The base model that it was tuned from.")],
    tuned: Annotated[str, option("NAME", "The tuned model.")],
    rank: Rank = None,
    energy: Energy = None,
    out: Out,
    precision: Precision = None,
    force: Force = False,
    sidecars: Sidecars = False,
) -> "Extracted":
    """Write the adapter that makes a tuned model of its base.

    Raises:
        UserError: a model can't be loaded, they don't go together, or the output exists.
    """
    from trainer.commands.adapter_files import Extracted, Output, write
    from trainer.lora import editing
    from trainer.models.load import load_base

    _one_goal({"--rank": rank, "--energy": energy})
    output = Output(out, precision or "fp16", force, sidecars).checked([Path(base), Path(tuned)])
    found = editing.extract(load_base(base), load_base(tuned), out.stem, rank=rank, energy=energy)
    return Extracted(found, write(found.adapter, found.adapter, output))


@command("recipe", "write the configuration that a file was trained with", group=adapter_app)
def recipe(
    file: File, *, out: Annotated[Path, option("TOML", "The new file.")], force: Force = False
) -> Passed:
    """Write the configuration that an adapter was trained with.

    Raises:
        UserError: the file records none, or the output exists.
    """
    from trainer.config.file import write_config
    from trainer.lora.metadata import CHANGED_KEY, START_KEY, recipe_of, recorded_base
    from trainer.lora.reading import read_adapter

    adapter = read_adapter(file)
    config = recipe_of(adapter)
    if out.exists() and not (force and out.is_file()):
        raise UserError(f"{out} exists already.", "--force replaces it.")
    write_config(out, config)
    started = adapter.metadata.get(START_KEY)
    there = recorded_base(adapter) is not None
    further = " --start-from FILE" * bool(started) + " --base BASE" * (not there)
    lines = [
        f"{shown(out)}: train it again with",
        f"  python launch.py train --config {shown(out)} --images DIR{further}",
    ]
    if started:
        lines.append(f"FILE is the adapter that it went on from: {started}.")
    if not there:
        lines.append(f"BASE is the place of its base model, {config.base.name}.")
    if CHANGED_KEY in adapter.metadata:
        lines.append("That gives the adapter that this file was made of, before it was changed.")
    return Passed({"file": str(out), "base": config.base.name}, lines)


@command("download", "pack a file with the picture and texts that tools show", group=adapter_app)
def download(
    file: File,
    *,
    name: Annotated[
        str, option("NAME", "Name of the files in the zip file; the title unless given.")
    ] = "",
    picture: Annotated[
        Path | None, option("FILE", "The picture to show; the run's last preview unless given.")
    ] = None,
    out: Annotated[Path, option("ZIP", "The new file.")],
    force: Force = False,
) -> Passed:
    """Write a zip file with an adapter and the sidecars that tools read.

    Raises:
        UserError: the adapter can't be read, or the output exists.
    """
    from trainer.lora.sharing import share

    if out.suffix != ".zip":
        raise UserError(f"{out} does not end in .zip.", "Give --out a name that does.")
    if out.exists() and not (force and out.is_file() and not out.samefile(file)):
        raise UserError(f"{out} exists already.", "--force replaces it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    names = share(file, out, name, picture)
    return Passed({"file": str(out), "files": names}, [shown(out), *names])


def _one_goal(goals: Mapping[str, object]) -> None:
    if sum(goal is not None for goal in goals.values()) != 1:
        names = " and ".join(", ".join(goals).rsplit(", ", 1))
        raise UserError(f"This needs one of {names}, and only one.")
