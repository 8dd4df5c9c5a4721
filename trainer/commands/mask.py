"""``mask``: masks for the pictures of a set, from transparency or a plain background."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainer.commands.command import command, option, say_progress
from trainer.errors import UserError

if TYPE_CHECKING:
    from trainer.captioning.masks import MaskedSet


@command("mask", "propose masks for an image set, and write them")
def mask(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    *,
    source: Annotated[
        Literal["alpha", "background"],
        option(
            None,
            "How to find the subject: by transparency, or by a background of one colour.",
            "--from",
        ),
    ] = "background",
    soft: Annotated[
        float, option("SHARE", "Blur of the edge, as a share of the shorter side (0).")
    ] = 0.0,
    write: Annotated[
        bool, typer.Option("--write", help="Write NAME.mask.png beside the pictures.")
    ] = False,
) -> "MaskedSet":
    """Proposes masks for the pictures that have none; without --write nothing is changed.

    Raises:
        UserError: there is no such set, nothing in it can be used, or --soft is out of range.
        OSError: a mask cannot be written.
    """
    from trainer.captioning.masks import mask_set

    if not 0 <= soft <= 0.25:
        raise UserError(f"--soft {soft:g} is not between 0 and 0.25.", "0.01 makes a soft edge.")
    return mask_set(folder, source, write=write, soft=soft, progress=say_progress)
