"""Does the verdict agree with people? Adapters of all kinds, measured, drawn and labelled by eye.

    python -m benchmarks.verdicts --adapters FOLDER --sets FOLDER --out FOLDER   measures and draws
    python -m benchmarks.verdicts --report                                       agreement, bounds

The adapters are those that `benchmarks.subject` keeps (``"keep": true`` in its plan), at full and
at other strengths, on their own image set and on others'. Each has a row of pictures in a sheet:
four with the trigger word, four without it, and the base model's. The labels in ``labels.json``
were given by looking at those sheets alone, before the verdicts were seen. The report looks for the
best bounds on two thirds of the adapters (rows whose number is not divisible by 3), and says what
those give on the last third.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.shared import rows_of
from benchmarks.subject import TRIGGER
from benchmarks.subject_sets import STYLE_NAMES, by_name
from trainer.config.file import with_values
from trainer.config.resolve import resolve
from trainer.data.cache import TensorCache
from trainer.data.gather import read_sets, split_pictures
from trainer.data.latents import LatentSource
from trainer.evaluation import overall, pictorial
from trainer.evaluation.meters import MeasuredConcept, MeterBench
from trainer.evaluation.pictorial import PictureScores
from trainer.evaluation.target import config_of
from trainer.evaluation.verdicts import findings
from trainer.events import Meters, no_progress
from trainer.lora.attach import detach, set_strength
from trainer.lora.loading import load_into
from trainer.lora.reading import read_adapter
from trainer.memory.devices import choose_device
from trainer.models.load import load_base
from trainer.places import PROJECT, cache_folder
from trainer.training.batches import all_captions

RESULTS = PROJECT / "benchmarks" / "results" / "verdicts"
FOREIGN = {
    "default-cat-0": "fish", "default-fish-0": "cat", "ff-w4-house-0": "skate",
    "plain-bird-0": "chair", "default-guitar-0": "dog", "plain-dog-0": "house",
    "default-chair-0": "guitar", "plain-fish-0": "bird", "default-skate-0": "chair",
}  # fmt: skip
OTHER_STRENGTHS = {
    "default-bird-0": (0.3,), "default-house-0": (0.15,), "default-fish-0": (0.5, 0.0),
    "default-guitar-0": (0.35, 1.6), "plain-dog-0": (0.4,), "plain-chair-0": (2.0, 0.0),
    "default-dog-0": (0.6,), "default-skate-0": (0.25,), "default-chair-0": (1.8,),
    "plain-fish-0": (1.7,), "plain-bird-0": (0.6,), "default-cat-0": (0.1,),
    "default-line-0": (0.5,),
}  # fmt: skip
ROWS_A_SHEET = 15


def plan(adapters: Path) -> Iterator[tuple[str, str, float]]:
    """(file's name, image set, strength) of everything that is measured."""
    for file in sorted(adapters.glob("*.safetensors")):
        own = file.stem.split("-")[-2]
        yield file.stem, own, 1.0
        for strength in OTHER_STRENGTHS.get(file.stem, ()):
            yield file.stem, own, strength
        if file.stem in FOREIGN:
            yield file.stem, FOREIGN[file.stem], 1.0


class VerdictBench:
    """The base model, and what is measured for each image set."""

    def __init__(self, sets: Path) -> None:
        self.sets = sets
        self.device, self.base = choose_device("fp32"), load_base("tiny-emoji")
        self.cache = TensorCache(cache_folder(), lambda _: None)
        self._benches: dict[str, MeterBench] = {}
        self.drawn: list[Image.Image] = []
        real = pictorial.draw

        def draw(*arguments: Any) -> list[Image.Image]:
            self.drawn += (shown := real(*arguments))
            return shown

        pictorial.draw = draw  # type: ignore[assignment]

    def bench(self, name: str) -> MeterBench:
        """The meters of a set."""
        if name not in self._benches:
            word = "" if name in STYLE_NAMES else by_name(name).class_word
            values = {
                "captions.trigger": TRIGGER,
                "captions.class_word": word,
                "images.path": str(self.sets / name),
                "evaluation.validation": 0.0,
            }
            config = resolve(with_values(config_of({}), values), self.base)
            pictures, _ = split_pictures(config, read_sets(config, self.base.resolution_step))
            captions = all_captions(self.base, pictures, config)
            concept = MeasuredConcept(TRIGGER, word, tuple(zip(pictures, captions, strict=True)))
            source = LatentSource(self.base, self.cache, config.images.background)
            self._benches[name] = MeterBench(self.base, [concept], self.device, self.cache, source)
        return self._benches[name]

    def measure(self, file: Path, name: str, strength: float) -> tuple[dict[str, Any], Image.Image]:
        """Meters and scores of a file, and its row of pictures."""
        bench = self.bench(name)
        load_into(self.base, read_adapter(file), "judged", strength)
        try:
            set_strength(self.base, "judged", strength)
            (meters,) = bench.measure()
            self.drawn.clear()
            scores = pictorial.score_pictures(
                self.base, bench.concepts[0], self.device, 4, None, no_progress
            )
        finally:
            detach(self.base, "judged")
        row = Image.new("RGB", (64 * len(self.drawn), 64))
        for place, picture in enumerate(self.drawn):
            row.paste(picture, (64 * place, 0))
        return {"meters": asdict(meters), "pictures": asdict(scores) if scores else None}, row


def measure_all(options: argparse.Namespace) -> None:
    """Measures what has no row yet, then writes the sheets."""
    bench, rows = VerdictBench(options.sets), options.out / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    results = options.out / "verdicts.jsonl"
    for stem, name, strength in plan(options.adapters):
        key = f"{stem} on {name} at {strength:g}"
        if key in {row["key"] for row in rows_of(results)}:
            continue
        found, row = bench.measure(options.adapters / f"{stem}.safetensors", name, strength)
        row.save(rows / f"{key.replace(' ', '-')}.png")
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "set": name} | found) + "\n")
        print(key, flush=True)
    keys = [row["key"] for row in rows_of(results)]
    for start in range(0, len(keys), ROWS_A_SHEET):
        some = [
            Image.open(rows / f"{key.replace(' ', '-')}.png") for key in keys[start:][:ROWS_A_SHEET]
        ]
        sheet = Image.new("RGB", (some[0].width, 66 * len(some)), "white")
        for place, row in enumerate(some):
            sheet.paste(row, (0, 66 * place))
        sheet.save(options.out / f"sheet-{start // ROWS_A_SHEET}.jpg", quality=80)


def verdict_of(row: Mapping[str, Any]) -> str:
    """The verdict on a measured adapter."""
    meters = Meters(**row["meters"])
    scores = PictureScores(**row["pictures"]) if row["pictures"] else None
    return overall.verdict_code(meters, scores, {one.code for one in findings(meters)})


def agreement(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> float:
    """The share of verdicts that are as labelled."""
    return float(np.mean([verdict_of(row) == labels[row["key"]] for row in rows]))


def report() -> None:
    """Prints the agreement, with the bounds as they are and with the best of two thirds."""
    rows = list(rows_of(RESULTS / "verdicts.jsonl"))
    labels = json.loads((RESULTS / "labels.json").read_text(encoding="utf-8"))
    chosen = [row for number, row in enumerate(rows) if number % 3]
    rest = rows[::3]
    for row in rows:
        if verdict_of(row) != labels[row["key"]]:
            print(f"{row['key']}: {verdict_of(row)}, by eye {labels[row['key']]}")
    for name, some in (("two thirds", chosen), ("last third", rest), ("all", rows)):
        print(name, len(some), f"{agreement(some, labels):.2f}")
    found: list[tuple[float, float]] = []
    for bounds in product(np.arange(0.7, 0.8, 0.01), (0.55, 0.6, 0.65, 0.7), (0.4, 0.5, 0.6)):
        overall.WORKS, overall.PARTLY, overall.MOVED = map(float, bounds)
        found.append((agreement(chosen, labels), agreement(rest, labels)))
    best = max(one for one, _ in found)
    others = [other for one, other in found if one == best]
    print(f"best bounds of two thirds: {best:.2f} there ({len(others)} of {len(found)} triples)")
    print(f"on the last third {min(others):.2f} to {max(others):.2f}, mean {np.mean(others):.2f}")


def main() -> None:
    """Measures, or reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=Path)
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.report:
        report()
    else:
        measure_all(options)


if __name__ == "__main__":
    main()
