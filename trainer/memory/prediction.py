"""What a configuration needs of a card's memory, and the fastest plan that fits it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar

from trainer.config.resolve import wants_tiles
from trainer.config.schema import TrainingConfig
from trainer.data.buckets import make_buckets
from trainer.data.cache import content_key
from trainer.data.latents import check_resolution
from trainer.errors import UserError
from trainer.memory.architecture import Architecture, find_architecture
from trainer.memory.ladder import (
    Rung,
    rung_of,
    rungs_below,
    smallest,
    with_smaller_weights,
)
from trainer.memory.phases import (
    OtherMemory,
    StepMemory,
    Workload,
    optimizer_bytes,
    other_memory,
    step_memory,
)
from trainer.places import cache_folder
from trainer.runs.atomic import write_json

GIB = 2**30
CONTEXT_GIB = 0.7
"""Assumed: what CUDA itself and its libraries take on the card."""
FRAGMENTATION = 0.08
"""Assumed: share of the tensors' memory that lies idle between them."""
ASSUMED_CARD_GIB = 11.0
PHASES = ("caching", "previews", "measuring", "export")
"""Of a run, besides the training step."""

_VERSION = 4  # of what is counted: results of another one are not used
_LIBRARIES = ("torch", "diffusers", "transformers", "peft")

Result = TypeVar("Result", StepMemory, OtherMemory)


@dataclass(frozen=True)
class Fit:
    """A prediction.

    Attributes:
        base: the base model's kind, for people.
        resolution, batch_size: what was asked about.
        vram_gib: the card; `vram_source` says where that comes from.
        peak_gib: predicted, with what is assumed.
        parts: GiB by part. base_weights, adapter, gradients, optimizer and activations together are
            the training step's; caching, previews, measuring and export are the whole of these
            phases; context and fragmentation are assumed and added to the largest of the five.
        fits: whether the peak is below the card's memory.
        plan: configuration fields to change so that it fits; empty where it fits already.
        plan_peak_gib: the peak with them; of the smallest plan there is, where nothing fits.
        plan_fits: whether the plan fits.
        slowdown: time of a step with the plan beside that without, about.
    """

    base: str
    resolution: int
    batch_size: int
    precision: str
    vram_gib: float
    vram_source: str
    peak_gib: float
    parts: dict[str, float]
    fits: bool
    plan: dict[str, Any]
    plan_peak_gib: float
    plan_fits: bool
    slowdown: float

    def as_json(self) -> dict[str, Any]:
        """For `--json` and the page."""
        return asdict(self)


@dataclass(frozen=True)
class _Question:
    """A configuration with what its base model fills in."""

    config: TrainingConfig
    architecture: Architecture
    width: int
    height: int
    precision: str


def predict(config: TrainingConfig, vram_gib: float | None = None) -> Fit:
    """Predicts the peak of a run on a GPU without running it.

    Args:
        config: only what memory depends on is looked at; pictures need not be there.
        vram_gib: the card's memory; None: that of this machine's GPU, or else 11.

    Raises:
        UserError: the base model cannot be recognised, or the resolution does not suit it.
    """
    question = _question(config)
    card, source = _card(vram_gib)
    rung = replace(rung_of(config), tiling=wants_tiles(config, _resolution(question)))
    parts = _parts(question, rung)
    peak = _peak(parts)
    plan, plan_peak = rung, peak
    if peak > card:
        plan, plan_peak = _choose(question, rung, card)
    return Fit(
        base=question.architecture.facts.family.title,
        resolution=question.width if question.width == question.height else _resolution(question),
        batch_size=config.training.batch_size,
        precision=question.precision,
        vram_gib=round(card, 2),
        vram_source=source,
        peak_gib=round(peak, 2),
        parts={name: round(value, 3) for name, value in parts.items()},
        fits=peak <= card,
        plan=plan.changes(rung),
        plan_peak_gib=round(plan_peak, 2),
        plan_fits=plan_peak <= card,
        slowdown=round(plan.cost / rung.cost, 2),
    )


def _question(config: TrainingConfig) -> _Question:
    architecture = find_architecture(config.base.name)
    resolution = config.images.resolution or architecture.facts.resolution
    step = architecture.facts.resolution_step
    check_resolution(resolution, step)
    buckets = make_buckets(resolution, step) if config.images.buckets else ((resolution,) * 2,)
    width, height = max(buckets, key=lambda side: (side[0] * side[1], -abs(side[0] - side[1])))
    precision = config.training.precision
    return _Question(config, architecture, width, height, precision.replace("auto", "bf16"))


def _resolution(question: _Question) -> int:
    return question.config.images.resolution or question.architecture.facts.resolution


def _card(given: float | None) -> tuple[float, str]:
    if given is not None:
        if not 0 < given <= 4096:
            raise UserError(f"A card with {given:g} GiB is not possible.", "Give --vram in GiB.")
        return given, "given"
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GIB, "the GPU of this machine"
    return ASSUMED_CARD_GIB, "assumed, as there is no GPU here"


def _choose(question: _Question, rung: Rung, card: float) -> tuple[Rung, float]:
    """The fastest rung that fits, of those with the most exact weights; the smallest where none
    does.

    Following a step takes seconds, so those that can't fit are ruled out by what is known already.
    """
    starts = (rung, *with_smaller_weights(rung))
    for start in starts:
        for other in (start, *rungs_below(start)):
            one_row = _followed(question, other, 1)
            if _at_least(question, one_row.base_weights, one_row) > card:
                break  # the weights alone are too much
            found = _at_least(question, one_row.base_weights + one_row.activations, one_row)
            if found > card or _step_alone(question, other) > card:
                continue
            # Tiles are nothing but slightly inexact: only where the VAE would not fit without.
            for choice in dict.fromkeys((other, replace(other, tiling=True))):
                peak = _peak(_parts(question, choice))
                if peak <= card:
                    return choice, peak
    least = smallest(starts[-1])
    return least, _peak(_parts(question, least))


def _step_alone(question: _Question, rung: Rung) -> float:
    """GiB that a step takes at least; where it is too much, no other phase need be followed."""
    step = _step(question, rung)
    return _at_least(question, step.base_weights + step.gradients + step.activations, step)


def _at_least(question: _Question, size: int, step: StepMemory) -> float:
    """GiB of so many bytes, the adapter and the optimizer, with what is assumed."""
    size += step.adapter + optimizer_bytes(question.config.optimizer.name, step.adapter)
    return (1 + FRAGMENTATION) * size / GIB + CONTEXT_GIB


def _parts(question: _Question, rung: Rung) -> dict[str, float]:
    """GiB by part of the run."""
    config = question.config
    step, other = _step(question, rung), _others(question, rung)
    optimizer = optimizer_bytes(config.optimizer.name, step.adapter)
    averages = step.adapter if config.training.ema_decay else 0
    kept = step.adapter + optimizer + averages
    idle = not (config.memory.offload or config.adapter.text_encoder)
    weights = step.base_weights + (other.text_encoders if idle else 0)
    predicting = weights + kept + other.predicting
    decoding = kept + other.vae + other.decoding + (0 if config.memory.offload else weights)
    parts = {
        "base_weights": weights,
        "adapter": step.adapter,
        "gradients": step.gradients,
        "optimizer": optimizer + averages,
        "activations": step.activations,
        "caching": max(other.vae + other.encoding, other.text_encoders),
        "previews": max(predicting, decoding),
        "measuring": predicting,
        "export": weights + kept,
    }
    found = {name: value / GIB for name, value in parts.items()}
    found["context"] = CONTEXT_GIB
    found["fragmentation"] = FRAGMENTATION * _largest(found)
    return found


def tensors_gib(parts: Mapping[str, float]) -> float:
    """The largest phase's GiB of tensors, without what is assumed."""
    return _largest(parts)


def _largest(parts: Mapping[str, float]) -> float:
    step = ("base_weights", "adapter", "gradients", "optimizer", "activations")
    return max(sum(parts[name] for name in step), *(parts[name] for name in PHASES))


def _peak(parts: Mapping[str, float]) -> float:
    return _largest(parts) + parts["context"] + parts["fragmentation"]


def _step(question: _Question, rung: Rung) -> StepMemory:
    """Activations grow with the rows by equal amounts: followed with one row and with all of
    them, and interpolated between."""
    all_rows = replace(rung_of(question.config), apart=False).rows
    step = _followed(question, rung, 1 if rung.rows == 1 else all_rows)
    if 1 < rung.rows < all_rows:
        one, share = _followed(question, rung, 1), (rung.rows - 1) / (all_rows - 1)
        step = replace(
            step,
            activations=round(one.activations + share * (step.activations - one.activations)),
            besides=round(one.besides + share * (step.besides - one.besides)),
        )
    accumulates = rung.accumulates or question.config.training.accumulation > 1
    return step.accumulating() if accumulates else step


def _followed(question: _Question, rung: Rung, rows: int) -> StepMemory:
    work = Workload(
        width=question.width,
        height=question.height,
        precision=question.precision,
        adapter=question.config.adapter,
        rows=rows,
        kept_rows=0,
        mode=rung.mode,
        checkpointing=rung.checkpointing,
        weights=rung.weights,
    )
    return _remembered(
        StepMemory,
        question,
        work.key(),
        lambda: step_memory(question.architecture, work),
    )


def _others(question: _Question, rung: Rung) -> OtherMemory:
    size = (
        question.precision,
        question.width,
        question.height,
        rung.rows_without_gradients,
        rung.weights,
        rung.tiling,
    )
    return _remembered(
        OtherMemory, question, size, lambda: other_memory(question.architecture, *size)
    )


def _remembered(
    kind: type[Result], question: _Question, facts: object, compute: Callable[[], Result]
) -> Result:
    """From the cache folder, or computed and kept there."""
    key = content_key(
        kind=kind.__name__,
        facts=facts,
        parts=question.architecture.parts,
        versions=[_VERSION, *(version(library) for library in _LIBRARIES)],
    )
    path = cache_folder() / "fit" / f"{key[:40]}.json"
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(result))
    return result
