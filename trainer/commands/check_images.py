"""``check-images``: what training would make of a folder, or of the folders of several concepts."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.commands.command import Base, command, option
from trainer.commands.show_picture import ShownPicture, show_picture
from trainer.commands.train import Concepts
from trainer.config.concepts import parse_concept
from trainer.config.fields import field_help
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.data.gather import SetsReport, read_sets
from trainer.errors import UserError


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
        raise UserError("--out goes with --show NAME.", "Or leave it out.")
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
    images = {"resolution": next(iter(config.images.sides), identity.resolution)}
    config = config.model_copy(update={"images": config.images.model_copy(update=images)})
    tokenizers = load_tokenizers(identity)
    report = read_sets(
        config,
        identity.resolution_step,
        lambda text: count_chunks(tokenizers, text),
        judge=lambda concept: doubt(concept.trigger, tokenizers, concept.class_word),
    )
    return report if show is None else show_picture(config, report, show, out, tokenizers)
