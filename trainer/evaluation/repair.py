"""Adapters mended by measurement: strengths of blocks, several together, and a rank for each layer.

Forward passes only; what is proposed by `trainer.evaluation.surface` counts once it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.evaluation.board import BoardCell
from trainer.evaluation.drift import on_model
from trainer.evaluation.likeness import likeness, measure_losses
from trainer.evaluation.meters import MeterBench, mean_meters
from trainer.evaluation.pictorial import DrawnLikeness, Scores, share_kept
from trainer.evaluation.surface import Knob, Surface, descend, knobs_of, turn
from trainer.events import Meters
from trainer.lora.adapter import Adapter
from trainer.lora.changes import singular_values
from trainer.lora.editing import merge, resize, scaled, without_shared
from trainer.lora.names import ModuleKey
from trainer.models.base import BaseModel
from trainer.typed_torch import floats

Half = Literal["subject", "style"]
PLAIN = "addition"
# B-LoRA (arXiv 2403.14572, section 4): of SDXL's blocks the first one behind the middle draws what
# is shown, the second one how.
B_LORA: dict[Half, str] = {
    "subject": "unet.up_blocks.0.attentions.0",
    "style": "unet.up_blocks.0.attentions.1",
}
CONFIRMED = 0.5
"""B-LoRA's block has to keep as much of the likeness that the whole adapter has."""
TRAIN_ON = (
    "What strengths can't mend, training on does: train --start-from FILE, with its pictures and "
    "words, for 300 steps. The rest is held meanwhile."
)
ROUNDS = 2
_COLLATERAL = 0.25
"""How much drift of unrelated prompts counts beside a leak."""
_BELOW = 100.0
"""How much likeness below the goal counts."""
_NAME = "repaired"
_ALL_BLOCKS = "Without --only all blocks' strengths are chosen by measurement."


@dataclass(frozen=True)
class Tuned:
    """An adapter with strengths chosen for its blocks."""

    adapter: Adapter  # with the strengths in its weights
    strengths: dict[str, float]  # by block
    before: Meters
    after: Meters
    # The share that it keeps of what drawings with the trigger word gained in likeness.
    drawn: float | None = None


@dataclass(frozen=True)
class Together:
    """What adapters do to each other."""

    alone: list[float]  # each concept's likeness with its own adapter alone
    cross: list[list[float]]  # likeness of the row's pictures with the column's adapter alone
    both: list[float]  # of each concept with all adapters on at strength 1: plain addition
    strengths: list[float]  # of each adapter, where the worst off keeps most
    merges: dict[str, list[float]]  # the ways of merging, with the likeness of each concept
    # The least share that drawings of a concept keep of their likeness, by the same ways.
    drawn: dict[str, float]
    best: str  # the way that keeps most
    merged: Adapter  # what it makes

    def share(self, likenesses: Sequence[float]) -> float:
        """The least share of its likeness that a concept keeps."""
        return least_share(likenesses, self.alone)


def least_share(likenesses: Sequence[float], alone: Sequence[float]) -> float:
    """The least share of its likeness alone that a concept keeps."""
    return min(one / max(own, 1e-6) for one, own in zip(likenesses, alone, strict=True))


def likenesses(bench: MeterBench) -> list[float]:
    """Of each concept, with the adapters as they are on the model now."""
    return [
        likeness(measure_losses(bench.base, checked.examples, bench.device), checked.base)
        for checked, *_ in bench.references
        if checked
    ]


def spill(meters: Meters) -> float:
    """How far prompts without the trigger word move: the class word's or those of things like it,
    whichever move more, and a share of unrelated ones. To be small."""
    near = max(meters.class_drift or 0.0, meters.neighbour_drift or 0.0)
    return near + _COLLATERAL * (meters.unrelated_drift or 0.0)


def tune(bench: MeterBench, adapter: Adapter, keep: float) -> Tuned:
    """Chooses the strength of each block: the least leak where the likeness is kept.

    Predictions of an adapter that knows its pictures by heart get better where it draws worse. So
    what is drawn has to be kept too.

    Args:
        bench: of the adapter's concepts, on a base model without it.
        adapter: of pairs of matrices.
        keep: share of the likeness, of predictions and of drawings.

    Raises:
        UserError: no strengths do better.
    """
    knobs = knobs_of(adapter.layers, _NAME)
    best = torch.ones(len(knobs), dtype=torch.float64)
    drawings, kept = DrawnLikeness(bench), 1.0
    with on_model(bench.base, {_NAME: adapter}):
        before = after = mean_meters(bench.measure())
        _check_likeness("The adapter", before.likeness or 0.0)
        gained = drawings.gains()
        goal = keep * (before.likeness or 0.0)
        for _ in range(ROUNDS):
            surface = Surface(bench, knobs, best)
            proposed = descend(_leaking(bench, surface, goal, spill(before)), best)
            # The predictions are not quite linear, and drawings less: a part of the way may do.
            for share in (1.0, 0.5, 0.25, 0.1):
                tried = best + share * (proposed - best)
                turn(bench.base, knobs, tried)
                found = mean_meters(bench.measure())
                if (found.likeness or 0.0) < goal or spill(found) >= spill(after):
                    continue
                if (drawn := share_kept(gained, drawings.gains())) >= keep:
                    best, after, kept = tried, found, drawn
                    break
            else:
                break
    if after is before:
        raise UserError(
            "No strengths of its blocks leak less and keep the likeness of what it draws.",
            f"Nothing is written. {TRAIN_ON}",
        )
    return replace(_tuned(adapter, knobs, best, before, after), drawn=kept)


def only(bench: MeterBench, adapter: Adapter, part: Half) -> Tuned:
    """The adapter's subject or style alone, on SDXL, by B-LoRA's blocks.

    Raises:
        UserError: the base model is another one, or the block does not bring the likeness.
    """
    base, block = bench.base, B_LORA[part]
    if base.family.name != "sdxl":
        raise UserError(
            f"Which block holds the {part} is known of Stable Diffusion XL, and {base.name} is "
            f"for {base.family.title}.",
            _ALL_BLOCKS,
        )
    knobs = knobs_of(adapter.layers, _NAME)
    inside = torch.tensor([float(knob.name.startswith(block)) for knob in knobs])
    if not inside.any():
        raise UserError(
            f"The adapter has no layers in {block}, which holds the {part}.", _ALL_BLOCKS
        )
    with on_model(base, {_NAME: adapter}):
        before = mean_meters(bench.measure())
        turn(base, knobs, inside)
        after = mean_meters(bench.measure())
    kept = (after.likeness or 0.0) / max(before.likeness or 0.0, 1e-6)
    if kept < CONFIRMED:
        raise UserError(
            f"By itself {block} keeps only {max(kept, 0):.0%} of the likeness.",
            f"This adapter has its {part} elsewhere too; nothing is written.",
        )
    return _tuned(adapter, knobs, inside, before, after)


def put_together(bench: MeterBench, adapters: Sequence[Adapter], names: Sequence[str]) -> Together:
    """Measures adapters beside each other, and merges them in the way that keeps most of each.

    Args:
        bench: with one concept for each adapter, on a base model without them.
    """
    base, count = bench.base, len(adapters)
    placed = {f"{_NAME}{number}": one for number, one in enumerate(adapters)}
    whole = [Knob(name, name, tuple(one.layers)) for name, one in placed.items()]
    blocks = [knob for name, one in placed.items() for knob in knobs_of(one.layers, name)]
    ones = torch.ones(count, dtype=torch.float64)
    drawings, gained = DrawnLikeness(bench), list[Scores]()
    with on_model(base, placed):
        columns: list[list[float]] = []
        for number in range(count):
            turn(base, whole, [float(number == other) for other in range(count)])
            columns.append(likenesses(bench))
            gained.append(drawings.gains()[number])
        alone = [columns[number][number] for number in range(count)]
        for name, own in zip(names, alone, strict=True):
            _check_likeness(name, own)
        turn(base, whole, ones)
        both = likenesses(bench)
        strengths = _most_kept(bench, whole, ones, alone)
        start = {knob.name: float(s) for knob, s in zip(whole, strengths, strict=True)}
        at_start = torch.tensor([start[knob.adapter] for knob in blocks], dtype=torch.float64)
        by_block = _most_kept(bench, blocks, at_start, alone)

    ways = {PLAIN: list(adapters)}
    for way, knobs, chosen in (
        ("best strengths", whole, strengths),
        ("by block", blocks, by_block),
    ):
        with suppress(UserError):  # strengths that leave nothing of an adapter are no way
            layers = {name: _by_layer(knobs, chosen, name) for name in placed}
            ways[way] = [scaled(one, layers[name]) for name, one in placed.items()]
    at_best = ways.get("best strengths", list(adapters))
    for number, name in enumerate(names):
        others = [one for other, one in enumerate(at_best) if other != number]
        giving = without_shared(at_best[number], others)
        ways[f"{name} gives way"] = [*at_best[:number], giving, *at_best[number + 1 :]]
    merged = {way: merge([(one, 1.0) for one in some], names) for way, some in ways.items()}
    merges: dict[str, list[float]] = {}
    drawn: dict[str, float] = {}
    for way, one in merged.items():
        with on_model(base, {_NAME: one}):
            merges[way] = likenesses(bench)
            drawn[way] = share_kept(gained, drawings.gains())
    best = max(merges, key=lambda way: min(least_share(merges[way], alone), drawn[way]))
    cross = [[column[number] for column in columns] for number in range(count)]
    return Together(alone, cross, both, floats(strengths), merges, drawn, best, merged[best])


def smallest(bench: MeterBench, adapter: Adapter, keep: float) -> tuple[Adapter, float, float]:
    """The smallest adapter that keeps the likeness: a rank for each layer by what it brings.

    A direction is worth what its layer brings to the likeness, by its share of the layer's energy,
    for each number that it takes in the file. How many of the worthiest stay is measured.

    Args:
        bench: of the adapter's concepts, on a base model without it.
        keep: share of the likeness, of predictions and of drawings, above 0 and up to 1.

    Returns:
        The adapter, and the likeness before and after.

    Raises:
        UserError: there is no likeness to keep.
    """
    knobs, drawings = knobs_of(adapter.layers, _NAME, str), DrawnLikeness(bench)
    with on_model(bench.base, {_NAME: adapter}):
        before = min(likenesses(bench))
        _check_likeness("The adapter", before)
        gained = drawings.gains()
        ones = torch.ones(len(knobs), dtype=torch.float64)
        surface = Surface(bench, knobs, ones, with_drift=False)
        whole = surface.likeness(ones).mean()
        brings = [
            abs(float(whole - surface.likeness(ones - off).mean()))
            for off in torch.eye(len(knobs), dtype=torch.float64)
        ]
    worth: list[tuple[float, ModuleKey]] = []
    for knob, brought in zip(knobs, brings, strict=True):
        key = knob.layers[0]
        layer = adapter.layers[key]
        energies = singular_values(layer).square()
        size = layer.shape[0] + torch.Size(layer.shape[1:]).numel()
        shares = energies / energies.sum().clamp_min(1e-30) * brought / size
        worth += [(share, key) for share in floats(shares)]
    worth.sort(key=lambda one: -one[0])
    low, high, found, after = 0, len(worth), adapter, before
    while high - low > max(1, len(worth) // 100):
        count = (low + high) // 2
        tried = resize(adapter, ranks=_ranks(adapter, [key for _, key in worth[:count]]))
        with on_model(bench.base, {_NAME: tried}):
            reached = min(likenesses(bench))
            kept = reached >= keep * before and share_kept(gained, drawings.gains()) >= keep
        if kept:
            high, found, after = count, tried, reached
        else:
            low = count
    return found, before, after


def _check_likeness(name: str, measured: float) -> None:
    if measured <= 0:
        raise UserError(
            f"{name} predicts these pictures no better than the base model does (likeness "
            f"{measured:.3f}): there is nothing to keep.",
            "Give the pictures, the trigger word and the base model that it was made with.",
        )


def _ranks(adapter: Adapter, chosen: Sequence[ModuleKey]) -> dict[ModuleKey, int]:
    """How often each layer is chosen; 1 at least, since tools refuse halves of attentions."""
    ranks = dict.fromkeys(adapter.layers, 0)
    for key in chosen:
        ranks[key] += 1
    return {key: max(1, rank) for key, rank in ranks.items()}


def _leaking(
    bench: MeterBench, surface: Surface, goal: float, usual: float
) -> Callable[[Tensor], Tensor]:
    """`spill` on a surface as a share of the usual one, with a penalty below the goal."""

    def objective(strengths: Tensor) -> Tensor:
        drifts = surface.drift(strengths)

        def mean(prompts: Sequence[str]) -> Tensor:
            return torch.stack([drifts[prompt] for prompt in prompts]).mean()

        spilled: list[Tensor] = []
        for sets in bench.prompts:
            near = [mean(prompts) for prompts in (sets.class_word, sets.neighbours) if prompts]
            most = torch.stack(near).max() if near else torch.zeros(())
            spilled.append(most + _COLLATERAL * mean(sets.unrelated))
        missing = (goal - surface.likeness(strengths).mean()).clamp_min(0) / goal
        return torch.stack(spilled).mean() / max(usual, 1e-9) + _BELOW * missing

    return objective


def _most_kept(
    bench: MeterBench, knobs: Sequence[Knob], start: Tensor, alone: Sequence[float]
) -> Tensor:
    """Strengths where the worst off concept keeps most of its likeness, as measured."""
    own = torch.tensor(alone, dtype=torch.float64).clamp_min(1e-6)
    turn(bench.base, knobs, start)
    best, kept = start, least_share(likenesses(bench), alone)
    for _ in range(ROUNDS):
        surface = Surface(bench, knobs, best, with_drift=False)

        def objective(strengths: Tensor, surface: Surface = surface) -> Tensor:
            shares = surface.likeness(strengths) / own
            return torch.logsumexp(-20 * shares, 0) / 20  # the least share, but smooth

        proposed = descend(objective, best)
        for share in (1.0, 0.5, 0.25):
            tried = best + share * (proposed - best)
            turn(bench.base, knobs, tried)
            found = least_share(likenesses(bench), alone)
            if found > kept:
                best, kept = tried, found
                break
        else:
            break
    return best


def _by_layer(knobs: Sequence[Knob], strengths: Tensor, adapter: str) -> dict[ModuleKey, float]:
    return {
        key: strength
        for knob, strength in zip(knobs, floats(strengths), strict=True)
        if knob.adapter == adapter
        for key in knob.layers
    }


def _tuned(
    adapter: Adapter, knobs: Sequence[Knob], strengths: Tensor, before: Meters, after: Meters
) -> Tuned:
    by_block = {knob.name: round(s, 3) for knob, s in zip(knobs, floats(strengths), strict=True)}
    folded = scaled(adapter, _by_layer(knobs, strengths, _NAME))
    return Tuned(folded, by_block, before, after)


@contextmanager
def switching(
    base: BaseModel, states: Mapping[str, Sequence[Adapter]]
) -> Generator[Callable[[BoardCell], None]]:
    """Gives what puts the adapters of a cell's column on the base model, and no others."""
    with ExitStack() as stack:
        shown = ""

        def put_on(cell: BoardCell) -> None:
            nonlocal shown
            if cell.column != shown:
                stack.close()
                named = {f"{_NAME}{n}": one for n, one in enumerate(states[cell.column])}
                stack.enter_context(on_model(base, named))
                shown = cell.column

        yield put_on
