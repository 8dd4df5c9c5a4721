"""The meters of an adapter, measured: what it does with its trigger word, and what else it moves.

`trainer.runs.meters` says what each means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

from trainer.config.schema import ObjectiveConfig
from trainer.data.cache import TensorCache
from trainer.data.captions import without_word
from trainer.data.latents import LatentSource, MaskSource
from trainer.evaluation.drift import ProbeSettings, drift, make_probes, mean_drift
from trainer.evaluation.likeness import (
    Captioned,
    Example,
    Losses,
    likeness,
    likeness_by_noise,
    make_examples,
    measure_losses,
)
from trainer.evaluation.prompts import PromptSets, prompt_sets
from trainer.events import GAPS, Meters
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.text import name_subject

Item = TypeVar("Item")

PICTURES = 3
"""At most so many pictures are measured; at 3 timesteps each they tell good from bad adapters."""


@dataclass(frozen=True)
class MeasuredConcept:
    """A concept, and the pictures that it is measured by."""

    trigger: str
    class_word: str
    # Pictures that the adapter was trained on, with their captions; may be empty.
    trained: tuple[Captioned, ...] = ()
    # Pictures of the set that it was not trained on; empty for small sets.
    validation: tuple[Captioned, ...] = ()

    @property
    def name(self) -> str:
        """Trigger and class word."""
        return name_subject(self.trigger, self.class_word)

    @property
    def checked(self) -> list[Captioned]:
        """The pictures whose likeness is measured: of the validation split, where there is one."""
        return spread(self.validation or self.trained, PICTURES)

    def as_if(self, other: MeasuredConcept) -> list[Captioned]:
        """The checked pictures with captions as if they showed another concept."""
        if self == other:
            return self.checked
        return [
            (picture, f"{other.trigger}, {without_word(caption, self.trigger)}")
            for picture, caption in self.checked
        ]


@dataclass(frozen=True)
class Reference:
    """Pictures at their points, and the base model's errors there."""

    examples: list[Example]
    base: Losses


class MeterBench:
    """Fixed prompts, pictures, noise and timesteps, and what the base model does there.

    Made once, with an adapter on the model or without one; then every `measure` says what the
    adapters that are on the model then do. Costs one prediction for each point, 51 with pictures
    of one concept; making it costs as many, and the base model's pictures once for a base model.

    UNet and text encoders have to be on the device. `last_drifts` holds the drift of every prompt
    at the last measurement.

    Args:
        latents: of the concepts' pictures.
        masks: of the same; None where all of a picture counts.
        objective: how timesteps are weighed, for losses that compare with training's.
        side: of the base model's pictures, in pixels; its own unless given.
    """

    def __init__(
        self,
        base: BaseModel,
        concepts: Sequence[MeasuredConcept],
        device: Device,
        cache: TensorCache,
        latents: LatentSource | None = None,
        *,
        masks: MaskSource | None = None,
        objective: ObjectiveConfig | None = None,
        side: int | None = None,
        settings: ProbeSettings | None = None,
    ) -> None:
        self.base, self.device, self.concepts = base, device, concepts
        self._latents, self._masks = latents, masks
        self._objective = objective or ObjectiveConfig()
        self.prompts = [
            prompt_sets(
                base,
                concept.trigger,
                concept.class_word,
                device,
                cache,
                [caption for _, caption in (*concept.trained, *concept.validation)],
            )
            for concept in concepts
        ]
        self.references = [self._references_of(concept) for concept in concepts]
        self.last_drifts: dict[str, float] = {}
        prompts = [prompt for sets in self.prompts for prompt in sets.all]
        self.probes = make_probes(base, prompts, device, cache, settings, side=side)

    @property
    def prompts_by_trigger(self) -> dict[str, PromptSets]:
        """The prompts of each concept, by its trigger word."""
        triggers = (concept.trigger for concept in self.concepts)
        return dict(zip(triggers, self.prompts, strict=True))

    def measure(self) -> list[Meters]:
        """The meters of each concept, for the adapters as they are on the model now."""
        self.last_drifts = drift(self.base, self.probes, self.device)
        return [
            self._measure(*one)
            for one in zip(self.concepts, self.prompts, self.references, strict=True)
        ]

    def bleed(self) -> list[list[float | None]]:
        """How much like concept ``row`` the trigger of concept ``column`` makes its pictures.

        Likeness of the row's pictures when their captions say the column's trigger; the diagonal
        is each concept's own likeness. None where a concept has no pictures.
        """
        return [
            [self._likeness(self._reference(own.as_if(other))) for other in self.concepts]
            for own in self.concepts
        ]

    def _references_of(self, concept: MeasuredConcept) -> tuple[Reference | None, ...]:
        """Of the checked pictures; of trained ones, where those are others; and of the checked
        ones with the trigger taken out of their captions."""
        pairs, trigger = concept.checked, concept.trigger
        return (
            self._reference(pairs),
            self._reference(spread(concept.trained, PICTURES) if concept.validation else []),
            self._reference([(picture, without_word(text, trigger)) for picture, text in pairs]),
        )

    def _reference(self, pairs: Sequence[Captioned]) -> Reference | None:
        if not pairs or self._latents is None:
            return None
        examples = make_examples(
            self.base, pairs, self._latents, self._objective, masks=self._masks
        )
        with disabled(self.base):
            return Reference(examples, self._losses(examples))

    def _measure(
        self,
        concept: MeasuredConcept,
        prompts: PromptSets,
        references: tuple[Reference | None, ...],
    ) -> Meters:
        checked, trained, without = references
        meters = Meters(
            effect=mean_drift(self.last_drifts, prompts.trigger) or 0.0,
            class_drift=mean_drift(self.last_drifts, prompts.class_word),
            neighbour_drift=mean_drift(self.last_drifts, prompts.neighbours),
            unrelated_drift=mean_drift(self.last_drifts, prompts.unrelated),
            held_out=min(PICTURES, len(concept.validation)),
        )
        if checked is None:
            return meters
        losses = self._losses(checked.examples)
        on_trained = self._losses(trained.examples) if trained else losses
        if trained:
            now = likeness_by_noise(on_trained, trained.base)
            gaps = cast("list[float]", (now - likeness_by_noise(losses, checked.base)).tolist())
            meters = replace(meters, **dict(zip(GAPS, gaps, strict=True)))
        return replace(
            meters,
            likeness=likeness(losses, checked.base),
            likeness_without=self._likeness(without),
            likeness_trained=likeness(on_trained, (trained or checked).base),
            validation_loss=losses.weighted,
            training_loss=on_trained.weighted,
            base_loss=checked.base.weighted,
        )

    def _losses(self, examples: Sequence[Example]) -> Losses:
        return measure_losses(self.base, examples, self.device)

    def _likeness(self, reference: Reference | None) -> float | None:
        return likeness(self._losses(reference.examples), reference.base) if reference else None


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread, the first among them."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def mean_meters(each: Sequence[Meters]) -> Meters:
    """The mean over several concepts; a single one stays as it is.

    Raises:
        ValueError: there are none.
    """
    if not each:
        raise ValueError("nothing was measured")
    if len(each) == 1:
        return each[0]
    means: dict[str, Any] = {}
    for field in fields(Meters):
        found = [value for one in each if (value := getattr(one, field.name)) is not None]
        means[field.name] = sum(found) / len(found) if found else None
    return Meters(**means | {"held_out": sum(one.held_out for one in each)})
