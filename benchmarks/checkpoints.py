"""What checkpoints cost: the time of saving one beside the steps between two.

    python -m benchmarks.checkpoints

On the built-in base model with the defaults; that is the hardest case, since larger models take
longer for a step, and adapters grow less. The disk is the one of --folder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.shared import seconds_each
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.memory.devices import choose_device
from trainer.places import DATASETS
from trainer.runs.layout import RunFolder
from trainer.training.checkpoints import save_checkpoint
from trainer.training.export import keep_adapter
from trainer.training.session import Session, prepare
from trainer.training.step import training_step


def main() -> None:
    """Prints the cost for the built-in base model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="where the run folder is made")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--saves", type=int, default=8)
    options = parser.parse_args()
    config = with_values(
        TrainingConfig(),
        {
            "images.path": str(DATASETS / "police-car"),
            "captions.trigger": "ohwx",
            "captions.class_word": "car",
        },
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run = RunFolder(Path(folder))
        device = choose_device(config.training.precision)
        session = prepare(config, run, device, print, lambda *_: None)
        step = median(seconds_each(lambda: training_step(session, lambda: False), options.steps))
        save = median(seconds_each(lambda: _save(session), options.saves))
        size = sum(path.stat().st_size for path in run.checkpoint(session.step).iterdir())
    every = config.checkpoints.every
    print(f"a step {step:.3f} s, a checkpoint {save:.3f} s ({size / 1e6:.1f} MB)")
    print(f"every {every} steps: {100 * save / (every * step):.2f} % of the run")


def _save(session: Session) -> None:
    """What a run does at a checkpoint."""
    session.step += 1  # of another name every time, and older ones pruned
    keep_adapter(session, session.run.adapter_at(session.step))
    save_checkpoint(session.run, session.state(), session.config.checkpoints.keep)


if __name__ == "__main__":
    main()
