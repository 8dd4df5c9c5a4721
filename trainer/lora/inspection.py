"""``adapter inspect``: what is in an adapter file, and the rank that would have been enough.

What a file says about itself was written by a stranger: it is shown cut, with control and
bidirectional characters made visible, and nothing follows from it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trainer import typed_torch
from trainer.answers import Answer
from trainer.data.names import display_name
from trainer.lora.adapter import Adapter
from trainer.lora.changes import rank_for, singular_values
from trainer.lora.layouts import embeddings_shown, layouts_of
from trainer.lora.metadata import CONFIG_KEY
from trainer.lora.names import ModuleKey, count_parts, shorten
from trainer.lora.reading import json_table, read_adapter
from trainer.models.families import FAMILIES, FamilyName
from trainer.untyped import is_table

ENOUGH = 0.99  # share of the energy (the sum of squared singular values) that counts as all of it
MAX_VALUE = 200
MAX_KEYS = 100
MAX_TAGS = 8


@dataclass(frozen=True)
class LayerFacts:
    """One layer: its energy is the Frobenius norm of alpha / rank · BA, of which `enough_rank`
    keeps 99 %."""

    rank: int
    alpha: float
    energy: float
    enough_rank: int


@dataclass(frozen=True)
class AdapterInspection(Answer):
    """What is in an adapter file."""

    file: str  # its name
    family: FamilyName | None
    layouts: tuple[str, ...]
    layers: dict[ModuleKey, LayerFacts]
    energy_by_block: dict[str, float]  # of each block, and of each text encoder, greatest first
    # For ranks 1, 2, 4, … the share that the strongest directions of each layer have.
    energy_kept_by_rank: dict[int, float]
    enough_rank: int  # that keeps 99 % of the energy of all layers together
    trigger_words: tuple[str, ...]  # as the file says; may be empty
    tags: tuple[str, ...]  # the commonest in the captions that it was trained on
    metadata: dict[str, str]  # cut and escaped
    dora: bool  # whether it has magnitudes, which all numbers here leave out
    kinds: tuple[str, ...] = ("LoRA",)  # the kinds of its layers
    # Those of them whose strength depends on the base model, counted here as 0.
    unmeasured: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()  # names of the embeddings that are bundled with it
    left_out: tuple[str, ...] = ()  # names of tensors that were not read

    def lines(self) -> list[str]:
        title = FAMILIES[self.family].title if self.family else "an unknown base"
        counts = ", ".join(f"{n} in {part}" for part, n in count_parts(self.layers).items())
        total = math.hypot(*self.energy_by_block.values())
        lines = [
            f"{display_name(self.file)}: for {title}, {' and '.join(self.layouts)} layout",
            f"Layers: {counts}",
            f"Rank / alpha: {_scales(self.layers.values())}",
            f"Trigger words: {', '.join(self.trigger_words) or 'none in the file'}",
        ]
        if self.dora:
            lines.append("DoRA: the strengths are those of its matrices, without its magnitudes.")
        if self.kinds != ("LoRA",) and not self.dora:
            lines.append(f"Kind: {' and '.join(self.kinds)}")
        if self.unmeasured:
            kinds = " and ".join(self.unmeasured)
            lines.append(f"{kinds}: the strength depends on the base model, and counts as 0 here.")
        if self.embeddings:
            lines.append(f"Bundled embeddings: {shorten(self.embeddings)}")
        if self.left_out:
            lines.append(f"Left out: {shorten(map(display_name, self.left_out))}")
        if self.tags:
            lines.append(f"Commonest tags: {', '.join(self.tags)}")
        lines.append(f"Strength by block (Frobenius norm of the change, {total:.3g} in all):")
        lines += [f"  {block:<28} {energy:.3g}" for block, energy in self.energy_by_block.items()]
        kept = self.energy_kept_by_rank.items()
        falls = ", ".join(f"rank {rank}: {100 * share:.1f} %" for rank, share in kept)
        lines.append(f"Energy that smaller ranks keep: {falls}")
        lines.append(f"Rank {self.enough_rank} would have kept {100 * ENOUGH:.0f} % of it.")
        lines += [f"  {key} = {value}" for key, value in self.metadata.items()]
        return lines


def inspect_file(path: Path, *, leave_out_unknown: bool = False) -> AdapterInspection:
    """Reads an adapter file and measures it.

    Args:
        leave_out_unknown: as of `read_adapter`.

    Raises:
        UserError: the file can't be read, or has numbers that are not finite.
    """
    adapter = read_adapter(path, leave_out_unknown=leave_out_unknown)
    layers: dict[ModuleKey, LayerFacts] = {}
    squares: list[Tensor] = []
    energies: dict[str, float] = defaultdict(float)
    for key, layer in adapter.layers.items():
        # What DoRA changes in all depends on the base model; its low-rank half does not.
        half = replace(layer, magnitude=None)
        values = torch.zeros(1, dtype=torch.float64) if half.needs_base else singular_values(half)
        energy, enough = float(typed_torch.norm(values)), rank_for(values, None, ENOUGH)
        layers[key] = LayerFacts(layer.rank, layer.alpha, energy, enough)
        squares.append(values.square())
        energies[block_of(key)] = math.hypot(energies[block_of(key)], energy)
    shares = _shares_by_rank(squares)
    ranks = sorted({2**n for n in range(len(shares).bit_length())} | {len(shares)})
    return AdapterInspection(
        file=path.name,
        family=adapter.family,
        layouts=tuple(layouts_of(adapter.names)),
        layers=layers,
        energy_by_block=dict(sorted(energies.items(), key=lambda item: -item[1])),
        energy_kept_by_rank={rank: shares[rank - 1] for rank in ranks},
        enough_rank=next(rank for rank, share in enumerate(shares, 1) if share >= ENOUGH),
        trigger_words=trigger_words(adapter),
        tags=_tags(adapter.metadata),
        metadata={
            shown(key, 80): shown(adapter.metadata[key])
            for key in sorted(adapter.metadata)[:MAX_KEYS]
        },
        dora=any(layer.magnitude is not None for layer in adapter.layers.values()),
        kinds=tuple(adapter.kinds),
        unmeasured=tuple(kind for kind in adapter.kinds if kind in ("OFT", "GLoRA")),
        embeddings=tuple(embeddings_shown(adapter.embeddings)),
        left_out=adapter.left_out,
    )


def block_of(key: ModuleKey) -> str:
    """The block that a layer lies in: such as ``unet.down_blocks.1``; a text encoder is one."""
    if key.part != "unet":
        return key.part
    depth = 2 if key.path.startswith(("down_blocks.", "up_blocks.")) else 1
    return display_name(".".join(["unet", *key.path.split(".")[:depth]]))


def trigger_words(adapter: Adapter) -> tuple[str, ...]:
    """What the file says to write into the prompt, cut and escaped."""
    words = [adapter.metadata.get("modelspec.trigger_phrase", "")]
    captions = (json_table(adapter.metadata.get(CONFIG_KEY, "")) or {}).get("captions")
    if is_table(captions) and isinstance(captions.get("trigger"), str):
        words.append(captions["trigger"])
    return tuple(dict.fromkeys(shown(word.strip()) for word in words if word.strip()))


def shown(text: str, limit: int = MAX_VALUE) -> str:
    """A stranger's text for showing: cut, on one line, everything invisible made visible."""
    return display_name(text[:limit]) + ("…" if len(text) > limit else "")


def _shares_by_rank(squares: list[Tensor]) -> list[float]:
    """For each rank from 1 the share of all layers' energy that it has in every layer.

    Args:
        squares: of each layer's singular values, greatest first.
    """
    by_rank = torch.zeros(max(map(len, squares)), dtype=torch.float64)
    for some in squares:
        by_rank[: len(some)] += some
    total = float(by_rank.sum())
    shares = by_rank.cumsum(0) / total if total else torch.ones_like(by_rank)
    return [*shares[:-1].tolist(), 1.0]


def _scales(layers: Iterable[LayerFacts]) -> str:
    counted = Counter((layer.rank, layer.alpha) for layer in layers)
    named = [
        f"{rank} / {alpha:g} ({count} layers)" for (rank, alpha), count in counted.most_common(5)
    ]
    more = f" and {len(counted) - 5} more" if len(counted) > 5 else ""
    return ", ".join(named) + more


def _tags(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The commonest of ``ss_tag_frequency``, {folder: {tag: count}}."""
    counted: Counter[str] = Counter()
    for tags in (json_table(metadata.get("ss_tag_frequency", "")) or {}).values():
        for tag, count in tags.items() if is_table(tags) else ():
            if isinstance(count, int):
                counted[tag] += count
    return tuple(shown(tag, 60) for tag, _ in counted.most_common(MAX_TAGS))
