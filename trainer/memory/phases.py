"""The phases of a run, followed on a base model without weights."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle
from transformers import CLIPTextConfig

from trainer.config.optimizers import OPTIMIZERS
from trainer.config.schema import AdapterConfig, TrainingConfig
from trainer.data.captions import CHUNK_TOKENS
from trainer.diffusion import Points, TextConditioning, call_unet, encode
from trainer.errors import UserError
from trainer.lora.attach import attach
from trainer.memory.devices import DTYPES, Precision
from trainer.memory.modes import Mode, set_mode
from trainer.memory.quantized import Bits, quantize_base
from trainer.memory.tracking import StorageTracker, bytes_of, fused_attention, tensors_of
from trainer.models.base import ENCODERS, BaseModel, TextEncoder
from trainer.models.configs import read_json
from trainer.models.identify import BaseFacts
from trainer.training.batches import Batch
from trainer.training.step import batch_loss

META = torch.device("meta")
_WORD = "x"  # the trigger word


def build(facts: BaseFacts, dtype: torch.dtype) -> BaseModel:
    """The base model without weights: frozen, on the meta device, the VAE in float32.

    Args:
        dtype: number format of the UNet and the text encoders.

    Raises:
        UserError: the libraries cannot make a model of its configuration.
    """
    parts = {
        name: read_json(facts.config_folder / name / "config.json") for name in facts.family.parts
    }
    encoders: list[TextEncoder] = []
    try:
        with META:
            unet = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(parts.pop("unet")))
            vae = cast(AutoencoderKL, AutoencoderKL.from_config(parts.pop("vae")))
            for name, part in parts.items():
                config, options = CLIPTextConfig(**part), {"attn_implementation": "sdpa"}
                build = cast(Any, ENCODERS[name])._from_config  # no public name
                encoders.append(build(config, dtype=dtype, **options))
    except (TypeError, ValueError, KeyError) as problem:
        raise UserError(
            f"The configuration of this {facts.family.title} model cannot be used: {problem}",
            "Download the model again, or choose another one.",
        ) from problem
    torch.nn.Module.to(unet, dtype)  # as diffusers types its own, it takes no number format
    for module in (unet, vae, *encoders):
        module.eval().requires_grad_(False)
    tokenizers: list[Any] = [
        _Blanks(encoder.config.max_position_embeddings) for encoder in encoders
    ]
    return BaseModel(
        name=facts.family.title,
        family=facts.family,
        prediction_type=facts.prediction_type,
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers=tokenizers,
        scheduler_config={},
        vae_scale_factor=facts.latent_factor,
        default_resolution=facts.resolution,
        zero_empty_prompt=True,
        fingerprint="",
        vae_fingerprint="",
    )


class _Blanks:
    """In place of a tokenizer: each character is a token, and a word."""

    bos_token_id = eos_token_id = pad_token_id = 0

    def __init__(self, length: int) -> None:
        self.model_max_length = min(length, 77)

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [0] * len(text)}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return ["</w>"] * len(ids)


# -------------------------------------------------------------------------- a training step


@dataclass(frozen=True)
class Workload:
    """What a training step's memory depends on."""

    # width, height: of the largest bucket, in pixels.
    width: int
    height: int
    precision: Precision
    adapter: AdapterConfig
    rows: int  # of one forward pass. Rows to preserve take what pictures take.
    mode: Mode  # what frozen layers keep: plain, lean or feed_forward
    checkpointing: bool  # full gradient checkpointing
    weights: Bits = "full"  # number format of the frozen weights: full, 8bit or 4bit
    chunks: int = 1  # of 75 tokens, in each caption


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step."""

    base_weights: int  # of the UNet and those text encoders that stay on the card
    adapter: int  # A and B, float32. All of its gradients take as much.
    gradients: int  # of the adapter, those that are there at the peak
    activations: int  # everything else at the peak
    # The most that there is at any time besides gradients; the activations of a step that begins
    # with gradients of an earlier pass.
    besides: int

    def accumulating(self) -> StepMemory:
        """The step when gradients of an earlier pass are there already."""
        return replace(self, gradients=self.adapter, activations=self.besides)


def step_memory(facts: BaseFacts, work: Workload) -> StepMemory:
    """Follows one training step: forward, backward."""
    adapter = cast(Hashable, work.adapter)  # frozen models are
    base, parameters = _with_adapter(facts, work.precision, work.weights, adapter)
    set_mode(base, work.mode, work.checkpointing, trains_text=work.adapter.learns_text)
    text = tensors_of(*base.text_encoders)
    weights = tensors_of(base.unet) + (text if work.adapter.learns_text else [])
    adapter = bytes_of(parameters)
    tracker, gradients = follow_step(base, parameters, work, [*weights, *text])
    return StepMemory(
        base_weights=bytes_of(weights) - adapter,
        adapter=adapter,
        gradients=gradients,
        activations=tracker.peak - gradients,
        besides=tracker.peak_besides,
    )


@lru_cache(maxsize=1)
def _with_adapter(
    facts: BaseFacts, precision: Precision, weights: Bits, adapter: AdapterConfig
) -> tuple[BaseModel, list[Parameter]]:
    """The last one is remembered, for the next memory mode."""
    base = build(facts, DTYPES[precision])
    quantize_base(base, weights, META)
    attachment = attach(base, adapter, seed=0, triggers={_WORD: ""})
    base.unet.train()
    of_layers = [p for named in attachment.parameters.values() for _, p in named]
    return base, [*of_layers, *attachment.word_parameters().values()]


def follow_step(
    base: BaseModel, parameters: Sequence[Parameter], work: Workload, known: Sequence[Tensor]
) -> tuple[StorageTracker, int]:
    """Follows the loss of `trainer.training.step` and its backward pass.

    Returns:
        All that the step makes, finished gradients set aside; and bytes of these at the peak.
    """
    at_peak = 0
    tracker = StorageTracker(known)

    def finished(parameter: Tensor) -> None:
        tracker.set_aside += bytes_of([parameter])

    def note() -> None:
        nonlocal at_peak
        at_peak = tracker.set_aside

    hooks = [
        cast(RemovableHandle, p.register_post_accumulate_grad_hook(finished)) for p in parameters
    ]
    tracker.at_peak = note
    with fused_attention(), tracker:
        loss, _ = batch_loss(_Model(base, work), _batch(base, work), None)
        loss.backward()
    for hook, parameter in zip(hooks, parameters, strict=True):
        hook.remove()
        parameter.grad = None
    return tracker, at_peak


class _Model:
    """What the training step needs to know, without numbers (`trainer.training.step.Model`)."""

    config = TrainingConfig()

    def __init__(self, base: BaseModel, work: Workload) -> None:
        self.base = base
        self.text = _Text(base, work.adapter.learns_text)
        self.alpha_bar = torch.empty(1000, device=META)


class _Text:
    """Text features without numbers (`trainer.training.step.TextFeatures`)."""

    def __init__(self, base: BaseModel, trained: bool) -> None:
        self.base, self.trained = base, trained

    def student(self, texts: Sequence[str]) -> TextConditioning:
        """(B, L, D), computed where the text encoders train."""
        return encode(self.base, texts, META) if self.trained else self.teacher(texts)

    def teacher(self, texts: Sequence[str]) -> TextConditioning:
        """(B, L, D), as if remembered."""
        unet, encoders = self.base.unet, self.base.text_encoders
        longest = 77 * max(1, *(-(-len(text) // CHUNK_TOKENS) for text in texts))
        shape = (len(texts), longest, unet.config["cross_attention_dim"])
        hidden, pooled = torch.empty(shape, dtype=unet.dtype, device=META), None
        if len(encoders) > 1:
            pooled = hidden.new_empty(len(texts), cast(int, encoders[1].config.projection_dim))
        return TextConditioning(hidden, pooled)


def _batch(base: BaseModel, work: Workload) -> Batch:
    points = _points(base, work.width, work.height, work.rows, work.chunks, work.adapter.new_tokens)
    return Batch(
        names=points.prompts,
        slots=tuple(range(work.rows)),
        captions=points.prompts,
        sizes=points.sizes,
        latents=points.noised,
        noise=torch.empty_like(points.noised),
        timesteps=points.timesteps,
        total=work.rows,
        weights=torch.ones(work.rows, device=META),
    )


def _points(
    base: BaseModel, width: int, height: int, rows: int, chunks: int, new_tokens: int = 0
) -> Points:
    """Of prompts that fill so many chunks, and end in the trigger word."""
    others = "," * (CHUNK_TOKENS * chunks - max(1, new_tokens))
    side = base.vae_scale_factor
    shape = (rows, base.unet.config["in_channels"], height // side, width // side)
    return Points(
        prompts=(others + _WORD,) * rows,
        noised=torch.empty(shape, device=META),
        timesteps=torch.empty((rows,), dtype=torch.int64, device=META),
        sizes=(((1024, 1024), (0, 0), (1024, 1024)),) * rows,
    )


# ------------------------------------------------------------------ caching and previews


@dataclass(frozen=True)
class OtherMemory:
    """Bytes of the phases without gradients, each by itself."""

    unet: int  # its weights
    vae: int  # its weights, float32
    text_encoders: int  # their weights
    encoding: int  # what the VAE makes while it encodes one picture of the largest bucket
    decoding: int  # the same for one preview
    predicting: int  # what the UNet makes in the largest pass without gradients


def other_memory(
    facts: BaseFacts,
    precision: Precision,
    width: int,
    height: int,
    rows: int,
    weights: Bits = "full",
    tiling: bool = False,
    chunks: int = 1,
) -> OtherMemory:
    """Follows caching a picture's latents, a pass without gradients, and decoding a preview.

    Args:
        rows: of the largest pass without gradients.
        tiling: whether large pictures go through the VAE in tiles.
        chunks: of 75 tokens, in each prompt.
    """
    base = build(facts, DTYPES[precision])
    quantize_base(base, weights, META)
    vae, scale = tensors_of(base.vae), base.vae_scale_factor
    small = (1, base.vae.config["latent_channels"], height // scale, width // scale)
    base.tiling = tiling
    with torch.no_grad(), fused_attention(), base.in_tiles(width, height):
        with StorageTracker(vae) as encoding:
            base.vae.encode(torch.empty((1, 3, height, width), device=META), return_dict=False)
        with StorageTracker(vae) as decoding:
            latents = cast(torch.FloatTensor, torch.empty(small, device=META))
            base.vae.decode(latents, return_dict=False)
        with StorageTracker(tensors_of(base.unet)) as predicting:
            points = _points(base, width, height, rows, chunks)
            call_unet(base, points, _Text(base, trained=False).teacher(points.prompts))
    return OtherMemory(
        unet=bytes_of(tensors_of(base.unet)),
        vae=bytes_of(vae),
        text_encoders=sum(bytes_of(tensors_of(encoder)) for encoder in base.text_encoders),
        encoding=encoding.peak,
        decoding=decoding.peak,
        predicting=predicting.peak,
    )


def optimizer_bytes(name: str, attachment_bytes: int) -> int:
    """State of an optimizer for float32 parameters of so many bytes."""
    return round(attachment_bytes * OPTIMIZERS[name].state)
