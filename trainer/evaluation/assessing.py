"""Everything that is measured of a run or an adapter file, put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer.config.concepts import concepts_of
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.latents import LatentSource, MaskSource, gather_pictures
from trainer.evaluation.board import board_rows, draw_board
from trainer.evaluation.meters import MeterBench, Subject, mean_meters
from trainer.evaluation.pictorial import PictureScores, score_pictures
from trainer.evaluation.recommending import (
    Candidate,
    Recommendation,
    best_checkpoint,
    recommend,
)
from trainer.evaluation.target import AdapterAt, Target, one_concept
from trainer.evaluation.verdicts import Finding, findings
from trainer.events import Meters, Progress
from trainer.lora.attach import detach, set_strength
from trainer.lora.loading import load_into
from trainer.lora.reading import read_adapter
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.runs.atomic import write_json
from trainer.runs.layout import RunFolder
from trainer.training.batches import all_captions

NAME = "measured"
STRENGTHS = (0.6, 0.8)
"""Below full strength, what is tried for the recommended checkpoint."""


@dataclass(frozen=True)
class Plan:
    """How much is measured besides the meters of every file.

    Attributes:
        board: pictures in each cell of the bleed board; 0: no board.
        pictures: prompts of which pictures are drawn and compared with the set; 0: none.
        scorers: folder of CLIP or DINO models; None: none.
    """

    board: int = 2
    pictures: int = 4
    scorers: Path | None = None


@dataclass(frozen=True)
class Assessment:
    """What was found.

    Attributes:
        trigger, class_word: of all concepts, comma-separated.
        checkpoints: every file at full strength, in its order, the result last.
        strengths: the recommended checkpoint at several strengths, rising.
        each: the result's meters for each concept, by trigger and class word.
        bleed: likeness of the row's pictures under the column's trigger; empty for one concept.
        prompts: the drift of every prompt with the result.
        findings: what the meters say of the result.
        notes: what could not be measured, and why.
    """

    trigger: str
    class_word: str
    checkpoints: list[Candidate]
    strengths: list[Candidate]
    each: dict[str, Meters]
    bleed: list[list[float | None]]
    prompts: dict[str, float]
    findings: list[Finding]
    recommended: Recommendation
    pictures: PictureScores | None = None
    board: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def meters(self) -> Meters:
        """Of the result, at full strength."""
        return self.checkpoints[-1].meters

    def json(self) -> dict[str, object]:
        """The object of ``evaluate --json``."""
        meters, chosen = self.meters, self.recommended.candidate
        return {
            "effect": meters.effect,
            "leak": meters.leak,
            "collateral": meters.collateral,
            "validation_loss": meters.validation_loss,
            "trigger": self.trigger,
            "class_word": self.class_word,
            "checkpoints": [candidate_json(one) for one in self.checkpoints],
            "recommended": {
                "checkpoint": chosen.file if chosen else None,
                "step": chosen.step if chosen else None,
                "strength": chosen.strength if chosen else None,
                "why": self.recommended.why,
                "findings": [asdict(finding) for finding in self.findings],
                "strengths": [candidate_json(one) for one in self.strengths],
            },
        }

    def details(self) -> dict[str, object]:
        """What the object has no room for."""
        return {
            "concepts": {name: meters_json(meters) for name, meters in self.each.items()},
            "bleed": self.bleed,
            "prompts": self.prompts,
            "pictures": asdict(self.pictures) if self.pictures else None,
            "notes": self.notes,
        }


def assess(
    base: BaseModel,
    target: Target,
    device: Device,
    cache: TensorCache,
    plan: Plan,
    board: Path | None,
    progress: Progress = lambda *_: None,
    known: Mapping[int, Meters] | None = None,
) -> Assessment:
    """Measures all files of a target on a base model that has no adapter on it.

    UNet and text encoders have to be on the device.

    Args:
        target: with its configuration resolved for this base.
        board: where the bleed board goes; None: nowhere.
        known: meters of earlier steps that need not be measured again.

    Raises:
        UserError: a file can't be read, or is not for this base model.
    """
    config, notes = target.config, []
    concepts = concepts_of(config)
    progress(0, 1, "the base model's own pictures")
    latents = LatentSource(base, cache, config.images.background)
    side = config.images.resolution
    with device.instead([base.vae], []):
        subjects = [_subject(base, target, concept, notes) for concept in concepts]
        bench = MeterBench(
            base,
            subjects,
            device,
            cache,
            latents,
            masks=MaskSource(config.images, base.vae_scale_factor),
            objective=config.objective,
            side=side,
        )
    measured = _measure_files(base, target, bench, progress, known or {})
    result = target.files[-1]
    dead = _is_dead(result)
    best = best_checkpoint(measured)
    strengths = _measure_strengths(base, _path_of(target, best), best, bench, dead)
    load_into(base, read_adapter(result.path), NAME)
    try:
        each = bench.measure()
        prompts = dict(bench.last_drifts)
        drawn = None
        if plan.pictures and not dead:
            drawn = score_pictures(base, subjects, device, plan.pictures, plan.scorers, progress)
        if plan.board and board is not None:
            draw_board(
                base, NAME, board_rows(bench.benches[0].prompts), concepts[0].trigger, device,
                board, count=plan.board, side=side or base.default_resolution,
                progress=lambda done, total: progress(done, total, "the bleed board"),
            )  # fmt: skip
        return Assessment(
            trigger=", ".join(concept.trigger for concept in concepts),
            class_word=", ".join(concept.class_word for concept in concepts),
            checkpoints=measured,
            strengths=strengths,
            each={s.name: meters for s, meters in zip(subjects, each, strict=True)},
            bleed=bench.bleed() if len(subjects) > 1 else [],
            prompts=prompts,
            findings=_findings(each, subjects, measured, dead),
            recommended=recommend(measured, strengths, dead=dead),
            pictures=drawn,
            board=board if plan.board else None,
            notes=notes,
        )
    finally:
        detach(base, NAME)


def write_assessment(assessment: Assessment, run: RunFolder) -> None:
    """``evaluation.json`` of a run, and the details beside its board."""
    details = run.bleed_board.with_name("details.json")
    details.parent.mkdir(parents=True, exist_ok=True)
    write_json(run.evaluation, finite(assessment.json()))
    write_json(details, finite(assessment.details()))


def finite(value: object) -> object:
    """The same with None for what is not a number, which JSON can't say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def candidate_json(one: Candidate) -> dict[str, object]:
    """A checkpoint at a strength, with its meters."""
    place = {"checkpoint": one.file, "step": one.step, "strength": one.strength}
    return {**place, **meters_json(one.meters)}


def meters_json(meters: Meters) -> dict[str, object]:
    """All meters of one measurement."""
    derived = ("leak", "class_leak", "neighbour_leak", "collateral", "gap")
    return {**asdict(meters), **{name: getattr(meters, name) for name in derived}}


def _subject(base: BaseModel, target: Target, concept: ConceptConfig, notes: list[str]) -> Subject:
    """A concept with what there is of its pictures."""
    words = (concept.trigger, concept.class_word)
    if concept.path == Path():
        return Subject(*words)
    if not concept.path.exists():
        notes.append(f"The image set {concept.path} is not there any more: no likeness.")
        return Subject(*words)
    config: TrainingConfig = one_concept(target.config, concept)
    if not target.held_out:
        section = config.evaluation.model_copy(update={"validation": 0.0})
        config = config.model_copy(update={"evaluation": section})
    trained, held_out = gather_pictures(config, base.resolution_step, lambda _: None)
    return Subject(
        *words,
        tuple(zip(trained, all_captions(base, trained, config), strict=True)),
        tuple(zip(held_out, all_captions(base, held_out, config), strict=True)),
    )


def _measure_files(
    base: BaseModel,
    target: Target,
    bench: MeterBench,
    progress: Progress,
    known: Mapping[int, Meters],
) -> list[Candidate]:
    found = []
    for place, file in enumerate(target.files):
        progress(place, len(target.files), f"measuring {file.path.name}")
        meters = known.get(file.step) if file.step is not None else None
        if meters is None:
            meters = mean_meters(_at_strength(base, file.path, 1.0, bench))
        found.append(Candidate(_name(target, file), file.step, 1.0, meters))
    return found


def _measure_strengths(
    base: BaseModel, path: Path, best: Candidate, bench: MeterBench, dead: bool
) -> list[Candidate]:
    if dead:
        return [best]
    lower = [
        Candidate(
            best.file, best.step, strength, mean_meters(_at_strength(base, path, strength, bench))
        )
        for strength in STRENGTHS
    ]
    return [*lower, best]


def _at_strength(base: BaseModel, path: Path, strength: float, bench: MeterBench) -> list[Meters]:
    load_into(base, read_adapter(path), NAME, strength)
    try:
        set_strength(base, NAME, strength)
        return bench.measure()
    finally:
        detach(base, NAME)


def _findings(
    each: Sequence[Meters], subjects: Sequence[Subject], measured: list[Candidate], dead: bool
) -> list[Finding]:
    """Of one concept as it is; of several, each with its name in front."""
    if len(each) == 1 or dead:
        earlier = [one.meters for one in measured[:-1]]
        return findings(each[0], dead=dead, earlier=earlier)
    return [
        Finding(finding.code, f"{subject.name}: {finding.says}", finding.good)
        for subject, meters in zip(subjects, each, strict=True)
        for finding in findings(meters)
    ]


def _is_dead(file: AdapterAt) -> bool:
    adapter = read_adapter(file.path)
    return len(adapter.dead_layers()) == len(adapter.layers)


def _name(target: Target, file: AdapterAt) -> str:
    return file.path.relative_to(target.run.path).as_posix() if target.run else file.path.name


def _path_of(target: Target, candidate: Candidate) -> Path:
    return next(file.path for file in target.files if _name(target, file) == candidate.file)
