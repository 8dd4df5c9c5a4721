"""The phases of a run, followed on a base model without weights."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import Parameter

from trainer.config.schema import AdapterConfig
from trainer.diffusion import Points, TextConditioning, call_unet, encode, squared_error
from trainer.lora.attach import attach
from trainer.memory.architecture import Architecture, build
from trainer.memory.ladder import Mode
from trainer.memory.modes import set_mode
from trainer.memory.quantized import Bits, quantize_base
from trainer.memory.tiling import in_tiles, is_cut
from trainer.memory.tracking import StorageTracker, bytes_of, fused_attention
from trainer.models.base import BaseModel

META = torch.device("meta")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Workload:
    """What a training step's memory depends on.

    Attributes:
        width, height: of the largest bucket, in pixels.
        rows: pictures in one forward pass.
        kept_rows: preserved prompts in it.
        mode: what frozen layers keep: plain, lean or feed_forward.
        checkpointing: full gradient checkpointing.
        weights: how the frozen weights are kept: full, 8bit or 4bit.
    """

    width: int
    height: int
    precision: str
    adapter: AdapterConfig
    rows: int
    kept_rows: int
    mode: Mode
    checkpointing: bool
    weights: Bits = "full"

    def key(self) -> str:
        """The same for the same work, in every process."""
        facts = asdict(self) | {"adapter": self.adapter.model_dump(mode="json")}
        return json.dumps(facts, sort_keys=True)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step.

    Attributes:
        base_weights: of the UNet and those text encoders that stay on the card.
        adapter: A and B, float32. All of its gradients take as much.
        gradients: of the adapter, those that are there at the peak.
        activations: everything else at the peak.
        besides: the most that there is at any time besides gradients; the activations of a step
            that begins with gradients of an earlier pass.
    """

    base_weights: int
    adapter: int
    gradients: int
    activations: int
    besides: int

    def accumulating(self) -> StepMemory:
        """The step when gradients of an earlier pass are there already."""
        return replace(self, gradients=self.adapter, activations=self.besides)


def step_memory(architecture: Architecture, work: Workload) -> StepMemory:
    """Follows one training step: forward, backward."""
    adapter = cast(Hashable, work.adapter)  # frozen models are
    base, parameters = _with_adapter(architecture, work.precision, work.weights, adapter)
    set_mode(base, work.mode, work.checkpointing, trains_text=work.adapter.text_encoder)
    resident = [base.unet, *(base.text_encoders if work.adapter.text_encoder else [])]
    weights = [t for module in resident for t in tensors_of(module)]
    others = [t for module in base.text_encoders for t in tensors_of(module)]
    adapter = bytes_of(parameters)
    tracker, gradients = follow_step(base, parameters, work, [*weights, *others])
    return StepMemory(
        base_weights=bytes_of(weights) - adapter,
        adapter=adapter,
        gradients=gradients,
        activations=tracker.peak - gradients,
        besides=tracker.peak_besides,
    )


@lru_cache(maxsize=1)
def _with_adapter(
    architecture: Architecture, precision: str, weights: Bits, adapter: AdapterConfig
) -> tuple[BaseModel, list[Parameter]]:
    """The last one is kept, for the next memory mode."""
    base = build(architecture, DTYPES[precision])
    quantize_base(base, weights, META)
    attachment = attach(base, adapter, seed=0)
    base.unet.train()
    return base, [p for named in attachment.parameters.values() for _, p in named]


def follow_step(
    base: BaseModel, parameters: Sequence[Parameter], work: Workload, known: Sequence[Tensor]
) -> tuple[StorageTracker, int]:
    """All that the step makes, finished gradients set aside; and bytes of these at the peak."""
    at_peak = 0
    tracker = StorageTracker(known)

    def finished(parameter: Tensor) -> None:
        tracker.set_aside += bytes_of([parameter])

    def note() -> None:
        nonlocal at_peak
        at_peak = tracker.set_aside

    hooks = [p.register_post_accumulate_grad_hook(finished) for p in parameters]
    tracker.at_peak = note
    with fused_attention(), tracker:
        _train(base, work)
    for hook, parameter in zip(hooks, parameters, strict=True):
        hook.remove()
        parameter.grad = None
    return tracker, at_peak


def _train(base: BaseModel, work: Workload) -> None:
    """As `trainer.training.step.batch_loss` does it, with numbers that are never computed."""
    rows, kept = work.rows, work.kept_rows
    latents = _latents(base, work, rows)
    noise = torch.empty_like(latents)
    noised = latents + noise
    text = _features(base, rows + kept, trained=work.adapter.text_encoder)
    held = torch.empty((kept, *noised.shape[1:]), device=META)
    predicted = _predict(base, torch.cat([noised, held]), text)
    loss = squared_error(predicted[:rows], noise).sum()
    if kept:
        loss = loss + squared_error(predicted[rows:], held).sum()
    loss.backward()


def _latents(base: BaseModel, work: Workload, rows: int) -> Tensor:
    side = base.vae_scale_factor
    channels = base.unet.config["in_channels"]
    shape = (rows, channels, work.height // side, work.width // side)
    return torch.empty(shape, device=META)


def _features(base: BaseModel, rows: int, *, trained: bool) -> TextConditioning:
    if trained:
        return encode(base, ["x"] * rows, META)
    dtype, width = base.unet.dtype, base.unet.config["cross_attention_dim"]
    pooled = None
    if len(base.text_encoders) > 1:
        size = cast(int, base.text_encoders[1].config.projection_dim)
        pooled = torch.empty((rows, size), dtype=dtype, device=META)
    return TextConditioning(torch.empty((rows, 77, width), dtype=dtype, device=META), pooled)


def _predict(base: BaseModel, noised: Tensor, text: TextConditioning) -> Tensor:
    rows = len(noised)
    sizes = (((1024, 1024), (0, 0), (1024, 1024)),) * rows
    timesteps = torch.empty((rows,), dtype=torch.int64, device=META)
    return call_unet(base, Points(("",) * rows, noised, timesteps, sizes), text)


# ------------------------------------------------------------------ caching and previews


@dataclass(frozen=True)
class OtherMemory:
    """Bytes of the phases without gradients, each by itself.

    Attributes:
        vae: its weights, float32.
        text_encoders: their weights.
        encoding: what the VAE makes while it encodes one picture of the largest bucket.
        decoding: the same for one preview.
        predicting: what the UNet makes in the largest pass without gradients.
    """

    vae: int
    text_encoders: int
    encoding: int
    decoding: int
    predicting: int


def other_memory(
    architecture: Architecture,
    precision: str,
    width: int,
    height: int,
    rows: int,
    weights: Bits = "full",
    tiling: bool = False,
) -> OtherMemory:
    """Follows caching a picture's latents, a pass without gradients, and decoding a preview.

    Args:
        rows: of the largest pass without gradients.
        tiling: whether large pictures go through the VAE in tiles.
    """
    base = build(architecture, DTYPES[precision])
    quantize_base(base, weights, META)
    scale = base.vae_scale_factor
    small = (1, base.vae.config["latent_channels"], height // scale, width // scale)
    cut = in_tiles(base.vae, is_cut(tiling, width, height))
    with torch.no_grad(), fused_attention(), cut:
        with StorageTracker(tensors_of(base.vae)) as encoding:
            picture = torch.empty((1, 3, height, width), device=META)
            base.vae.encode(picture, return_dict=False)
        with StorageTracker(tensors_of(base.vae)) as decoding:
            base.vae.decode(torch.empty(small, device=META), return_dict=False)  # type: ignore[arg-type]
        with StorageTracker(tensors_of(base.unet)) as predicting:
            latents = torch.empty((rows, *small[1:]), device=META)
            _predict(base, latents, _features(base, rows, trained=False))
    return OtherMemory(
        vae=bytes_of(tensors_of(base.vae)),
        text_encoders=sum(bytes_of(tensors_of(encoder)) for encoder in base.text_encoders),
        encoding=encoding.peak,
        decoding=decoding.peak,
        predicting=predicting.peak,
    )


def optimizer_bytes(name: str, attachment_bytes: int) -> int:
    """State of an optimizer for float32 parameters of so many bytes."""
    return round(attachment_bytes * _STATES[name])


# Bytes of state for each byte of parameters: adamw keeps two moments, prodigy also where it began
# and a running sum, lion one moment; adamw8bit two of a quarter and their scales; adafactor rows
# and columns only.
_STATES = {"adamw": 2.0, "adamw8bit": 0.52, "prodigy": 4.0, "lion": 1.0, "adafactor": 0.15}


def tensors_of(module: torch.nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
