"""Stage "decoder": sharpens the VAE's decoder while the encoder, and so every latent, stays.

It may run before, after or between steps of the UNet, which never sees the decoder.
"""

import time
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from models.build import pictures
from models.build.augment import training_batch
from models.build.parallel import Workers
from models.build.state import Progress, Training, averaged, digest, generator, learning_rate
from models.build.vae import BATCH, EVERY, PART, edge_error, load_vae, state_file

STEPS = 0
"""Optimizer steps of the shipped model."""
PEAK_RATE = 1.5e-3
EXTRA_NOISE = 0.04
"""Share of the latents' spread: the UNet's latents are never quite right either."""


def decoding_half(vae: AutoencoderKL) -> nn.ModuleDict:
    """The modules that run after the latents."""
    return nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})


def loss_of(vae: AutoencoderKL, spread: float, images: Tensor, noise: Tensor) -> Tensor:
    """L1 + edges of (B, 3, 64, 64) in -1..1, decoded from latents with a little noise."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            posterior = vae.encode(images).latent_dist
            deviation = (posterior.var + (EXTRA_NOISE * spread) ** 2).sqrt()
            latents = posterior.mean + deviation * noise
        output = vae.decode(latents).sample
    return (output.float() - images).abs().mean() + edge_error(output.float(), images)


def train(work: Path, steps: int, deadline: float, seed: int = 0) -> None:
    """Goes on from the last checkpoint, up to `steps` steps in all or the deadline (epoch time)."""
    if steps <= 0:
        return
    vae = load_vae(work)
    half = decoding_half(vae).requires_grad_(True)
    recipe = {"seed": seed, "batch": BATCH, "rate": PEAK_RATE, "vae": digest(state_file(work))}
    training = Training({"half": half}, _state(work), 0.999, recipe)
    training.load()
    _, pixels = pictures.load(work)
    with torch.no_grad():
        sample = training_batch(pixels, 64, generator(seed, 0, 4))
        spread = vae.encode(sample).latent_dist.mean.std().item()
    workers, report = Workers(), Progress("decoder", training.step, steps, BATCH)
    while training.step < steps and time.time() < deadline:
        source = generator(seed, training.step, 3)
        images = training_batch(pixels, BATCH, source)
        noise = torch.randn(BATCH, 4, 16, 16, generator=source)
        parts = [
            partial(loss_of, vae, spread, *pair)
            for pair in zip(images.split(PART), noise.split(PART), strict=True)
        ]
        loss = workers.accumulate(parts, list(training.parameters.values()))
        training.update(learning_rate(training.step, steps, PEAK_RATE, warmup=50, decay=0.5))
        report(training.step, loss)
        if training.step % EVERY == 0:
            training.save()
    training.save()


def load(work: Path) -> AutoencoderKL:
    """The trained VAE with the sharpest decoder there is, frozen."""
    vae = load_vae(work)
    if _state(work).exists():
        decoding_half(vae).load_state_dict(averaged(_state(work), "half"))
    return vae.eval().requires_grad_(False)


def _state(work: Path) -> Path:
    return work / "vae" / "decoder.safetensors"
