"""Pictures for the VAE: emoji on any background, in any place, size, tilt and colouring.

The VAE must also serve pictures that the base model never saw, so it gets far more variety than
the UNet does.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.build.pictures import SIZE


def over(premultiplied: Tensor, background: Tensor) -> Tensor:
    """RGBA (B, 4, H, W) over RGB (B, 3, H, W), both in 0..1 → RGB."""
    return premultiplied[:, :3] + background * (1 - premultiplied[:, 3:])


def random_backgrounds(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, SIZE, SIZE) in 0..1: plain colours, white, and two-colour gradients."""
    colours = torch.rand(count, 2, 3, generator=generator)
    kind = torch.rand(count, generator=generator)
    colours[kind < 0.15] = 1.0
    plain = kind < 0.75
    colours[plain, 1] = colours[plain, 0]
    angle = torch.rand(count, generator=generator) * 2 * math.pi
    axis = torch.linspace(-0.7, 0.7, SIZE)
    slope = torch.cos(angle)[:, None, None] * axis + torch.sin(angle)[:, None, None] * axis[:, None]
    mix = (slope + 0.5).clamp(0, 1)[:, None]  # (count, 1, SIZE, SIZE)
    return colours[:, 0, :, None, None] * (1 - mix) + colours[:, 1, :, None, None] * mix


def placed(small: Tensor, generator: torch.Generator) -> Tensor:
    """Small copies (B, 4, s, s) at random whole-pixel offsets: edges stay as sharp as drawn."""
    count, _, side, _ = small.shape
    canvas = torch.zeros(count, 4, SIZE, SIZE)
    offsets = torch.randint(0, SIZE - side + 1, (count, 2), generator=generator).tolist()
    for row, (top, left) in enumerate(offsets):
        canvas[row, :, top : top + side, left : left + side] = small[row]
    return canvas


def turned(large: Tensor, generator: torch.Generator) -> Tensor:
    """Large copies (B, 4, L, L) scaled to 0.5-1.2 of the canvas, tilted up to 30°, shifted."""
    count = len(large)
    scale = 0.5 + 0.7 * torch.rand(count, generator=generator)
    tilt = (torch.rand(count, generator=generator) * 2 - 1) * math.pi / 6
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * 0.3
    cosine, sine = torch.cos(tilt) / scale, torch.sin(tilt) / scale
    matrix = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1).reshape(
        count, 2, 3
    )
    grid = functional.affine_grid(matrix, [count, 4, SIZE, SIZE], align_corners=False)
    return functional.grid_sample(large, grid, align_corners=False)


def training_batch(pixels: dict[str, Tensor], count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, SIZE, SIZE) in -1..1, a pure function of the pixels and the generator's seed."""
    total = len(pixels["small"])
    rows = torch.randint(0, total, (count,), generator=generator)
    sharp = count * 3 // 5
    emoji = torch.cat(
        [
            placed(pixels["small"][rows[:sharp]].float() / 255, generator),
            turned(pixels["large"][rows[sharp:]].float() / 255, generator),
        ]
    )
    mirrored = torch.rand(count, generator=generator) < 0.5
    emoji[mirrored] = emoji[mirrored].flip(-1)
    recoloured = torch.rand(count, generator=generator) < 0.2
    order = torch.randperm(3, generator=generator)
    emoji[recoloured, :3] = emoji[recoloured][:, order]
    return over(emoji, random_backgrounds(count, generator)).clamp(0, 1) * 2 - 1
