"""The meters of an adapter: what it does with its trigger word, and what else it moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from trainer.config.schema import ObjectiveConfig
from trainer.data.cache import TensorCache
from trainer.data.captions import without_word
from trainer.data.latents import LatentSource, MaskSource, Picture
from trainer.evaluation.drift import ProbeSettings, drift, make_probes, mean_drift
from trainer.evaluation.likeness import (
    Example,
    Losses,
    likeness,
    make_examples,
    measure_losses,
)
from trainer.evaluation.prompts import PromptSets, prompt_sets
from trainer.events import Meters
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel

Item = TypeVar("Item")

PICTURES = 3
"""At most so many pictures are measured; at 3 timesteps each they told good from bad adapters."""


@dataclass(frozen=True)
class Subject:
    """A concept as it is measured.

    Attributes:
        trained: pictures that the adapter was trained on, with their captions; may be empty.
        held_out: pictures of the set that it was not trained on; empty for small sets.
    """

    trigger: str
    class_word: str
    trained: tuple[tuple[Picture, str], ...] = ()
    held_out: tuple[tuple[Picture, str], ...] = ()

    @property
    def name(self) -> str:
        """Trigger and class word."""
        return f"{self.trigger} {self.class_word}".strip()


@dataclass(frozen=True)
class _Losses:
    """Examples and the base model's errors on them."""

    examples: list[Example]
    base: Losses


@dataclass(frozen=True)
class _Bench:
    """What one subject is measured with."""

    subject: Subject
    prompts: PromptSets
    checked: _Losses | None  # held-out pictures, or trained ones where none are held out
    trained: _Losses | None  # None where `checked` has the trained ones
    without: _Losses | None  # `checked` with the trigger taken out of the captions


class MeterBench:
    """Fixed prompts, pictures, noise and timesteps, and what the base model does there.

    Made once, with an adapter on the model or without one; then every `measure` says what the
    adapters that are on the model then do. Costs one prediction for each point, about 80 to 100
    for one concept; making it costs as many, and the base model's pictures once for a base model.

    UNet and text encoders have to be on the device. `last_drifts` holds the drift of every prompt
    at the last measurement.

    Args:
        latents: of the subjects' pictures.
        masks: of the same; None where all of a picture counts.
        objective: how timesteps are weighed, for losses that compare with training's.
        side: of the base model's pictures, in pixels; its own unless given.
    """

    def __init__(
        self,
        base: BaseModel,
        subjects: Sequence[Subject],
        device: Device,
        cache: TensorCache,
        latents: LatentSource | None = None,
        *,
        masks: MaskSource | None = None,
        objective: ObjectiveConfig | None = None,
        side: int | None = None,
        settings: ProbeSettings | None = None,
    ) -> None:
        self.base, self.device = base, device
        self._latents, self._masks = latents, masks
        self._objective = objective or ObjectiveConfig()
        self.benches = [self._bench(subject, cache) for subject in subjects]
        prompts = [prompt for bench in self.benches for prompt in bench.prompts.all]
        self.last_drifts: dict[str, float] = {}
        self.probes = make_probes(base, prompts, device, cache, settings, side=side)

    def measure(self) -> list[Meters]:
        """The meters of each subject, for the adapters as they are on the model now."""
        self.last_drifts = drift(self.base, self.probes, self.device)
        return [self._measure(bench, self.last_drifts) for bench in self.benches]

    def bleed(self) -> list[list[float | None]]:
        """How much like subject ``row`` the trigger of subject ``column`` makes its pictures.

        Likeness of the row's pictures when their captions say the column's trigger; the diagonal
        is each subject's own likeness. None where a subject has no pictures.
        """
        return [
            [self._likeness_as(own.subject, other.subject) for other in self.benches]
            for own in self.benches
        ]

    def _bench(self, subject: Subject, cache: TensorCache) -> _Bench:
        captions = [caption for _, caption in (*subject.trained, *subject.held_out)]
        prompts = prompt_sets(
            self.base, subject.trigger, subject.class_word, self.device, cache, captions
        )
        held, trained = spread(subject.held_out, PICTURES), spread(subject.trained, PICTURES)
        checked = held or trained
        without = [(p, without_word(caption, subject.trigger)) for p, caption in checked]
        return _Bench(
            subject,
            prompts,
            checked=self._losses(checked),
            trained=self._losses(trained) if held else None,
            without=self._losses(without),
        )

    def _losses(self, pairs: Sequence[tuple[Picture, str]]) -> _Losses | None:
        if not pairs or self._latents is None:
            return None
        pictures, captions = zip(*pairs, strict=True)
        examples = make_examples(
            self.base, pictures, captions, self._latents, self._objective, masks=self._masks
        )
        with disabled(self.base):
            return _Losses(examples, measure_losses(self.base, examples, self.device))

    def _measure(self, bench: _Bench, drifts: dict[str, float]) -> Meters:
        prompts = bench.prompts
        meters = Meters(
            effect=mean_drift(drifts, prompts.trigger) or 0.0,
            class_drift=mean_drift(drifts, prompts.class_word),
            neighbour_drift=mean_drift(drifts, prompts.neighbours),
            unrelated_drift=mean_drift(drifts, prompts.unrelated),
            held_out=min(PICTURES, len(bench.subject.held_out)),
        )
        if bench.checked is None:
            return meters
        checked = measure_losses(self.base, bench.checked.examples, self.device)
        own = likeness(checked, bench.checked.base)
        trained, like_trained = checked, own
        if bench.trained is not None:
            trained = measure_losses(self.base, bench.trained.examples, self.device)
            like_trained = likeness(trained, bench.trained.base)
        return replace(
            meters,
            likeness=own,
            likeness_without=self._likeness(bench.without),
            likeness_trained=like_trained,
            validation_loss=checked.weighted,
            training_loss=trained.weighted,
            base_loss=bench.checked.base.weighted,
        )

    def _likeness(self, losses: _Losses | None) -> float | None:
        if losses is None:
            return None
        return likeness(measure_losses(self.base, losses.examples, self.device), losses.base)

    def _likeness_as(self, own: Subject, other: Subject) -> float | None:
        """The likeness of a subject's pictures under another's trigger and class word."""
        pairs = spread(own.held_out or own.trained, PICTURES)
        renamed = [(picture, renamed_caption(text, own, other)) for picture, text in pairs]
        return self._likeness(self._losses(renamed))


def renamed_caption(caption: str, own: Subject, other: Subject) -> str:
    """A caption of one subject as if it showed another."""
    plain = without_word(caption, own.trigger)
    return caption if own == other else f"{other.trigger}, {plain}"


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread, the first among them."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def mean_meters(each: Sequence[Meters]) -> Meters:
    """The mean over several subjects; a single one stays as it is.

    Raises:
        ValueError: there are none.
    """
    if not each:
        raise ValueError("nothing was measured")
    if len(each) == 1:
        return each[0]

    def mean(name: str) -> float | None:
        found = [value for one in each if (value := getattr(one, name)) is not None]
        return sum(found) / len(found) if found else None

    names = [name for name in Meters.__dataclass_fields__ if name not in ("effect", "held_out")]
    return Meters(
        effect=mean("effect") or 0.0,
        held_out=sum(one.held_out for one in each),
        **{name: mean(name) for name in names},
    )
