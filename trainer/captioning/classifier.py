"""The base model as a classifier of pictures: no further weights are needed.

A word fits a picture where it lowers the error with which the UNet predicts the noise on it
(Diffusion Classifier, arXiv 2303.16203, eq. 4 and 6): all words see the same noise at the same
timesteps, many words at few of these and the best ones at more (section 3.3). What is found are
words that *this* base model understands: background, style and class word of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.captioning.candidates import BACKGROUNDS, NEUTRAL, STYLES
from trainer.captioning.masks import apart_from_background
from trainer.data.latents import encode_pixels
from trainer.diffusion import Points, add_noise, predict, target
from trainer.evaluation.prompts import with_article
from trainer.lora.attach import disabled
from trainer.losses import sample_errors
from trainer.memory.devices import GREATEST_SIDE, Device
from trainer.models.base import BaseModel
from trainer.seeds import derive_seed

LEVELS = (0.85, 0.7, 0.9, 0.8, 0.95, 0.75, 0.65, 0.88)
"""Shares of the noise schedule, in the order in which they are used. What a picture shows is
decided at high noise; below, all words predict alike."""
RING = 8
"""The border is an eighth of the side wide."""
LEAST_GAIN = 0.01
"""A word is said where it lowers the error by this share at least."""
SURE_GAIN, SURE_LEAD = 0.1, 0.07
"""A class word is said where it lowers the error by so much, and by so much more than the next:
of what a base does not know some word always does a little better than the others."""
CLASS_ROUNDS = ((1, 60), (2, 20), (4, 6), (8, 5))
"""By the end of each: noise levels that have been used, and words that stay."""
FILL = 0.9
"""Share of the side that a subject takes which was cut out of its plain background."""


@dataclass(frozen=True)
class Seen:
    """What a base model sees in a picture; "" where no word helps, or none is sure."""

    class_word: str
    background: str
    style: str
    # Class words with the share by which each lowers the error, best first.
    things: dict[str, float]

    def caption(self, purpose: str, class_word: str = "") -> str:
        """The words as a caption.

        Args:
            purpose: of a set that teaches a style, the style is what all pictures share, and is
                left out.
            class_word: of the set, in place of the one that was found; a style has none.
        """
        noun = (self.class_word if purpose == "style" else class_word) or self.class_word
        text = with_article(noun) if noun else ""
        if self.style and purpose != "style":
            text = STYLES[self.style].format(text) if text else self.style
        if self.background:
            text = BACKGROUNDS[self.background].format(text)
        return text.strip(", ")


class BaseClassifier:
    """Looks at pictures with a base model.

    UNet and text encoders have to be on the device.

    Args:
        things, styles: candidates, which the base knows.
        check: is called between forward passes; what it raises ends the work.
    """

    def __init__(
        self,
        base: BaseModel,
        device: Device,
        things: Sequence[str],
        styles: Sequence[str],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.base, self.device, self.check = base, device, check
        self.things, self.styles = tuple(things), tuple(styles)
        self.side = min(base.default_resolution, GREATEST_SIDE)
        self.alpha_bar = base.noise_scheduler().alphas_cumprod

    def look(self, picture: Image.Image, class_word: str = "") -> Seen:
        """What the base model sees in an RGB picture.

        Args:
            class_word: what it shows, where that is known; no other words are tried then.
        """
        whole = self._latents(picture)
        ring = torch.ones(1, 1, *whole.shape[1:])
        width = max(1, whole.shape[1] // RING)
        ring[..., width:-width, width:-width] = 0
        plain = with_article(class_word or NEUTRAL)
        prompts = {name: text.format(plain) for name, text in BACKGROUNDS.items()}
        background = self._best(whole, prompts, plain, ((2, 6), (4, 1)), masks=ring)
        subject = self._latents(subject_of(picture))
        frame = BACKGROUNDS.get(background, "{}")
        prompts = {name: frame.format(STYLES[name].format(plain)) for name in self.styles}
        style = self._best(subject, prompts, frame.format(plain), ((2, 5), (4, 1)))
        if class_word:
            return Seen(class_word, background, style, {})
        frame = frame.format(STYLES.get(style, "{}"))
        prompts = {thing: frame.format(with_article(thing)) for thing in self.things}
        things = self.race(subject, prompts, frame.format(plain), CLASS_ROUNDS)
        return Seen(sure_of(things), background, style, dict(list(things.items())[:5]))

    def _best(
        self,
        latents: Tensor,
        prompts: dict[str, str],
        without: str,
        rounds: Sequence[tuple[int, int]],
        masks: Tensor | None = None,
    ) -> str:
        gains = self.race(latents, prompts, without, rounds, masks)
        best = next(iter(gains), "")
        return best if gains.get(best, 0) >= LEAST_GAIN else ""

    def race(
        self,
        latents: Tensor,
        prompts: dict[str, str],
        without: str,
        rounds: Sequence[tuple[int, int]],
        masks: Tensor | None = None,
    ) -> dict[str, float]:
        """By how much each of the words that stay to the end lowers the error, best first.

        Args:
            latents: (C, h, w) of the picture.
            prompts: by word.
            without: the prompt without the word.
            rounds: how many noise levels have been used by the end of each, and how many words
                stay.
            masks: (1, 1, h, w), what counts.
        """
        names, used = list(prompts), 0
        sums = dict.fromkeys(names, 0.0)
        for levels, stay in rounds:
            for level in range(used, levels):
                asked = [without, *(prompts[name] for name in names)]
                errors = self.errors(latents, asked, level, masks)
                for name, error in zip(
                    names, cast("list[float]", errors[1:].tolist()), strict=True
                ):
                    sums[name] += 1 - error / max(float(errors[0]), 1e-9)
            used = levels
            names = sorted(names, key=lambda name: -sums[name])[:stay]
        return {name: sums[name] / used for name in names}

    def errors(
        self, latents: Tensor, prompts: Sequence[str], level: int, masks: Tensor | None = None
    ) -> Tensor:
        """(N,) error of each prompt's prediction on one noised picture."""
        self.check()
        count = len(prompts)
        generator = torch.Generator().manual_seed(derive_seed(0, "caption", level))
        noise = torch.randn((1, *latents.shape), generator=generator)
        timestep = torch.tensor([int(LEVELS[level] * len(self.alpha_bar))])
        noised = add_noise(latents[None], noise, self.alpha_bar, timestep)
        size = (self.side, self.side)
        points = Points(
            tuple(prompts),
            noised.expand(count, -1, -1, -1),
            timestep.expand(count),
            ((size, (0, 0), size),) * count,
        )
        with disabled(self.base):
            predicted = predict(self.base, points, self.device)
        kind = self.base.prediction_type
        wanted = target(latents[None], noise, self.alpha_bar, timestep, kind)
        return sample_errors(predicted, wanted.expand_as(predicted), masks)

    def _latents(self, picture: Image.Image) -> Tensor:
        """(C, h, w) of the picture's middle square."""
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        pixels = np.array(square.resize((self.side, self.side), Image.Resampling.LANCZOS))
        with self.device.instead([self.base.vae], [self.base.unet, *self.base.text_encoders]):
            return encode_pixels(self.base, pixels)


def sure_of(gains: Mapping[str, float]) -> str:
    """The best of some words by their gains, best first; "" where that may be chance."""
    best, next_best = [*gains.values(), 0.0, 0.0][:2]
    sure = best >= SURE_GAIN and best - next_best >= SURE_LEAD
    return next(iter(gains)) if sure else ""


def subject_of(picture: Image.Image) -> Image.Image:
    """A subject on a plain background, cut out so that it fills the picture; else the picture.

    The base model knows things in the middle and large: how one is placed says nothing of what it
    is.
    """
    pixels = np.asarray(picture.convert("RGB"))
    apart = apart_from_background(pixels)
    if apart is None or not apart.any():
        return picture
    colour = np.median(pixels[~apart], axis=0)
    rows, columns = (np.flatnonzero(apart.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = round(max(bottom - top, right - left) / FILL)
    canvas = Image.new("RGB", (side, side), tuple(int(value) for value in colour))
    canvas.paste(
        picture.crop((left, top, right, bottom)),
        ((side - (right - left)) // 2, (side - (bottom - top)) // 2),
    )
    return canvas
