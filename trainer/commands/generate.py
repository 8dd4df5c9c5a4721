"""``generate``: pictures from a prompt, with any number of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trainer.errors import UserError
from trainer.generation.stack import AdapterChoice
from trainer.generation.studio import LIMIT, GenerateRequest, Studio
from trainer.places import shown


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
    values = {
        "prompt": prompt,
        "negative": negative,
        "adapters": [asdict(AdapterChoice.parse(text)) for text in adapters],
        "base": base_name,
        "count": count,
        "seed": seed,
        "inference_steps": inference_steps,
        "guidance": guidance,
        "out": out,
    }
    request = GenerateRequest.of(values)
    Studio().generate(request, saved=lambda path: print(shown(path), flush=True))
    return 0


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
