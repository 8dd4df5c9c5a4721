"""What the loss weights of v-prediction do: the same training with four of them.

    python -m benchmarks.velocity_weights BASE SET TRIGGER CLASS [--steps 120] [--seeds 2]

BASE is a folder that `benchmarks.velocity_base` made. Prints a row for each weighting and seed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from trainer import losses
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.runs.layout import RunFolder
from trainer.training.runner import run_training

Weights = Callable[[Tensor, str], Tensor]
# On the error of v, by alpha_bar; each is scaled to a mean of 1.
WEIGHTINGS: dict[str, Weights] = {
    "sqrt(SNR) on x_0": lambda signal, _: (signal * (1 - signal)).sqrt(),
    "sqrt(1 - alpha_bar)": lambda signal, _: (1 - signal).sqrt(),
    "1": lambda signal, _: signal.new_ones(signal.shape),
    "1 - alpha_bar": lambda signal, _: 1 - signal,
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "images", "trigger", "class_word"):
        parser.add_argument(name)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print("| weight | seed | likeness | effect | leak | collateral |")
    for seed in range(options.seeds):
        for name, weights in WEIGHTINGS.items():
            losses._debiased = weights  # the one place where it is decided
            config = with_values(
                TrainingConfig(),
                {
                    "base.name": options.base,
                    "images.path": options.images,
                    "captions.trigger": options.trigger,
                    "captions.class_word": options.class_word,
                    "training.steps": options.steps,
                    "training.seed": seed,
                    # What suits the built-in model, which it was made from.
                    "optimizer.learning_rate": 4e-3,
                    "optimizer.text_encoder_learning_rate": 6e-3,
                    "previews.every": 0,
                    "evaluation.every": 0,
                    "evaluation.board": 0,
                },
            )
            with tempfile.TemporaryDirectory() as folder:
                result = run_training(config, RunFolder(Path(folder)), lambda _: None)
            assert result.assessment
            found = result.assessment.checkpoints[-1].meters
            values = (found.likeness, found.effect, found.leak, found.collateral)
            shown = " | ".join("none" if value is None else f"{value:.3f}" for value in values)
            print(f"| {name} | {seed} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
