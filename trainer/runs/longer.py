"""Training a run longer than it was to be."""

from __future__ import annotations

from trainer.config.file import read_config, with_values, write_config
from trainer.errors import UserError
from trainer.runs.layout import RunFolder
from trainer.runs.status import ENDED, effective_status


def lengthen(run: RunFolder, steps: int) -> None:
    """Sets how many steps a run has in all, so that it trains on to them when it is resumed.

    Raises:
        UserError: it has done as many already, or a process works on it.
    """
    status = effective_status(run)
    if status and status.phase not in ENDED:
        raise UserError(f"{run.name} is training now.", "Stop it first.")
    config = read_config(run.config, of_run=True)
    done = max(run.checkpoint_steps(), default=0)
    if steps <= done:
        raise UserError(
            f"{run.name} has done {done:,} steps already; {steps:,} in all would be no more.",
            f"Give the number of steps in all, such as {2 * done}.",
        )
    write_config(run.config, with_values(config, {"training.steps": steps}))
