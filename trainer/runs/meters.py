"""The meters of an adapter: what each number means, for page, command line, report and docs.

The numbers are measured in `trainer.evaluation`, which tells their formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.events import Meters


@dataclass(frozen=True)
class Meter:
    """What one number of an evaluation means.

    Attributes:
        name: its key in an ``evaluation`` event and in ``evaluation.json``.
        meaning: in plain English, without a full stop.
        unit: what 1 stands for.
        better: which way is better; "neither" where a good and a bad adapter may have the same.
    """

    name: str
    meaning: str
    unit: str
    better: Literal["more", "less", "neither"]

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    @property
    def explanation(self) -> str:
        """The meaning and the direction, to put beside the number."""
        direction = {
            "more": "more is better",
            "less": "less is better",
            "neither": "neither more nor less is better by itself",
        }
        return f"{self.meaning}; {direction[self.better]}"

    def value(self, record: Mapping[str, object]) -> str | None:
        """The number in a row of ``evaluation.json``; None where there is none."""
        found = record.get(self.name)
        return f"{found:.3g}" if isinstance(found, (int, float)) else None

    def of(self, meters: Meters) -> str | None:
        """The number among those that were measured; None where it was not."""
        return self.value({self.name: getattr(meters, self.name)})


METERS = (
    Meter(
        "likeness",
        "how much better than the base model it predicts pictures of the set, by their captions "
        "with the trigger word",
        "share of the base model's error; 1 would be perfect, below 0 is worse than the base model",
        "more",
    ),
    Meter(
        "effect",
        "how far the trigger word moves what the model predicts, towards the pictures or elsewhere",
        "share of the base model's prediction, squared; 0 is no effect at all",
        "neither",
    ),
    Meter(
        "likeness_taken",
        "how much of the likeness the same captions bring without the trigger word",
        "share of the likeness",
        "less",
    ),
    Meter(
        "leak",
        "how far the class word, or things like it, move without the trigger word, as a share of "
        "the effect",
        "share of the effect",
        "less",
    ),
    Meter(
        "collateral",
        "how far unrelated prompts and the empty one move, as a share of the effect",
        "share of the effect",
        "less",
    ),
    Meter(
        "validation_loss",
        "loss at fixed noise and timesteps, on pictures kept out of training if there are any",
        "squared error, weighed as in training",
        "less",
    ),
)
"""Those that are shown, the most telling first."""
