"""Does the built-in base model see what pictures show? Class word, background and style.

    python -m benchmarks.captioning words --work FOLDER --sets FOLDER [--pictures 100]
    python -m benchmarks.captioning train [--steps 150] [--report]

``words``: three groups, each picture by itself and without a word from the set: pictures of things
that the base was taught, placed anew (other sizes, places, tilts, backgrounds); the bundled sets;
subjects of `benchmarks.subject_sets`, which it never saw. What counts as right is in the captions
that were written by hand: the class word (or a word of `SAME`), and the background, of which white
may go unsaid. Needs the builder's pictures (``python -m models.build --only fetch pictures``).

``train``: adapters of three sets, trained with the captions by hand and with those that the base
model proposes, without and with the set's class word, measured by the same meters on the same
captions by hand. Rows that are in the results already are not measured again. ``--report`` writes
the table into docs/notes/captioning.md.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.options import SETS
from benchmarks.shared import in_a_process, markdown, write_between_marks
from benchmarks.subject_sets import SUBJECTS, emoji, write_set
from models.build.captions import BACKGROUNDS
from models.build.example_sets import PLACEMENTS, placed
from models.build.subjects import SUBJECTS as KNOWN
from trainer.captioning.classifier import Seen
from trainer.captioning.wording import Wording
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.data.captions import contains_word
from trainer.places import DATASETS, PROJECT
from trainer.runs.atomic import write_json

RESULTS = PROJECT / "benchmarks" / "results" / "captioning.json"
PAGE = PROJECT / "docs" / "notes" / "captioning.md"
GIVEN = "base, told the class word"
STYLE = "emoji"
"""Class word of the set that teaches a style."""

SAME = {
    "bear": ("teddy bear",), "car": ("police car", "taxi"), "running shoe": ("shoe", "hiking boot"),
    "red apple": ("apple",), "bird": ("peacock", "turkey"), "house": ("hut",),
}  # fmt: skip
"""Other words that are right as well."""


def pictures(
    work: Path, folder: Path, seed: int, count: int
) -> Iterator[tuple[str, str, Image.Image, str]]:
    """(group, name, picture, caption by hand), a third of each group, in turns."""
    source, names = random.Random(seed), sorted(KNOWN)
    for subject in SUBJECTS:
        write_set(work, folder / subject.name, subject.name)
    bundled = source.sample(sorted(path for path in DATASETS.rglob("*.png") if _bundled(path)), 50)
    new = source.sample(sorted(folder.rglob("*.png")), 50)
    for number in range(-(-count // 3)):
        name, place = source.choice(names), source.choice(PLACEMENTS)
        shown = placed(emoji(work, KNOWN[name], "3d"), place)
        yield "taught", f"{number:02d} {name}", shown, f"{name}, {place.background} background"
        for group, path in (("bundled", bundled[number]), ("new", new[number])):
            name = "/".join(path.parts[-2:])
            yield group, name, Image.open(path), path.with_suffix(".txt").read_text("utf-8")


def _bundled(path: Path) -> bool:
    folder = path.relative_to(PROJECT / "datasets").parts[0]
    return folder in ("flat-paper", "police-car", "teddy-and-peacock")


def judged(seen: Seen, caption: str) -> tuple[bool, bool]:
    """Whether class word and background are right."""
    words = [seen.class_word, *(right for right, same in SAME.items() if seen.class_word in same)]
    background = next((name for name in BACKGROUNDS if f"{name} background" in caption), "white")
    said = seen.background.removesuffix(" background") or "white"
    return any(contains_word(caption, word) for word in words if word), said == background


def look(options: argparse.Namespace) -> None:
    """Prints one line a picture, and the shares."""
    from trainer.captioning.base import BaseCaptioner

    captioner = BaseCaptioner("tiny-emoji")
    print(len(captioner.classifier.things), "class words are tried")
    found: dict[str, list[tuple[bool, bool, bool, float]]] = defaultdict(list)
    for group, name, picture, caption in pictures(
        options.work, options.sets, options.seed, options.pictures
    ):
        start = time.process_time()
        seen = captioner.classifier.look(picture.convert("RGB"))
        seconds = time.process_time() - start
        word = bool(seen.class_word)
        found[group].append((*judged(seen, caption), word, seconds))
        gains = {thing: round(gain, 3) for thing, gain in list(seen.things.items())[:3]}
        print(group, name, *judged(seen, caption), word, gains, flush=True)
    rows = {
        group: {
            "pictures": len(rows),
            "class word": sum(row[0] for row in rows) / len(rows),
            "background": sum(row[1] for row in rows) / len(rows),
            "both": sum(row[0] and row[1] for row in rows) / len(rows),
            "said": sum(row[2] for row in rows) / len(rows),
            "CPU seconds": sum(row[3] for row in rows) / len(rows),
        }
        for group, rows in found.items()
    }
    print(json.dumps(rows, indent=1))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


# --------------------------------------------------------------------------------- trained


def train(options: argparse.Namespace) -> None:
    """Measures the rows that are missing; each is kept and printed."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    for by, name in product(("hand", "base", GIVEN), SETS):
        if by == GIVEN and SETS[name][1] == STYLE:
            continue
        row = {"set": name, "captions": by, "steps": options.steps}
        if not any(row.items() <= known.items() for known in rows):
            found = in_a_process("benchmarks.captioning", "train", "--child", json.dumps(row))
            rows.append({**row, **found})
            write_json(RESULTS, rows)
            print(json.dumps(rows[-1]), flush=True)


def trained(row: dict[str, Any]) -> dict[str, object]:
    """Trains an adapter in this process; its meters, and what the captions were."""
    from trainer.commands.evaluate import evaluate
    from trainer.runs.layout import RunFolder
    from trainer.training.runner import run_training

    folder, class_word = SETS[row["set"]]
    by_hand = DATASETS / folder
    with tempfile.TemporaryDirectory() as place:
        images = Path(place) / "images"
        shutil.copytree(by_hand, images)
        given = class_word if row["captions"] == GIVEN else ""
        own = class_word if row["captions"] == "hand" else captioned(images, class_word, given)
        values = {
            "images.path": str(images),
            "captions.trigger": "ohwx",
            "captions.class_word": own,
            "training.steps": row["steps"],
            "previews.every": 0,
            "previews.count": 1,
            "checkpoints.every": 0,
            "evaluation.enabled": False,
        }
        run = RunFolder(Path(place) / "run")
        run_training(with_values(TrainingConfig(), values), run, lambda _: None)
        found = evaluate(
            run.path / "adapter.safetensors", trigger="ohwx", class_word=class_word, images=by_hand
        )
        texts = sorted(path.read_text(encoding="utf-8").strip() for path in images.glob("*.txt"))
    meters, drawn = found.checkpoints[-1].meters, found.pictures
    return {
        "class word": own,
        "first captions": texts[:3],
        **{
            name: round(getattr(meters, name) or 0.0, 4)
            for name in ("likeness", "leak", "collateral")
        },
        "drawn": round(drawn.trigger["simple"], 3) if drawn else None,
    }


def captioned(images: Path, class_word: str, given: str) -> str:
    """Gives a set the base model's captions; the class word that they take the subject for.

    Args:
        class_word: the right one, which tells a style.
        given: the class word that the base is told; "" lets it look for one.
    """
    from trainer.captioning.base import BaseCaptioner
    from trainer.captioning.sets import caption_set, write_captions

    captioner = BaseCaptioner("tiny-emoji")
    purpose = "style" if class_word == STYLE else "thing"
    found = caption_set(images, lambda: captioner, Wording(purpose, "", given), everything=True)
    assert not write_captions(found).problems
    return class_word if purpose == "style" else captioner.class_word


def report() -> None:
    """Writes the table."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    names = ("likeness", "drawn", "leak", "collateral")
    cells = [
        [row["set"], row["captions"], row["first captions"][0], *(f"{row[n]:.3f}" for n in names)]
        for row in sorted(rows, key=lambda row: list(SETS).index(row["set"]))
    ]
    header = ["set", "captions by", "such as", "likeness", "drawn likeness", "leak", "collateral"]
    write_between_marks(PAGE, "trained", markdown(header, cells))


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(required=True, dest="kind")
    words = kinds.add_parser("words")
    words.add_argument("--work", type=Path, required=True)
    words.add_argument("--sets", type=Path, required=True, help="Folder to write sets into.")
    words.add_argument("--pictures", type=int, default=100)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--out", type=Path)
    training = kinds.add_parser("train")
    training.add_argument("--steps", type=int, default=150)
    training.add_argument("--report", action="store_true")
    training.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind == "words":
        look(options)
    elif options.child:
        print(json.dumps(trained(json.loads(options.child))))
    elif options.report:
        report()
    else:
        train(options)


if __name__ == "__main__":
    main()
