"""One picture of a run's previews, as the README shows it.

    python benchmarks/preview_board.py runs/ohwx docs/images/first-run.png

A row a prompt and seed, a column a step: the base model, then the adapter as it learns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw

SIDE, GAP, LABEL = 128, 6, 18
COLUMNS = 5


def board(run: Path) -> Image.Image:
    """Previews of up to `COLUMNS` steps, evenly chosen, the first and the last among them."""
    steps = sorted((run / "previews").iterdir())
    last = len(steps) - 1
    chosen = [steps[round(place * last / (COLUMNS - 1))] for place in range(COLUMNS)]
    records = json.loads((steps[0] / "prompts.json").read_text(encoding="utf-8"))
    width = len(chosen) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, LABEL + len(records) * (SIDE + LABEL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, folder in enumerate(chosen):
        left = column * (SIDE + GAP)
        step = int(folder.name.removeprefix("step-"))
        draw.text((left, 2), f"step {step}" if step else "base model", fill="black")
        for row, record in enumerate(records):
            top = LABEL + row * (SIDE + LABEL + GAP)
            with Image.open(folder / record["file"]) as picture:
                sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
            if column == 0:
                text = f"{record['prompt']} (seed {record['seed']})"
                draw.text((0, top + SIDE + 2), text, fill="black")
    return sheet


def main() -> None:
    """Reads a run folder and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    board(options.run).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
