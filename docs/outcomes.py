"""Makes docs/images/outcomes.png, six ways in which an adapter disappoints.

    python docs/outcomes.py --run runs/ohwx

Each is trained and drawn, on the built-in model and the bundled police car. The run is a finished
one with the default settings, for the two that need no training of their own.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image, ImageDraw

from benchmarks.shared import sheet
from trainer import TrainingConfig, generate, train
from trainer.config.file import with_values
from trainer.places import PROJECT

SET = PROJECT / "datasets" / "police-car"
COLOURS = ("white", "blue", "yellow", "green")
PROMPT = "ohwx, 3d emoji of a car, {} background"
PLAIN = PROMPT.removeprefix("ohwx, ")
UNHELD: dict[str, object] = {"preservation.method": "none", "optimizer.learning_rate": 3e-3}
BY_HEART = {**UNHELD, "training.steps": 400, "evaluation.validation": 0.0}
TOO_FAST: dict[str, object] = {"optimizer.learning_rate": 0.05}


def main() -> None:
    """Trains what is missing, draws all six, and saves the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "images" / "outcomes.png")
    options = parser.parse_args()
    early = options.run / "adapters" / "step-000100.safetensors"
    with tempfile.TemporaryDirectory(prefix="rarebit-outcomes-") as name:
        folder = Path(name)
        ways = (
            ("1. Too early: with the trigger word, after 100 steps", early, PROMPT),
            ("2. Without its trigger word", options.run / "adapter.safetensors", PLAIN),
            ("3. It leaks: the class word alone", trained(folder, "3", SET, UNHELD), PLAIN),
            ("4. Learned by heart", trained(folder, "4", one_picture(folder), BY_HEART), PROMPT),
            ("5. Too high a rate", trained(folder, "5", SET, TOO_FAST), PROMPT),
            ("6. The background has stuck", trained(folder, "6", on_red(folder), {}), PROMPT),
        )
        rows = [(title, drawn(folder / title[0], file, prompt)) for title, file, prompt in ways]
        asked = [f"{colour} background" for colour in COLOURS]
        sheet(asked, rows, 128).save(options.out, optimize=True)


def trained(folder: Path, name: str, images: Path, values: Mapping[str, object]) -> Path:
    """The adapter file of a run of 300 steps, or with other settings."""
    given: dict[str, object] = {
        "images.path": str(images),
        "captions.trigger": "ohwx",
        "captions.class_word": "car",
        "training.steps": 300,
        "evaluation.enabled": False,
        "previews.every": 0,
        "output.name": name,
    }
    return train(with_values(TrainingConfig(), given | dict(values)), folder / "runs").run.adapter


def drawn(folder: Path, file: Path, prompt: str) -> list[Image.Image]:
    """A picture on each background."""
    places = [
        generate(prompt.format(colour), folder / colour, adapters=[(file, 1.0)], count=1)[0]
        for colour in COLOURS
    ]
    return [Image.open(place).convert("RGB") for place in places]


def one_picture(folder: Path) -> Path:
    """The set with a single picture."""
    few = folder / "one"
    few.mkdir()
    for suffix in (".png", ".txt"):
        shutil.copy(SET / f"08{suffix}", few)
    return few


def on_red(folder: Path) -> Path:
    """The set with the same red behind every car, of which no caption speaks."""
    red = folder / "red"
    red.mkdir()
    for source in sorted(SET.glob("*.png")):
        picture = Image.open(source).convert("RGB")
        for corner in ((0, 0), (255, 0), (0, 255), (255, 255)):
            ImageDraw.floodfill(picture, corner, (214, 48, 49), thresh=40)
        picture.save(red / source.name)
        (red / f"{source.stem}.txt").write_text("3d emoji of a car", encoding="utf-8")
    return red


if __name__ == "__main__":
    main()
