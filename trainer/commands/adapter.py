"""``adapter``: inspect, verify, convert, resize and merge adapter files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError
from trainer.lora.baking import bake, save_base
from trainer.lora.editing import Difference, difference, name_of
from trainer.lora.editing import merge as merge_adapters
from trainer.lora.editing import resize as resize_adapter
from trainer.lora.files import AdapterFile, Precision, read_adapter
from trainer.lora.inspection import inspect_file
from trainer.lora.proof import verify_file
from trainer.lora.sidecars import sidecar_paths, write_sidecars
from trainer.lora.stack import AdapterChoice
from trainer.lora.tools import works_in
from trainer.lora.verify import file_precision
from trainer.lora.writing import WritableLayout, write_adapter
from trainer.models.load import load_base
from trainer.places import shown


@dataclass(frozen=True)
class Output:
    """Where a result goes and how.

    Attributes:
        precision: None for that of the file.
        force: whether an existing file may be replaced; never one that is read.
        sidecars: whether its .json and .png are written too.
    """

    path: Path
    precision: Precision | None
    force: bool
    sidecars: bool
    json: bool

    @classmethod
    def of(cls, options: argparse.Namespace) -> Output:
        """From the command line."""
        return cls(options.out, options.precision, options.force, options.sidecars, options.json)

    def check(self, sources: Sequence[Path]) -> None:
        """Refuses to lose a file.

        Raises:
            UserError: the output is a source, exists, or has a name that tools would not list.
        """
        if self.path.suffix != ".safetensors":
            raise UserError(f"{self.path} does not end in .safetensors.", "Tools look for that.")
        targets = [self.path, *(sidecar_paths(self.path) if self.sidecars else ())]
        for target in targets:
            if any(target.exists() and target.samefile(s) for s in sources if s.exists()):
                raise UserError(f"{target} is read here: it is never replaced.", "Choose another.")
            if target.exists() and not (self.force and target.is_file()):
                raise UserError(f"{target} exists already.", "--force replaces it.")
        self.path.parent.mkdir(parents=True, exist_ok=True)


def inspect(path: Path, *, as_json: bool) -> int:
    """Print what is in an adapter file.

    Raises:
        UserError: it can't be read.
    """
    found = inspect_file(path)
    _print(found.as_dict() if as_json else found.lines())
    return 0


def verify(path: Path, *, base_name: str | None, as_json: bool) -> int:
    """Print in which tools an adapter file works, and how it lies on a base model.

    Raises:
        UserError: it can't be read, or does not fit the base model.
    """
    proof = verify_file(path, None if base_name is None else load_base(base_name))
    _print(proof.as_dict() if as_json else proof.lines())
    return 0


def convert(path: Path, output: Output, *, layout: WritableLayout) -> int:
    """Write an adapter in another layout or precision."""
    output.check([path])
    adapter = read_adapter(path)
    _write(adapter, adapter, output, [path], layout)
    return 0


def resize(path: Path, output: Output, *, rank: int | None, energy: float | None) -> int:
    """Write an adapter with smaller ranks."""
    output.check([path])
    adapter = read_adapter(path)
    _write(adapter, resize_adapter(adapter, rank=rank, energy=energy), output, [path], "kohya")
    return 0


def merge(texts: Sequence[str], output: Output, *, rank: int | None, base_name: str | None) -> int:
    """Write several adapters as one, or into a base model.

    Raises:
        UserError: a file can't be read, they don't fit together, or the output exists.
    """
    choices = [AdapterChoice.parse(text) for text in texts]
    _one_strength_each(choices)
    chosen = [(choice.file, choice.strength) for choice in choices]
    paths = [path for path, _ in chosen]
    if base_name is not None:
        return _merge_into_base(chosen, output, rank, base_name)
    output.check(paths)
    adapters = [(read_adapter(path), strength) for path, strength in chosen]
    names = [name_of(path) for path in paths]
    whole = merge_adapters(adapters, names)
    result = whole if rank is None else resize_adapter(whole, rank=rank)
    _write(whole, result, output, paths, "kohya")
    return 0


def _one_strength_each(choices: Sequence[AdapterChoice]) -> None:
    two = [choice.label for choice in choices if choice.text_encoder_strength is not None]
    if two:
        raise UserError(f"merge takes one strength for each file, not two: {', '.join(two)}.")


def _merge_into_base(
    chosen: Sequence[tuple[Path, float]], output: Output, rank: int | None, base_name: str
) -> int:
    unfit = {"--rank": rank, "--precision": output.precision, "--sidecars": output.sidecars}
    given = [name for name, value in unfit.items() if value]
    if given:
        raise UserError(f"{', '.join(given)} has no meaning with --base.", "Leave it out.")
    if output.path.exists():
        raise UserError(f"{output.path} exists already.", "Give the name of a new folder.")
    adapters = [(read_adapter(path), strength) for path, strength in chosen]
    base = load_base(base_name)
    count = bake(base, adapters)
    save_base(base, output.path)
    lines = [f"{shown(output.path)}: {base.name} with {count} layers changed"]
    _print({"folder": str(output.path), "layers": count} if output.json else lines)
    return 0


def _write(
    before: AdapterFile,
    after: AdapterFile,
    output: Output,
    sources: Sequence[Path],
    layout: WritableLayout,
) -> None:
    """Write, read back, and say what became of it."""
    precision = output.precision or _finest(sources)
    left_out = write_adapter(after, output.path, layout, precision)
    written = read_adapter(output.path)
    found = difference(before, written)
    where = works_in(verify_file(output.path).verdicts)
    beside = write_sidecars(after, output.path, _picture(sources[0])) if output.sidecars else []
    if output.json:
        _print(_as_dict(output.path, layout, precision, written, found, where, left_out))
        return
    ranks = sorted({layer.rank for layer in written.layers.values()})
    sizes = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    lines = [
        f"{shown(output.path)}: {len(written.layers)} layers, rank {sizes}, {layout} layout, "
        f"{precision}",
        f"Read back, it {found.summary()}.",
        f"It {where}.",
        *(f"Wrote {shown(path)}" for path in beside),
    ]
    if left_out:
        lines.append(f"No room in the metadata for {', '.join(left_out[:5])}.")
    _print(lines)


def _as_dict(
    path: Path,
    layout: WritableLayout,
    precision: Precision,
    written: AdapterFile,
    found: Difference,
    where: str,
    left_out: list[str],
) -> dict[str, object]:
    return {
        "file": str(path),
        "layout": layout,
        "precision": precision,
        "layers": len(written.layers),
        "ranks": sorted({layer.rank for layer in written.layers.values()}),
        "difference": found.overall,
        "worst_difference": found.worst,
        "worst_layer": None if found.worst_layer is None else str(found.worst_layer),
        "works": where,
        "metadata_left_out": left_out,
    }


def _finest(sources: Sequence[Path]) -> Precision:
    """The finest number format of several files."""
    formats: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
    found = {file_precision(path) for path in sources}
    return next(name for name in formats if name in found)


def _picture(source: Path) -> Path | None:
    """The picture beside a file, by the names that tools know."""
    candidates = [source.with_suffix(".png"), source.with_suffix(".preview.png")]
    return next((path for path in candidates if path.is_file()), None)


def _print(content: dict[str, object] | list[str]) -> None:
    print(json.dumps(content, indent=1) if isinstance(content, dict) else "\n".join(content))
