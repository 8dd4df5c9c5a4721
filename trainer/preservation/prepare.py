"""What a run preserves, made ready before its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Sequence
from dataclasses import asdict
from pathlib import Path

from trainer.conditioning import TextSource
from trainer.config.concepts import class_words_of, concepts_of, preserved_share
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.data.cache import content_key
from trainer.data.captions import caption_lines
from trainer.data.folders import folder_words
from trainer.data.gather import scan_again
from trainer.data.latents import LatentSource
from trainer.data.names import list_names
from trainer.data.report import fit_pictures
from trainer.data.sets import ImageEntry, Picture
from trainer.diffusion import Size
from trainer.events import Notice, Progress
from trainer.generation.sampling import Drawing, draw_latents
from trainer.lora.attach import disabled
from trainer.preservation.prompts import (
    class_prompts,
    preserved_prompts,
    prompts_for_own_pictures,
    with_article,
    without_triggers,
)
from trainer.preservation.rows import (
    ClassPicture,
    PicturePreservation,
    PredictionPreservation,
    Preservation,
    RowSchedule,
)
from trainer.preservation.teacher import Teacher
from trainer.seeds import derive_seed

INFERENCE_STEPS = 25
GUIDANCE = 5.0


def drawn_pictures(
    text: TextSource, config: TrainingConfig, prompts: Sequence[str], size: Size, progress: Progress
) -> list[ClassPicture]:
    """Pictures that the base model draws for prompts in turn, once: they are cached.

    Args:
        size: (height, width) in pixels.
    """
    base, device = text.base, text.device
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
            kind="class picture", base=base.output_key, dtype=device.precision, **asdict(drawing)
        )
        with disabled(base):
            found = text.cache.get_or_make(
                key,
                lambda: {"latents": draw_latents(base, [drawing], device)[0].float().cpu()},  # noqa: B023
            )
        pictures.append(ClassPicture(drawing.prompt, found["latents"], (size, (0, 0), size)))
        progress(number + 1, count, "drawing class pictures")
    return pictures


def _without_pictures(config: TrainingConfig, have: Collection[ConceptConfig]) -> list[str]:
    """The class prompts of concepts that have no class pictures."""
    words = [one.class_word for one in concepts_of(config) if one not in have]
    return [with_article(word) if word else "" for word in words]


def given_pictures(
    config: TrainingConfig,
    folder: Path,
    concept: ConceptConfig | None,
    latents: LatentSource,
    notice: Notice,
    own: Container[str] = (),
) -> list[ClassPicture]:
    """Class pictures of the user's own, cut to squares; one without a caption is called "a CLASS".

    Trigger words are taken out of their captions. A folder named ``N_words`` says what they are, as
    in kohya's projects.

    Args:
        concept: whose class they show; None: the class words of all concepts in turn.
        own: ids of the pictures that are trained on.

    Raises:
        UserError: there is no such folder, or nothing in it can be used.
    """
    whole = {"buckets": False, "resolutions": (), "upscale": True, "masks": "none"}
    images = config.images.model_copy(update={**whole, "path": folder})
    report = fit_pictures(scan_again(folder), images, latents.base.resolution_step)
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
        known = [concept.class_word] if concept else class_words_of(config)
        named = words and not any(one and one.casefold() in words.casefold() for one in known)
        return with_article(words) if named else prompts[number % len(prompts)]

    taught = [one.entry.name for one in report.fitted if one.entry.id in own]
    if taught:
        notice(
            f"Class pictures: {list_names(taught)}: also among the pictures of the subject, so "
            "that the class word will come to mean it. Take them out."
        )

    return [
        ClassPicture(called(one.entry, number), latents.latents(one, False), one.sizes)
        for number, one in enumerate(report.fitted)
    ]


def prepare_preservation(
    config: TrainingConfig,
    pictures: Sequence[tuple[Picture, str]],
    class_folders: Sequence[tuple[Path, ConceptConfig]],
    text: TextSource,
    latents: LatentSource,
    notice: Notice,
    progress: Progress,
) -> Preservation | None:
    """What a run preserves, from its resolved configuration; None where it preserves nothing.

    One process computes, the others wait and find it in the cache. UNet and text encoders have to
    be on the device; the VAE is moved there only to encode class pictures of the user's own.

    Args:
        pictures: what is trained on, with the captions as they are trained.
        class_folders: of regularisation pictures in the image sets; for the method pictures where
            no other folder is given.

    Raises:
        UserError: the folder of class pictures is missing, or holds none that can be used.
    """
    settings, training = config.preservation, config.training
    if settings.method == "none" or settings.weight == 0:
        return None
    base, device = text.base, text.device
    if not device.is_main:
        device.wait_for_everyone()
    largest = training.batch_size * training.accumulation
    schedule = RowSchedule(preserved_share(config), settings.every, largest)
    size = commonest_size([picture for picture, _ in pictures])
    preservation: Preservation
    folders = [(Path(settings.folder), None)] if settings.folder else class_folders
    if settings.method == "pictures" and folders:
        ids = {picture.entry.id for picture, _ in pictures}
        with device.instead([base.vae], []):
            given = [
                picture
                for folder, concept in folders
                for picture in given_pictures(config, folder, concept, latents, notice, ids)
            ]
        # Subjects whose sets hold none get drawn ones, and every second turn.
        prompts = [] if settings.folder else _without_pictures(config, dict(class_folders).values())
        if prompts:
            drawn = drawn_pictures(text, config, prompts, given[0].sizes[0], progress)
            turns = range(max(len(given), len(drawn)))
            given = [both[turn % len(both)] for turn in turns for both in (given, drawn)]
        preservation = PicturePreservation(base, given, schedule, training.seed)
    elif settings.method == "pictures":
        drawn = drawn_pictures(text, config, class_prompts(config), size, progress)
        preservation = PicturePreservation(base, drawn, schedule, training.seed)
    else:
        captions = [caption for _, caption in pictures]
        prompts = preserved_prompts(text, config, captions)
        of_size = [pair for pair in pictures if _size(pair[0]) == size]
        own = [
            (latents.latents(picture, False), prompt)
            for picture, prompt in prompts_for_own_pictures(config, of_size, settings.pictures)
        ]
        teacher = Teacher(text, size, settings.seed)
        known = teacher.predictions(prompts, settings.pictures + len(prompts.own), own, progress)
        preservation = PredictionPreservation(
            known, schedule, config.adapter.text_encoder, training.seed
        )
    if device.is_main:
        device.wait_for_everyone()
    return preservation


def commonest_size(pictures: Sequence[Picture]) -> Size:
    """(height, width) in pixels that most of the pictures have: rows of it share their passes."""
    sizes = Counter(map(_size, pictures))
    return max(sizes, key=lambda size: (sizes[size], size))


def _size(picture: Picture) -> Size:
    return picture.sizes[2]
