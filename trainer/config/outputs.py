"""Sections of the configuration: what a run shows and leaves; none changes what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trainer.config.section import PositiveInt, Section, field


class PreviewsConfig(Section, title="Previews"):
    """Pictures made while training goes on; they never change the result."""

    every: int = field(100, title="Steps between previews", ge=0, resume=True, private=True)
    """Steps between previews. 0: only at the end."""
    prompts: tuple[str, ...] = field(
        (), title="Preview prompts, one a line", resume=True, private=True
    )
    """Prompts to draw; {trigger} and {class} are replaced. Empty: one with the trigger, and the
    same one without it."""
    negative: str = field("", title="Negative prompt of previews", resume=True, private=True)
    """Negative prompt of all previews."""
    count: int = field(2, title="Pictures for each prompt", ge=1, le=16, resume=True, private=True)
    """Pictures for each prompt, seeds counting up."""
    seed: int = field(1, title="Seed of previews", ge=0, le=2**31 - 1, resume=True, private=True)
    """Seed of the first preview picture."""
    inference_steps: int = field(
        25, title="Inference steps of previews", ge=1, le=200, resume=True, private=True
    )
    """Denoising steps of a preview."""
    guidance: float = field(
        5.0, title="Guidance of previews", ge=0.0, le=50.0, resume=True, private=True
    )
    """Guidance scale of a preview."""


class CheckpointsConfig(Section, title="Checkpoints"):
    """Exact training state, to go on from."""

    every: int = field(100, title="Steps between checkpoints", ge=0, resume=True, private=True)
    """Steps between checkpoints. 0: only when stopped or finished."""
    keep: PositiveInt = field(2, title="Checkpoints kept", resume=True, private=True)
    """How many of the newest checkpoints stay."""


class EvaluationConfig(Section, title="Measuring the adapter"):
    """Measuring what the adapter does. Apart from `validation`, nothing here changes the result."""

    enabled: bool = field(
        True, title="Measure effect, leak and collateral", resume=True, private=True
    )
    """Measure effect, leak, collateral and validation loss while training and at its end. Off:
    nothing is measured."""
    every: int = field(100, title="Steps between measurements", ge=0, resume=True, private=True)
    """Steps between measurements. Each also keeps its adapter as a file in the run's adapters/
    folder. 0: only at the end."""
    validation: float = field(
        0.125, title="Share of pictures kept out for validation", ge=0.0, le=0.5
    )
    """Share of the pictures that is kept out of training, to see whether the adapter learns the
    subject or learns the pictures by heart; at most 8. A set of fewer than 8 pictures is trained on
    whole. 0: none."""
    early_stop: int = field(
        0, title="Stop early after so many measurements", ge=0, le=1000, resume=True, private=True
    )
    """End training after so many measurements in a row without improvement. 0: never."""
    board: int = field(
        1, title="Pictures in a cell of the board", ge=0, le=8, resume=True, private=True
    )
    """Pictures in each cell of the board that is drawn at the end: trigger, class word, neighbour
    and unrelated thing at several strengths. 0: no board."""
    scorers: Path | None = field(
        None, title="Folder of scoring models", resume=True, private=True, place=True
    )
    """Folder of CLIP or DINO models in transformers' layout, for scores of likeness beside the
    built-in ones. Nothing is ever downloaded. Empty: none."""


class OutputConfig(Section, title="Adapter file"):
    """The adapter file."""

    name: str = field("", title="Title", max_length=100, resume=True)
    """Title of the adapter in its metadata. Empty: trigger and class word."""
    precision: Literal["fp32", "fp16", "bf16"] = field(
        "fp16", title="Number format of the file", resume=True
    )
    """Number format of the file: fp16 halves it at no visible cost."""
    dora_rank: int | None = field(
        None, title="Rank of a DoRA as a plain adapter", ge=1, le=4096, resume=True
    )
    """Rank of the plain adapter that dora is written as; without meaning for other kinds. Empty:
    four times the rank. More comes nearer to what was trained."""
    author: str = field("", max_length=200, resume=True)
    """Author named in the file's metadata."""
    license: str = field("", max_length=200, resume=True)
    """Licence named in the file's metadata."""
    description: str = field("", max_length=2000, resume=True)
    """Description in the metadata."""
