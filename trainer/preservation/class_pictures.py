"""Pictures of the class, trained on beside the pictures of the subject.

The prior-preservation loss of DreamBooth (arXiv 2208.12242, eq. 2): its second term, weighed by
lambda (``preservation.weight``), is the ordinary loss on pictures that the base model drew for
"a CLASS", or on a folder of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.data.cache import TensorCache, content_key
from trainer.data.captions import caption_lines
from trainer.data.gather import scan_again
from trainer.data.latents import LatentSource
from trainer.data.report import fit_pictures
from trainer.data.roles import folder_words
from trainer.data.sets import ImageEntry
from trainer.diffusion import Size
from trainer.events import Progress
from trainer.generation.sampling import Drawing, draw_latents
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.preservation.prompts import class_prompts, with_article, without_triggers
from trainer.preservation.rows import ClassPicture
from trainer.seeds import derive_seed

INFERENCE_STEPS = 25
GUIDANCE = 5.0


def drawn_pictures(
    base: BaseModel,
    config: TrainingConfig,
    *,
    size: Size,
    device: Device,
    cache: TensorCache,
    progress: Progress,
) -> list[ClassPicture]:
    """Pictures that the base model draws for each class word, once: they are cached.

    Args:
        size: (height, width) in pixels.
    """
    prompts = class_prompts(config)
    pictures: list[ClassPicture] = []
    count = config.preservation.pictures
    for number in range(count):
        drawing = Drawing(
            prompt=prompts[number % len(prompts)],
            negative="",
            seed=derive_seed(config.preservation.seed, "class picture", number) % 2**31,
            width=size[1],
            height=size[0],
            inference_steps=INFERENCE_STEPS,
            guidance=GUIDANCE,
        )
        key = content_key(
            kind="class picture",
            base=base.output_key,
            dtype=device.precision,
            **asdict(drawing),
        )
        with disabled(base):
            found = cache.get_or_make(
                key,
                lambda: {"latents": draw_latents(base, [drawing], device)[0].float().cpu()},  # noqa: B023
            )
        pictures.append(ClassPicture(drawing.prompt, found["latents"], (size, (0, 0), size)))
        progress(number + 1, count, "drawing class pictures")
    return pictures


def given_pictures(
    base: BaseModel,
    config: TrainingConfig,
    folder: Path,
    concept: ConceptConfig | None,
    latents: LatentSource,
    notice: Callable[[str], None],
) -> list[ClassPicture]:
    """Class pictures of the user's own, cut to squares; one without a caption is called "a CLASS".

    Trigger words are taken out of their captions.

    Args:
        concept: whose class they show; None: the class words of all concepts in turn. Without a
            class word, a folder named ``N_words`` says what they are, as in kohya's projects.

    Raises:
        UserError: there is no such folder, or nothing in it can be used.
    """
    images = config.images.model_copy(
        update={
            "buckets": False,
            "resolutions": (),
            "upscale": True,
            "masks": "none",
            "path": folder,
        }
    )
    report = fit_pictures(scan_again(folder), images, base.resolution_step)
    for finding in report.findings:
        if finding.severity == "error":
            notice(f"Class pictures: {finding}")
    word = concept.class_word if concept else ""
    prompts = class_prompts(config) if concept is None else [with_article(word) if word else ""]

    def called(entry: ImageEntry, number: int) -> str:
        first = next(iter(caption_lines(entry.caption)), "")
        if caption := without_triggers(first, config):
            return caption
        words = without_triggers(folder_words(entry.name), config)
        return prompts[number % len(prompts)] or (with_article(words) if words else "")

    return [
        ClassPicture(
            called(picture.entry, number),
            latents.latents(picture, False),
            picture.sizes,
        )
        for number, picture in enumerate(report.fitted)
    ]
