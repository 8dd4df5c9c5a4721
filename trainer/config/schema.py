"""The configuration of a training run.

A field that is ``None`` takes the base model's recommendation (`trainer.models.families`);
`trainer.config.resolve` writes the real values in before a run starts, so that a run folder's
``config.toml`` is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from pydantic import model_validator

from trainer.config.adapting import AdapterConfig
from trainer.config.optimizers import OptimizerConfig
from trainer.config.picturing import ImagesConfig
from trainer.config.preserving import PreservationConfig
from trainer.config.section import Section, Several, field
from trainer.config.sections import (
    BaseModelConfig,
    CaptionsConfig,
    CheckpointsConfig,
    ConceptConfig,
    EvaluationConfig,
    MemoryConfig,
    ObjectiveConfig,
    OutputConfig,
    PreviewsConfig,
    TrackingConfig,
    TrainingSection,
)


class Contradiction(ValueError):
    """Values that do not go together; `fields` are the names of their fields."""

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message)
        self.fields = fields


class TrainingConfig(Section):
    """Everything that a run is made from."""

    base: BaseModelConfig = BaseModelConfig()
    images: ImagesConfig = ImagesConfig()
    captions: CaptionsConfig = CaptionsConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingSection = TrainingSection()
    memory: MemoryConfig = MemoryConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    preservation: PreservationConfig = PreservationConfig()
    previews: PreviewsConfig = PreviewsConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: OutputConfig = OutputConfig()
    tracking: TrackingConfig = TrackingConfig()
    concepts: Several[ConceptConfig] = field((), title="Several subjects", max_length=32)
    """Several concepts in one adapter, each a [[concepts]] table. Where there are any, images.path,
    captions.trigger and captions.class_word stay empty."""

    def changed(self, **sections: Mapping[str, object]) -> TrainingConfig:
        """The same with other values in some fields of some sections; not validated."""
        found = {name: getattr(self, name).model_copy(update=one) for name, one in sections.items()}
        return self.model_copy(update=found)

    @model_validator(mode="after")
    def _concepts_stand_alone(self) -> TrainingConfig:
        if not self.concepts:
            return self
        single = {
            "images.path": self.images.path != Path(),
            "captions.trigger": bool(self.captions.trigger),
            "captions.class_word": bool(self.captions.class_word),
        }
        if given := [name for name, is_given in single.items() if is_given]:
            raise Contradiction(
                f"concepts and {' and '.join(given)} are both given: make the single image set one "
                "of the concepts, or leave the concepts out",
                *given,
                "concepts",
            )
        _refuse_alike([concept.trigger for concept in self.concepts])
        return self

    @model_validator(mode="after")
    def _resolution_is_one_of_them(self) -> TrainingConfig:
        one, several = self.images.resolution, self.images.resolutions
        if several and one is not None and one not in several:
            raise Contradiction(
                f"images.resolution {one} is not among images.resolutions "
                f"{', '.join(map(str, several))}: add it there, or leave it empty",
                "images.resolution",
                "images.resolutions",
            )
        return self

    @model_validator(mode="after")
    def _something_trains(self) -> TrainingConfig:
        if not self.adapter.unet and not self.adapter.text_encoder:
            raise Contradiction(
                "adapter.unet and adapter.text_encoder are both off, so nothing would train: "
                "switch one on",
                "adapter.unet",
                "adapter.text_encoder",
            )
        if not self.adapter.unet and self.training.stop_text_encoder_after < 1:
            raise Contradiction(
                "adapter.unet is off, so nothing would train after "
                "training.stop_text_encoder_after: switch it on, or set the other to 1",
                "adapter.unet",
                "training.stop_text_encoder_after",
            )
        return self


def _refuse_alike(triggers: Sequence[str]) -> None:
    """Raises `Contradiction` where two trigger words are equal, or one is contained in another.

    The tokenizer reads lower case, and a word within a word shares its pieces.
    """
    for first, second in combinations(triggers, 2):
        one, other = sorted((first.casefold().strip(), second.casefold().strip()), key=len)
        if one == other:
            message = f"two concepts have the trigger word {first!r}: choose another"
            raise Contradiction(message, "concepts")
        if one in other:
            raise Contradiction(
                f"one of the trigger words {first!r} and {second!r} contains the other, so it "
                "would call both: choose another",
                "concepts",
            )
