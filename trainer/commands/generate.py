"""``generate``: pictures from a prompt, with any number of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.devices import choose_device
from trainer.errors import UserError
from trainer.lora.stack import AdapterChoice, AdapterStack
from trainer.models.load import load_base
from trainer.places import shown
from trainer.sampling import BATCH, Drawing, draw, save_picture

LIMIT = 1000


def generate(
    *,
    prompt: str,
    negative: str,
    base_name: str,
    adapters: Sequence[str],
    count: int,
    seed: int,
    inference_steps: int,
    guidance: float,
    out: Path,
) -> int:
    """Draw ``count`` pictures, seeds counting up, into PNG files named by seed.

    Raises:
        UserError: an adapter can't be read or belongs to another base; a number is out of range.
    """
    _check_numbers(count, seed, inference_steps, guidance)
    chosen = [AdapterChoice.parse(text) for text in adapters]
    device = choose_device("auto")
    base = load_base(base_name, dtype=device.dtype)
    AdapterStack(base).set(chosen)
    device.put(base.unet, *base.text_encoders)
    side = base.default_resolution
    drawings = [
        Drawing(prompt, negative, seed + number, side, side, inference_steps, guidance)
        for number in range(count)
    ]
    out.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, BATCH):
        part = drawings[start : start + BATCH]
        for drawing, picture in zip(part, draw(base, part, device), strict=True):
            path = free_name(out, f"{drawing.seed:06d}")
            save_picture(picture, path, drawing, model=base.name, adapters=chosen)
            print(shown(path), flush=True)
    return 0


def free_name(folder: Path, stem: str) -> Path:
    """A PNG path in the folder that no file has yet: what lies there is never overwritten."""
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path = folder / f"{stem}-{number}.png"
        number += 1
    return path


def _check_numbers(count: int, seed: int, inference_steps: int, guidance: float) -> None:
    ranges = {
        "--count": (count, 1, LIMIT),
        "--seed": (seed, 0, 2**31 - 1),
        "--inference-steps": (inference_steps, 1, LIMIT),
        "--guidance": (guidance, 0, 100),
    }
    wrong = [
        f"{name} {value} is not between {low} and {high}"
        for name, (value, low, high) in ranges.items()
        if not low <= value <= high
    ]
    if wrong:
        raise UserError("; ".join(wrong) + ".")
