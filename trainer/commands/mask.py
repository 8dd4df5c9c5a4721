"""``mask``: masks for the pictures of a set, without a model or by a local one."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainer.commands.command import Download, OnlyPictures, command, option, say_now, say_progress
from trainer.errors import UserError

if TYPE_CHECKING:
    from trainer.captioning.masks import MaskedSet


@command("mask", "propose masks for an image set, and write them")
def mask(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    *,
    source: Annotated[
        Literal["alpha", "background", "grabcut"],
        option(
            None,
            "How to find the subject: by transparency, by a background of one colour, or by what "
            "differs within --box.",
            "--from",
        ),
    ] = "background",
    model: Annotated[
        str, option("NAME", "A local model instead: its folder, an ONNX file, or a hub id.")
    ] = "",
    download: Download = False,
    text: Annotated[str, option("WORDS", "What a CLIPSeg model finds.")] = "",
    box: Annotated[
        str,
        option(
            "NUMBERS",
            "For grabcut and SAM: left, top, right and bottom as shares of the picture, such as "
            '"0.2 0.1 0.8 0.9"; for SAM also a point.',
        ),
    ] = "",
    picture: OnlyPictures = None,
    soft: Annotated[
        float, option("SHARE", "Blur of the edge, as a share of the shorter side (0).")
    ] = 0.0,
    write: Annotated[
        bool, typer.Option("--write", help="Write NAME.mask.png beside the pictures.")
    ] = False,
) -> "MaskedSet":
    """Proposes masks for the pictures that have none; without --write nothing is changed.

    Raises:
        UserError: there is no such set or model, nothing in it can be used, or an option is out of
            range.
        OSError: a mask cannot be written.
    """
    from trainer.captioning.masks import Prompt, by_model, check_box, mask_of, mask_set

    if not 0 <= soft <= 0.25:
        raise UserError(f"--soft {soft:g} is not between 0 and 0.25.", "0.01 makes a soft edge.")
    try:
        shares = [float(word) for word in box.replace(",", " ").split()]
    except ValueError:
        raise UserError(
            f"--box {box}: these are not numbers.", 'Write such as "0.2 0.1 0.8 0.9".'
        ) from None
    prompt = Prompt(text, check_box(shares) if shares else None)
    if not model and text:
        raise UserError("--text is for a CLIPSeg model, and none is given.", "Add --model.")
    if not model and shares and source != "grabcut":
        raise UserError(f"--from {source} takes no --box.", "Add --from grabcut, or a SAM --model.")
    if model:
        from trainer.captioning.finding import find_model

        make = by_model(find_model(model, download), prompt, say_now)
    else:
        make = partial(mask_of, source=source, box=prompt.box)
    return mask_set(
        folder, make, write=write, soft=soft, pictures=picture or (), progress=say_progress
    )
