"""Everything that is measured of a run or an adapter file, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.answers import Answer, plain
from trainer.data.cache import TensorCache
from trainer.evaluation.board import draw_board
from trainer.evaluation.drift import on_model
from trainer.evaluation.listening import Listening, listening_findings, measure_listening
from trainer.evaluation.meters import MeasuredConcept, MeterBench, mean_meters
from trainer.evaluation.overall import Verdict, judge, refusal, verdict_code, worst
from trainer.evaluation.pictorial import PictureScores, score_pictures
from trainer.evaluation.target import Target, bench_of, run_files
from trainer.evaluation.verdicts import (
    AdapterFinding,
    Candidate,
    Recommendation,
    best_candidate,
    findings,
    recommend,
)
from trainer.evaluation.watching import history
from trainer.events import Meters, Progress, no_progress
from trainer.lora.attach import detach
from trainer.lora.layouts import OUTPUT, embeddings_shown
from trainer.lora.reading import read_adapter
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.places import shown
from trainer.runs.atomic import write_json
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.runs.meters import METERS
from trainer.text import aligned
from trainer.training.session import Session

NAME = "measured"
_SUMMED_UP = ("effect", "leak", "collateral", "validation_loss")
_OWN = ("trigger", "class_word", "verdict", "listening")
COMPARED = 4  # captions that are drawn for each concept, to compare with the set
STRENGTHS = (0.6, 0.8)  # below full strength, what is tried for the recommended checkpoint


@dataclass(frozen=True)
class Assessment(Answer):
    """What was found."""

    # trigger, class_word: of all concepts, comma-separated.
    trigger: str
    class_word: str
    checkpoints: list[Candidate]  # every file at full strength, in its order, the result last
    strengths: list[Candidate]  # the recommended checkpoint at several strengths, rising
    each: dict[str, Meters]  # the result's meters for each concept, by trigger and class word
    # Likeness of the row's pictures under the column's trigger; empty for one concept.
    bleed: list[list[float | None]]
    prompts: dict[str, float]  # the drift of every prompt with the result
    findings: list[AdapterFinding]  # what the meters say of the result
    recommended: Recommendation
    verdict: Verdict  # what it is worth; of several concepts, that of the worst
    # pictures, listening: of the first concept.
    pictures: PictureScores | None = None
    listening: Listening | None = None
    board: Path | None = None
    notes: list[str] = field(default_factory=list[str])  # what could not be measured, and why

    def as_dict(self) -> dict[str, object]:
        """Also for a run's ``evaluation.json``."""
        meters, chosen = self.checkpoints[-1].meters, self.recommended.candidate
        found = {name: getattr(meters, name) for name in _SUMMED_UP}
        found |= {name: getattr(self, name) for name in _OWN}
        found["checkpoints"] = [candidate_json(one) for one in self.checkpoints]
        found["recommended"] = {
            "checkpoint": chosen.file if chosen else None,
            "step": chosen.step if chosen else None,
            "strength": chosen.strength if chosen else None,
            "why": self.recommended.why,
            "findings": self.findings,
            "strengths": [candidate_json(one) for one in self.strengths],
        }
        return plain(found)

    def lines(self) -> list[str]:
        words = self.trigger + (f", class word {self.class_word}" if self.class_word else "")
        command = self.verdict.next_step.command
        result = [f"Trigger word {words}", "", self.verdict_line]
        result += [f"  {command}"] * bool(command) + [""]
        result += [finding.says for finding in self.findings]
        if self.pictures:
            parts = [
                f"{name} {self.pictures.trigger[name]:.2f} with the trigger word, "
                f"{self.pictures.class_word[name]:.2f} without it"
                for name in self.pictures.trigger
            ]
            result.append(
                "With the trigger word, drawings turn towards the set by "
                f"{self.pictures.learned:.2f} of 1; without it they have gone "
                f"{self.pictures.taken:.0%} of that way. How like the set they are: "
                f"{'; '.join(parts)}."
            )
        result += [*self.notes, "", *table([*self.checkpoints, *self.strengths[:-1]]), ""]
        chosen, why = self.recommended.candidate, self.recommended.why
        used = f"Use {chosen.file} at strength {chosen.strength:g}: " if chosen else ""
        return [*result, used + why, *([f"Board: {shown(self.board)}"] if self.board else ())]

    @property
    def verdict_line(self) -> str:
        """The verdict and the next step."""
        return f"{self.verdict.says} {self.verdict.next_step.says}"

    def details(self) -> dict[str, object]:
        """What the object has no room for."""
        return {
            "concepts": self.each,
            "bleed": self.bleed,
            "prompts": self.prompts,
            "pictures": self.pictures,
            "notes": self.notes,
        }

    def sentences(self) -> list[str]:
        """What the end of a training says: does it work, does it leak, what else changed."""
        said = [self.verdict_line, *(finding.says for finding in self.findings)]
        chosen, result = self.recommended.candidate, self.checkpoints[-1]
        if chosen and (chosen.file, chosen.strength) != (result.file, result.strength):
            use = f"{chosen.file} at strength {chosen.strength:g}"
            said.append(f"Perhaps better: {use}: {self.recommended.why}")
        return said


def assess(
    base: BaseModel,
    target: Target,
    device: Device,
    cache: TensorCache,
    *,
    board: Path | None = None,
    board_pictures: int = 2,
    scorers: Path | None = None,
    progress: Progress = no_progress,
    known: Mapping[int, Meters] | None = None,
) -> Assessment:
    """Measures all files of a target on a base model that has no adapter on it.

    UNet and text encoders have to be on the device.

    Args:
        target: with its configuration resolved for this base.
        board: where the bleed board goes; None: nowhere.
        board_pictures: in each of its cells.
        scorers: folder of CLIP or DINO models; None: none.
        known: meters of earlier steps that need not be measured again.

    Raises:
        UserError: a file can't be read, or is not for this base model.
    """
    notes: list[str] = []
    progress(0, 1, "the base model's own pictures")
    bench = bench_of(base, [target], device, cache, notes)
    concepts, side = bench.concepts, target.config.images.resolution or base.default_resolution
    checkpoints = _measure_files(target, bench, progress, known or {})
    adapter = read_adapter(target.result.path)
    words = adapter.embeddings.items()
    unused = {word: own for word, own in words if any(name.endswith(OUTPUT) for name in own)}
    notes += [f"Measured with {one}." for one in embeddings_shown(unused)]
    dead = len(adapter.dead_layers()) == len(adapter.layers)
    best = best_candidate(checkpoints)
    lower = [] if dead else [_at_strength(target, best, strength, bench) for strength in STRENGTHS]
    drawn: list[PictureScores | None] = [None] * len(concepts)
    listening: Listening | None = None
    with on_model(base, {NAME: adapter}):
        each, prompts = bench.measure(), dict(bench.last_drifts)
        bleed = bench.bleed() if len(concepts) > 1 else []
        if not dead:
            drawn = [score_pictures(base, c, device, COMPARED, scorers, progress) for c in concepts]
            progress(0, 1, "scenes that no picture shows")
            listening = measure_listening(base, concepts[0], device, side)
        if board is not None:
            draw_board(bench, NAME, board, board_pictures, side, progress)
    earlier = [one.meters for one in checkpoints[:-1]] if len(concepts) == 1 else []
    found = [findings(meters, dead=dead, earlier=earlier) for meters in each]
    found[0] += listening_findings(listening) if listening else ()
    code = worst([
        verdict_code(meters, shown, {finding.code for finding in some}, target.own)
        for meters, shown, some in zip(each, drawn, found, strict=True)
    ])  # fmt: skip
    recommended = recommend(checkpoints, [*lower, best], dead=dead, refused=refusal(code))
    return Assessment(
        trigger=", ".join(concept.trigger for concept in concepts),
        class_word=", ".join(concept.class_word for concept in concepts),
        checkpoints=checkpoints,
        strengths=[*lower, best],
        each={one.name: meters for one, meters in zip(concepts, each, strict=True)},
        bleed=bleed,
        prompts=prompts,
        findings=_named(found, concepts) if not dead else found[0],
        recommended=recommended,
        verdict=judge(
            code,
            target.config,
            recommended.candidate,
            checkpoints[-1],
            target.run.path if target.run else target.result.path,
            listening.swallowed if listening else (),
        ),
        pictures=drawn[0],
        listening=listening,
        board=board,
        notes=notes,
    )


def assess_run(session: Session) -> Assessment:
    """Measures what a finished training has made, and writes it into the run folder.

    The adapter in training is taken off the base model: its file is measured, which is what people
    will use. What was measured during training is not measured again.

    Raises:
        UserError: an adapter file or the image set can't be read any more.
    """
    run, config = session.run, session.config
    detach(session.base, session.attachment.name)
    found = assess(
        session.base,
        Target(config, run_files(run), run, has_split=True, own=True),
        session.device,
        session.text.cache,
        board=run.bleed_board if config.evaluation.board else None,
        board_pictures=config.evaluation.board,
        scorers=config.evaluation.scorers,
        known=history(read_events(run), session.step),
    )
    write_assessment(found, run)
    return found


def write_assessment(assessment: Assessment, run: RunFolder) -> None:
    """``evaluation.json`` of a run, and the details beside its board."""
    details = run.bleed_board.with_name("details.json")
    details.parent.mkdir(parents=True, exist_ok=True)
    write_json(run.evaluation, assessment.as_dict())
    write_json(details, plain(assessment.details()))


def table(candidates: Sequence[Candidate]) -> list[str]:
    """One line for each checkpoint and strength."""
    rows = [["step", "strength", *(meter.title for meter in METERS)]]
    for one in candidates:
        values = [getattr(one.meters, meter.name) for meter in METERS]
        step = "-" if one.step is None else str(one.step)
        rows.append(
            [step, f"{one.strength:g}", *("-" if v is None else f"{v:.3f}" for v in values)]
        )
    return aligned(rows, right=True)


def candidate_json(one: Candidate) -> dict[str, object]:
    """A checkpoint at a strength, with its meters."""
    place = {"checkpoint": one.file, "step": one.step, "strength": one.strength}
    return {**place, **one.meters.as_dict()}


def _measure_files(
    target: Target, bench: MeterBench, progress: Progress, known: Mapping[int, Meters]
) -> list[Candidate]:
    found: list[Candidate] = []
    for place, file in enumerate(target.files):
        progress(place, len(target.files), f"measuring {file.path.name}")
        meters = known.get(file.step) if file.step is not None else None
        meters = meters or _measured(file.path, 1.0, bench)
        found.append(Candidate(target.name(file), file.step, 1.0, meters))
    return found


def _at_strength(
    target: Target, candidate: Candidate, strength: float, bench: MeterBench
) -> Candidate:
    file = next(one for one in target.files if target.name(one) == candidate.file)
    meters = _measured(file.path, strength, bench)
    return replace(candidate, strength=strength, meters=meters)


def _measured(path: Path, strength: float, bench: MeterBench) -> Meters:
    with on_model(bench.base, {NAME: read_adapter(path)}, strength):
        return mean_meters(bench.measure())


def _named(
    found: Sequence[Sequence[AdapterFinding]], concepts: Sequence[MeasuredConcept]
) -> list[AdapterFinding]:
    """Of one concept as they are; of several, each with its name in front."""
    if len(found) == 1:
        return list(found[0])
    return [
        AdapterFinding(finding.code, f"{concept.name}: {finding.says}", finding.good)
        for concept, some in zip(concepts, found, strict=True)
        for finding in some
    ]
