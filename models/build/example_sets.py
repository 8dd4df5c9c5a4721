"""`python -m models.build.example_sets`: the image sets in datasets/, from held-out emoji.

Needs the fetched packages and, for the style set's SVG files, `pip install resvg_py`.
"""

import argparse
import io
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from models.build import pictures
from models.build.captions import BACKGROUNDS, with_article
from models.build.example_licences import FLUENT_LICENCE, TWEMOJI_LICENCE
from models.build.packages import TWEMOJI
from models.build.subjects import SUBJECTS

SIDE = 256
"""Pixels of an example picture's side."""
DATASETS = Path(__file__).resolve().parents[2] / "datasets"


@dataclass(frozen=True)
class Placement:
    """How an emoji stands in its picture."""

    background: str
    size: float
    """Share of the picture's side."""
    tilt: float
    """Degrees, counter-clockwise."""
    shift: tuple[float, float]
    """Right and down, as shares of the side."""


PLACEMENTS = (
    Placement("white", 0.88, 0, (0.0, 0.0)),
    Placement("blue", 0.70, 12, (0.06, 0.04)),
    Placement("yellow", 0.80, -10, (-0.04, 0.0)),
    Placement("green", 0.62, 0, (0.0, 0.10)),
    Placement("pink", 0.90, 8, (0.0, -0.02)),
    Placement("gray", 0.50, -15, (0.14, 0.12)),
    Placement("orange", 0.75, 0, (-0.08, -0.05)),
    Placement("purple", 0.84, 15, (0.02, 0.02)),
    Placement("red", 0.66, -8, (0.08, -0.08)),
    Placement("black", 0.78, 0, (0.0, 0.05)),
    Placement("white", 0.58, 18, (-0.12, 0.10)),
    Placement("blue", 0.86, -5, (0.0, 0.0)),
)

STYLE_SUBJECTS = (
    "fox",
    "dog",
    "cat",
    "frog",
    "panda",
    "rabbit",
    "pig",
    "penguin",
    "fish",
    "bee",
    "butterfly",
    "turtle",
    "red apple",
    "banana",
    "strawberry",
    "watermelon",
    "carrot",
    "pizza",
    "doughnut",
    "hamburger",
    "cactus",
    "mushroom",
    "sunflower",
    "tulip",
    "car",
    "house",
    "star",
    "balloon",
)


def placed(emoji: Image.Image, placement: Placement) -> Image.Image:
    """The emoji on its plain background, SIDE × SIDE, RGB."""
    canvas = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS[placement.background])
    side = round(SIDE * placement.size)
    shown = emoji.resize((side, side), Image.Resampling.LANCZOS)
    turned = shown.rotate(placement.tilt, Image.Resampling.BICUBIC, expand=True)
    left = round((SIDE - turned.width) / 2 + SIDE * placement.shift[0])
    top = round((SIDE - turned.height) / 2 + SIDE * placement.shift[1])
    canvas.paste(turned, (left, top), turned)
    return canvas


def emoji_file(work: Path, label: str, folder: Path) -> Path:
    """The file of an emoji by its label, in a package's picture folder."""
    codes = {name: code for code, (name, _) in pictures.emoji_names(work).items()}
    wanted = codes[label]
    return next(
        path for path in sorted(folder.iterdir()) if pictures.plain_code(path.stem) == wanted
    )


def write_pairs(target: Path, pairs: Iterable[tuple[Image.Image, str]]) -> None:
    """01.png with 01.txt, and so on."""
    target.mkdir(parents=True)
    for number, (image, caption) in enumerate(pairs, start=1):
        image.save(target / f"{number:02}.png", optimize=True)
        (target / f"{number:02}.txt").write_text(caption + "\n")


def subject_set(work: Path, target: Path, label: str, class_word: str, count: int) -> None:
    """One held-out Fluent emoji in `count` placements; captions name the class, not the trigger.

    Of what varies they name the background alone: the base model knows no words for size and tilt,
    and draws some things badly when unknown words stand beside them.
    """
    path = emoji_file(work, label, pictures.picture_folder(work, "3d"))
    emoji = Image.open(path).convert("RGBA")
    write_pairs(
        target,
        [
            (
                placed(emoji, place),
                f"3d emoji of {with_article(class_word)}, {place.background} background",
            )
            for place in PLACEMENTS[:count]
        ],
    )


def style_set(work: Path, target: Path) -> None:
    """Twemoji pictures of subjects that the base model knows; captions leave the style unsaid."""
    import resvg_py  # wanted here only, so it is no dependency of the project

    folder = work / "packages" / TWEMOJI.folder
    colours = ["white", *BACKGROUNDS]
    pairs: list[tuple[Image.Image, str]] = []
    for number, name in enumerate(STYLE_SUBJECTS):
        path = emoji_file(work, SUBJECTS[name], folder)
        data = resvg_py.svg_to_bytes(svg_path=str(path), width=SIDE, height=SIDE)
        emoji = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
        place = Placement(colours[number % len(colours)], 0.875, 0, (0.0, 0.0))
        caption = f"emoji of {with_article(name)} on {with_article(place.background)} background"
        pairs.append((placed(emoji, place), caption))
    write_pairs(target, pairs)


def make(name: str, licence: str, fill: Callable[[Path], None]) -> None:
    """Builds a set beside its place, then swaps it in; what its README says of it stays."""
    part = DATASETS / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    fill(part)
    (part / "LICENSE").write_text(licence)
    readme = DATASETS / name / "README.md"
    if readme.exists():
        shutil.copy(readme, part)
    shutil.rmtree(DATASETS / name, ignore_errors=True)
    part.rename(DATASETS / name)


def main() -> None:
    """Writes all three sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "rarebit-build")
    work: Path = parser.parse_args().work
    DATASETS.mkdir(exist_ok=True)

    def two(target: Path) -> None:
        subject_set(work, target / "teddy", "teddy bear", "bear", 8)
        subject_set(work, target / "peacock", "peacock", "bird", 8)

    make("police-car", FLUENT_LICENCE, lambda t: subject_set(work, t, "police car", "car", 12))
    make("teddy-and-peacock", FLUENT_LICENCE, two)
    make("flat-paper", TWEMOJI_LICENCE, lambda target: style_set(work, target))


if __name__ == "__main__":
    main()
