"""``adapter tune`` and ``adapter together``: adapters mended by what is measured on pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainer.answers import Answer, plain
from trainer.commands.adapter import File, MeasuredBy, Remaking
from trainer.commands.command import FileBase, adapter_app, command, option
from trainer.errors import UserError
from trainer.places import shown

if TYPE_CHECKING:
    from trainer.commands.adapter_files import Written
    from trainer.evaluation.meters import MeterBench
    from trainer.evaluation.repair import Together
    from trainer.evaluation.target import Target
    from trainer.events import Meters
    from trainer.lora.adapter import Adapter

NewFile = Annotated[Path | None, option("FILE", "The new file; beside the old one unless given.")]
_SHOWN = ("likeness", "effect", "class_drift", "neighbour_drift", "unrelated_drift")
_TOGETHER = ("alone", "cross", "strengths", "merges", "drawn", "best")


@dataclass(frozen=True)
class Repaired(Answer):
    """An adapter with other strengths in its blocks, before and after."""

    strengths: Mapping[str, float]
    before: "Meters"
    after: "Meters"
    drawn_kept: float | None
    board: Path
    file: "Written"

    def as_dict(self) -> dict[str, object]:
        return super().as_dict() | self.file.as_dict()

    def lines(self) -> list[str]:
        from trainer.evaluation.repair import TRAIN_ON
        from trainer.runs.meters import METERS

        titles = {meter.name: meter.title for meter in METERS}
        rows = [
            f"  {titles.get(name, name.replace('_', ' ')):<20} {before:.3f} -> {after:.3f}"
            for name in _SHOWN
            if (before := getattr(self.before, name)) is not None
            and (after := getattr(self.after, name)) is not None
        ]
        if self.drawn_kept is not None:
            rows.append(
                f"  Drawings with the trigger word keep {self.drawn_kept:.0%} of their likeness."
            )
        # Not where half of the adapter was to go.
        further = [TRAIN_ON] if self.drawn_kept is not None else []
        changed = [f"  {block:<42} {strength:g}" for block, strength in self.strengths.items()]
        return [
            "Before and after:", *rows, "Strength of each block:", *changed,
            f"Board: {shown(self.board)}", *self.file.lines(), *further,
        ]  # fmt: skip


@dataclass(frozen=True)
class Joined(Answer):
    """What adapters do to each other, and the file that holds them all."""

    adapters: tuple[str, ...]
    found: "Together"
    board: Path
    file: "Written"

    def as_dict(self) -> dict[str, object]:
        found = self.found
        measured = plain({name: getattr(found, name) for name in _TOGETHER})
        shares = {way: found.share(each) for way, each in found.merges.items()}
        own = {"adapters": list(self.adapters), "board": str(self.board)}
        return self.file.as_dict() | own | measured | {"together": found.both, "shares": shares}

    def lines(self) -> list[str]:
        found = self.found
        lines = [
            f"Pictures of {name}: likeness {found.alone[place]:.3f} with it alone, "
            f"{found.both[place]:.3f} with all at strength 1; "
            + ", ".join(
                f"{found.cross[place][other]:.3f} with {one} alone"
                for other, one in enumerate(self.adapters)
                if other != place
            )
            for place, name in enumerate(self.adapters)
        ]
        pairs = zip(self.adapters, found.strengths, strict=True)
        lines += [
            f"Best strengths: {', '.join(f'{name} {strength:.2f}' for name, strength in pairs)}.",
            "How much of its likeness the adapter keeps that loses most, predicted and drawn:",
            *(
                f"  {way:<28} {found.share(each):5.0%} {found.drawn[way]:5.0%}"
                for way, each in found.merges.items()
            ),
            f"Written: {found.best}. Board: {shown(self.board)}",
        ]
        return [*lines, *self.file.lines()]


@command(
    "tune", "write a file whose blocks have other strengths, chosen by measuring", group=adapter_app
)
def tune(
    file: File,
    *,
    by: MeasuredBy,
    keep: Annotated[
        float, option("SHARE", "Share of the likeness to keep, predicted and drawn (0.97).")
    ] = 0.97,
    only: Annotated[
        Literal["subject", "style"] | None, option(None, "SDXL only: keep this half of it alone.")
    ] = None,
    out: NewFile = None,
    how: Remaking,
) -> Repaired:
    """Write an adapter whose blocks have the strengths that leak least and keep the likeness.

    Raises:
        UserError: it can't be read or measured, nothing does better, or the output exists.
    """
    from trainer.commands.adapter_files import write
    from trainer.evaluation import repair
    from trainer.evaluation.board import board_rows

    check_share("--keep", keep)
    out = out or file.with_name(f"{file.stem}-{only or 'tuned'}.safetensors")
    board = _new_board(out, how, [file])
    adapter = how.read(file)
    bench, target, (plain,) = open_bench([file], [by], [adapter])
    found = repair.only(bench, plain, only) if only else repair.tune(bench, plain, keep)
    note = {"rarebit.tuned": json.dumps(found.strengths)}
    result = replace(found.adapter, metadata={**adapter.metadata, **note})
    written = write(result, result, out, how, file)
    states = {"base model": (), "before": (adapter,), "after": (written.adapter,)}
    _draw(bench, target, states, board_rows(bench.prompts_by_trigger), board)
    return Repaired(found.strengths, found.before, found.after, found.drawn, board, written)


@command(
    "together",
    "measure adapters together, and write one that keeps most of each",
    group=adapter_app,
)
def together(
    files: Annotated[list[Path], typer.Argument(metavar="FILE")],
    *,
    images: Annotated[
        list[Path] | None, option("DIR", "Image set of each adapter, in the order of the files.")
    ] = None,
    trigger: Annotated[
        list[str] | None, option("WORD", "Trigger word of each, in the same order.")
    ] = None,
    class_word: Annotated[
        list[str] | None, option("WORD", "Class word of each, in the same order.")
    ] = None,
    base: FileBase = None,
    out: NewFile = None,
    how: Remaking,
) -> Joined:
    """Measure adapters beside each other, and write the one that keeps most of each.

    Raises:
        UserError: fewer than two, one can't be read or measured, or the output exists.
    """
    from trainer.commands.adapter_files import write
    from trainer.evaluation import repair
    from trainer.training.checkpoints import adapter_label

    count = len(files)
    if count < 2:
        raise UserError("This needs two adapters.", "Name at least one more.")
    given = {"--images": images, "--trigger": trigger, "--class-word": class_word}
    wrong = [
        f"{name} {len(some)} times" for name, some in given.items() if some and len(some) != count
    ]
    if wrong:
        raise UserError(
            f"There are {count} adapters, and {' and '.join(wrong)}.", "Give one for each adapter."
        )
    labels = [adapter_label(file) for file in files]
    names = tuple(
        label if labels.count(label) == 1 else f"{label} {number}"
        for number, label in enumerate(labels, 1)
    )
    out = out or files[0].with_name(f"{' and '.join(names)}.safetensors")
    board = _new_board(out, how, files)
    adapters = [how.read(file) for file in files]
    none = [None] * count
    told = [
        MeasuredBy(images=pictures, trigger=word, class_word=kind, base=base)
        for pictures, word, kind in zip(
            images or none, trigger or none, class_word or none, strict=True
        )
    ]
    bench, first, plain = open_bench(files, told, adapters)
    if len(bench.concepts) != count:
        raise UserError("Each adapter may have one trigger word here.", "Say which with --trigger.")
    found = repair.put_together(bench, plain, names)
    written = write(found.merged, found.merged, out, how, files[0])
    states = {name: (one,) for name, one in zip(names, adapters, strict=True)}
    states |= {"all of them": tuple(adapters), "the new file": (written.adapter,)}
    rows = {name: sets.trigger[0] for name, sets in zip(names, bench.prompts, strict=True)}
    _draw(bench, first, states, rows, board)
    return Joined(names, found, board, written)


def keep_likeness_of(
    file: Path, adapter: "Adapter", share: float, by: MeasuredBy, out: Path, how: Remaking
) -> "Written":
    """Write an adapter with the ranks that keep a share of its likeness.

    Raises:
        UserError: as `tune`.
    """
    from trainer.commands.adapter_files import write
    from trainer.evaluation import repair

    check_share("--keep-likeness", share)
    bench, _, (plain,) = open_bench([file], [by], [adapter])
    result, before, after = repair.smallest(bench, plain, share)
    written = write(plain, result, out, how, file)
    sizes = " to ".join(f"{path.stat().st_size / 1e6:.2g} MB" for path in (file, out))
    notes = (f"Likeness {before:.3f} to {after:.3f}, file {sizes}.",)
    return replace(written, notes=notes)


def open_bench(
    files: "Sequence[Path]", told: "Sequence[MeasuredBy]", adapters: "Sequence[Adapter]"
) -> "tuple[MeterBench, Target, list[Adapter]]":
    """The meters of adapters on the first one's base model.

    Returns:
        The meters, what the first one is measured by, and the adapters as pairs of matrices: those
        of other kinds as nearly as makes no difference to pictures.

    Raises:
        UserError: one does not fit the base model, no trigger word is known, or there are no
            pictures.
    """
    from trainer.config.resolve import resolve
    from trainer.evaluation.target import bench_of, load_target
    from trainer.lora.editing import approximate
    from trainer.lora.loading import check_fit

    targets = [target_of(file, by) for file, by in zip(files, told, strict=True)]
    base, first, device, cache = load_target(targets[0])
    plain: list[Adapter] = []
    for adapter in adapters:
        check_fit(base, adapter)
        near = adapter if adapter.is_plain else approximate(base, adapter, energy=0.9999).adapter
        plain.append(near)
    others = [replace(one, config=resolve(one.config, base)) for one in targets[1:]]
    return bench_of(base, [first, *others], device, cache, []), first, plain


def target_of(file: Path, by: MeasuredBy) -> "Target":
    """What an adapter file is measured by.

    Raises:
        UserError: no trigger word is known, or there are no pictures.
    """
    from trainer.config.concepts import concepts_of
    from trainer.evaluation.target import find_target

    of_run = file.name == "adapter.safetensors" and (file.parent / "config.toml").is_file()
    target = find_target(file.parent if of_run else file, **vars(by))
    for concept in concepts_of(target.config):
        if concept.path == Path() or not concept.path.exists():
            where = f" {concept.path} is not there." if concept.path != Path() else ""
            raise UserError(
                f"Likeness of {file} is measured on pictures.{where}",
                "Give some of its subject with --images DIR; those that it was not trained on are "
                "best.",
            )
    return target


def check_share(name: str, share: float) -> None:
    """Refuses what is no share of a likeness to keep.

    Raises:
        UserError: naming the option.
    """
    if not 0 < share <= 1:
        raise UserError(f"{name} can't be {share:g}.", "0.97 keeps 97 % of the likeness.")


def _new_board(out: Path, how: Remaking, files: "Sequence[Path]") -> Path:
    """Where the board beside a new file goes; refuses to lose that file or the board."""
    from trainer.commands.adapter_files import check_free, check_output

    board = out.with_suffix(".board.png")
    check_free(board, how.force)
    check_output(out, how, files)
    return board


def _draw(
    bench: "MeterBench",
    target: "Target",
    states: "Mapping[str, tuple[Adapter, ...]]",
    rows: Mapping[str, str],
    board: Path,
) -> None:
    """A board with a column for each state of the adapters, and a row for each prompt."""
    from trainer.evaluation.board import BoardCell, draw_cells
    from trainer.evaluation.repair import switching

    cells = [BoardCell(row, state, prompt) for state in states for row, prompt in rows.items()]
    side = target.config.images.resolution or bench.base.default_resolution
    with switching(bench.base, states) as put_on:
        draw_cells(bench, cells, put_on, board, count=2, side=side)
