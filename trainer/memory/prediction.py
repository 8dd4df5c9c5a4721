"""What a configuration needs of a card's memory, and the fastest plan that fits it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

from transformers import CLIPTokenizer

from trainer.answers import Answer
from trainer.config.concepts import captions_of, concepts_of
from trainer.config.effects import Idle, idle_settings
from trainer.config.resolve import wants_tiles
from trainer.config.schema import TrainingConfig
from trainer.data.buckets import make_buckets
from trainer.data.cache import content_key
from trainer.data.captions import CHUNK_TOKENS, compose_caption, plain_captions
from trainer.data.report import check_resolutions
from trainer.data.sets import read_captions
from trainer.errors import UserError
from trainer.lora.loading import read_start, taken_over
from trainer.memory.devices import GREATEST_SIDE, ROWS, Precision, card_bytes
from trainer.memory.modes import (
    MemoryMode,
    memory_mode_of,
    smaller_modes,
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
from trainer.models.configs import read_json
from trainer.models.identify import BaseFacts, read_facts
from trainer.models.text import count_chunks
from trainer.places import cache_folder
from trainer.runs.atomic import write_json

GIB = 2**30
CONTEXT_GIB = 0.7  # assumed: what CUDA itself and its libraries take on the card
FRAGMENTATION = 0.08  # assumed: share of the tensors' memory that lies idle between them
ASSUMED_CARD_GIB = 11.0
STEP = {
    "base_weights": "base model's weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer's state",
    "activations": "activations",
}
"""Parts of a training step."""
PHASES = {
    "caching": "while latents are cached",
    "previews": "while previews are drawn",
    "measuring": "while the adapter is measured",
    "export": "while its file is written",
}
"""Of a run, besides the training step."""

_MEASURED_CAPTIONS = 64  # the longest in characters: the longest in tokens is among them
_VERSION = 8  # of what is counted: results of another one are not used
_LIBRARIES = ("torch", "diffusers", "transformers", "peft")

Result = TypeVar("Result", StepMemory, OtherMemory)


@dataclass(frozen=True)
class Fit(Answer):
    """A prediction."""

    base: str  # the base model's kind, for people
    # resolution, batch_size: what was asked about.
    resolution: int
    batch_size: int
    precision: str
    vram_gib: float  # the card; `vram_source` says where that comes from
    vram_source: str
    peak_gib: float  # predicted, with what is assumed
    # GiB by part. Those of `STEP` together are the training step's; those of `PHASES` are the whole
    # of these phases; context and fragmentation are assumed and added to the largest of the five.
    parts: dict[str, float]
    fits: bool  # whether the peak is below the card's memory
    # Configuration fields to change so that it fits; empty where it fits already.
    plan: dict[str, Any]
    plan_peak_gib: float  # the peak with them; of the smallest plan there is, where nothing fits
    plan_fits: bool  # whether the plan fits
    slowdown: float  # time of a step with the plan beside that without, about
    idle: tuple[Idle, ...] = ()  # settings that will do nothing beside the others
    # Room for so many tokens in each caption: 75, or more where the image set's captions are longer
    # and ``captions.max_tokens`` lets them.
    caption_tokens: int = CHUNK_TOKENS
    # GiB that each model for captions and masks of this machine takes at most, alone.
    plugs: Mapping[str, float] = field(default_factory=dict[str, float])

    def lines(self) -> Iterator[str]:
        """For people: a table and a sentence or two."""
        parts = self.parts
        yield (
            f"{self.base}, {self.resolution} px, batch size {self.batch_size}, "
            f"{self.precision}, captions of up to {self.caption_tokens} tokens: predicted for a "
            f"GPU with {self.vram_gib:g} GiB ({self.vram_source})"
        )
        yield ""
        rows = {title: parts[name] for name, title in STEP.items()}
        rows["a training step, all of these"] = sum(rows.values())
        rows |= {title: parts[name] for name, title in PHASES.items()}
        rows["CUDA itself (assumed)"] = parts["context"]
        rows[f"gaps in memory (assumed: {FRAGMENTATION:.0%})"] = parts["fragmentation"]
        rows["peak"] = self.peak_gib
        for title, gib in rows.items():
            yield f"  {title:<36}{gib:7.2f} GiB"
        yield ""
        yield self._verdict()
        for idle in self.idle:
            yield f"Note: {idle}"
        if self.plugs:
            yield ""
            yield "Models for captions and masks, each alone, at most:"
        for title, gib in self.plugs.items():
            yield f"  {title:<36}{gib:7.2f} GiB"

    def _verdict(self) -> str:
        if self.fits:
            return "It fits."
        changes = ", ".join(
            f"{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in self.plan.items()
        )
        if not self.plan_fits:
            return (
                "It does not fit. The least that is possible is "
                f"{self.plan_peak_gib:.2f} GiB, with {changes or 'the settings as they are'}; "
                "a lower images.resolution needs less."
            )
        return (
            f"It does not fit. The fastest plan that does needs {self.plan_peak_gib:.2f} GiB and "
            f"about {self.slowdown:.2f} times as long a step: {changes}"
        )


def predict(config: TrainingConfig, vram_gib: float | None = None) -> Fit:
    """Predicts the peak of a run on a GPU without running it.

    Args:
        config: only what memory depends on is looked at; pictures need not be there.
        vram_gib: the card's memory; None: that of this machine's GPU, or else 11.

    Raises:
        UserError: the base model cannot be recognised, or the resolution does not suit it.
    """
    predictor = _Predictor(config)
    card, source = _card(vram_gib)
    tiling = wants_tiles(config, predictor.resolution)
    mode = replace(memory_mode_of(config), tiling=tiling)
    parts = predictor.parts(mode)
    peak = _peak(parts)
    plan, plan_peak = (mode, peak) if peak <= card else predictor.choose(mode, card)
    is_square = predictor.width == predictor.height
    return Fit(
        base=predictor.facts.family.title,
        resolution=predictor.width if is_square else predictor.resolution,
        batch_size=config.training.batch_size,
        precision=predictor.precision,
        vram_gib=round(card, 2),
        vram_source=source,
        peak_gib=round(peak, 2),
        parts={name: round(value, 3) for name, value in parts.items()},
        fits=peak <= card,
        plan=plan.changes(mode),
        plan_peak_gib=round(plan_peak, 2),
        plan_fits=plan_peak <= card,
        slowdown=round(plan.cost / mode.cost, 2),
        idle=tuple(idle_settings(config)),
        caption_tokens=CHUNK_TOKENS * predictor.chunks,
    )


def classifier_gib(config: TrainingConfig) -> float:
    """GiB that the base model takes at most while it captions pictures.

    Raises:
        UserError: as `predict`.
    """
    predictor = _Predictor(config)
    side = min(predictor.facts.resolution, GREATEST_SIDE)
    work: tuple[Precision, int, int, int] = ("bf16", side, side, ROWS)
    found = predictor.remembered(OtherMemory, work, lambda: other_memory(predictor.facts, *work))
    size = found.unet + found.vae + found.text_encoders + max(found.predicting, found.encoding)
    return (1 + FRAGMENTATION) * size / GIB + CONTEXT_GIB


def _card(given: float | None) -> tuple[float, str]:
    if given is not None:
        if not 0 < given <= 4096:
            raise UserError(f"A card with {given:g} GiB is not possible.", "Give --vram in GiB.")
        return given, "given"
    if (size := card_bytes()) is not None:
        return size / GIB, "the GPU of this machine"
    return ASSUMED_CARD_GIB, "assumed, as there is no GPU here"


def _largest(parts: Mapping[str, float]) -> float:
    return max(sum(parts[name] for name in STEP), *(parts[name] for name in PHASES))


def _peak(parts: Mapping[str, float]) -> float:
    return _largest(parts) + parts["context"] + parts["fragmentation"]


def _caption_chunks(config: TrainingConfig, facts: BaseFacts) -> int:
    """Chunks of the longest caption; 1 where the pictures are not there."""
    most = config.captions.max_tokens // CHUNK_TOKENS
    chunks = 1
    for concept in concepts_of(config) if most > 1 else ():
        try:
            captions = [] if concept.path == Path() else read_captions(concept.path)
        except UserError:
            continue
        words = plain_captions(captions_of(config, concept))
        longest = sorted(captions, key=lambda caption: -len(caption.encode()))[:_MEASURED_CAPTIONS]
        folder = facts.family.tokenizer_folders[0]
        tokenizer = cast(
            CLIPTokenizer, CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        )
        for caption in longest:
            text = compose_caption(caption, words, seed=0, step=0, image_id="")
            chunks = max(chunks, count_chunks([tokenizer], text))
    return min(chunks, most)


class _Predictor:
    """A configuration with what its base model fills in; sizes in pixels are the largest bucket's.

    Raises:
        UserError: the base model cannot be recognised, or the resolution does not suit it.
    """

    def __init__(self, config: TrainingConfig) -> None:
        if given := config.adapter.start_from:
            config = taken_over(config, read_start(given.expanduser(), config.adapter))
        self.config = config
        self.facts = facts = read_facts(
            config.base.name, prediction=config.base.prediction, vae=config.base.vae
        )
        self.resolution = max(config.images.sides, default=facts.resolution)
        step = facts.resolution_step
        check_resolutions(config.images, step)
        buckets = ((self.resolution, self.resolution),)
        if config.images.buckets:
            buckets = make_buckets(self.resolution, step)
        self.width, self.height = max(buckets, key=lambda s: (s[0] * s[1], -abs(s[0] - s[1])))
        given = config.training.precision
        self.precision: Precision = "bf16" if given == "auto" else given
        self.chunks = _caption_chunks(config, facts)

    def choose(self, mode: MemoryMode, card: float) -> tuple[MemoryMode, float]:
        """The fastest mode that fits, of those with the most exact weights, and its peak; the
        smallest where none does.

        Following a step takes seconds, so those that can't fit are ruled out by what is known.
        """
        starts = (mode, *with_smaller_weights(mode))
        for start in starts:
            for other in (start, *smaller_modes(start)):
                one_row = self._followed(other, 1)
                if self._at_least(one_row, one_row.base_weights) > card:
                    break  # the weights alone are too much
                if self._at_least(one_row, one_row.base_weights + one_row.activations) > card:
                    continue
                step = self._step(other)
                size = step.base_weights + step.gradients + step.activations
                if self._at_least(step, size) > card:
                    continue
                # Tiles are nothing but slightly inexact: only where the VAE would not fit without.
                for choice in dict.fromkeys((other, replace(other, tiling=True))):
                    if (peak := _peak(self.parts(choice))) <= card:
                        return choice, peak
        least = smallest(starts[-1])
        return least, _peak(self.parts(least))

    def _at_least(self, step: StepMemory, size: int) -> float:
        """GiB of so many bytes, the adapter and the optimizer, with what is assumed."""
        size += step.adapter + optimizer_bytes(self.config.optimizer.name, step.adapter)
        return (1 + FRAGMENTATION) * size / GIB + CONTEXT_GIB

    def parts(self, mode: MemoryMode) -> dict[str, float]:
        """GiB by part of the run."""
        config = self.config
        step, other = self._step(mode), self._others(mode)
        optimizer = optimizer_bytes(config.optimizer.name, step.adapter)
        averages = 0 if config.optimizer.averages or not config.training.ema_decay else step.adapter
        trained = step.adapter + optimizer + averages
        idle = not (config.memory.offload or config.adapter.learns_text)
        weights = step.base_weights + (other.text_encoders if idle else 0)
        predicting = weights + trained + other.predicting
        decoding = trained + other.vae + other.decoding + (0 if config.memory.offload else weights)
        parts = {
            "base_weights": weights,
            "adapter": step.adapter,
            "gradients": step.gradients,
            "optimizer": optimizer + averages,
            "activations": step.activations,
            "caching": max(other.vae + other.encoding, other.text_encoders),
            "previews": max(predicting, decoding),
            "measuring": predicting,
            "export": weights + trained,
        }
        found = {name: value / GIB for name, value in parts.items()}
        found["context"] = CONTEXT_GIB
        found["fragmentation"] = FRAGMENTATION * _largest(found)
        return found

    def _step(self, mode: MemoryMode) -> StepMemory:
        """Activations grow with the rows by equal amounts: followed with one row and with all of
        them, and interpolated between."""
        all_rows = replace(memory_mode_of(self.config), preserve_apart=False).rows
        step = self._followed(mode, 1 if mode.rows == 1 else all_rows)
        if 1 < mode.rows < all_rows:
            one, share = self._followed(mode, 1), (mode.rows - 1) / (all_rows - 1)
            step = replace(
                step,
                activations=round(one.activations + share * (step.activations - one.activations)),
                besides=round(one.besides + share * (step.besides - one.besides)),
            )
        accumulates = mode.accumulates or self.config.training.accumulation > 1
        return step.accumulating() if accumulates else step

    def _followed(self, mode: MemoryMode, rows: int) -> StepMemory:
        config = self.config
        work = Workload(
            width=self.width,
            height=self.height,
            precision=self.precision,
            adapter=config.adapter,
            rows=rows,
            mode=mode.mode,
            checkpointing=mode.checkpointing,
            weights=mode.weights,
            chunks=self.chunks,
        )
        adapter = config.adapter.model_dump(mode="json")
        return self.remembered(
            StepMemory, asdict(work) | {"adapter": adapter}, lambda: step_memory(self.facts, work)
        )

    def _others(self, mode: MemoryMode) -> OtherMemory:
        rows, weights = mode.rows_without_gradients, mode.weights
        size = (self.precision, self.width, self.height, rows, weights, mode.tiling, self.chunks)
        return self.remembered(OtherMemory, size, lambda: other_memory(self.facts, *size))

    def remembered(
        self, kind: type[Result], facts: object, compute: Callable[[], Result]
    ) -> Result:
        """From the cache folder, or computed and written there."""
        folder = self.facts.config_folder
        key = content_key(
            kind=kind.__name__,
            facts=facts,
            parts=[read_json(folder / part / "config.json") for part in self.facts.family.parts],
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
