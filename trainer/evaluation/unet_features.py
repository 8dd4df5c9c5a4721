"""Pictures as the base model's own UNet sees them: a feature space that needs no further weights.

What a UNet computes for a slightly noised picture tells what is where (DIFT, arXiv 2306.03881,
section 4.1: features are taken at one timestep, with an empty prompt). Here they are those of the
middle block, the coarsest: parts and outline rather than texture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.data.latents import encode_pixels
from trainer.diffusion import Points, add_noise, predict
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.seeds import derive_seed
from trainer.typed_torch import vector_norm

Pixels = NDArray[np.uint8]

NOISE = 0.1  # share of the noise schedule at which pictures are looked at
GRID = 4


class UNetFeatures:
    """Turns pictures into vectors; an adapter on the model is switched off meanwhile.

    UNet and text encoders have to be on the device.
    """

    kind = "UNet"

    def __init__(self, base: BaseModel, device: Device) -> None:
        self.base, self.device = base, device

    def likeness(self, drawn: Sequence[Pixels], pictures: Sequence[Pixels]) -> float:
        """The mean of each drawing's best cosine with a picture."""
        cosines = self.vectors(drawn) @ self.vectors(pictures).T
        return cosines.amax(dim=1).mean().item()

    def change(
        self, drawn: Sequence[Pixels], before: Sequence[Pixels], pictures: Sequence[Pixels]
    ) -> tuple[float, float, float]:
        """Whether what has changed in drawings leads to some pictures, and how far.

        With a drawing d, the one b that it was before, and a picture p: the cosine of d - b and
        p - b, and the length of d - b along p - b as a share of that; of each drawing for the
        picture with the best one, and their means. Then the length of d - b, wherever it leads,
        as a share of p - b's.
        """
        old = self.vectors(before)
        moved, wanted = self.vectors(drawn) - old, self.vectors(pictures)[None] - old[:, None]
        along = (moved[:, None] * wanted).sum(dim=2)  # (drawings, pictures)
        lengths = vector_norm(wanted, dim=2).clamp_min(1e-6)
        gone = vector_norm(moved, dim=1)[:, None]
        cosines, shares = along / lengths / gone.clamp_min(1e-6), along / lengths.square()
        far = (gone / lengths).gather(1, cosines.argmax(dim=1, keepdim=True))
        found = (cosines.amax(dim=1), shares.amax(dim=1), far)
        return float(found[0].mean()), float(found[1].mean()), float(found[2].mean())

    def vectors(self, pictures: Sequence[Pixels]) -> Tensor:
        """(N, C * `GRID` * `GRID`) float32 on the CPU, each of length 1."""
        base, side = self.base, self.base.default_resolution
        with self.device.instead([base.vae], [base.unet, *base.text_encoders]):
            clean = torch.stack([encode_pixels(base, _square(one, side)) for one in pictures])
        alpha_bar = base.noise_scheduler().alphas_cumprod
        steps = torch.full((len(pictures),), int(NOISE * len(alpha_bar)))
        # The same noise for all: what differs between two pictures is then the pictures.
        generator = torch.Generator().manual_seed(derive_seed(0, "features"))
        noise = torch.randn((1, *clean.shape[1:]), generator=generator).expand_as(clean)
        size = (side, side)
        points = Points(
            ("",) * len(pictures),
            add_noise(clean, noise, alpha_bar, steps),
            steps,
            ((size, (0, 0), size),) * len(pictures),
        )
        found: list[Tensor] = []

        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            found.append(F.adaptive_avg_pool2d(output.float(), GRID).flatten(1).cpu())

        hook = base.unet.mid_block.register_forward_hook(keep)
        try:
            with disabled(base):
                predict(base, points, self.device)
        finally:
            hook.remove()
        return F.normalize(torch.cat(found), dim=1)


def _square(pixels: Pixels, side: int) -> Pixels:
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    return np.array(image)
