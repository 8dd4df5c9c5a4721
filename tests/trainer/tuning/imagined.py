"""Runs of a search that are not trained: what would be seen of them is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from trainer.config.file import write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.tuning.trials import Trial


def drawn_of(config: TrainingConfig, step: int) -> float:
    """More at a higher rate, and later; another seed changes it by 0.01."""
    rate = config.optimizer.learning_rate or 0.0
    return 100 * rate + step / 10_000 + 0.01 * config.training.seed


class Imagined(Trial):
    """A run that is not trained: what would be seen of it is computed."""

    left = 10**9
    """How often one is trained before the user stops."""
    drawn: Callable[[TrainingConfig, int], float] = staticmethod(drawn_of)
    refused: str = ""

    def train(self, step: int, tell: Any = None, *, look: bool = True) -> None:
        if Imagined.left == 0:
            raise KeyboardInterrupt
        Imagined.left -= 1
        if self.name == self.refused:
            raise UserError("The loss is not finite.", code="non_finite")
        assert step > self.done or look
        run = self.run
        run.checkpoint(min(step, self.steps)).mkdir(parents=True, exist_ok=True)
        write_config(run.config, self.config)
        seen = {"drawn": type(self).drawn(self.config, step), "taken": 0.0, "leak": 0.1}
        folder = run.bleed_board.parent
        folder.mkdir(exist_ok=True)
        if step == self.steps:
            run.adapter.touch()
            run.evaluation.write_text(json.dumps({
                "leak": 0.1, "listening": {"listens": 0.9}, "verdict": {"code": "works"}
            }))  # fmt: skip
            pictures = {"learned": seen["drawn"], "taken": 0.0}
            (folder / "details.json").write_text(json.dumps({"pictures": pictures}))
        elif look:
            file = folder / "looks.json"
            kept = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps({**kept, str(step): seen}))

    def pace(self) -> float:
        return 1.0
