"""Stage "grid": 64 captions with fixed seeds, unselected, as one picture."""

import random
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from models.build.captions import BACKGROUNDS, Content, plain
from models.build.pictures import SIZE
from models.build.subjects import SUBJECTS

STEPS, GUIDANCE = 25, 4.0
LABEL = 22
"""Pixels under each picture for its caption."""


def contents(count: int, seed: int) -> list[Content]:
    """`count` different subjects, styles in turn, backgrounds at random."""
    source = random.Random(seed)
    names = source.sample(sorted(SUBJECTS), count)
    return [
        Content(name, ("3d", "flat")[place % 2], source.choice(list(BACKGROUNDS)))
        for place, name in enumerate(names)
    ]


@torch.no_grad()
def generate(
    pipeline: StableDiffusionPipeline,
    captions: list[str],
    seed: int,
    guidance: float = GUIDANCE,
    batch: int = 16,
) -> list[Image.Image]:
    """One picture a caption; picture k starts from the noise of seed + k, whatever the batch."""
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        noise = [torch.Generator().manual_seed(seed + start + k) for k in range(len(part))]
        images += pipeline(
            part,
            height=SIZE,
            width=SIZE,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            generator=noise,
        ).images
    return images


def sheet(
    images: list[Image.Image], labels: list[str], columns: int = 8, zoom: int = 2
) -> Image.Image:
    """Pictures in rows, each enlarged by `zoom` with its label below."""
    side = SIZE * zoom
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (side + 6), rows * (side + LABEL)), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = place % columns * (side + 6), place // columns * (side + LABEL)
        canvas.paste(image.resize((side, side), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top + side + 4), label, fill="black")
    return canvas


def write(pipeline: StableDiffusionPipeline, target: Path, seed: int = 0) -> None:
    """The grid of docs/notes/base-model.md."""
    chosen = contents(64, seed)
    images = generate(pipeline, [plain(content) for content in chosen], seed)
    labels = [f"{c.subject}, {c.style}, {c.background}" for c in chosen]
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet(images, labels).save(target, optimize=True)
