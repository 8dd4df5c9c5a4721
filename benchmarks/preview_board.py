"""One picture of a run's previews, as the README shows it.

    python -m benchmarks.preview_board runs/ohwx docs/images/first-run.png

A row a prompt and seed, a column a step: the base model, then the adapter as it learns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from benchmarks.shared import sheet
from trainer.runs.board import spread

SIDE, COLUMNS = 128, 5


def board(run: Path, prompts: int = 99) -> Image.Image:
    """Previews of up to `COLUMNS` steps, evenly chosen, the first and the last among them.

    Args:
        prompts: how many of the prompts are shown.
    """
    steps = {int(one.name.removeprefix("step-")): one for one in (run / "previews").iterdir()}
    chosen = spread(sorted(steps), COLUMNS)
    records = json.loads((steps[chosen[0]] / "prompts.json").read_text(encoding="utf-8"))
    rows = [
        (
            f"{record['prompt']} (seed {record['seed']})",
            [Image.open(steps[step] / record["file"]) for step in chosen],
        )
        for record in records
        if record["prompt"] in list(dict.fromkeys(one["prompt"] for one in records))[:prompts]
    ]
    return sheet([f"step {step}" if step else "base model" for step in chosen], rows, SIDE)


def main() -> None:
    """Reads a run folder and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    board(options.run).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
