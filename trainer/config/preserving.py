"""The section of the configuration about keeping everything else as it was."""

from __future__ import annotations

from functools import partial
from typing import Literal

from trainer.config.section import PositiveInt, Section, Several, field

PRESERVED = {"preservation.method": ("prediction", "pictures"), "preservation.weight": True}
"""What a field needs that is about what is preserved."""
of_preserved = partial(field, needs=PRESERVED)


class PreservationConfig(Section, title="Keeping everything else as it was"):
    """Training also on what must not change (DreamBooth, arXiv 2208.12242, section 3.3).

    On every k-th step a few more prompts go through the model together with the pictures. The
    adapter must not change what comes out of them: what the base model predicted (prediction), or
    pictures of the class (pictures). See docs/keeping-the-rest-still.md.
    """

    method: Literal["prediction", "pictures", "none"] = field(
        "prediction", title="How the rest is kept still", memory=True
    )
    """prediction: the base model's own predictions for the class word, for things like it, for all
    kinds of others and for the empty prompt; no pictures are needed. pictures: DreamBooth's class
    pictures, drawn by the base model or taken from preservation.folder; they preserve the class
    word only. none: nothing is preserved."""
    weight: float = field(
        3.0, title="Preservation weight", ge=0.0, le=100.0, memory=True,
        needs={"preservation.method": ("prediction", "pictures")},
    )  # fmt: skip
    """Weight of the preservation loss (the lambda of DreamBooth, which has 1 there with as many
    class pictures as pictures in every step). 0: none, and the class word will come to mean the
    trained subject too."""
    every: PositiveInt = of_preserved(1, title="Preserve on every k-th step")
    """Preserve on every k-th step: 1 preserves best and takes most time. At 2, twice the weight
    does about the same for the class word."""
    share: float = of_preserved(
        0.25, title="Preserved prompts for each picture", gt=0.0, le=4.0, memory=True
    )
    """On such a step, how many prompts (or class pictures) are preserved for each picture; at least
    one. With several concepts as many for each of them (method prediction)."""
    pictures: int = of_preserved(
        16, title="Pictures that the base model draws before training", ge=1, le=2000
    )
    """How many pictures the base model draws before training; they are cached, and drawn once.
    prediction: each step of drawing them is stored with what the base model predicted there.
    pictures: these are the class pictures."""
    folder: str = field(
        "", title="Folder of class pictures", max_length=4000, private=True, place=True,
        needs={"preservation.method": "pictures", "preservation.weight": True},
    )  # fmt: skip
    """Class pictures of your own, for the method pictures: the folder of an image set. Never
    written to. Empty: the base model draws them."""
    regularization: bool = field(True, title="Use regularisation pictures", before=False)
    """Use the pictures in folders reg, regularization or class_images of an image set as class
    pictures, as kohya's projects mean them: the method is then pictures. Off: they are left out."""
    seed: int = of_preserved(0, title="Seed of preservation", ge=0, le=2**31 - 1)
    """Seed of the pictures that the base model draws to be preserved. Runs with the same seed,
    words and captions share them."""
    prompts: Several[str] = field(
        (), title="Prompts to preserve, one a line",
        needs={"preservation.method": "prediction", "preservation.weight": True},
    )  # fmt: skip
    """More prompts whose pictures should stay as they are: one picture is drawn for each, besides
    preservation.pictures. The class word, paraphrases of it, common other subjects and the empty
    prompt are always among them."""
