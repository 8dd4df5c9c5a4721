"""Masks by local models in transformers' layout: CLIPSeg by a text, SAM and SAM 2 from a place.

What a model is its ``config.json`` says. No code of a model is run, and only weights as safetensors
are read. Pictures are prepared here, as the processors of transformers do it with torchvision,
which is not needed otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad
from transformers import (
    AutoModelForMaskGeneration,
    AutoTokenizer,
    CLIPSegForImageSegmentation,
)

from trainer.captioning.masks import Prompt
from trainer.captioning.memory import side_of
from trainer.captioning.models import loading
from trainer.captioning.onnx_models import DEVIATION, MEAN
from trainer.data.findings import ImageProblem
from trainer.errors import UserError
from trainer.memory.devices import choose_device
from trainer.models.configs import read_json
from trainer.untyped import is_list

KINDS: dict[str, Literal["text", "padded", "square"]] = {
    "clipseg": "text",
    "sam": "padded",
    "sam2": "square",
    "sam2_video": "square",
}
"""How each kind takes pictures: with a text, scaled and padded, or stretched to a square."""
SIDES = {"text": 352, "padded": 1024, "square": 1024}
"""Pixels of a side, where the model's folder does not say."""
MAX_SIDE = 4096
LEAST_FOUND = 0.1
"""Of a text that fits less anywhere, from 0 to 1, nothing is found."""


class Segmenter:
    """A model in a folder.

    Args:
        check: is called before each picture; what it raises ends the work.

    Raises:
        UserError: it is of no such kind, or can't be loaded.
    """

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        self.name, self.check = folder.name, check
        kind = str(read_json(folder / "config.json").get("model_type") or "")
        if kind not in KINDS:
            raise UserError(
                f"{folder.name} is not a model that makes masks (model_type {kind!r}).",
                "Take CLIPSeg, SAM or SAM 2 in transformers' layout, or an ONNX file as rembg's.",
            )
        self.kind = KINDS[kind]
        self.side, self.mean, self.deviation = _preparation(folder, SIDES[self.kind])
        self.device = choose_device("auto").torch_device
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        made: Any = CLIPSegForImageSegmentation if kind == "clipseg" else AutoModelForMaskGeneration
        if kind == "clipseg":  # it is no Auto class, and takes no word on remote code
            safe.pop("trust_remote_code")
        with loading(folder):
            self.words: Any = (
                AutoTokenizer.from_pretrained(folder, local_files_only=True)
                if self.kind == "text"
                else None
            )
            model: Any = made.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, **safe
            )
        self.model = model.eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def mask(self, picture: Image.Image, prompt: Prompt) -> Image.Image:
        """The mask of what the prompt means: mode L, of the picture's size.

        Raises:
            ImageProblem: nothing is found.
            UserError: the prompt lacks what the model needs.
        """
        self.check()
        scale = self.side / max(picture.size) if self.kind == "padded" else 0.0
        size = (
            (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            if scale
            else (self.side, self.side)
        )
        pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
        values = torch.from_numpy((pixels - self.mean) / self.deviation).float().permute(2, 0, 1)
        values = pad(values, (0, self.side - size[0], 0, self.side - size[1]))[None]
        found = (
            self._by_text(values, prompt.text)
            if self.kind == "text"
            else self._by_place(values, prompt, size)
        )
        # (1, 1, h, w), without what was padded
        whole = interpolate(found[None, None], (self.side, self.side), mode="bilinear")
        whole = whole[..., : size[1], : size[0]]
        whole = interpolate(whole, picture.size[::-1], mode="bilinear")[0, 0]
        return Image.fromarray((whole > 0).cpu().numpy().astype(np.uint8) * 255)

    def _by_text(self, values: Tensor, text: str) -> Tensor:
        """(h, w), above 0 where a text fits half as well as where it fits best."""
        if not text.strip():
            raise UserError(
                f"{self.name} needs a text that says what to find.",
                "Say what to find with --text, such as --text dog.",
            )
        words = self.words([text.strip()], return_tensors="pt", truncation=True).to(self.device)
        logits: Tensor = self.model(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=values.to(self.device),
        ).logits
        fits = logits.reshape(logits.shape[-2:]).float().sigmoid()
        best = float(fits.max())
        if best < LEAST_FOUND:
            raise ImageProblem(f"{self.name} sees no “{text.strip()}” in it.")
        return fits - best / 2

    def _by_place(self, values: Tensor, prompt: Prompt, size: tuple[int, int]) -> Tensor:
        """(h, w), above 0 in the thing in a box, or at a point."""
        place: dict[str, Any] = {}
        if prompt.box and not prompt.is_point:
            corners = [share * size[at % 2] for at, share in enumerate(prompt.box)]
            place["input_boxes"] = torch.tensor([[corners]], device=self.device)
        else:
            across, down = prompt.middle
            point = [across * size[0], down * size[1]]
            place["input_points"] = torch.tensor([[[point]]], device=self.device)
            place["input_labels"] = torch.ones(1, 1, 1, dtype=torch.long, device=self.device)
        made = self.model(
            pixel_values=values.to(self.device), multimask_output=False, **place
        ).pred_masks
        return made.reshape(made.shape[-2:]).float()


def _preparation(folder: Path, side: int) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
    """Pixels of a side, mean and deviation of each channel, as the folder says."""
    path = folder / "preprocessor_config.json"
    said = read_json(path) if path.is_file() else {}
    side = side_of(folder, side)
    if not 16 <= side <= MAX_SIDE:
        raise UserError(f"{folder.name} takes pictures of {side} pixels a side.", "It is damaged.")

    def channels(key: str, usual: tuple[float, ...]) -> NDArray[np.float32]:
        values = said.get(key)
        right = is_list(values) and len(values) == 3 and all(isinstance(v, float) for v in values)
        found: list[float] | tuple[float, ...] = values if is_list(values) and right else usual
        return np.asarray(found, np.float32)

    return side, channels("image_mean", MEAN), channels("image_std", DEVIATION)
