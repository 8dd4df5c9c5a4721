"""``adapter``: inspect, verify, convert, resize and merge adapter files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.commands.adapter_output import Output, print_result
from trainer.config.file import write_config
from trainer.errors import UserError
from trainer.evaluation.drift import prediction_difference
from trainer.generation.stack import AdapterChoice
from trainer.lora.adapter import Adapter
from trainer.lora.baking import BaseLayout
from trainer.lora.changes import Comparison, compare
from trainer.lora.editing import approximate
from trainer.lora.editing import merge as merge_adapters
from trainer.lora.editing import resize as resize_adapter
from trainer.lora.inspection import inspect_file, trigger_words
from trainer.lora.loading import check_fit, plain_on
from trainer.lora.metadata import recipe_of, recorded_base, recorded_fingerprint
from trainer.lora.reading import read_adapter
from trainer.lora.sharing import picture_of, share, write_sidecars
from trainer.lora.tools import judge, works_in
from trainer.lora.verify import verify_file
from trainer.lora.writing import WritableLayout, best_layout, write_adapter
from trainer.memory.devices import Device, Precision, choose_device
from trainer.models.base import BaseModel
from trainer.models.load import load_base
from trainer.places import shown


def inspect(path: Path, *, as_json: bool) -> int:
    """Print what is in an adapter file.

    Raises:
        UserError: it can't be read.
    """
    found = inspect_file(path)
    print_result(found.as_dict() if as_json else found.lines())
    return 0


def verify(path: Path, *, base_name: str | None, as_json: bool) -> int:
    """Print in which tools an adapter file works, and how it lies on a base model.

    Raises:
        UserError: it can't be read, or does not fit the base model.
    """
    proof = verify_file(path, None if base_name is None else load_base(base_name))
    print_result(proof.as_dict() if as_json else proof.lines())
    return 0


def convert(path: Path, output: Output, *, layout: WritableLayout, base_name: str | None) -> int:
    """Write an adapter in another layout or precision."""
    output.check([path])
    adapter = read_adapter(path)
    ground = None if base_name is None else Ground.load(base_name)
    _write(adapter, adapter, output, [path], layout, ground)
    return 0


def resize(
    path: Path, output: Output, *, rank: int | None, energy: float | None, base_name: str | None
) -> int:
    """Write an adapter with smaller ranks; of DoRA a plain one."""
    output.check([path])
    adapter = read_adapter(path)
    ground = Ground.of([adapter], base_name)
    if adapter.is_dora:
        if ground is None:
            raise UserError(
                f"{path} is DoRA: what it changes depends on the base model.",
                "Name the base model with --base, and it is computed there.",
            )
        check_fit(ground.base, adapter)
        result = approximate(ground.base, adapter, rank=rank, energy=energy).adapter
        adapter = plain_on(ground.base, adapter)
    else:
        result = resize_adapter(adapter, rank=rank, energy=energy)
    _write(adapter, result, output, [path], best_layout(result), ground)
    return 0


def merge(
    texts: Sequence[str],
    output: Output,
    *,
    rank: int | None,
    base_name: str | None,
    layout: BaseLayout | None,
) -> int:
    """Write several adapters as one, or into a base model.

    Raises:
        UserError: a file can't be read, they don't fit together, or the output exists.
    """
    choices = [AdapterChoice.parse(text) for text in texts]
    _one_strength_each(choices)
    chosen = [(choice.file, choice.strength) for choice in choices]
    paths = [path for path, _ in chosen]
    if base_name is not None:
        from trainer.commands.adapter_models import merge_into_base

        return merge_into_base(chosen, output, rank, base_name, layout)
    if layout is not None:
        raise UserError("--layout has no meaning without --base.", "Leave it out.")
    output.check(paths)
    adapters = [(read_adapter(path), strength) for path, strength in chosen]
    names = [path.stem for path in paths]
    whole = merge_adapters(adapters, names)
    result = whole if rank is None else resize_adapter(whole, rank=rank)
    ground = None if rank is None else Ground.of([adapter for adapter, _ in adapters], None)
    _write(whole, result, output, paths, best_layout(result), ground)
    return 0


def recipe(path: Path, out: Path, *, force: bool, as_json: bool) -> int:
    """Write the configuration that an adapter was trained with.

    Raises:
        UserError: the file records none, or the output exists.
    """
    config = recipe_of(read_adapter(path))
    if out.exists() and not (force and out.is_file()):
        raise UserError(f"{out} exists already.", "--force replaces it.")
    write_config(out, config)
    lines = [
        f"{shown(out)}: train it again with",
        f"  python launch.py train --config {shown(out)} --images DIR",
    ]
    print_result({"file": str(out), "base": config.base.name} if as_json else lines)
    return 0


def download(
    path: Path, out: Path, *, name: str, picture: Path | None, force: bool, as_json: bool
) -> int:
    """Write a zip file with an adapter and the sidecars that tools read.

    Raises:
        UserError: the adapter can't be read, or the output exists.
    """
    if out.suffix != ".zip":
        raise UserError(f"{out} does not end in .zip.")
    if out.exists() and not (force and out.is_file() and not out.samefile(path)):
        raise UserError(f"{out} exists already.", "--force replaces it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    files = share(path, out, name, picture)
    print_result({"file": str(out), "files": files} if as_json else [shown(out), *files])
    return 0


@dataclass(frozen=True)
class Ground:
    """A base model on its device, for measuring predictions."""

    base: BaseModel
    device: Device

    @classmethod
    def load(cls, name: str) -> Ground:
        """By name, whatever it is."""
        device = choose_device("auto")
        base = load_base(name, dtype=device.dtype)
        device.put(base.unet, *base.text_encoders)
        return cls(base, device)

    @classmethod
    def of(cls, adapters: Sequence[Adapter], name: str | None) -> Ground | None:
        """The named one, or that on which all adapters were trained, if it is here."""
        if name is not None:
            return cls.load(name)
        prints = {recorded_fingerprint(adapter) for adapter in adapters}
        recorded = recorded_base(adapters[0])
        if recorded is None or len(prints) != 1:
            return None
        ground = cls.load(recorded)
        return ground if {ground.base.fingerprint} == prints else None


def _one_strength_each(choices: Sequence[AdapterChoice]) -> None:
    two = [choice.label for choice in choices if choice.text_encoder_strength is not None]
    if two:
        raise UserError(f"merge takes one strength for each file, not two: {', '.join(two)}.")


def _write(
    before: Adapter,
    after: Adapter,
    output: Output,
    sources: Sequence[Path],
    layout: WritableLayout,
    ground: Ground | None,
) -> None:
    """Write, read back, and say what became of it."""
    precision = output.precision or before.precision
    left_out = write_adapter(after, output.path, layout, precision)
    written = read_adapter(output.path)
    found = compare(before, written)
    where = works_in(judge(written))
    beside = write_sidecars(after, output.path, picture_of(sources[0])) if output.sidecars else []
    predicted = None
    if ground is not None:
        words = [word for word in trigger_words(before) if word]
        predicted = prediction_difference(ground.base, before, written, words, ground.device)
    if output.json:
        facts = _as_dict(output.path, layout, precision, written, found, where, left_out)
        print_result(facts | {"prediction_difference": predicted})
        return
    lines = [
        f"{shown(output.path)}: {written.size_in_words}, {layout} layout, {precision}",
        f"Read back, it {found.in_words()}.",
        *(_predicted(predicted, ground) if predicted is not None and ground else ()),
        f"It {where}.",
        *(f"Wrote {shown(path)}" for path in beside),
    ]
    if left_out:
        lines.append(f"No room in the metadata for {', '.join(left_out[:5])}.")
    print_result(lines)


def _as_dict(
    path: Path,
    layout: WritableLayout,
    precision: Precision,
    written: Adapter,
    found: Comparison,
    where: str,
    left_out: list[str],
) -> dict[str, object]:
    return {
        "file": str(path),
        "layout": layout,
        "precision": precision,
        "layers": len(written.layers),
        "ranks": written.ranks,
        "difference": found.overall,
        "worst_difference": found.worst,
        "worst_layer": None if found.worst_layer is None else str(found.worst_layer),
        "works": where,
        "metadata_left_out": left_out,
    }


def _predicted(share: float, ground: Ground) -> list[str]:
    return [
        f"Its predictions on {ground.base.name} differ by {100 * share:.2g} % of what the adapter "
        "changes in them."
    ]
