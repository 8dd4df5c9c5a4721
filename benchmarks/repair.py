"""Are adapters mended by measurement? A leaking and an overtrained one of three sets, and a pair.

    python -m benchmarks.repair --work DIR [--wheel FILE] [--write-docs]

Adapters are trained on half of a bundled set with the built-in base model, without preservation:
few steps make one that leaks, a threefold learning rate one that is overtrained as well. A quarter
of the pictures is for tuning. The last quarter, which neither training nor tuning saw, measures
before and after; so do other seeds, and things like the class word that tuning did not ask for.
Two adapters at once are measured in the same way. Each adapter is also trained on with the rest
held, by the pictures that it was made from and those of tuning. What is in the results already is
not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.judge import Judge, likeness, looks
from benchmarks.shared import markdown, rows_of, write_between_marks
from trainer.config.file import with_values
from trainer.config.resolve import resolve
from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache
from trainer.evaluation.drift import ProbeSettings, drift, make_probes, mean_drift
from trainer.evaluation.meters import MeterBench
from trainer.evaluation.pictorial import Drawings, DrawnLikeness, Scores, share_kept
from trainer.evaluation.repair import (
    likenesses,
    put_together,
    smallest,
    tune,
)
from trainer.evaluation.target import bench_of, find_target, load_target
from trainer.lora.adapter import Adapter
from trainer.lora.attach import detach
from trainer.lora.loading import collect, load_into
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter
from trainer.memory.devices import choose_device
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder
from trainer.training.session import prepare
from trainer.training.step import training_step

RESULTS = PROJECT / "benchmarks" / "results" / "repair.jsonl"
PAGE = PROJECT / "docs" / "notes" / "adapter-files.md"
SETS = {
    "car": ("police-car", "car", "ohwx", ("a taxi", "a train", "a photo of a bicycle")),
    "teddy": ("teddy-and-peacock/teddy", "bear", "ohwx", ("a fox", "a pig", "a photo of a cat")),
    "peacock": (
        "teddy-and-peacock/peacock",
        "bird",
        "bnha",
        ("a fish", "a bee", "a photo of a dog"),
    ),
}
KINDS = {"leak": (150, 3e-3), "over": (250, 9e-3)}
PARTS = ("train", "train", "held", "tune")
OTHER_SEED = ProbeSettings(pictures=2, seed=7)
KEEP = 0.97
STEPS_ON = 300
JUDGED = ("features", "outline")


def split(work: Path) -> None:
    """Every picture of the sets into one of three folders."""
    for name, (folder, *_) in SETS.items():
        for number, picture in enumerate(sorted((PROJECT / "datasets" / folder).glob("*.png"))):
            target = work / "sets" / name / PARTS[number % len(PARTS)]
            target.mkdir(parents=True, exist_ok=True)
            for path in (picture, picture.with_suffix(".txt")):
                shutil.copy(path, target)


def made(work: Path, name: str, kind: str) -> Path:
    """The adapter of a set, trained unless it is there."""
    path = work / "made" / f"{name}-{kind}.safetensors"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    steps, rate = KINDS[kind]
    how = {
        "preservation.method": "none",
        "optimizer.learning_rate": rate,
        "optimizer.text_encoder_learning_rate": rate / 3,
    }
    adapter = trained(name, work / "sets" / name / "train", steps, how)
    write_adapter(replace(adapter, metadata={"modelspec.trigger_phrase": SETS[name][2]}), path)
    return path


def trained(name: str, images: Path, steps: int, how: dict[str, Any]) -> Adapter:
    """An adapter of a set's pictures."""
    _, class_word, trigger, _ = SETS[name]
    values = {
        "images.path": str(images),
        "captions.trigger": trigger,
        "captions.class_word": class_word,
        "training.steps": steps,
        "evaluation.validation": 0.0,
    }
    config = with_values(TrainingConfig(), values | how)
    with tempfile.TemporaryDirectory() as folder:
        session = prepare(
            config, RunFolder(Path(folder)), choose_device("fp32"), lambda _: None, lambda *_: None
        )
        while session.step < steps:
            training_step(session, lambda: False)
        return collect(session.base, session.attachment.name)


class Room:
    """The base model, and what measures on it."""

    def __init__(self, work: Path, wheel: Path | None) -> None:
        self.work, self.judge = work, Judge(wheel) if wheel else None
        self.base, _, self.device, _ = load_target(
            self.target("teddy", "tune", made(work, "teddy", "leak"))
        )
        self.cache = TensorCache(work / "cache", lambda _: None)

    def target(self, name: str, part: str, file: Path) -> Any:
        """A set's part as a target."""
        _, class_word, trigger, _ = SETS[name]
        return find_target(
            file, base="tiny-emoji", trigger=trigger, class_word=class_word,
            images=self.work / "sets" / name / part,
        )  # fmt: skip

    def bench(self, names: Sequence[str], part: str, kind: str = "leak") -> MeterBench:
        """The meters of some sets' pictures."""
        targets = [self.target(name, part, made(self.work, name, kind)) for name in names]
        targets = [replace(one, config=resolve(one.config, self.base)) for one in targets]
        settings = OTHER_SEED if part == "held" else None
        return bench_of(self.base, targets, self.device, self.cache, [], settings)

    def measure(self, bench: MeterBench, name: str, adapter: Adapter) -> dict[str, Any]:
        """The meters, and the drift of things that tuning did not ask for."""
        drawings, prompts = DrawnLikeness(bench), SETS[name][3]
        probes = make_probes(self.base, prompts, self.device, self.cache, OTHER_SEED)
        load_into(self.base, adapter, "measured")
        try:
            meters = bench.measure()[0]
            others = mean_drift(drift(self.base, probes, self.device), prompts)
            drawn = drawings.gains()[0]
            judged = self.judged(bench) if self.judge else {}
        finally:
            detach(self.base, "measured")
        return {**asdict(meters), "leak": meters.leak, "others": others, "drawn": drawn, **judged}

    def judged(self, bench: MeterBench) -> dict[str, float]:
        """Features and outline of drawings, as `benchmarks.judge` sees them."""
        drawings = Drawings(self.base, bench.concepts[0], self.device, 8, repeated=True)
        drawn, shown = (
            looks(self.judge, [Image.fromarray(np.asarray(one)) for one in some])
            for some in (drawings.drawn(drawings.captions), drawings.pictures)
        )
        pairs = [likeness(one, shown) for one in drawn]
        return {"features": mean(one for one, _ in pairs), "outline": mean(one for _, one in pairs)}

    def single(self, name: str, kind: str) -> dict[str, Any]:
        """One adapter tuned, and made smaller."""
        adapter = read_adapter(made(self.work, name, kind))
        tuning, held = self.bench([name], "tune", kind), self.bench([name], "held", kind)
        found = tune(tuning, adapter, KEEP)
        small, *_ = smallest(tuning, adapter, 0.99)
        size, less = (sum(x.rank for x in one.layers.values()) for one in (adapter, small))
        return {
            "strengths": found.strengths,
            "tuning": [asdict(found.before), asdict(found.after)],
            "before": self.measure(held, name, adapter),
            "after": self.measure(held, name, found.adapter),
            "smaller": self.measure(held, name, small),
            "ranks": [size, less],
        }

    def trained_on(self, name: str, kind: str) -> dict[str, Any]:
        """One adapter trained on, with the rest held, as the page's button fills the form."""
        file, images = made(self.work, name, kind), self.work / "sets" / name / "train and tune"
        for part in ("train", "tune"):
            shutil.copytree(self.work / "sets" / name / part, images, dirs_exist_ok=True)
        after = trained(name, images, STEPS_ON, {"adapter.start_from": str(file)})
        held = self.bench([name], "held", kind)
        return {
            "before": self.measure(held, name, read_adapter(file)),
            "after": self.measure(held, name, after),
        }

    def pair(self, one: str, other: str) -> dict[str, Any]:
        """Two adapters at once."""
        names = (one, other)
        adapters = [read_adapter(made(self.work, name, "leak")) for name in names]
        found = put_together(self.bench(names, "tune"), adapters, names)
        held = self.bench(names, "held")
        seen: dict[str, list[float]] = {}
        drawings, drawn = DrawnLikeness(held), dict[str, list[Scores]]()
        for way, some in {
            "alone 0": adapters[:1],
            "alone 1": adapters[1:],
            "both": adapters,
            "new": [found.merged],
        }.items():
            for number, adapter in enumerate(some):
                load_into(self.base, adapter, f"held{number}")
            seen[way], drawn[way] = likenesses(held), drawings.gains()
            detach(self.base)
        return {
            "alone": found.alone, "cross": found.cross, "strengths": found.strengths,
            "merges": found.merges, "drawn": found.drawn, "best": found.best, "held": seen,
            "held_drawn": drawn,
        }  # fmt: skip


def write_docs(rows: Sequence[dict[str, Any]]) -> None:
    """The tables of the lab report."""

    def both(row: dict[str, Any], key: str) -> str:
        return f"{row['before'][key]:.3f} → {row['after'][key]:.3f}"

    def drawn(row: dict[str, Any], which: str) -> str:
        return f"{share_kept([row['before']['drawn']], [row[which]['drawn']]):.2f}"

    def share(row: dict[str, Any], key: str) -> str:
        return f"{row['after'][key] / row['before'][key]:.2f}"

    def measured(row: dict[str, Any]) -> list[str]:
        return [row["key"].removesuffix(", on"), both(row, "likeness"), drawn(row, "after"),
            both(row, "class_drift"), share(row, "class_drift"), both(row, "others"),
            share(row, "others")]  # fmt: skip

    columns = ["adapter", "likeness", "drawings keep", "class word", "of before"]
    columns += ["other things", "of before"]
    tuned = [
        [*measured(row), f"{row['ranks'][0]} → {row['ranks'][1]}",
         f"{row['smaller']['likeness']:.3f}", drawn(row, "smaller")]
        for row in rows if "ranks" in row
    ]  # fmt: skip
    on = [
        [*measured(row), *(f"{row['after'][x] / row['before'][x]:.2f}" for x in JUDGED)]
        for row in rows if row["key"].endswith(", on")
    ]  # fmt: skip
    pairs = [
        [row["key"], row["best"]]
        + [
            f"{held['alone ' + str(n)][n]:.3f}, {held['both'][n]:.3f}, {held['new'][n]:.3f}"
            for held in [row["held"]]
            for n in (0, 1)
        ]
        + [
            f"{share_kept([own['alone 0'][0], own['alone 1'][1]], own[way]):.2f}"
            for own in [row["held_drawn"]]
            for way in ("both", "new")
        ]
        for row in rows
        if "held" in row
    ]
    header = ["pair", "kept", "first: alone, both, new", "second: alone, both, new"]
    header += ["drawings keep, both", "new"]
    smaller = ["sum of ranks", "likeness then", "drawings keep"]
    tables = [
        markdown([*columns, *smaller], tuned),
        markdown(["trained on", *columns[1:], *JUDGED], on),
        markdown(header, pairs),
    ]
    write_between_marks(PAGE, "repair", "\n\n".join(tables))


def main() -> None:
    """Does what is missing, or writes the docs from what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--wheel", type=Path, help="Weights of `benchmarks.judge`.")
    parser.add_argument("--only", nargs="*", default=[], help='Such as "car, over".')
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    rows = list(rows_of(RESULTS))
    if options.write_docs:
        write_docs(rows)
        return
    torch.set_num_threads(1)
    split(options.work)
    room, done = Room(options.work, options.wheel), {row["key"] for row in rows}
    works = {f"{name}, {kind}": (room.single, name, kind) for kind in KINDS for name in SETS}
    works |= {f"{key}, on": (room.trained_on, *rest) for key, (_, *rest) in works.items()}
    works["teddy and peacock"] = (room.pair, "teddy", "peacock")
    wanted = [key for key in options.only or works if key not in done]
    for key in wanted:
        work, *arguments = works[key]
        result = {"key": key, **work(*arguments)}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(key, flush=True)


if __name__ == "__main__":
    main()
