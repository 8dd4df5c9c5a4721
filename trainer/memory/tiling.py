"""Large pictures through the VAE in overlapping tiles, so that its memory does not grow with them.

diffusers cuts and blends the tiles. The result differs somewhat from that of the whole picture, as
a tile knows nothing of the others; docs/speed-and-memory.md says by how much.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

from diffusers import AutoencoderKL

TILE = 512
"""Side of a tile in pixels. Pictures of this area and less are never cut, whatever their shape."""


def is_cut(tiling: bool, width: int, height: int) -> bool:
    """Whether a picture of this size, in pixels, goes through the VAE in tiles."""
    return tiling and width * height > TILE**2


@contextmanager
def in_tiles(vae: AutoencoderKL, wanted: bool) -> Generator[None]:
    """The VAE works in tiles within the block, if this is wanted."""
    if not wanted:
        yield
        return
    before = vae.use_tiling, cast(int, vae.tile_sample_min_size), vae.tile_latent_min_size
    scale = 2 ** (len(vae.config["block_out_channels"]) - 1)
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // scale
    try:
        yield
    finally:
        vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = before
