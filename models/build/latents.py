"""Stage "latents": every subject × style × background × mirroring through the VAE, once."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.build import pictures
from models.build.augment import over
from models.build.captions import BACKGROUNDS
from models.build.state import digest
from models.build.subjects import SUBJECTS
from models.build.vae import load_vae, state_file


@dataclass(frozen=True)
class Latents:
    """`values`: (subjects, styles, backgrounds, 2 mirrorings, 4, 16, 16), scaled to unit spread."""

    values: Tensor
    subjects: tuple[str, ...]
    styles: tuple[str, ...]
    backgrounds: tuple[str, ...]
    scaling_factor: float


def true_pictures(work: Path, style: str) -> tuple[list[str], Tensor]:
    """Subject names and their emoji, (N, 4, 64, 64) premultiplied RGBA in 0..1, centred."""
    records, pixels = pictures.load(work)
    rows = {record.label: record.row for record in records if record.style == style}
    names = [name for name, label in SUBJECTS.items() if label in rows]
    emoji = pixels["small"][[rows[SUBJECTS[name]] for name in names]].float() / 255
    margin = (pictures.SIZE - pictures.SUBJECT) // 2
    return names, torch.nn.functional.pad(emoji, [margin] * 4)


def on_background(emoji: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """Emoji (N, 4, H, W) on a plain colour → (N, 3, H, W) in -1..1."""
    background = torch.tensor(colour)[None, :, None, None] / 255
    return over(emoji, background).clamp(0, 1) * 2 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, batch: int = 64) -> Tensor:
    """Mean latents of (N, 3, 64, 64), unscaled."""
    parts = [vae.encode(part).latent_dist.mean.float() for part in images.split(batch)]
    return torch.cat(parts)


def values_file(work: Path) -> Path:
    """Where they are cached."""
    return work / "latents.safetensors"


def are_current(work: Path) -> bool:
    """Whether there are any, of the subjects of today, by the VAE as it is trained now."""
    if not values_file(work).exists():
        return False
    about = json.loads((work / "latents.json").read_text())
    names, _ = true_pictures(work, next(iter(pictures.STYLES)))
    return about["subjects"] == names and about.get("vae") == digest(state_file(work))


def build(work: Path) -> None:
    """Writes latents.safetensors (fp16) and latents.json."""
    vae = load_vae(work)
    by_style: list[Tensor] = []
    names: list[str] = []
    for style in pictures.STYLES:
        names, emoji = true_pictures(work, style)
        shown = [on_background(emoji, colour) for colour in BACKGROUNDS.values()]
        both = torch.stack([torch.stack([image, image.flip(-1)]) for image in shown])
        # (backgrounds, 2, N, 3, 64, 64) → latents → (N, backgrounds, 2, 4, 16, 16)
        encoded = encode(vae, both.flatten(0, 2)).unflatten(0, both.shape[:3])
        by_style.append(encoded.permute(2, 0, 1, 3, 4, 5))
    values = torch.stack(by_style, dim=1)
    factor = 1 / values.std().item()
    part = values_file(work).with_suffix(".part")
    save_file({"values": (values * factor).half().contiguous()}, part)
    about = {
        "subjects": names,
        "styles": list(pictures.STYLES),
        "backgrounds": list(BACKGROUNDS),
        "scaling_factor": factor,
        "vae": digest(state_file(work)),
    }
    (work / "latents.json").write_text(json.dumps(about, indent=1))
    part.replace(values_file(work))


def load(work: Path) -> Latents:
    """What `build` wrote."""
    about = json.loads((work / "latents.json").read_text())
    values = load_file(values_file(work))["values"].float()
    lists = (tuple(about[key]) for key in ("subjects", "styles", "backgrounds"))
    return Latents(values, *lists, scaling_factor=about["scaling_factor"])
