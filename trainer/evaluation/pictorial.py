"""Likeness by eye: pictures drawn with the trigger and without it, compared with the image set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.captions import without_word
from trainer.data.images import fit, load_rgb
from trainer.data.latents import Picture
from trainer.evaluation.features import Pixels, likeness_in_pairs
from trainer.evaluation.meters import Subject, spread
from trainer.evaluation.scorers import find_scorers
from trainer.generation.sampling import Drawing, draw
from trainer.memory.devices import Device
from trainer.models.base import BaseModel

Scores = dict[str, float]


@dataclass(frozen=True)
class PictureScores:
    """Likeness of drawn pictures to the image set, by feature space.

    Attributes:
        trigger: of pictures drawn by captions of the set with the trigger, with the adapter.
        class_word: the same captions without the trigger.
        drawn: how many pictures each.
        spaces: what each name stands for.
    """

    trigger: Scores
    class_word: Scores
    drawn: int
    spaces: dict[str, str]


def score_pictures(
    base: BaseModel,
    subjects: Sequence[Subject],
    device: Device,
    count: int,
    scorers: Path | None,
    progress: Callable[[int, int, str], None],
    inference_steps: int = 15,
    guidance: float = 4.0,
) -> PictureScores | None:
    """Draws by captions of the first concept's pictures, and compares; None without pictures.

    The same captions and seeds with the trigger and without it, with the adapter that is on the
    model.

    Args:
        count: how many captions.
    """
    subject = subjects[0]
    pairs = spread((*subject.held_out, *subject.trained), count)
    if not pairs:
        return None
    spaces = {"simple": "colours, layout and outlines (trainer/evaluation/features.py)"}
    models = find_scorers(scorers) if scorers else {}
    spaces |= {name: f"cosine of {model.kind} features" for name, model in models.items()}
    pictures = [_pixels(picture) for picture, _ in pairs]
    results: list[Scores] = []
    for number, trigger in enumerate((True, False)):
        progress(number, 2, "pictures to compare with the set")
        drawings = [
            _drawing(picture, text if trigger else without_word(text, subject.trigger),
                     place, inference_steps, guidance)
            for place, (picture, text) in enumerate(pairs)
        ]  # fmt: skip
        drawn = [np.asarray(draw(base, [drawing], device)[0]) for drawing in drawings]
        scores = {"simple": likeness_in_pairs(drawn, pictures)}
        scores |= {name: model.likeness(drawn, pictures) for name, model in models.items()}
        results.append(scores)
    return PictureScores(results[0], results[1], len(pairs), spaces)


def _drawing(
    picture: Picture, prompt: str, place: int, inference_steps: int, guidance: float
) -> Drawing:
    crop = picture.crop
    return Drawing(prompt, "", 100 + place, crop.width, crop.height, inference_steps, guidance)


def _pixels(picture: Picture) -> Pixels:
    return fit(load_rgb(picture.entry.read(), "#ffffff"), picture.crop, False)
