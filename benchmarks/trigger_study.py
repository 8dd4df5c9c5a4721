"""Does the trigger word keep the rest still? Trainings of the bundled sets, measured alike.

    python -m benchmarks.trigger_study [--runs FILE.jsonl] [--only ARM …] [--part 1/2]
    python -m benchmarks.trigger_study --write-docs

Each run trains on a bundled set with the built-in base model and is measured by the meters of
`trainer.evaluation`, at finer settings than a run uses itself. A run that is in the file already is
left out, so that the study can be stopped and started again. ``--write-docs`` puts the tables into
docs/notes/preservation.md and the board beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.shared import rows_of
from benchmarks.study_report import write_docs
from trainer.config.concepts import concepts_of
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.evaluation.drift import ProbeSettings, drift, make_probes, mean_drift
from trainer.evaluation.meters import MeterBench
from trainer.evaluation.pictorial import score_pictures
from trainer.evaluation.watching import concepts_with_pictures
from trainer.events import Meters
from trainer.generation.sampling import Drawing, draw
from trainer.lora.attach import disabled
from trainer.memory.devices import choose_device
from trainer.models.load import load_base
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder
from trainer.training.session import Session, prepare
from trainer.training.step import training_step

RESULTS = PROJECT / "benchmarks" / "results" / "trigger_study.jsonl"
SETS = {
    "police-car": ("datasets/police-car", "car"),
    "teddy": ("datasets/teddy-and-peacock/teddy", "bear"),
    "peacock": ("datasets/teddy-and-peacock/peacock", "bird"),
}
# The rates that suit training without preservation; with it, higher ones are the default.
PLAIN_RATES: dict[str, Any] = {
    "optimizer.learning_rate": 3e-3,
    "optimizer.text_encoder_learning_rate": 1e-3,
}
METHODS: dict[str, dict[str, Any]] = {
    "none": {**PLAIN_RATES, "preservation.method": "none"},
    # DreamBooth's own proportions: as many class pictures as pictures in every step, lambda 1.
    "classic": {
        **PLAIN_RATES,
        "preservation.method": "pictures",
        "preservation.pictures": 32,
        "preservation.share": 1.0,
        "preservation.every": 1,
        "preservation.weight": 1.0,
    },
    "prediction": {},
}
# What the words that are tried as triggers mean in ordinary prompts.
ORDINARY = (
    *("3d emoji of a dog", "dog, flat emoji, blue background", "a dog"),
    *("a photo of a fox", "a photo of a guitar", "photo"),
)
PROBES = ProbeSettings(pictures=2, timesteps=6, inference_steps=20)
BOARD = (
    "{subject}, 3d emoji, blue background",
    "3d emoji of a {class}, blue background",
    "3d emoji of a {near}, blue background",
    "3d emoji of a guitar, pink background",
)
NEAR = {"car": "bus", "bear": "lion", "bird": "owl"}
PICTURE_SEEDS = (1, 2)
DRAWN = 6  # pictures to compare with the set, with each wording


@dataclass(frozen=True)
class Run:
    """One training of the study.

    Attributes:
        arm: what is compared; runs of one arm differ by seed and set.
        values: of the configuration, by dotted name.
        images: which of the bundled sets.
        checks: how often it is measured, evenly over its steps; overtraining shows in having been
            better before.
    """

    arm: str
    images: str
    seed: int
    values: dict[str, Any] = field(default_factory=dict)
    steps: int = 400
    checks: int = 1

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.arm} {self.images} {self.seed} {self.steps}"


def study(steps: int) -> list[Run]:
    """All runs, the most needed first."""
    runs = []
    for seed in range(3):
        for method, values in METHODS.items():
            runs.append(Run(method, "police-car", seed, values))
        for word in ("dog", "photo"):
            runs.append(Run(f"trigger {word}", "police-car", seed, {"captions.trigger": word}))
        runs.append(Run("two concepts", "teddy+peacock", seed, steps=600))
        for images in ("peacock", "teddy"):
            for method in ("none", "prediction"):
                runs.append(Run(method, images, seed, METHODS[method]))
        if seed == 0:
            runs.append(Run("dead", "police-car", seed, steps=0))
            by_heart = METHODS["none"] | {"evaluation.validation": 0.5}
            runs.append(Run("overtrained", "peacock", seed, by_heart, steps=800, checks=4))
    return [replace(run, steps=run.steps * steps // 400) for run in runs]


def configuration(run: Run) -> TrainingConfig:
    """The configuration of a run of the study."""
    values: dict[str, Any] = {
        # The defaults when the tables were made; benchmarks/subject.py has the present ones.
        "adapter.targets": "attention",
        "preservation.weight": 4.0,
        "preservation.every": 2,
        "training.seed": run.seed,
        "training.steps": max(1, run.steps),
        "evaluation.validation": 0.25,
    }
    if run.arm == "two concepts":
        words = {"teddy": "ohwx", "peacock": "bnha"}
        values["concepts"] = [
            {"path": str(PROJECT / SETS[name][0]), "trigger": word, "class_word": SETS[name][1]}
            for name, word in words.items()
        ]
    else:
        folder, class_word = SETS[run.images]
        values["images.path"] = str(PROJECT / folder)
        values["captions.trigger"] = "ohwx"
        values["captions.class_word"] = class_word
    return with_values(TrainingConfig(), values | run.values)


def carry_out(run: Run, pictures: Path) -> dict[str, Any]:
    """Train and measure; the pictures of seed 0 are kept for the board."""
    config = configuration(run)
    with tempfile.TemporaryDirectory() as folder:
        session = prepare(
            config, RunFolder(Path(folder)), choose_device("fp32"), lambda _: None, lambda *_: None
        )
        bench = MeterBench(
            session.base,
            concepts_with_pictures(session),
            session.device,
            session.text.cache,
            session.batches.source,
            settings=PROBES,
        )
        ordinary = make_probes(session.base, ORDINARY, session.device, session.text.cache, PROBES)
        seconds, earlier = 0.0, []
        for check in range(1, run.checks + 1):
            started = time.process_time()
            while session.step < run.steps * check // run.checks:
                training_step(session, lambda: False)
            seconds += time.process_time() - started
            earlier.append(bench.measure())
        measured = earlier.pop()
        moved = drift(session.base, ordinary, session.device)
        result = {
            "key": run.key,
            "arm": run.arm,
            "images": run.images,
            "seed": run.seed,
            "steps": run.steps,
            "base": session.base.fingerprint[:12],
            "seconds_per_step": seconds / max(1, run.steps),
            "meters": [measured_row(one) for one in measured],
            "earlier": [[asdict(one) for one in each] for each in earlier],
            "bleed": bench.bleed() if len(measured) > 1 else None,
            "pictures": compare_pictures(session),
            "ordinary_dog": mean_drift(moved, ORDINARY[:3]),
            "ordinary_photo": mean_drift(moved, ORDINARY[3:]),
        }
        if run.seed == 0:
            draw_board(session, run, pictures)
    return result


def compare_pictures(session: Session) -> list[dict[str, float]]:
    """For each concept, likeness to the set of pictures that are drawn by its captions.

    With the trigger, without it, and without it by the base model.
    """
    rows = []
    for concept in concepts_with_pictures(session):
        asked = (session.base, concept, session.device, DRAWN, None, lambda *_: None)
        drawn = score_pictures(*asked)
        with disabled(session.base):
            plain = score_pictures(*asked)
        if drawn and plain:
            trigger, class_word = drawn.trigger["simple"], drawn.class_word["simple"]
            rows.append(
                {"trigger": trigger, "class": class_word, "base": plain.class_word["simple"]}
            )
    return rows


def measured_row(meters: Meters) -> dict[str, float | None]:
    """The meters as they are written down, with the shares."""
    return asdict(meters) | {name: getattr(meters, name) for name in Meters.beside}


def draw_board(session: Session, run: Run, folder: Path) -> None:
    """The pictures of a run, one file a prompt and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, concept in enumerate(concepts_of(session.config)):
        words = {
            "subject": f"{concept.trigger}, {concept.class_word}",
            "class": concept.class_word,
            "near": NEAR[concept.class_word],
        }
        drawings = [
            Drawing(prompt.format(**words), "", seed, 64, 64, inference_steps=25, guidance=5.0)
            for prompt in BOARD
            for seed in PICTURE_SEEDS
        ]
        sheet = Image.new("RGB", (64 * len(drawings), 64))
        for place, picture in enumerate(draw(session.base, drawings, session.device)):
            sheet.paste(picture, (64 * place, 0))
        sheet.save(folder / f"{run.arm} {run.images} {number}.png".replace(" ", "-"))


def read_results(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, the latest of each run; none where there is no file."""
    return list({(row["base"], row["key"]): row for row in rows_of(file)}.values())


def main() -> None:
    """Runs what is missing, or writes the docs from what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=1e9, help="Start no run after this time.")
    parser.add_argument(
        "--part", default="1/1", help="Such as 2/3: the second of three processes sharing the work."
    )
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    base = load_base("tiny-emoji").fingerprint[:12]
    pictures = options.runs.parent / "pictures"
    if options.write_docs:
        rows = [row for row in read_results(options.runs) if row["base"] == base]
        write_docs(rows, pictures)
        return
    deadline = time.monotonic() + 60 * options.minutes
    part, parts = (int(number) for number in options.part.split("/"))
    done = {(row["base"], row["key"]) for row in read_results(options.runs)}
    asked = [run for run in study(options.steps) if not options.only or run.arm in options.only]
    missing = [run for run in asked[part - 1 :: parts] if (base, run.key) not in done]
    print(f"{len(missing)} trainings to do; {options.runs} has the others.")
    if not missing:
        print("To do them again, name another file: --runs FILE.jsonl")
    for run in missing:
        if time.monotonic() > deadline:
            print("Time is up.")
            return
        result = carry_out(run, pictures)
        with options.runs.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(run.key, f"{result['seconds_per_step']:.3f} s a step", flush=True)


if __name__ == "__main__":
    main()
