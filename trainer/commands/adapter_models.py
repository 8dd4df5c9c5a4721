"""``adapter`` where whole base models are read or written: extract, and merge into a base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.commands.adapter_output import Output, print_result
from trainer.errors import UserError
from trainer.lora.adapter import Adapter
from trainer.lora.baking import (
    BaseLayout,
    bake,
    check_new,
    digests,
    precision_of,
    rounding,
    save_base,
)
from trainer.lora.changes import compare
from trainer.lora.editing import extract as extract_adapter
from trainer.lora.names import shorten
from trainer.lora.reading import read_adapter
from trainer.lora.tools import judge, works_in
from trainer.lora.writing import best_layout, write_adapter
from trainer.models.identify import identify
from trainer.models.load import load_base
from trainer.places import shown


def extract(
    base_name: str, tuned_name: str, output: Output, *, rank: int | None, energy: float | None
) -> int:
    """Write the adapter that makes a tuned model of its base.

    Raises:
        UserError: a model can't be loaded, they don't go together, or the output exists.
    """
    output.check([Path(base_name), Path(tuned_name)])
    title = output.path.stem
    base, tuned = load_base(base_name), load_base(tuned_name)
    found = extract_adapter(base, tuned, title, rank=rank, energy=energy)
    del base, tuned
    precision, layout = output.precision or "fp16", best_layout(found.adapter)
    write_adapter(found.adapter, output.path, layout, precision)
    written = read_adapter(output.path)
    saved = compare(found.adapter, written)
    works = works_in(judge(written))
    lines = [
        f"{shown(output.path)}: {found.adapter.size_in_words}, {layout} layout, {precision}",
        f"Against the tuned model's layers, it {found.difference.in_words()}.",
        f"Read back, the file {saved.in_words()}.",
    ]
    if found.left_out:
        lines.append(
            f"No adapter holds {100 * found.left_out_share:.2g} % of the whole change: "
            f"{shorten(found.left_out)}."
        )
    facts = {
        "file": str(output.path),
        "layout": layout,
        "precision": precision,
        "layers": len(found.adapter.layers),
        "ranks": found.adapter.ranks,
        "difference": found.difference.overall,
        "worst_difference": found.difference.worst,
        "rounding": saved.overall,
        "left_out": list(found.left_out),
        "left_out_share": found.left_out_share,
        "works": works,
    }
    print_result(facts if output.json else [*lines, f"It {works}."])
    return 0


def merge_into_base(
    chosen: Sequence[tuple[Path, float]],
    output: Output,
    rank: int | None,
    base_name: str,
    layout: BaseLayout | None,
) -> int:
    """Write a base model with adapters in its weights, load it again and compare.

    Args:
        layout: None for that of the base model.

    Raises:
        UserError: a file can't be read or does not fit, or the output exists.
    """
    unfit = {"--rank": rank, "--sidecars": output.sidecars, "--force": output.force}
    given = [name for name, value in unfit.items() if value]
    if given:
        raise UserError(f"{', '.join(given)} has no meaning with --base.", "Leave it out.")
    source = identify(base_name)
    layout = layout or ("single-file" if source.is_single_file else "folder")
    check_new(output.path, layout)
    adapters: list[tuple[Adapter, float]] = [
        (read_adapter(path), strength) for path, strength in chosen
    ]
    precision = output.precision or precision_of(source)
    base = load_base(base_name)
    changes = bake(base, adapters)
    worst, where = rounding(base, changes, precision)
    expected = digests(base, precision)
    save_base(base, output.path, layout, precision, source)
    prediction = base.prediction_type
    del base  # two whole models need not fit into memory
    again = load_base(str(output.path), prediction=prediction)
    found = digests(again, precision)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong or again.prediction_type != prediction:
        raise UserError(
            f"{output.path} is not what was to be written: {shorten(wrong or ['prediction type'])}."
        )
    lines = [
        f"{shown(output.path)}: {base_name} with {len(changes)} layers changed, {layout}, "
        f"{precision}",
        f"Loaded again, every weight is as written; {precision} rounds off at most "
        f"{100 * worst:.2g} % of a layer's change ({where}).",
    ]
    facts = {
        "folder" if layout == "folder" else "file": str(output.path),
        "layout": layout,
        "precision": precision,
        "layers": len(changes),
        "rounding": worst,
        "verified": True,
    }
    print_result(facts if output.json else lines)
    return 0
