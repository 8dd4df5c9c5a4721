"""What ``adapter`` does with files: written, read back, and compared with what was meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.answers import Answer, plain
from trainer.commands.adapter import Saving
from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.evaluation.drift import prediction_difference
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
from trainer.lora.changes import Comparison, compare
from trainer.lora.editing import Extraction
from trainer.lora.inspection import trigger_words
from trainer.lora.layouts import embeddings_shown
from trainer.lora.metadata import CHANGED_KEY, completed, recorded_base, recorded_fingerprint
from trainer.lora.names import shorten
from trainer.lora.reading import read_adapter
from trainer.lora.sharing import picture_of, sidecar_paths, write_sidecars
from trainer.lora.tools import judge, works_in
from trainer.lora.writing import WritableLayout, best_layout, write_adapter
from trainer.memory.devices import Device, Precision, choose_device
from trainer.models.base import BaseModel
from trainer.models.identify import identify
from trainer.models.load import load_base
from trainer.places import shown


def check_output(out: Path, how: Saving, sources: Sequence[Path]) -> None:
    """Refuses to lose a file: one that is read, or that exists and may not be replaced.

    Raises:
        UserError: as it says, or the new file has a name that tools would not list.
    """
    if out.suffix != ".safetensors":
        raise UserError(
            f"{out} does not end in .safetensors.", "Tools look for that: give such a name."
        )
    for target in [out, *(sidecar_paths(out) if how.sidecars else ())]:
        if any(target.exists() and target.samefile(s) for s in sources if s.exists()):
            raise UserError(
                f"{target} is one of the files that are read, which are never replaced.",
                "Give --out another name.",
            )
        check_free(target, how.force)
    out.parent.mkdir(parents=True, exist_ok=True)


def check_free(out: Path, force: bool) -> None:
    """Refuses a name that is taken, unless it is a file's that may be replaced.

    Raises:
        UserError: naming it.
    """
    if out.exists() and not (force and out.is_file()):
        raise UserError(f"{out} exists already.", "--force replaces it.")


@dataclass(frozen=True)
class BaseOnDevice:
    """A base model on its device, for measuring predictions."""

    base: BaseModel
    device: Device

    @classmethod
    def load(cls, name: str) -> BaseOnDevice:
        """By name, whatever it is."""
        device = choose_device("auto")
        base = load_base(name, dtype=device.dtype)
        device.put(base.unet, *base.text_encoders)
        return cls(base, device)

    @classmethod
    def of(cls, adapters: Sequence[Adapter], name: str | None) -> BaseOnDevice | None:
        """The named one, or that on which all adapters were trained, if it is here."""
        if name is not None:
            return cls.load(name)
        prints = {recorded_fingerprint(adapter) for adapter in adapters}
        recorded = recorded_base(adapters[0])
        if recorded is None or len(prints) != 1:
            return None
        found = cls.load(recorded)
        return found if {found.base.fingerprint} == prints else None


@dataclass(frozen=True)
class Written(Answer):
    """An adapter file that was written, and what it is."""

    unsaid = ("path", "adapter", "difference", "sidecars", "base")

    path: Path
    layout: WritableLayout
    precision: Precision
    adapter: Adapter
    difference: Comparison  # of what was read back from what was meant
    works: str  # in which tools
    metadata_left_out: list[str]  # keys of the metadata that found no room
    sidecars: list[Path]
    base: str = ""  # name of the base model that predictions were compared on; empty where on none
    # Of its predictions, as a share of what the adapter changes in them.
    prediction_difference: float | None = None
    # Names of the tensors of the sources that were not understood, and are not in it.
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what else there is to say

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {
            "file": str(self.path),
            "layers": len(self.adapter.layers),
            "ranks": self.adapter.ranks,
            "difference": self.difference.overall,
            "worst_difference": self.difference.worst,
            "worst_layer": plain(self.difference.worst_layer),
            "embeddings": [display_name(name[:80]) for name in self.adapter.embeddings],
        }

    def lines(self) -> list[str]:
        lines = [
            f"{shown(self.path)}: {self.adapter.size_in_words}, {self.layout} layout, "
            f"{self.precision}",
            f"Read back, it {self.difference.in_words()}.",
        ]
        if self.prediction_difference is not None:
            lines.append(
                f"Its predictions on {self.base} differ by {100 * self.prediction_difference:.2g} "
                "% of what the adapter changes in them."
            )
        lines += self.notes
        idle = len(self.adapter.dead_layers()) == len(self.adapter.layers)
        if idle and not self.adapter.embeddings:
            lines.append("It changes nothing at all.")
        if self.adapter.embeddings:
            names = shorten(display_name(name[:80]) for name in self.adapter.embeddings)
            lines.append(f"Its bundled embeddings go with it: {names}.")
        if self.lost:
            lines.append(f"Lost, since not understood: {shorten(map(display_name, self.lost))}.")
        lines += [f"It {self.works}.", *(f"Wrote {shown(path)}" for path in self.sidecars)]
        if self.metadata_left_out:
            lines.append(f"The metadata had no room for {', '.join(self.metadata_left_out[:5])}.")
        return lines


def write(
    before: Adapter,
    after: Adapter,
    out: Path,
    how: Saving,
    source: Path | None = None,
    layout: WritableLayout | None = None,
    on: BaseOnDevice | None = None,
    notes: Sequence[str] = (),
) -> Written:
    """Write an adapter, read it back, and compare it.

    Args:
        before: what it is compared with; its `left_out` are named.
        source: the file whose picture it has in its sidecar.
        layout: unless given, the best for it.
        on: where predictions are compared.
    """
    precision, layout = how.precision or before.precision, layout or best_layout(after)
    metadata = completed(after, out.stem)
    if source and not is_as_trained(read_adapter(source, leave_out_unknown=True), after):
        metadata[CHANGED_KEY] = "true"
    after = replace(after, metadata=metadata)
    left_out = write_adapter(after, out, layout, precision)
    written = read_adapter(out)
    picture = picture_of(source) if source else None
    predicted = None
    if on is not None:
        words = [word for word in trigger_words(before) if word]
        predicted = prediction_difference(on.base, before, written, words, on.device)
    return Written(
        path=out,
        layout=layout,
        precision=precision,
        adapter=written,
        difference=compare(before, written),
        works=works_in(judge(written)),
        metadata_left_out=left_out,
        sidecars=write_sidecars(after, out, picture) if how.sidecars else [],
        base=on.base.name if on else "",
        prediction_difference=predicted,
        lost=before.left_out,
        notes=tuple(notes),
    )


def is_as_trained(origin: Adapter, after: Adapter) -> bool:
    """Whether an adapter is still what another one was, but for rounding and layout."""
    if origin.needs_base or after.needs_base:  # which no command changes without another kind
        return origin.needs_base and after.needs_base
    return compare(origin, replace(after, precision="fp16")).exact


@dataclass(frozen=True)
class Extracted(Answer):
    """An adapter that was found between two base models, and its file."""

    found: Extraction
    file: Written

    def as_dict(self) -> dict[str, Any]:
        facts = self.file.as_dict()
        same = ("file", "layout", "precision", "layers", "ranks", "works")
        return {name: facts[name] for name in same} | {
            "difference": self.found.difference.overall,
            "worst_difference": self.found.difference.worst,
            "rounding": self.file.difference.overall,
            "left_out": list(self.found.left_out),
            "left_out_share": self.found.left_out_share,
        }

    def lines(self) -> list[str]:
        found, (first, *rest) = self.found, self.file.lines()
        lines = [first, f"Against the tuned model's layers, it {found.difference.in_words()}."]
        if found.left_out:
            lines.append(
                f"{100 * found.left_out_share:.2g} % of the whole change is in layers that no "
                f"adapter can hold: {shorten(found.left_out)}."
            )
        return [*lines, *rest]


@dataclass(frozen=True)
class Merged(Answer):
    """A base model with adapters in its weights."""

    unsaid = ("path", "source", "worst_layer")

    path: Path
    layout: BaseLayout
    precision: Precision
    source: str  # name of the base model that it was made from
    layers: int  # how many were changed
    # The most of a layer's change that the number format rounds off; `worst_layer`'s.
    rounding: float
    worst_layer: str
    left_out: tuple[str, ...]  # embeddings that were bundled with the adapters

    def as_dict(self) -> dict[str, object]:
        place = "folder" if self.layout == "folder" else "file"
        return {place: str(self.path), **super().as_dict(), "verified": True}

    def lines(self) -> list[str]:
        rounded = f"{self.precision} rounds nothing off"
        if self.rounding:
            share = f"{100 * self.rounding:.2g} % of a layer's change ({self.worst_layer})"
            rounded = f"{self.precision} rounds off at most {share}"
        lines = [
            f"{shown(self.path)}: {self.source} with {self.layers} layers changed, {self.layout}, "
            f"{self.precision}",
            f"Loaded again, every weight is as written; {rounded}.",
        ]
        if self.left_out:
            words = shorten(self.left_out)
            lines.append(f"Embeddings can't be part of a base model and are not in it: {words}.")
        return lines


def merge_into_base(
    chosen: Sequence[tuple[Path, float]],
    out: Path,
    how: Saving,
    rank: int | None,
    base_name: str,
    layout: BaseLayout | None,
) -> Merged:
    """Write a base model with adapters in its weights, load it again and compare.

    Args:
        layout: None for that of the base model.

    Raises:
        UserError: a file can't be read or does not fit, or the output exists.
    """
    unfit = {"--rank": rank, "--sidecars": how.sidecars, "--force": how.force}
    given = [name for name, value in unfit.items() if value]
    if given:
        raise UserError(f"{', '.join(given)} has no meaning with --base.", "Leave it out.")
    source = identify(base_name)
    named = out.suffix == ".safetensors"
    layout = layout or ("single-file" if source.is_single_file or named else "folder")
    check_new(out, layout)
    adapters = [(read_adapter(path), strength) for path, strength in chosen]
    precision = how.precision or precision_of(source)
    base = load_base(base_name)
    changes = bake(base, adapters)
    worst, where = rounding(base, changes, precision)
    expected = digests(base, precision)
    save_base(base, out, layout, precision, source)
    prediction = base.prediction_type
    del base  # two whole models need not fit into memory
    try:
        again = load_base(str(out), prediction=prediction)
    except UserError as error:
        if layout == "folder" or source.is_single_file:
            raise
        out.unlink()
        hint = "Write it as a folder: leave out --layout single-file, and the ending of --out."
        raise UserError(f"{base_name} can't be one file. {error.message}", hint) from None
    found = digests(again, precision)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong or again.prediction_type != prediction:
        names = shorten(wrong or ["prediction type"])
        raise UserError(
            f"{out} is not what was to be written: {names}.",
            "Write it again, to another disk if you can: this one may be faulty.",
        )
    words = (word for adapter, _ in adapters for word in embeddings_shown(adapter.embeddings))
    return Merged(out, layout, precision, base_name, len(changes), worst, str(where), tuple(words))
