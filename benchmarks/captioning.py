"""Does the built-in base model see what pictures show? Class word, background and style.

    python -m benchmarks.captioning --work FOLDER [--pictures 100] [--out FILE.json]

Three groups, each picture by itself and without a word from the set: pictures of things that the
base was taught, placed anew (other sizes, places, tilts, backgrounds); the bundled sets; subjects
of `benchmarks.subject_sets`, which it never saw. What counts as right is in the captions that were
written by hand: the class word (or a word of `SAME`), and the background, of which white may go
unsaid. Needs the builder's pictures (``python -m models.build --only fetch pictures``).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks.subject_sets import SUBJECTS, emoji, write_set
from models.build.captions import BACKGROUNDS
from models.build.example_sets import PLACEMENTS, placed
from models.build.subjects import SUBJECTS as KNOWN
from trainer.captioning.base import BaseCaptioner
from trainer.captioning.classifier import Seen
from trainer.data.captions import contains_word
from trainer.places import DATASETS, PROJECT

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


def main() -> None:
    """Prints one line a picture, and the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", type=Path, required=True, help="Folder to write sets into.")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    captioner = BaseCaptioner("tiny-emoji")
    print(len(captioner.classifier.things), "class words are tried")
    found: dict[str, list[tuple[bool, bool, float]]] = defaultdict(list)
    for group, name, picture, caption in pictures(
        options.work, options.sets, options.seed, options.pictures
    ):
        start = time.process_time()
        seen = captioner.classifier.look(picture.convert("RGB"))
        seconds = time.process_time() - start
        right = judged(seen, caption)
        found[group].append((*right, seconds))
        print(group, name, right, seen.caption("thing"), list(seen.things)[:3], flush=True)
    rows = {
        group: {
            "pictures": len(rows),
            "class word": sum(row[0] for row in rows) / len(rows),
            "background": sum(row[1] for row in rows) / len(rows),
            "both": sum(row[0] and row[1] for row in rows) / len(rows),
            "CPU seconds": sum(row[2] for row in rows) / len(rows),
        }
        for group, rows in found.items()
    }
    print(json.dumps(rows, indent=1))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
