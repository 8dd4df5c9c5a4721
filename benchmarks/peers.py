"""Other trainers' own scripts beside this one: the same pictures, steps and batch, one judge.

    python -m benchmarks.peers --diffusers-dir CHECKOUT --sd-scripts-dir CHECKOUT
        [--sets police-car teddy] [--steps 150] [--seeds 0 1]
    python -m benchmarks.peers --write-docs

On the built-in base model. Each training runs in a process of its own, on one thread; ``evaluate``
judges all adapter files by the pictures that none was trained on. Rows that are in the results
already are kept, so that it can be stopped and started again; without a checkout its rows are left
out. The environment needs what the scripts import beside diffusers: torchvision for both, and for
sd-scripts toml, imagesize, voluptuous, einops and opencv. ``--write-docs`` puts the tables into
docs/notes/peers.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.shared import in_a_process, markdown, write_between_marks
from benchmarks.trigger_study import METHODS, PLAIN_RATES, SETS
from trainer.places import PROJECT
from trainer.runs.atomic import write_json

RESULTS = PROJECT / "benchmarks" / "results" / "peers.json"
PAGE = PROJECT / "docs" / "notes" / "peers.md"
TRIGGER = "ohwx"
REPEATS = 4  # of each picture, so that every batch is full
BATCH, SIDE, RANK = 4, 64, 16


@dataclass(frozen=True)
class Arm:
    """A way to train; rates of 0 are this trainer's defaults."""

    title: str
    trainer: str
    rates: tuple[float, float] = (0.0, 0.0)  # of the UNet and of the text encoder
    with_class_pictures: bool = False


_PLAIN = (
    PLAIN_RATES["optimizer.learning_rate"],
    PLAIN_RATES["optimizer.text_encoder_learning_rate"],
)
_DIFFUSERS = Arm("diffusers, rate for this base", "diffusers", (2e-3, 2e-3))
_KOHYA = Arm("sd-scripts, rates for this base", "sd-scripts", _PLAIN)
ARMS = {
    "rarebit": Arm("Rarebit, default", "rarebit"),
    "rarebit plain": Arm("Rarebit, nothing held", "rarebit", _PLAIN),
    "diffusers": _DIFFUSERS,
    "sd-scripts": _KOHYA,
    "diffusers class": replace(
        _DIFFUSERS, title="diffusers, class pictures", with_class_pictures=True
    ),
    "sd-scripts class": replace(
        _KOHYA, title="sd-scripts, class pictures", with_class_pictures=True
    ),
    "diffusers usual": Arm("diffusers, its README's rate", "diffusers", (1e-4, 1e-4)),
    "sd-scripts usual": Arm("sd-scripts, its guide's rates", "sd-scripts", (1e-4, 1e-5)),
}
"""In the order in which they are measured."""


@dataclass(frozen=True)
class Subject:
    """A set, laid out for all trainers, and what is kept from them."""

    source: Path
    word: str  # of its class
    pictures: Path  # trained on: pictures alone, each as often as `REPEATS` says
    captioned: Path  # trained on: a folder with one folder in kohya's way, captions beside pictures
    class_pictures: Path  # the same with the base model's pictures of the class
    held_out: Path  # pictures and captions to judge by
    prompt: str  # what stands for a caption where there are none
    class_prompt: str

    @property
    def trained(self) -> Path:
        """The pictures with captions, for this trainer."""
        return self.captioned / f"{REPEATS}_{TRIGGER} {self.word}"


# ----------------------------------------------------------------------------------- subjects


def subject_in(folder: Path, name: str) -> Subject:
    """Where a set is laid out in a folder."""
    place, word = SETS[name]
    first = min((PROJECT / place).glob("*.txt")).read_text(encoding="utf-8")
    class_prompt = first.partition(",")[0].strip()
    return Subject(
        source=PROJECT / place,
        word=word,
        pictures=folder / "pictures",
        captioned=folder / "captioned",
        class_pictures=folder / "class",
        held_out=folder / "held-out",
        prompt=f"{TRIGGER}, {class_prompt}",
        class_prompt=class_prompt,
    )


def lay_out(subject: Subject) -> None:
    """Keeps every fourth picture of the set out, and copies the rest for all trainers."""
    for one in (subject.pictures, subject.trained, subject.held_out):
        one.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(sorted(subject.source.glob("*.png"))):
        out = number % 4 == 3
        copy = Path(shutil.copy(picture, subject.held_out if out else subject.trained))
        caption = picture.with_suffix(".txt").read_text(encoding="utf-8").strip()
        copy.with_suffix(".txt").write_text(f"{TRIGGER}, {caption}", encoding="utf-8")
        for again in range(0 if out else REPEATS):
            shutil.copy(picture, subject.pictures / f"{picture.stem}-{again}.png")


def draw_class_pictures(subject: Subject) -> None:
    """What the base model draws by the captions that are trained on, without the trigger word."""
    from benchmarks.peer_scripts import CLASS_PICTURES
    from trainer.generation.sampling import Drawing, draw
    from trainer.memory.devices import choose_device
    from trainer.models.load import load_base

    folder = subject.class_pictures / f"1_{subject.word}"
    if folder.exists():
        return
    texts = [one.read_text(encoding="utf-8") for one in sorted(subject.trained.glob("*.txt"))]
    texts = [text.removeprefix(f"{TRIGGER}, ") for text in texts]
    prompts = (texts * CLASS_PICTURES)[:CLASS_PICTURES]
    drawings = [
        Drawing(text, "", number, SIDE, SIDE, inference_steps=20, guidance=5.0)
        for number, text in enumerate(prompts)
    ]
    shown = draw(load_base("tiny-emoji"), drawings, choose_device("fp32"))
    folder.mkdir(parents=True)
    for number, (picture, text) in enumerate(zip(shown, prompts, strict=True)):
        picture.save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")


# --------------------------------------------------------------------------------- measuring


def train(
    arm: str, subject: Subject, steps: int, seed: int, checkout: str, out: Path
) -> dict[str, Any]:
    """Trains in this process; the adapter file, and CPU seconds of a step and of all."""
    from benchmarks.contestants import Clock, trained_here
    from benchmarks.peer_scripts import Task, diffusers_dreambooth, sd_scripts
    from trainer.config.file import with_values
    from trainer.config.schema import TrainingConfig

    torch.set_num_threads(1)
    clock, chosen = Clock(), ARMS[arm]
    unet_rate, text_rate = chosen.rates
    if chosen.trainer == "rarebit":
        values = own_values(subject, steps, seed, chosen)
        trained_here(with_values(TrainingConfig(), values), out, clock)
    else:
        task = Task(
            checkout=checkout,
            out=str(out),
            pictures=str(subject.pictures),
            captioned=str(subject.captioned),
            class_pictures=str(subject.class_pictures),
            prompt=subject.prompt,
            class_prompt=subject.class_prompt,
            with_class_pictures=chosen.with_class_pictures,
            unet_rate=unet_rate,
            text_rate=text_rate,
            rank=RANK,
            batch_size=BATCH,
            steps=steps,
            side=SIDE,
            seed=seed,
        )
        (diffusers_dreambooth if chosen.trainer == "diffusers" else sd_scripts)(task, clock)
    each = [later - earlier for earlier, later in zip(clock.cpu, clock.cpu[1:], strict=False)]
    return {
        "adapter": clock.adapter,
        "steps_seen": len(clock.cpu),
        "step_seconds": round(median(each), 4),
        "all_seconds": round(time.process_time(), 1),
    }


def own_values(subject: Subject, steps: int, seed: int, arm: Arm) -> dict[str, object]:
    """This trainer's settings by dotted name; what is not named is the default."""
    values: dict[str, object] = {
        "base.name": "tiny-emoji",
        "images.path": str(subject.trained),
        "captions.trigger": TRIGGER,
        "captions.class_word": subject.word,
        "adapter.rank": RANK,
        "training.steps": steps,
        "training.batch_size": BATCH,
        "training.precision": "fp32",
        "training.seed": seed,
        "evaluation.enabled": False,
        "evaluation.validation": 0.0,
    }
    return {**values, **METHODS["none"]} if any(arm.rates) else values


def judge(adapter: Path, subject: Subject) -> dict[str, Any]:
    """What ``evaluate`` finds, by pictures that no training saw."""
    from trainer.commands.evaluate import evaluate

    found = evaluate(
        adapter,
        base="tiny-emoji",
        trigger=TRIGGER,
        class_word=subject.word,
        images=subject.held_out,
    )
    shown = found.pictures
    return {
        "verdict": found.verdict.code,
        "drawn": round(shown.learned, 4) if shown else None,
        "taken": round(shown.taken, 4) if shown else None,
        "meters": found.checkpoints[-1].meters.as_dict(),
    }


def run_all(options: argparse.Namespace, folder: Path) -> None:
    """Row after row, one process at a time; the results are written after each."""
    torch.set_num_threads(1)
    checkouts = {
        "rarebit": "here", "diffusers": options.diffusers_dir, "sd-scripts": options.sd_scripts_dir
    }  # fmt: skip
    rows = read_results(options.out)
    for seed, name, arm in product(options.seeds, options.sets, options.arms):
        checkout = checkouts[ARMS[arm].trainer]
        case = {"set": name, "arm": arm, "steps": options.steps, "seed": seed}
        if not checkout or any(case.items() <= row.items() for row in rows):
            continue
        out = folder / name / f"{arm.replace(' ', '-')}-{seed}"
        out.mkdir(parents=True, exist_ok=True)
        subject = subject_in(folder / name / "set", name)
        lay_out(subject)
        if ARMS[arm].with_class_pictures:
            draw_class_pictures(subject)
        child = json.dumps({**case, "checkout": str(checkout), "out": str(out)})
        try:
            found = in_a_process("benchmarks.peers", "--child", child, HF_HUB_OFFLINE="1")
        except subprocess.CalledProcessError as error:
            print(f"{arm} on {name} failed with status {error.returncode}.", file=sys.stderr)
            continue
        judged = judge(Path(found.pop("adapter")), subject)
        rows.append({**case, "rates": list(ARMS[arm].rates), **found, **judged})
        write_json(options.out, rows)
        print(json.dumps(rows[-1]), flush=True)


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows measured so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


# ---------------------------------------------------------------------------------- the page

_MOVED = {
    **{"leak": 2, "collateral": 2},
    **dict.fromkeys(("class_drift", "neighbour_drift", "unrelated_drift"), 4),
}
"""Meters, and how many digits of them are shown."""
HEADER = (
    *("trainer", "seeds", "likeness", "drawn", "leak", "collateral"),
    *("class word", "neighbours", "unrelated", "taken", "CPU s a step"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each arm, in the order of `ARMS`: means over its seeds, with least and most."""
    groups = {arm: [row for row in rows if row["arm"] == arm] for arm in ARMS}
    return markdown(HEADER, [list(_cells(arm, own)) for arm, own in groups.items() if own])


def _cells(arm: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    rates, meters = ARMS[arm].rates, [row["meters"] for row in rows]
    yield ARMS[arm].title + (f" ({rates[0]:g}, {rates[1]:g})" if any(rates) else "")
    yield str(len(rows))
    yield _numbers([one["likeness"] for one in meters], 2)
    yield _numbers([row["drawn"] for row in rows], 2)
    for name, digits in _MOVED.items():
        yield _numbers([one[name] for one in meters], digits)
    yield _numbers([row["taken"] for row in rows], 2)
    yield _numbers([row["step_seconds"] for row in rows], 2)


def _numbers(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    least, middle, most = (f"{one:.{digits}f}" for one in (min(known), mean(known), max(known)))
    return middle if least == most else f"{middle} ({least} to {most})"


def write_docs(rows: Sequence[dict[str, Any]], page: Path) -> None:
    """Puts a table for each set and number of steps into the page."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["steps"]), []).append(row)
    tables = [
        f"**{name}**, {steps} steps:\n\n{table(own)}" for (name, steps), own in groups.items()
    ]
    write_between_marks(page, "peers", "\n\n".join(tables))


def main(arguments: Sequence[str]) -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--diffusers-dir", type=Path, help="a checkout of diffusers")
    parser.add_argument("--sd-scripts-dir", type=Path, help="a checkout of sd-scripts")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["police-car", "teddy"])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        asked = json.loads(options.child)
        out = Path(asked.pop("out"))
        subject = subject_in(out.with_name("set"), asked.pop("set"))
        print(json.dumps(train(subject=subject, out=out, **asked)))
    elif options.write_docs:
        write_docs(read_results(options.out), PAGE)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_all(options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
