"""A small v-prediction base model made from the built-in one, for measuring with.

    python -m benchmarks.velocity_base FOLDER [--zero-snr] [--start FOLDER] [--minutes 15]

Where the built-in model predicts ``eps`` at ``x_t``, the new one learns to predict
``v = (eps - sqrt(1 - alpha_bar) x_t) / sqrt(alpha_bar)`` (arXiv 2202.00512, section 4), on pictures
that the built-in one draws. With --zero-snr the noise schedule ends in pure noise (arXiv
2305.08891); where it is noisier than the teacher's own, the pictures' ``v`` is learned.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import torch
from torch import Tensor

from models.build.subjects import SUBJECTS
from trainer.diffusion import TextConditioning, add_noise, encode, target
from trainer.generation.sampling import Drawing, draw_latents
from trainer.memory.devices import Device
from trainer.models.families import MODELS_FOLDER
from trainer.models.load import BaseModel, load_base

BATCH, PEAK_RATE, GUIDANCE, INFERENCE_STEPS = 32, 1e-3, 3.0, 12
CPU = Device(torch.device("cpu"), "fp32")


def pool(base: BaseModel, count: int) -> tuple[Tensor, TextConditioning]:
    """(N, 4, 16, 16) latents that the built-in model draws, and the features of their captions."""
    captions = [
        f"{style} emoji of a {subject}"
        for style in ("3d", "flat")
        for subject in list(SUBJECTS)[: count // 2]
    ]
    drawings = [
        Drawing(caption, "", seed, 64, 64, INFERENCE_STEPS, GUIDANCE)
        for seed, caption in enumerate(captions)
    ]
    with torch.no_grad():
        text = encode(base, [*captions, ""], "cpu")
    return draw_latents(base, drawings, CPU, at_once=8), text


def velocities(
    teacher: BaseModel,
    clean: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    timesteps: Tensor,
    hidden: Tensor,
) -> Tensor:
    """(B, 4, H, W): the teacher's, asked at its own timestep of the same signal-to-noise ratio."""
    levels = teacher.noise_scheduler().alphas_cumprod
    own = (levels[None] - alpha_bar[timesteps, None]).abs().argmin(dim=1)
    noised = add_noise(clean, noise, levels, own)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        predicted = teacher.unet(noised, own, hidden).sample.float()
    kept = levels[own].view(-1, 1, 1, 1)
    taught = (predicted - (1 - kept).sqrt() * noised) / kept.sqrt()
    true = target(clean, noise, alpha_bar, timesteps, "v_prediction")
    beyond = (alpha_bar[timesteps] < levels[-1]).view(-1, 1, 1, 1)
    return torch.where(beyond, true, taught)


def teach(teacher: BaseModel, student: BaseModel, minutes: float, count: int) -> None:
    """Trains the student's UNet for some minutes of processor time."""
    clean, text = pool(teacher, count)
    alpha_bar = student.noise_scheduler().alphas_cumprod
    unet = student.unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=PEAK_RATE, weight_decay=0.0)
    averages = {name: value.clone() for name, value in unet.state_dict().items()}
    source, began, step, shown = torch.Generator().manual_seed(0), time.process_time(), 0, 0.0
    while (done := (time.process_time() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / 50) * math.cos(done * math.pi / 2)
        rows = torch.randint(len(clean), (BATCH,), generator=source)
        words = torch.where(torch.rand(BATCH, generator=source) < 0.1, len(clean), rows)
        places = torch.randperm(BATCH, generator=source) + torch.rand(1, generator=source)
        timesteps = (places / BATCH * len(alpha_bar)).long().clamp(max=len(alpha_bar) - 1)
        noise = torch.randn(clean[rows].shape, generator=source)
        hidden = text.hidden[words]
        wanted = velocities(teacher, clean[rows], noise, alpha_bar, timesteps, hidden)
        noised = add_noise(clean[rows], noise, alpha_bar, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noised, timesteps, hidden).sample
        loss = (predicted.float() - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for name, value in unet.state_dict().items():
                averages[name].lerp_(value, max(0.005, 1 / step))
        shown += (loss.item() - shown) * max(0.02, 1 / step)
        if step % 100 == 0:
            print(f"step {step}, {done:.0%}, loss {shown:.4f}", flush=True)
    unet.load_state_dict(averages)


def main() -> None:
    """Writes the new base model's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--zero-snr", action="store_true")
    parser.add_argument("--start", type=Path, default=MODELS_FOLDER / "tiny-emoji")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--pictures", type=int, default=200)
    options = parser.parse_args()
    shutil.copytree(options.start, options.folder)
    place = options.folder / "scheduler" / "scheduler_config.json"
    about = json.loads(place.read_text())
    about |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": options.zero_snr}
    place.write_text(json.dumps(about, indent=2))
    student = load_base(str(options.folder))
    teach(load_base("tiny-emoji"), student, options.minutes, options.pictures)
    student.unet.half().save_pretrained(options.folder / "unet", safe_serialization=True)


if __name__ == "__main__":
    main()
