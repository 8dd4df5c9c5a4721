"""Stage "vae": a small AutoencoderKL, 64-pixel pictures to 16×16×4 latents and back."""

import time
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from models.build import pictures
from models.build.augment import training_batch
from models.build.parallel import Workers
from models.build.state import Progress, Training, averaged, generator, learning_rate

BATCH, PART = 8, 4
"""Pictures of a step, and of one thread's share."""
LATENT = (pictures.SIZE // 4, pictures.SIZE // 4)
STEPS = 3000
"""Optimizer steps of a whole build."""
PEAK_RATE = 2.5e-3
KL_WEIGHT = 1e-3
"""Per latent element, against an error per pixel in -1..1."""
EVERY = 250
"""Steps between checkpoints."""


def new_vae() -> AutoencoderKL:
    """About 1.4 M parameters; most of them at the coarse levels, where they are cheap."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        # Few, wide groups: with two channels each, a plain colour would be normalised away.
        norm_num_groups=2,
        sample_size=pictures.SIZE,
        mid_block_add_attention=False,
    )
    initialise(vae)
    return vae


@torch.no_grad()
def initialise(vae: AutoencoderKL) -> None:
    """Starts near a linear map with quiet latents: twice as fast at first as torch's defaults."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
    # The upper half of the moments is the log variance; at 0 noise drowns the latents.
    vae.quant_conv.bias[vae.config.latent_channels :] = -6.0


def edge_error(output: Tensor, target: Tensor) -> Tensor:
    """L1 distance of horizontal and vertical differences: what blur gets wrong."""
    return sum((output.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (-1, -2))  # type: ignore[return-value]


def loss_of(vae: AutoencoderKL, batch: Tensor, noise: Tensor) -> Tensor:
    """L1 + edges + KL for pictures (B, 3, 64, 64) in -1..1 and unit noise (B, 4, 16, 16)."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(batch).latent_dist
    mean, spread = posterior.mean.float(), posterior.std.float()
    with torch.autocast("cpu", torch.bfloat16):
        output = vae.decode(mean + spread * noise).sample
    output = output.float()
    divergence = 0.5 * (mean**2 + spread**2 - 1 - 2 * spread.log()).mean()
    return (output - batch).abs().mean() + edge_error(output, batch) + KL_WEIGHT * divergence


def state_file(work: Path) -> Path:
    """The training's checkpoint."""
    return work / "vae" / "state.safetensors"


def train(work: Path, steps: int, deadline: float, seed: int = 0) -> None:
    """Goes on from the last checkpoint, up to `steps` steps in all or the deadline (epoch time)."""
    torch.manual_seed(seed)
    vae = new_vae()
    recipe = {"seed": seed, "batch": BATCH, "rate": PEAK_RATE, "divergence": KL_WEIGHT}
    training = Training({"vae": vae}, state_file(work), 0.999, recipe)
    training.load()
    _, pixels = pictures.load(work)
    workers, report = Workers(), Progress("vae", training.step, steps, BATCH)
    while training.step < steps and time.time() < deadline:
        source = generator(seed, training.step, 1)
        batch = training_batch(pixels, BATCH, source)
        noise = torch.randn(BATCH, 4, *LATENT, generator=source)
        parts = [
            partial(loss_of, vae, *pair)
            for pair in zip(batch.split(PART), noise.split(PART), strict=True)
        ]
        loss = workers.accumulate(parts, list(training.parameters.values()))
        training.update(learning_rate(training.step, steps, PEAK_RATE, warmup=50))
        report(training.step, loss)
        if training.step % EVERY == 0:
            training.save()
    training.save()


def load_vae(work: Path) -> AutoencoderKL:
    """The averaged weights, frozen."""
    vae = new_vae()
    vae.load_state_dict(averaged(state_file(work), "vae"))
    return vae.eval().requires_grad_(False)
