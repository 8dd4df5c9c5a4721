"""Previews of a run: fixed prompts and seeds, with and without the trigger word."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from trainer.config.concepts import concepts_of, subject_of
from trainer.config.schema import ConceptConfig
from trainer.data.captions import without_word
from trainer.generation.sampling import BATCH, Drawing, draw, save_picture
from trainer.lora.attach import disabled
from trainer.runs.atomic import building_folder, write_json
from trainer.scenes import in_scene, scenes_for
from trainer.training.session import Session


def preview_prompts(session: Session) -> list[str]:
    """The prompts of a run's previews, each once.

    The user's own, with ``{trigger}`` and ``{class}`` replaced (by those of each concept in turn);
    or else the first caption of each concept, with the trigger and without it, and a scene that no
    caption names: whether the subject still listens.
    """
    config = session.config
    prompts = [
        _filled(prompt, concept)
        for prompt in config.previews.prompts
        for concept in concepts_of(config)
    ]
    if not prompts:
        for number, concept in enumerate(concepts_of(config)):
            pairs = zip(session.pictures, session.captions, strict=True)
            captions = [text for picture, text in pairs if picture.concept == number]
            prompts += [captions[0], without_word(captions[0], concept.trigger)]
            word = concept.class_word
            scenes = scenes_for(word, captions, 1)
            prompts += [in_scene(subject_of(concept), word, scene) for scene in scenes]
    return list(dict.fromkeys(prompts))


def _filled(prompt: str, concept: ConceptConfig) -> str:
    text = prompt.replace("{trigger} {class}", subject_of(concept))
    text = text.replace("{trigger}", concept.trigger).replace("{class}", concept.class_word)
    return " ".join(text.split())


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
        for prompt in preview_prompts(session)
        for number in range(settings.count)
    ]
    with session.averaged(), disabled(base) if strength == 0 else nullcontext():
        at_once = min(BATCH, session.memory_mode.pictures_at_once)
        pictures = draw(base, drawings, session.device, at_once=at_once)
    folder = session.run.preview(session.step)
    records: list[dict[str, object]] = []
    with building_folder(folder) as temporary:
        for number, (drawing, picture) in enumerate(zip(drawings, pictures, strict=True)):
            name = f"{number:02d}.png"
            save_picture(picture, temporary / name, drawing, model=base.name)
            records.append({"file": name, "strength": strength, **asdict(drawing)})
        write_json(temporary / "prompts.json", records)
        # Of this step already: the run was killed after its previews, before its checkpoint.
        shutil.rmtree(folder, ignore_errors=True)
    return folder
