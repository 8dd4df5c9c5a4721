"""``check-images``: what training would make of a folder, or of the folders of several concepts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer

from trainer.answers import Answer
from trainer.commands.command import Base, command, option
from trainer.commands.train import Concepts
from trainer.config.concepts import captions_of, parse_concept
from trainer.config.fields import field_help
from trainer.config.file import with_values
from trainer.config.schema import CaptionsConfig, ConceptConfig, ImagesConfig, TrainingConfig
from trainer.data.captions import (
    CHUNK_TOKENS,
    caption_variants,
    compose_caption,
    plain_captions,
    protect_trigger,
)
from trainer.data.decoder import load_rgb
from trainer.data.gather import SetsReport, read_sets
from trainer.data.masks import fit, read_mask
from trainer.data.sets import Picture
from trainer.errors import UserError
from trainer.runs.atomic import writing

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclass(frozen=True)
class ShownCaption:
    """One of the texts that a picture trains with, and its tokens by chunks."""

    text: str
    chunks: list[list[str]]


@dataclass(frozen=True)
class ShownPicture(Answer):
    """One picture as it trains."""

    name: str  # of the picture
    # Each that may come up, trigger word inserted, without dropout and shuffling.
    captions: list[ShownCaption]
    crop: str  # resized to, cut at and size, in pixels, and the colour below transparent parts
    file: str  # the picture as it is cut, and its mask beside it where there is one

    def lines(self) -> Iterator[str]:
        from trainer.models.text import readable

        yield self.name
        for caption in self.captions:
            yield f"  caption: {caption.text}"
            for number, tokens in enumerate(caption.chunks, start=1):
                yield f"    chunk {number}, {len(tokens)} tokens: {' '.join(map(readable, tokens))}"
        yield f"  picture: {self.crop}"
        yield f"  written to {self.file}"


def show_picture(
    config: TrainingConfig,
    report: SetsReport,
    name: str,
    out: Path | None,
    tokenizers: Sequence["CLIPTokenizer"],
) -> ShownPicture:
    """Shows a picture of a report as it trains.

    Args:
        name: as the report has it, or its last part, of several pictures the first that has it.
        out: a PNG file to write; None: NAME-as-trained.png in the working folder.

    Raises:
        UserError: there is no such picture, or the file is there already or can't be written.
    """
    found = [
        (concept, one)
        for concept, part in report.pairs
        for one in part.fitted
        if one.entry.name == name or one.entry.name.endswith(f"/{name}")
    ]
    if not found:
        message = f"No picture that is trained on is called {name}."
        raise UserError(message, "check-images without --show lists what is left out, and why.")
    concept, picture = min(found, key=lambda pair: pair[1].entry.name != name)
    target = out or Path(f"{Path(picture.entry.name).stem}-as-trained.png")
    if target.exists():
        raise UserError(f"{target} exists already.", "Give --out another name.")
    below = _write(picture, config.images, target)
    crop = picture.crop
    return ShownPicture(
        name=picture.entry.name,
        captions=_captions(picture, config, concept, tokenizers),
        crop=(
            f"{picture.entry.size[0]} × {picture.entry.size[1]}, resized to "
            f"{crop.resize_width} × {crop.resize_height}, cut at ({crop.left}, {crop.top}) to "
            f"{crop.width} × {crop.height}, on {below}"
        ),
        file=str(target),
    )


def _write(picture: Picture, images: ImagesConfig, target: Path) -> str:
    """Writes the crop, and the mask to its right; gives the colour below transparent parts."""
    from PIL import Image

    below = picture.entry.background(images.background)
    parts = [fit(load_rgb(picture.entry.read(), below), picture.crop, False)]
    mask = read_mask(picture.entry, images, picture.crop)
    if mask is not None:
        parts.append(np.repeat(mask[..., None], 3, axis=2))
    with writing(str(target)):
        Image.fromarray(np.concatenate(parts, axis=1)).save(target, "PNG")
    return below


def _captions(
    picture: Picture,
    config: TrainingConfig,
    concept: ConceptConfig,
    tokenizers: Sequence["CLIPTokenizer"],
) -> list[ShownCaption]:
    from trainer.models.text import count_tokens, token_chunks

    words: CaptionsConfig = plain_captions(captions_of(config, concept))
    shown: list[ShownCaption] = []
    for variant in caption_variants(picture.entry.caption, words.wildcards) or [None]:
        text = compose_caption(variant, words, seed=0, step=0, image_id=picture.entry.id)
        text = protect_trigger(
            text, words.trigger, lambda part: count_tokens(tokenizers, part) <= CHUNK_TOKENS
        )
        chunks = token_chunks(tokenizers[0], text, words.max_tokens)
        pieces = [list(map(str, tokenizers[0].convert_ids_to_tokens(ids))) for ids in chunks]
        shown.append(ShownCaption(text, pieces))
    return shown


@command("check-images", "say what is wrong or doubtful in an image set, before training")
def check_images(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR")] = None,
    *,
    base: Base = "tiny-emoji",
    trigger: Annotated[str, option("WORD", field_help("captions.trigger"))] = "",
    class_word: Annotated[str, option("WORD", field_help("captions.class_word"))] = "",
    resolution: Annotated[int | None, option("PX", field_help("images.resolution"))] = None,
    resolutions: Annotated[
        list[int] | None, option("PX", field_help("images.resolutions") + " Give it once for each.")
    ] = None,
    masks: Annotated[
        Literal["none", "alpha", "files"], option(None, field_help("images.masks"))
    ] = "none",
    concepts: Concepts = None,
    show: Annotated[
        str | None, option("NAME", "Show one picture as it trains: its text, tokens and pixels.")
    ] = None,
    out: Annotated[
        Path | None, option("FILE", "PNG file that --show writes the pixels and the mask to.")
    ] = None,
) -> SetsReport | ShownPicture:
    """Reports on image sets; doubtful pictures are no failure.

    Raises:
        UserError: there is no such folder, nothing in it can be used, or the base or the
            resolution does not suit.
    """
    from trainer.models.identify import identify
    from trainer.models.load import load_tokenizers
    from trainer.models.text import count_chunks
    from trainer.triggers.lab import doubt

    if (folder is None) == (not concepts):
        raise UserError(
            "check-images needs a folder, or concepts, and not both.",
            "Such as: check-images DIR --trigger WORD, or: check-images --concept DIR:WORD:CLASS",
        )
    if out is not None and show is None:
        raise UserError("--out needs --show NAME.", "Add that, or leave --out away.")
    values: dict[str, object] = {
        "base.name": base,
        "images.path": str(folder or "."),
        "images.resolution": resolution,
        "images.resolutions": resolutions or [],
        "images.masks": masks,
        "captions.trigger": trigger,
        "captions.class_word": class_word,
        "concepts": [parse_concept(text) for text in concepts or ()],
    }
    config = with_values(TrainingConfig(), values, "the command line")
    identity = identify(base, whole=False)
    side = next(iter(config.images.sides), identity.resolution)
    config = config.changed(images={"resolution": side})
    tokenizers = load_tokenizers(identity)
    report = read_sets(
        config,
        identity.resolution_step,
        lambda text: count_chunks(tokenizers, text),
        judge=lambda concept: doubt(concept.trigger, tokenizers, concept.class_word),
    )
    return report if show is None else show_picture(config, report, show, out, tokenizers)
