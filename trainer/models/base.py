"""A loaded base model: its live modules, and what the other rooms need to know about them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from trainer.models.families import Family, PredictionType

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection
ENCODERS: dict[str, type[TextEncoder]] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
TILE = 512
"""Side of a tile in pixels. Pictures of this area and less are never cut, whatever their shape."""


@dataclass
class BaseModel:
    """The frozen modules of a base model, in evaluation mode."""

    name: str  # as the user gave it
    family: Family  # what is common to its kind
    prediction_type: PredictionType  # what the UNet predicts
    unet: UNet2DConditionModel  # the denoiser, (B, 4, H, W) latents in and out
    vae: AutoencoderKL  # pictures to latents and back
    text_encoders: list[TextEncoder]  # one, or two for SDXL
    tokenizers: list[CLIPTokenizer]  # one for each text encoder
    # The noise schedule, as keyword arguments of diffusers' schedulers.
    scheduler_config: dict[str, Any]
    vae_scale_factor: int  # pixels for each latent along a side: 8, and less for small models
    default_resolution: int  # side in pixels of the squares that the UNet was trained on
    zero_empty_prompt: bool  # SDXL only: pipelines use zeros where no negative prompt is given
    fingerprint: str  # SHA-256 over its files, so over everything that its output depends on
    vae_fingerprint: str  # the same of the VAE alone, for cached latents
    # How the frozen weights of the UNet and the text encoders are kept: full, 8bit or 4bit
    # (`trainer.memory.quantized`).
    weights: str = "full"
    tiling: bool = False  # whether large pictures go through the VAE in tiles
    # How much of a prompt is read (`trainer.models.text`); None: all of it.
    max_tokens: int | None = None
    clip_skip: int = 1  # which layer of SD 1's text encoder is read, counted from the last
    # (N,) of the UNet's last call in training mode; None after another.
    training_timesteps: torch.Tensor | None = None
    # For each adapter on it that has any, its learned vectors by the word that stands for them in
    # prompts: (n, D) for each text encoder.
    learned: dict[str, dict[str, list[torch.Tensor]]] = field(
        default_factory=dict[str, dict[str, list[torch.Tensor]]]
    )
    muted: frozenset[str] = frozenset()  # the adapters whose vectors are not used at present

    @property
    def output_key(self) -> str:
        """What the output of the UNet and the text encoders depends on, for the cache."""
        rounded = "" if self.weights == "full" else f" {self.weights}"
        cut = "" if self.max_tokens is None else f" {self.max_tokens} tokens"
        return self.fingerprint + rounded + cut

    @property
    def resolution_step(self) -> int:
        """Sides of training pictures are multiples of this, in pixels."""
        return 8 * self.vae_scale_factor

    def modules(self) -> dict[str, torch.nn.Module]:
        """The modules by their names in diffusers: unet, vae, text_encoder, text_encoder_2."""
        encoders = dict(zip(ENCODERS, self.text_encoders, strict=False))
        return {"unet": self.unet, "vae": self.vae, **encoders}

    @property
    def embeddings(self) -> dict[str, list[torch.Tensor]]:
        """The learned vectors that prompts use, by word; of two for a word the later adapter's."""
        used = (words for name, words in self.learned.items() if name not in self.muted)
        return {word: vectors for words in used for word, vectors in words.items()}

    def embedding_ids(self) -> dict[str, list[int]]:
        """For each word of `embeddings` its ids: -1, -2 … over all of their vectors."""
        places: dict[str, list[int]] = {}
        count = 0
        for word, vectors in self.embeddings.items():
            places[word] = [-1 - count - row for row in range(len(vectors[0]))]
            count += len(vectors[0])
        return places

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of the VAE, (B, 4, H, W), as the UNet takes them."""
        if self.vae.config.get("latents_mean") is not None:
            latents = (latents - self._each("mean", latents)) / self._each("std", latents)
        return latents * cast(float, self.vae.config["scaling_factor"])

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `scaled`: what the VAE decodes."""
        latents = latents / cast(float, self.vae.config["scaling_factor"])
        if self.vae.config.get("latents_mean") is None:
            return latents
        return latents * self._each("std", latents) + self._each("mean", latents)

    def _each(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """(1, 4, 1, 1), a statistic of each channel that the VAE's configuration names."""
        values = cast("list[float]", self.vae.config[f"latents_{name}"])
        return like.new_tensor(values).view(1, -1, 1, 1)

    def is_cut(self, width: int, height: int) -> bool:
        """Whether a picture of this size, in pixels, goes through the VAE in tiles."""
        return self.tiling and width * height > TILE**2

    @contextmanager
    def in_tiles(self, width: int, height: int) -> Generator[None]:
        """Within the block the VAE cuts a picture of this size into overlapping tiles, if it is to.

        Its memory then does not grow with the picture. The result differs somewhat, as a tile knows
        nothing of the others; docs/speed-and-memory.md says by how much.
        """
        if not self.is_cut(width, height):
            yield
            return
        vae = self.vae
        before = vae.use_tiling, cast(int, vae.tile_sample_min_size), vae.tile_latent_min_size
        scale = 2 ** (len(vae.config["block_out_channels"]) - 1)
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // scale
        try:
            yield
        finally:
            vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = before

    def noise_scheduler(self) -> DDPMScheduler:
        """A new scheduler for adding noise in training."""
        return DDPMScheduler(**self.scheduler_config, clip_sample=False)

    def sampling_scheduler(self) -> DDIMScheduler:
        """A new DDIM scheduler, the only sampler, for drawing pictures."""
        zero_snr = bool(self.scheduler_config.get("rescale_betas_zero_snr"))
        return DDIMScheduler(
            **self.scheduler_config,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            timestep_spacing="trailing" if zero_snr else "leading",
        )

    def pipeline(self) -> Pipeline:
        """A diffusers pipeline over these very modules, with a DDIM scheduler of its own.

        It neither moves nor casts anything, and has no safety checker and no progress bar.
        """
        components: dict[str, Any] = {
            "unet": self.unet,
            "vae": self.vae,
            "text_encoder": self.text_encoders[0],
            "tokenizer": self.tokenizers[0],
            "scheduler": self.sampling_scheduler(),
            "feature_extractor": None,
        }
        pipeline: Pipeline
        if self.family.name == "sdxl":
            components |= {
                "text_encoder_2": self.text_encoders[1],
                "tokenizer_2": self.tokenizers[1],
                "force_zeros_for_empty_prompt": self.zero_empty_prompt,
                "add_watermarker": False,
            }
            pipeline = StableDiffusionXLPipeline(**components)
        else:
            components |= {"safety_checker": None, "requires_safety_checker": False}
            pipeline = StableDiffusionPipeline(**components)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
