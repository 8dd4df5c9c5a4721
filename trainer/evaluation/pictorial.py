"""Likeness by eye: pictures drawn with the trigger and without it, compared with the image set.

The feature space "unet" is the base model's own (`trainer.evaluation.unet_features`): it sees parts
and outlines, and needs no further weights. Each drawing counts with its best likeness to a picture
of the set. How much that says depends on the set: the base model's own drawings may be like it
already. So `UNetFeatures.learned` and `UNetFeatures.taken` look at what has changed since, and
whether it leads to the set.

The feature space "simple" needs no model: the mean of three cosines, of the square roots of the
shares of 4 x 4 x 4 colours, of the pixels averaged to 8 x 8, and of 8 gradient directions in 4 x 4
fields. It hardly sees shape. CLIP and DINO models on this machine (``scorers``) add theirs. Nothing
is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModelWithProjection, Dinov2Model, ViTModel

from trainer.data.captions import without_word
from trainer.data.images import load_rgb
from trainer.data.masks import fit
from trainer.errors import UserError
from trainer.evaluation.meters import MeasuredConcept, MeterBench, spread
from trainer.evaluation.unet_features import UNetFeatures
from trainer.events import Progress
from trainer.generation.sampling import Drawing, draw
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.plain_files import check_model_folder

Pixels = NDArray[np.uint8]
Vector = NDArray[np.float64]
Scores = dict[str, float]  # likeness by the name of the feature space

UNET = "unet"
HOW = (15, 4.0)  # inference steps and guidance of what is drawn to be measured
_DRAWN = 8  # drawings for each concept, with adapters that are compared
_GAINED = 0.02  # likeness of drawings that counts as gained; below it there is nothing to keep
SIDE = 64
FIRST_SEED = 100
# model_type in config.json -> (what it is called, its class): no configuration chooses code.
_KINDS = {
    "clip": ("CLIP", CLIPVisionModelWithProjection),
    "clip_vision_model": ("CLIP", CLIPVisionModelWithProjection),
    "dinov2": ("DINOv2", Dinov2Model),
    "vit": ("DINO", ViTModel),
}
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@dataclass(frozen=True)
class PictureScores:
    """Likeness of drawn pictures to the image set, by feature space."""

    trigger: Scores  # of pictures drawn by captions of the set with the trigger, with the adapter
    class_word: Scores  # the same captions without the trigger
    drawn: int  # how many pictures each
    spaces: dict[str, str]  # what each name stands for
    base: Scores  # the same captions without the trigger, drawn by the base model
    learned: float  # whether what the trigger word has changed leads to the set; 0 to about 1
    taken: float  # how far drawings without it have gone towards the set, 1 for all of the way
    moved: float  # how far drawings with it have gone from the base model's, wherever to


class Drawings:
    """Draws by the captions of some of a concept's pictures, always with the same seeds.

    Args:
        count: of drawings; of fewer pictures no more, unless `repeated`.
        repeated: whether captions are drawn again, with other seeds, until there are so many.

    Attributes:
        captions: of these pictures, with the trigger word; none where there are no pictures.
        pictures: as training sees them.
    """

    def __init__(
        self,
        base: BaseModel,
        concept: MeasuredConcept,
        device: Device,
        count: int,
        repeated: bool = False,
    ) -> None:
        self._base, self._device = base, device
        pairs = spread((*concept.validation, *concept.trained), count)
        if repeated:
            pairs = (pairs * count)[:count]
        self._crops = [one.crop for one, _ in pairs]
        self.captions = [text for _, text in pairs]
        self.pictures = [
            fit(load_rgb(one.entry.read(), "#ffffff"), one.crop, False) for one, _ in pairs
        ]

    def drawn(self, captions: Sequence[str]) -> list[Pixels]:
        """A drawing for each picture, with the adapters that are on the model."""
        drawings = [
            Drawing(text, "", FIRST_SEED + number, crop.width, crop.height, *HOW)
            for number, (text, crop) in enumerate(zip(captions, self._crops, strict=True))
        ]
        alike = len({(one.width, one.height) for one in drawings}) == 1
        groups = [drawings] if alike else [[one] for one in drawings]
        return [
            np.asarray(shown) for group in groups for shown in draw(self._base, group, self._device)
        ]

    def likeness(
        self, shown: Sequence[Pixels], models: Mapping[str, Scorer | UNetFeatures]
    ) -> Scores:
        """Of drawings to the pictures, in the simple feature space and in those of models."""
        found = {name: model.likeness(shown, self.pictures) for name, model in models.items()}
        return {"simple": likeness_in_pairs(shown, self.pictures), **found}


def score_pictures(
    base: BaseModel,
    concept: MeasuredConcept,
    device: Device,
    count: int,
    scorers: Path | None,
    progress: Progress,
) -> PictureScores | None:
    """Draws by captions of a concept's pictures, and compares; None without pictures.

    The same captions and seeds with the trigger and without it, with the adapter that is on the
    model, and without it by the base model alone.

    Args:
        count: how many captions.
        scorers: folder of CLIP or DINO models; None: none.
    """
    drawings = Drawings(base, concept, device, count)
    pictures = drawings.pictures
    if not pictures:
        return None
    seen, found = UNetFeatures(base, device), find_scorers(scorers) if scorers else {}
    spaces = {"simple": "colours, layout and outlines", UNET: "shape, as the base model sees it"}
    spaces |= {name: f"cosine of {model.kind} features" for name, model in found.items()}

    def drawn_by(captions: Sequence[str]) -> list[Pixels]:
        progress(0, 1, "pictures to compare with the set")
        return drawings.drawn(captions)

    plain = [without_word(text, concept.trigger) for text in drawings.captions]
    trigger, class_word = drawn_by(drawings.captions), drawn_by(plain)
    with disabled(base):
        unmoved = drawn_by(plain)
    models = {UNET: seen, **found}
    scores = [drawings.likeness(shown, models) for shown in (trigger, class_word, unmoved)]
    learned, _, moved = seen.change(trigger, unmoved, pictures)
    _, taken, _ = seen.change(class_word, unmoved, pictures)
    return PictureScores(
        scores[0], scores[1], len(pictures), spaces, scores[2], learned, taken, moved
    )


class DrawnLikeness:
    """What drawings by the captions of each concept's pictures gain in likeness by adapters."""

    def __init__(self, bench: MeterBench) -> None:
        base, device = bench.base, bench.device
        self._seen = {UNET: UNetFeatures(base, device)}
        self._drawings = [
            Drawings(base, concept, device, _DRAWN, repeated=True) for concept in bench.concepts
        ]
        self._unadapted = self._likeness()

    def _likeness(self) -> list[Scores]:
        """Of each concept; empty where it has no pictures."""
        return [
            one.likeness(one.drawn(one.captions), self._seen) if one.pictures else {}
            for one in self._drawings
        ]

    def gains(self) -> list[Scores]:
        """Of each concept, with the adapters that are on the model now."""
        pairs = zip(self._likeness(), self._unadapted, strict=True)
        return [{space: now[space] - was[space] for space in was} for now, was in pairs]


def share_kept(gained: Sequence[Scores], now: Sequence[Scores]) -> float:
    """The least share of what drawings of some concept gained that is left; 1 where none had."""
    shares = [
        after[space] / before
        for own, after in zip(gained, now, strict=True)
        for space, before in own.items()
        if before > _GAINED
    ]
    return min(shares, default=1.0)


# ----------------------------------------------------------------------- the simple feature space


def features(pixels: Pixels) -> list[Vector]:
    """The three vectors of a picture (H, W, 3), each of length 1 (or 0 where it is flat)."""
    small = _shrunk(pixels.astype(np.float64) / 255.0, SIDE)  # (64, 64, 3)
    found: list[Vector] = []
    for vector in (_colours(small), _layout(small), _outlines(small)):
        length = float(np.linalg.norm(vector))
        found.append(vector / length if length > 1e-9 else np.zeros_like(vector))
    return found


def likeness_of(one: Pixels, other: Pixels) -> float:
    """The mean of the three cosines of two pictures."""
    pairs = zip(features(one), features(other), strict=True)
    return float(np.mean([np.dot(first, second) for first, second in pairs]))


def likeness_in_pairs(drawn: Sequence[Pixels], pictures: Sequence[Pixels]) -> float:
    """The mean likeness of each drawn picture to the picture whose caption it was drawn by.

    In pairs, since captions name backgrounds and places: any other pairing measures those.

    Raises:
        ValueError: there are none, or not as many.
    """
    if not drawn or len(drawn) != len(pictures):
        raise ValueError("nothing to compare")
    return float(np.mean([likeness_of(*pair) for pair in zip(drawn, pictures, strict=True)]))


def _shrunk(picture: Vector, side: int) -> Vector:
    """(H, W, 3) averaged to (side, side, 3), each cell over the pixels that begin in it."""
    for axis in (0, 1):
        size = picture.shape[axis]
        starts = np.arange(side) * size // side
        if size < side:
            picture = cast(Vector, picture.take(starts, axis=axis))
            continue
        counts = np.diff(np.append(starts, size)).astype(np.float64)
        sums = np.add.reduceat(picture, starts, axis=axis)
        picture = sums / np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
    return picture


def _colours(small: Vector) -> Vector:
    places = np.minimum((small * 4).astype(int), 3).reshape(-1, 3) @ np.array([16, 4, 1])
    return np.sqrt(np.bincount(places, minlength=64) / len(places))


def _layout(small: Vector) -> Vector:
    cells = _shrunk(small, 8)
    return (cells - cells.mean()).ravel()


def _outlines(small: Vector) -> Vector:
    rows, columns = np.gradient(small.mean(axis=2))
    turn = np.mod(np.arctan2(rows, columns), np.pi)  # light to dark or dark to light: no matter
    direction = np.minimum((turn / np.pi * 8).astype(int), 7)
    fields = np.arange(SIDE) // (SIDE // 4)
    bins = (fields[:, None] * 4 + fields) * 8 + direction
    length = np.hypot(rows, columns)
    return np.bincount(bins.ravel(), length.ravel(), minlength=128).astype(np.float64)


# ------------------------------------------------------------------------------ CLIP and DINO


@dataclass(frozen=True)
class Scorer:
    """A model that turns pictures into vectors."""

    kind: str  # such as "CLIP"
    side: int  # in pixels, of the squares that it takes
    # mean, deviation: of each channel, by which pixels in 0 to 1 are normalised.
    mean: Sequence[float]
    deviation: Sequence[float]
    encode: Callable[[Tensor], Tensor]  # (B, 3, side, side) to (B, D)

    def likeness(self, drawn: Sequence[Pixels], pictures: Sequence[Pixels]) -> float:
        """The mean cosine over all pairs, as CLIP-I and DINO scores (arXiv 2208.12242, 4.1)."""
        return (self._vectors(drawn) @ self._vectors(pictures).T).mean().item()

    @torch.no_grad()
    def _vectors(self, pictures: Sequence[Pixels]) -> Tensor:
        """(N, D), each of length 1; one by one, since sizes may differ."""
        rows = [self.encode(self._prepared(picture))[0].float() for picture in pictures]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    def _prepared(self, pixels: Pixels) -> Tensor:
        """The whole picture as a square: its edges often tell what it is."""
        size = (self.side, self.side)
        square = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        scaled = torch.from_numpy(np.array(square)).float() / 255.0
        normal = (scaled - torch.tensor(self.mean)) / torch.tensor(self.deviation)
        return normal.permute(2, 0, 1).unsqueeze(0)  # (1, 3, side, side)


def find_scorers(folder: Path) -> dict[str, Scorer]:
    """The models in a folder, or the one that it is, by the names of their folders.

    Raises:
        UserError: there is none, or one that can't be loaded.
    """
    if not folder.is_dir():
        raise UserError(
            f"The folder of scorers {folder} does not exist.",
            "Check evaluation.scorers (--scorers), or leave it empty.",
        )
    places = [folder] if (folder / "config.json").is_file() else sorted(folder.iterdir())
    found = {place.name: _load(place) for place in places if (place / "config.json").is_file()}
    if not found:
        raise UserError(
            f"{folder} holds no model for scores.",
            "Put folders there as transformers saves them, such as clip-vit-base-patch32 or "
            "dinov2-small, with config.json and model.safetensors.",
        )
    return found


def _load(place: Path) -> Scorer:
    check_model_folder(place)
    try:
        kind, cls = _KINDS[json.loads((place / "config.json").read_bytes())["model_type"]]
        model = cls.from_pretrained(place, local_files_only=True, use_safetensors=True).eval()
    except KeyError as error:
        raise UserError(
            f"{place} is not a CLIP, DINO or DINOv2 model.", "Take it out of the folder."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        hint = "Download it again, or take it out of the folder."
        raise UserError(f"The scorer {place} can't be loaded: {reason}", hint) from error
    try:
        settings = json.loads((place / "preprocessor_config.json").read_bytes())
        mean, deviation = list(settings["image_mean"]), list(settings["image_std"])
    except (OSError, ValueError, KeyError):
        mean, deviation = _CLIP if kind == "CLIP" else _IMAGENET

    def encode(pixels: Tensor) -> Tensor:
        output = model(pixel_values=pixels)
        return output.image_embeds if kind == "CLIP" else output.last_hidden_state[:, 0]

    return Scorer(kind, int(cast(Any, model.config).image_size), mean, deviation, encode)
