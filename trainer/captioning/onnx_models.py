"""Models as ONNX files: removal of backgrounds, laid out as rembg's, and taggers of WD14's kind.

An ONNX file holds a graph of operators that onnxruntime knows, and no code. It is imported only
where such a model is used.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.captioning.masks import Prompt
from trainer.captioning.sets import Captioner
from trainer.captioning.wording import CHARACTER, GENERAL, Wording
from trainer.data.findings import ImageProblem
from trainer.errors import UserError
from trainer.text import first_line

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of each channel, from 0 to 1, in the pictures that most such models were trained on."""
SQUARE = 1024
"""Pixels of a side, where the model takes any."""
MAX_SIDE = 4096
TENSOR = "tensor(float)"
LEAST_RANGE = 0.05
"""Least difference between what a model sees as subject and as background."""
_GENERAL, _CHARACTER = "0", "4"  # column "category"; 9 is a rating
MAX_TAGS = 100_000


class OnnxModel:
    """A model with one picture as input.

    Args:
        check: is called before each picture; what it raises ends the work.
    """

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        import onnxruntime

        library: Any = onnxruntime  # its types are partly unknown
        self.name, self.check = path.name, check
        options = library.SessionOptions()
        options.log_severity_level = 4
        known: list[str] = library.get_available_providers()
        try:
            self.session: Any = library.InferenceSession(
                str(path), options, [one for one in PROVIDERS if one in known]
            )
            (taken,) = self.session.get_inputs()
            sides = cast("list[object]", taken.shape)
            shape = [side if isinstance(side, int) else 0 for side in sides]
            if len(shape) != 4 or 3 not in (shape[1], shape[3]) or taken.type != TENSOR:
                raise ValueError("it does not take one picture")
        except Exception as error:  # onnxruntime's have no common base
            raise UserError(
                f"{path.name} cannot be loaded: {first_line(error)}",
                "It is damaged, or of another kind: U²-Net, ISNet, BiRefNet and WD14 are known.",
            ) from None
        self.input: str = taken.name
        self.channels_last = shape[3] == 3
        height, width = shape[1:3] if self.channels_last else shape[2:]
        if max(height, width) > MAX_SIDE:
            raise UserError(f"{path.name} takes pictures of {width} × {height} pixels: too large.")
        self.size = (width or SQUARE, height or SQUARE)

    def run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output for one picture (H, W, 3)."""
        self.check()
        batch = pixels if self.channels_last else np.moveaxis(pixels, 2, 0)
        try:
            outputs: Any = self.session.run(None, {self.input: np.ascontiguousarray(batch[None])})
        except Exception as error:  # as above
            raise ImageProblem(f"{self.name} cannot read it ({first_line(error)}).") from None
        return np.asarray(outputs[0], np.float32)


class BackgroundRemover(OnnxModel):
    """U²-Net (arXiv 2005.09007), ISNet (2203.03041) or BiRefNet (2401.03407)."""

    def mask(self, picture: Image.Image, prompt: Prompt) -> Image.Image:
        """What the model takes for the subject: mode L, of the picture's size.

        Raises:
            ImageProblem: it tells nothing apart.
        """
        pixels = np.asarray(picture.resize(self.size, Image.Resampling.LANCZOS), np.float32)
        pixels /= max(float(pixels.max()), 1.0)
        name = self.name.casefold()
        # ISNet was trained on another scale; for anime on the usual means alone.
        mean, deviation = (0.5, 1.0) if "isnet" in name else (MEAN, DEVIATION)
        if "isnet" in name and "anime" in name:
            mean, deviation = MEAN, 1.0
        found = self.run(((pixels - mean) / deviation).astype(np.float32))
        if found.ndim != 4 or found.shape[:2] != (1, 1) or not np.isfinite(found).all():
            raise ImageProblem(f"{self.name} gives no mask.", "Choose a model that makes masks.")
        subject: NDArray[np.float32] = found[0, 0]
        if subject.min() < -0.01 or subject.max() > 1.01:  # BiRefNet ends before the sigmoid
            subject = np.asarray(1 / (1 + np.exp(-np.clip(subject, -30, 30))), np.float32)
        low, high = float(subject.min()), float(subject.max())
        if high - low < LEAST_RANGE:
            raise ImageProblem(f"{self.name} finds no subject before a background.")
        levels = np.asarray((subject - low) / (high - low) * 255, np.float32)
        scaled = Image.fromarray(np.asarray(levels.round(), np.uint8))
        return scaled.resize(picture.size, Image.Resampling.BILINEAR)


class Tag(NamedTuple):
    """A row of ``selected_tags.csv``."""

    name: str
    category: str


class Tagger(OnnxModel, Captioner):
    """A tagger of WD14's kind: a folder with ``model.onnx`` and ``selected_tags.csv``.

    Args:
        general, character: from so much on a tag is said, from 0 to 1.
    """

    def __init__(
        self,
        folder: Path,
        check: Callable[[], None] = lambda: None,
        *,
        general: float = GENERAL,
        character: float = CHARACTER,
    ) -> None:
        super().__init__(folder / "model.onnx", check)
        self.tags = read_tags(folder / "selected_tags.csv")
        self.least = {_GENERAL: general, _CHARACTER: character}
        self.title = folder.name

    def caption(self, name: str, picture: Image.Image, wording: Wording) -> str:
        """The tags that fit, the likeliest first, characters before the others.

        Those drawn of signs are left out: what cleans captions would break them.
        """
        side = max(picture.size)
        square = Image.new("RGB", (side, side), "white")
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        pixels = np.asarray(square.resize(self.size, Image.Resampling.BICUBIC), np.float32)
        found = self.run(np.ascontiguousarray(pixels[:, :, ::-1])).reshape(-1)  # as BGR, to 255
        if len(found) != len(self.tags):
            raise UserError(
                f"{self.title} knows {len(found)} tags, and selected_tags.csv names "
                f"{len(self.tags)}.",
                "Take both files from the same place.",
            )
        ranked = sorted(zip(self.tags, found.tolist(), strict=True), key=lambda pair: -pair[1])
        said = [
            tag
            for tag, share in ranked
            if share >= self.least.get(tag.category, 2.0) and not is_face(tag.name)
        ]
        if not said:
            raise ImageProblem(
                f"{self.title} is sure of no tag.", "Lower the confidences that it needs."
            )
        said.sort(key=lambda tag: tag.category != _CHARACTER)
        return ", ".join(tag.name for tag in said)


def read_tags(path: Path) -> list[Tag]:
    """The tags of a tagger, in the order of its outputs; underscores become spaces.

    Raises:
        UserError: it is no such list.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [(row["name"], row["category"]) for row in csv.DictReader(stream)]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} can't be read as a list of tags ({first_line(error)}).",
            "A tagger's folder has selected_tags.csv with the columns name and category.",
        ) from None
    if not 0 < len(rows) <= MAX_TAGS:
        raise UserError(
            f"{path} names {len(rows)} tags.", "Take the file that came with the model."
        )
    tags = ((name.strip(), category.strip()) for name, category in cast("list[Any]", rows))
    return [Tag(name if is_face(name) else name.replace("_", " "), kind) for name, kind in tags]


def is_face(tag: str) -> bool:
    """Whether a tag is drawn of signs, such as ``>_<`` or ``(o)_(o)``."""
    sides = tag.split("_")
    return len(sides) == 2 and all(sum(map(str.isalpha, side)) < 2 for side in sides)
