"""Drawing pictures: previews of a run, and generation with finished adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.checkpoint_adapter import adapter_label
from trainer.devices import Device
from trainer.lora.stack import AdapterChoice
from trainer.models.base import BaseModel

BATCH = 4

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Drawing:
    """All that a picture is made from, besides the model and its adapters.

    Attributes:
        seed: of the first noise; drawn on the CPU, so that every device draws the same picture.
        width, height: in pixels.
        inference_steps: denoising steps.
        guidance: scale of classifier-free guidance (arXiv 2207.12598); 1 and less: none.
    """

    prompt: str
    negative: str
    seed: int
    width: int
    height: int
    inference_steps: int
    guidance: float


@torch.no_grad()
def draw(
    base: BaseModel,
    drawings: Sequence[Drawing],
    device: Device,
    on_step: OnStep = lambda _: None,
) -> list[Image.Image]:
    """Draw pictures with the live modules as they are: nothing is cast, nothing keeps a trace.

    The drawings are to agree in size, denoising steps and guidance. UNet and text encoders have
    to be on the device; the VAE comes for the decoding and goes back where it was.

    Args:
        on_step: is told the number of denoising steps done for the present `BATCH` of pictures;
            what it raises ends the drawing.

    Returns:
        One RGB picture a drawing.
    """
    vae_device = next(base.vae.parameters()).device
    device.put(base.vae)
    try:
        pictures: list[Image.Image] = []
        for start in range(0, len(drawings), BATCH):
            latents = draw_latents(base, drawings[start : start + BATCH], device, on_step)
            pictures += _decode_all(base, latents)
        return pictures
    finally:
        torch.nn.Module.to(base.vae, vae_device)


@torch.no_grad()
def draw_latents(
    base: BaseModel,
    drawings: Sequence[Drawing],
    device: Device,
    on_step: OnStep = lambda _: None,
) -> torch.Tensor:
    """Like `draw`, without the VAE: scaled latents as training has them, (N, C, H, W), on the
    device."""
    with evaluating(base):
        parts = [
            _denoise(base, drawings[start : start + BATCH], device, on_step)
            for start in range(0, len(drawings), BATCH)
        ]
    return torch.cat(parts)


@contextmanager
def evaluating(base: BaseModel) -> Iterator[None]:
    """UNet and text encoders in evaluation mode, so that no adapter drops anything; then back."""
    modules = [base.unet, *base.text_encoders]
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def _denoise(
    base: BaseModel, drawings: Sequence[Drawing], device: Device, on_step: OnStep
) -> torch.Tensor:
    # Typed as anything, since what a call returns depends on its arguments.
    pipeline: Any = base.pipeline()
    first = drawings[0]

    def step_ended(_: Any, index: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(index + 1)
        return values

    with device.autocast():
        result = pipeline(
            prompt=[drawing.prompt for drawing in drawings],
            negative_prompt=[drawing.negative for drawing in drawings],
            generator=[torch.Generator().manual_seed(drawing.seed) for drawing in drawings],
            width=first.width,
            height=first.height,
            num_inference_steps=first.inference_steps,
            guidance_scale=first.guidance,
            output_type="latent",
            callback_on_step_end=step_ended,
        )
    return result.images


def _decode_all(base: BaseModel, latents: torch.Tensor) -> list[Image.Image]:
    # Decoded outside autocast: SDXL's VAE overflows in fp16.
    scaled = latents.to(base.vae.dtype) / base.vae.config["scaling_factor"]
    decoded = torch.cat([_decode(base, latent[None]) for latent in scaled])
    pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()) for picture in pixels]


def _decode(base: BaseModel, latents: torch.Tensor) -> torch.Tensor:
    return base.vae.decode(latents, return_dict=False)[0]  # type: ignore[arg-type]


def save_picture(
    image: Image.Image,
    path: Path,
    drawing: Drawing,
    *,
    model: str,
    adapters: Sequence[AdapterChoice] = (),
) -> None:
    """Write a PNG file that carries its settings.

    ``parameters`` holds them as A1111 and its readers write them, ``rarebit`` as JSON.
    """
    facts = {**asdict(drawing), "model": model, "adapters": [choice.label for choice in adapters]}
    text = PngInfo()
    text.add_text("parameters", _parameters_text(drawing, model, adapters))
    text.add_itxt("rarebit", json.dumps(facts, ensure_ascii=False))
    image.save(path, format="PNG", pnginfo=text)


def _parameters_text(drawing: Drawing, model: str, adapters: Sequence[AdapterChoice]) -> str:
    used = "".join(f" <lora:{_as_in_a1111(choice)}>" for choice in adapters)
    settings = (
        f"Steps: {drawing.inference_steps}, Sampler: DDIM, CFG scale: {drawing.guidance:g}, "
        f"Seed: {drawing.seed}, Size: {drawing.width}x{drawing.height}, Model: {model}"
    )
    negative = f"\nNegative prompt: {drawing.negative}" if drawing.negative else ""
    return f"{drawing.prompt}{used}{negative}\n{settings}"


def _as_in_a1111(choice: AdapterChoice) -> str:
    """``NAME:STRENGTH``; of two strengths, the text encoder's comes first there."""
    unet, text = choice.by_part
    return f"{adapter_label(choice.file)}:{text:g}" + ("" if text == unet else f":{unet:g}")
