"""Previews of a run: fixed prompts and seeds, with and without the trigger word."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from trainer.config import TrainingConfig
from trainer.data.captions import without_word
from trainer.lora.attach import disabled
from trainer.runs.atomic import building_folder, write_json
from trainer.sampling import Drawing, draw, save_picture
from trainer.session import Session


def preview_prompts(config: TrainingConfig, captions: list[str]) -> list[str]:
    """The prompts of a run's previews.

    The user's own, with ``{trigger}`` and ``{class}`` replaced; or else the first caption, with
    the trigger and without it.
    """
    words = config.captions
    if config.previews.prompts:
        return [
            " ".join(
                prompt.replace("{trigger}", words.trigger)
                .replace("{class}", words.class_word)
                .split()
            )
            for prompt in config.previews.prompts
        ]
    without = without_word(captions[0], words.trigger)
    return [captions[0], without] if without != captions[0] else [captions[0]]


def draw_previews(session: Session, *, strength: int) -> Path:
    """Draw and save the previews of the present step.

    Args:
        strength: 1 for the adapter as it is, 0 for the base model alone.

    Returns:
        The folder, with PNG files and ``prompts.json``.
    """
    config, base = session.config, session.base
    side = config.images.resolution or base.default_resolution
    settings = config.previews
    drawings = [
        Drawing(
            prompt=prompt,
            negative=settings.negative,
            seed=settings.seed + number,
            width=side,
            height=side,
            inference_steps=settings.inference_steps,
            guidance=settings.guidance,
        )
        for prompt in preview_prompts(config, session.captions)
        for number in range(settings.count)
    ]
    with session.averaged(), disabled(base) if strength == 0 else nullcontext():
        pictures = draw(base, drawings, session.device)
    folder = session.run.preview(session.step)
    records = []
    with building_folder(folder) as temporary:
        for number, (drawing, picture) in enumerate(zip(drawings, pictures, strict=True)):
            name = f"{number:02d}.png"
            save_picture(picture, temporary / name, drawing, model=base.name)
            records.append({"file": name, "strength": strength, **asdict(drawing)})
        write_json(temporary / "prompts.json", records)
    return folder
