"""``generate``: pictures from a prompt, with any number of adapters."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from trainer.commands.command import Base, command, option, say
from trainer.config.fields import field_help
from trainer.data.captions import literal_marks
from trainer.places import shown


@command("generate", "draw pictures, with any number of adapters")
def generate(
    *,
    prompt: Annotated[str, option("TEXT", "What to draw.")],
    adapters: Annotated[
        list[str] | None,
        option(
            "FILE[:STRENGTH[:TEXT_STRENGTH]]",
            "An adapter file and how strongly it acts, 1 unless given, and how strongly in the "
            "text encoder, if not the same; can be repeated.",
            "--adapter",
        ),
    ] = None,
    base: Base = "tiny-emoji",
    prediction: Annotated[str, option("KIND", field_help("base.prediction"))] = "auto",
    vae: Annotated[str, option("FILE", field_help("base.vae"))] = "",
    clip_skip: Annotated[
        int | None, option("N", "Clip skip, for SD 1 (as the adapters were trained).")
    ] = None,
    negative: Annotated[str, option("TEXT", "What not to draw.")] = "",
    count: Annotated[int, option("N", "Pictures (4).")] = 4,
    seed: Annotated[int, option("S", "First seed (1).")] = 1,
    inference_steps: Annotated[int, option("N", "Denoising steps (25).")] = 25,
    guidance: Annotated[float, option("G", "Guidance scale (5).")] = 5.0,
    out: Annotated[Path, option("DIR", "Where PNGs go.")],
) -> None:
    """Draw ``count`` pictures, seeds counting up, into PNG files named by seed.

    Raises:
        UserError: an adapter can't be read or belongs to another base; a number is out of range.
    """
    from trainer.generation.stack import AdapterUse
    from trainer.generation.studio import GenerateRequest, Studio
    from trainer.lora.layouts import bundled_embeddings
    from trainer.lora.names import shorten
    from trainer.models.safetensors_header import read_header

    used = [AdapterUse.parse(text) for text in adapters or ()]
    request = {
        "prompt": prompt, "negative": negative, "adapters": [asdict(one) for one in used],
        "base": base, "prediction": prediction, "vae": vae, "clip_skip": clip_skip,
        "count": count, "seed": seed, "inference_steps": inference_steps, "guidance": guidance,
        "out": out,
    }  # fmt: skip
    if negative and guidance <= 1:
        say(f"--negative has no effect: --guidance {guidance:g} is not above 1.", sys.stderr)
    for marks in filter(None, {literal_marks(prompt), literal_marks(negative)}):
        say(marks, sys.stderr)
    Studio().generate(GenerateRequest.of(request), saved=lambda path: say(shown(path)))
    for file in (one.file for one in used):
        names = bundled_embeddings(read_header(file).tensors) if file.is_file() else []
        if names:
            words = shorten(names)
            say(f"Bundled with {shown(file)}, and drawn where a prompt names them: {words}.")
