"""Drawing pictures: previews of a run, and generation with finished adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.config.sections import BaseModelConfig
from trainer.diffusion import Points, TextConditioning, call_unet, encode, evaluating
from trainer.errors import out_of_memory
from trainer.generation.stack import AdapterUse
from trainer.memory.devices import Device, empty_cache
from trainer.models.base import BaseModel
from trainer.runs.atomic import replacing
from trainer.training.checkpoints import adapter_label

BATCH = 4

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Drawing:
    """All that a picture is made from, besides the model and its adapters."""

    prompt: str
    negative: str
    seed: int  # of the first noise; drawn on the CPU, so that every device draws the same picture
    # width, height: in pixels.
    width: int
    height: int
    inference_steps: int  # denoising steps
    guidance: float  # scale of classifier-free guidance (arXiv 2207.12598); 1 and less: none


@torch.no_grad()
def draw(
    base: BaseModel,
    drawings: Sequence[Drawing],
    device: Device,
    on_step: OnStep = lambda _: None,
    at_once: int = BATCH,
) -> list[Image.Image]:
    """Draw pictures with the live modules as they are: nothing is cast, nothing keeps a trace.

    The drawings are to agree in size, denoising steps and guidance. The UNet has to be on the
    device; the VAE, and text encoders that are elsewhere, come for their work and go back.

    Args:
        on_step: is told the number of denoising steps done for the present pictures; what it
            raises ends the drawing.
        at_once: pictures that are drawn together.

    Returns:
        One RGB picture a drawing.
    """
    latents = draw_latents(base, drawings, device, on_step, at_once)
    with device.instead([base.vae], [base.unet, *base.text_encoders]):
        return _decode_all(base, latents)


class Painter:
    """Draws with as much GPU memory as there is, and finds out how much that is.

    Where memory runs out it draws again with less, and goes on so: first the VAE has the device to
    itself and takes large pictures in tiles, then pictures are drawn one at a time. The first of
    these changes large pictures slightly (`BaseModel.in_tiles`).
    """

    def __init__(self, base: BaseModel, device: Device) -> None:
        self.base = base
        thrifty = replace(device, offload=True)
        self._ways = [(device, base.tiling, BATCH), (thrifty, True, BATCH), (thrifty, True, 1)]

    def draw(
        self, drawings: Sequence[Drawing], on_step: OnStep = lambda _: None
    ) -> list[Image.Image]:
        """As `draw` does.

        Raises:
            UserError: the memory is not enough for one picture by itself.
        """
        while True:
            device, self.base.tiling, at_once = self._ways[0]
            try:
                return draw(self.base, drawings, device, on_step, at_once)
            except torch.OutOfMemoryError:
                if len(self._ways) == 1:
                    size = f"{drawings[0].width} x {drawings[0].height}"
                    hint = "Draw smaller pictures, or close other programs that use the GPU."
                    raise out_of_memory(f"to draw {size} pixels with this model", hint) from None
            del self._ways[0]
            empty_cache()  # only now has the traceback let go of what the attempt held


@torch.no_grad()
def draw_latents(
    base: BaseModel,
    drawings: Sequence[Drawing],
    device: Device,
    on_step: OnStep = lambda _: None,
    at_once: int = BATCH,
) -> torch.Tensor:
    """Like `draw`, without the VAE: scaled latents as training has them, (N, C, H, W), on the
    device."""
    at_once = min(at_once, max(1, device.rows // 2))  # guidance takes two rows for each
    batches = [drawings[at : at + at_once] for at in range(0, len(drawings), at_once)]
    with evaluating(base):
        with device.reading(base):
            texts = [_encode(base, batch, device) for batch in batches]
        parts = [
            _denoise(base, batch, text, device, on_step)
            for batch, text in zip(batches, texts, strict=True)
        ]
    return torch.cat(parts)


def _encode(base: BaseModel, drawings: Sequence[Drawing], device: Device) -> TextConditioning:
    """The features of the negative prompts, where there is guidance, and of the prompts."""
    prompts = [drawing.prompt for drawing in drawings]
    if drawings[0].guidance > 1:
        prompts = [drawing.negative for drawing in drawings] + prompts
    return encode(base, prompts, device.torch_device)


def _denoise(
    base: BaseModel,
    drawings: Sequence[Drawing],
    text: TextConditioning,
    device: Device,
    on_step: OnStep,
) -> torch.Tensor:
    """Scaled latents (N, C, H, W), as diffusers' pipelines draw them."""
    first = drawings[0]
    size, dtype = (first.height, first.width), text.hidden.dtype
    shape = (base.vae.config["latent_channels"], *(side // base.vae_scale_factor for side in size))
    latents = torch.stack([
        torch.randn(shape, generator=torch.Generator().manual_seed(drawing.seed), dtype=dtype)
        for drawing in drawings
    ]).to(device.torch_device)  # fmt: skip
    scheduler = base.sampling_scheduler()
    scheduler.set_timesteps(first.inference_steps, device=device.torch_device)
    rows = len(text.hidden)
    for index, timestep in enumerate(cast("list[int]", scheduler.timesteps.tolist())):
        points = Points(
            prompts=("",) * rows,
            noised=latents.repeat(rows // len(drawings), 1, 1, 1),
            timesteps=torch.full((rows,), timestep),
            sizes=((size, (0, 0), size),) * rows,
        )
        predicted = call_unet(base, points, text)
        if first.guidance > 1:
            negative, predicted = predicted.chunk(2)
            predicted = negative + first.guidance * (predicted - negative)
        latents = cast(
            torch.Tensor, scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        )
        on_step(index + 1)
    return latents


def _decode_all(base: BaseModel, latents: torch.Tensor) -> list[Image.Image]:
    # In float32: SDXL's VAE overflows in fp16.
    unscaled = base.unscaled(latents.to(base.vae.dtype))
    height, width = (base.vae_scale_factor * side for side in latents.shape[-2:])
    with base.in_tiles(width, height):
        decode = cast(Any, base.vae.decode)
        decoded = torch.cat([decode(latent[None], return_dict=False)[0] for latent in unscaled])
    pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()) for picture in pixels]


def save_picture(
    image: Image.Image,
    path: Path,
    drawing: Drawing,
    base: BaseModelConfig,
    adapters: Sequence[AdapterUse] = (),
) -> None:
    """Write a PNG file that carries its settings.

    ``parameters`` holds them as A1111 and its readers write them, ``rarebit`` as JSON.
    """
    labels = [choice.label for choice in adapters]
    model = {"model": base.name, "vae": Path(base.vae).name}
    model |= {"prediction": base.prediction, "clip_skip": base.clip_skip}
    facts = {**asdict(drawing), **model, "adapters": labels}
    text = PngInfo()
    text.add_text("parameters", _parameters_text(drawing, base, adapters))
    text.add_itxt("rarebit", json.dumps(facts, ensure_ascii=False))
    with replacing(path, sync=False) as partial:  # a full disk leaves no half of a picture
        image.save(partial, format="PNG", pnginfo=text)


def _parameters_text(
    drawing: Drawing, base: BaseModelConfig, adapters: Sequence[AdapterUse]
) -> str:
    used = "".join(f" <lora:{_as_in_a1111(choice)}>" for choice in adapters)
    settings = (
        f"Steps: {drawing.inference_steps}, Sampler: DDIM, CFG scale: {drawing.guidance:g}, "
        f"Seed: {drawing.seed}, Size: {drawing.width}x{drawing.height}, Model: {base.name}"
    )
    settings += f", VAE: {Path(base.vae).name}" if base.vae else ""
    settings += f", Clip skip: {base.clip_skip}" if base.clip_skip > 1 else ""
    negative = f"\nNegative prompt: {drawing.negative}" if drawing.negative else ""
    return f"{drawing.prompt}{used}{negative}\n{settings}"


def _as_in_a1111(choice: AdapterUse) -> str:
    """``NAME:STRENGTH``; of two strengths, the text encoder's comes first there."""
    unet, text = choice.by_part
    return f"{adapter_label(choice.file)}:{text:g}" + ("" if text == unet else f":{unet:g}")
