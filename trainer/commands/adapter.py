"""``adapter``: inspect, verify, convert, resize, merge, extract and pass on adapter files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainer.answers import Answer
from trainer.commands.command import (
    FileBase,
    FileClassWord,
    FileTrigger,
    Options,
    adapter_app,
    command,
    option,
)
from trainer.errors import UserError
from trainer.places import shown

if TYPE_CHECKING:
    from trainer.commands.adapter_files import Extracted, Merged, Written
    from trainer.lora.adapter import Adapter
    from trainer.lora.inspection import AdapterInspection
    from trainer.lora.verify import Proof

File = Annotated[Path, typer.Argument(metavar="FILE")]
Out = Annotated[Path, option("FILE", "The new file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace --out if it exists.")]
Rank = Annotated[int | None, option("N", "Rank of every layer, at most.")]
Energy = Annotated[
    float | None, option("SHARE", "Share of each layer's change to keep, such as 0.99.")
]
ComparedBase = Annotated[str | None, option("NAME", "A base model to compare it with.")]
LeaveOut = Annotated[
    bool,
    typer.Option("--leave-out-unknown", help="Read what is understood, and name what is lost."),
]


@dataclass(frozen=True, kw_only=True)
class Saving(Options):
    """How a new file is written."""

    precision: Annotated[
        Literal["fp32", "fp16", "bf16"] | None,
        option(None, "Number format; that of the file unless given."),
    ] = None
    force: Force = False
    sidecars: Annotated[
        bool, typer.Option("--sidecars", help="Also write the .json and .png that tools show.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Remaking(Saving):
    """How files are read that a new one is made of, and how that is written."""

    leave_out_unknown: LeaveOut = False
    embeddings: Annotated[
        Literal["keep", "drop"],
        option(None, "Keep embeddings that are in the file, or drop them (keep)."),
    ] = "keep"

    def read(self, path: Path) -> "Adapter":
        """A file that a new one is made of, with its bundled embeddings or without.

        Raises:
            UserError: as `read_adapter`.
        """
        from trainer.lora.reading import read_adapter

        adapter = read_adapter(path, leave_out_unknown=self.leave_out_unknown)
        return replace(adapter, embeddings={}) if self.embeddings == "drop" else adapter


@dataclass(frozen=True, kw_only=True)
class MeasuredBy(Options):
    """What an adapter file is measured by; what is not given, the file or its run tells."""

    images: Annotated[Path | None, option("DIR", "Pictures to measure likeness on.")] = None
    trigger: FileTrigger = None
    class_word: FileClassWord = None
    base: FileBase = None


@dataclass(frozen=True, kw_only=True)
class Compared(MeasuredBy):
    """The same, where the base model may also be needed to compare predictions."""

    base: Annotated[
        str | None,
        option(
            "NAME",
            "Base model to compare predictions on, needed for DoRA. Unless given: the one that it "
            "was trained on, where that is here.",
        ),
    ] = None


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
    how: Remaking,
) -> "Written":
    """Write an adapter in another layout or precision.

    Raises:
        UserError: it can't be read, has no form in the layout, or the output exists.
    """
    from trainer.commands.adapter_files import BaseOnDevice, check_output, write

    check_output(out, how, [file])
    adapter = how.read(file)
    on = None if base is None else BaseOnDevice.load(base)
    return write(adapter, adapter, out, how, file, layout, on)


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
    by: Compared,
    out: Out,
    how: Remaking,
) -> "Written":
    """Write an adapter with smaller ranks; of DoRA, LoHa and other kinds a plain one.

    Raises:
        UserError: it can't be read, it needs a base model and none is known, or the output exists.
    """
    from trainer.commands.adapter_files import BaseOnDevice, check_output, write
    from trainer.lora import editing
    from trainer.lora.loading import check_fit, plain_on

    _one_goal({"--rank": rank, "--energy": energy, "--keep-likeness": keep_likeness})
    check_output(out, how, [file])
    adapter = how.read(file)
    if keep_likeness is not None:
        from trainer.commands.adapter_repair import keep_likeness_of

        return keep_likeness_of(file, adapter, keep_likeness, by, out, how)
    on = BaseOnDevice.of([adapter], by.base)
    if not adapter.needs_base:
        result = editing.resize(adapter, rank=rank, energy=energy)
        most = max(result.ranks)
        notes = [f"No layer needs more than rank {most}."] if rank and most < rank else []
        return write(adapter, result, out, how, file, on=on, notes=notes)
    if on is None:
        raise UserError(
            f"{file} is {adapter.other_kinds}: what it changes depends on the base model.",
            "Name the base model with --base, to compute it there.",
        )
    check_fit(on.base, adapter)
    result = editing.approximate(on.base, adapter, rank=rank, energy=energy).adapter
    return write(plain_on(on.base, adapter), result, out, how, file, on=on)


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
    how: Remaking,
) -> "Written | Merged":
    """Write several adapters as one, or into a base model.

    Raises:
        UserError: a file can't be read, they don't fit together, or the output exists.
    """
    from trainer.commands.adapter_files import BaseOnDevice, check_output, merge_into_base, write
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
    if base is not None:
        return merge_into_base(chosen, out, how, rank, base, layout)
    if layout is not None:
        raise UserError("--layout has no meaning without --base.", "Leave it out.")
    paths = [path for path, _ in chosen]
    check_output(out, how, paths)
    adapters = [(how.read(path), strength) for path, strength in chosen]
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
    return write(whole, result, out, how, paths[0], on=on)


@command("extract", "make an adapter of a tuned base model and its base", group=adapter_app)
def extract(
    *,
    base: Annotated[str, option("NAME", "The base model that it was tuned from.")],
    tuned: Annotated[str, option("NAME", "The tuned model.")],
    rank: Rank = None,
    energy: Energy = None,
    out: Out,
    how: Saving,
) -> "Extracted":
    """Write the adapter that makes a tuned model of its base.

    Raises:
        UserError: a model can't be loaded, they don't go together, or the output exists.
    """
    from trainer.commands.adapter_files import Extracted, check_output, write
    from trainer.lora import editing
    from trainer.models.load import load_base

    _one_goal({"--rank": rank, "--energy": energy})
    check_output(out, how, [Path(base), Path(tuned)])
    found = editing.extract(load_base(base), load_base(tuned), out.stem, rank=rank, energy=energy)
    how = replace(how, precision=how.precision or "fp16")
    return Extracted(found, write(found.adapter, found.adapter, out, how))


@command("recipe", "write the configuration that a file was trained with", group=adapter_app)
def recipe(
    file: File, *, out: Annotated[Path, option("TOML", "The new file.")], force: Force = False
) -> Passed:
    """Write the configuration that an adapter was trained with.

    Raises:
        UserError: the file records none, or the output exists.
    """
    from trainer.commands.adapter_files import check_free
    from trainer.config.file import write_config
    from trainer.lora.metadata import CHANGED_KEY, START_KEY, recipe_of, recorded_base
    from trainer.lora.reading import read_adapter

    adapter = read_adapter(file)
    config = recipe_of(adapter)
    check_free(out, force)
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
    from trainer.commands.adapter_files import check_free
    from trainer.lora.sharing import share

    if out.suffix != ".zip":
        raise UserError(f"{out} does not end in .zip.", "Give --out a name that does.")
    check_free(out, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    names = share(file, out, name, picture)
    return Passed({"file": str(out), "files": names}, [shown(out), *names])


def _one_goal(goals: Mapping[str, object]) -> None:
    if sum(goal is not None for goal in goals.values()) != 1:
        names = " and ".join(", ".join(goals).rsplit(", ", 1))
        raise UserError(f"This needs one of {names}, and only one.")
