"""CLIP and DINO as feature spaces, where such models lie on this machine. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModelWithProjection, Dinov2Model, ViTModel

from trainer.errors import UserError
from trainer.evaluation.features import Pixels

# model_type in config.json -> (what it is called, its class).
_KINDS = {
    "clip": ("CLIP", CLIPVisionModelWithProjection),
    "clip_vision_model": ("CLIP", CLIPVisionModelWithProjection),
    "dinov2": ("DINOv2", Dinov2Model),
    "vit": ("DINO", ViTModel),
}
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@dataclass(frozen=True)
class Scorer:
    """A model that turns pictures into vectors.

    Attributes:
        kind: such as "CLIP".
        side: in pixels, of the squares that it takes.
        mean, deviation: of each channel, by which pixels in 0 to 1 are normalised.
        encode: (B, 3, side, side) to (B, D).
    """

    kind: str
    side: int
    mean: Sequence[float]
    deviation: Sequence[float]
    encode: Callable[[Tensor], Tensor]

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
        scaled = torch.from_numpy(np.asarray(square).copy()).float() / 255.0
        normal = (scaled - torch.tensor(self.mean)) / torch.tensor(self.deviation)
        return normal.permute(2, 0, 1).unsqueeze(0)  # (1, 3, side, side)


def find_scorers(folder: Path) -> dict[str, Scorer]:
    """The models in a folder, or the one that it is, by the names of their folders.

    Raises:
        UserError: there is none, or one that can't be loaded.
    """
    if not folder.is_dir():
        raise UserError(f"The folder of scorers {folder} does not exist.")
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
    try:
        told = json.loads((place / "config.json").read_bytes())
        kind, cls = _KINDS[told["model_type"]]
        # The class is named here, so that no configuration chooses code.
        model = cls.from_pretrained(place, local_files_only=True, use_safetensors=True).eval()
    except KeyError as error:
        raise UserError(
            f"{place} is not a CLIP, DINO or DINOv2 model.", "Take it out of the folder."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The scorer {place} can't be loaded: {reason}") from error
    mean, deviation = _normalisation(place, _CLIP if kind == "CLIP" else _IMAGENET)

    def encode(pixels: Tensor) -> Tensor:
        output = model(pixel_values=pixels)
        return output.image_embeds if kind == "CLIP" else output.last_hidden_state[:, 0]

    return Scorer(kind, int(model.config.image_size), mean, deviation, encode)


def _normalisation(
    place: Path, default: tuple[list[float], list[float]]
) -> tuple[list[float], list[float]]:
    try:
        told = json.loads((place / "preprocessor_config.json").read_bytes())
        return list(told["image_mean"]), list(told["image_std"])
    except (OSError, ValueError, KeyError):
        return default
