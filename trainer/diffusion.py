"""Noise, targets and loss weights; the only call of a UNet and the only encoding of text.

Notation: ``alpha_bar`` (T,) is the cumulative product of the noise schedule; a noised sample is
``x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps`` (DDPM, arXiv 2006.11239, eq. 4), and
``SNR(t) = alpha_bar_t / (1 - alpha_bar_t)``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTextModelWithProjection

from trainer.memory.devices import Device
from trainer.models.base import BaseModel
from trainer.models.families import PredictionType
from trainer.models.text import learned_words, padded_ids, token_chunks
from trainer.seeds import derive_seed
from trainer.typed_torch import named_modules, split

Size = tuple[int, int]  # (height, width) in pixels; or (top, left) for a crop
Sizes = tuple[Size, Size, Size]
"""What SDXL is conditioned on: size before fitting, top left corner of the crop, size trained."""

CLEAN_RANGE = 5.0  # beyond which scaled latents of pictures hardly go, in standard deviations


def draw_noise(
    shape: tuple[int, int, int],
    slot: int,
    *,
    seed: int,
    step: int,
    offset: float = 0.0,
    multires: float = 0.0,
) -> Tensor:
    """Noise of the sample in place ``slot`` of a step, the same on every device and process count.

    Args:
        shape: (C, H, W) of the sample's latents.
        offset: size of the shift added to each channel (noise offset).
        multires: factor of the noise of half the resolution, its square of a quarter, and so on
            down to one place; the sum is scaled back to the size of plain noise.

    Returns:
        (C, H, W) float32 on the CPU.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, step, "noise", slot))
    noise = torch.randn(shape, generator=generator)
    if multires:
        factor, variance, (height, width) = multires, 1.0, shape[1:]
        while max(height, width) > 1:
            height, width = -(-height // 2), -(-width // 2)
            coarse = torch.randn((1, shape[0], height, width), generator=generator)
            noise += factor * interpolate(coarse, shape[1:])[0]  # nearest keeps the variance
            variance += factor**2
            factor *= multires
        noise /= variance**0.5
    if offset:
        noise += offset * torch.randn((shape[0], 1, 1), generator=generator)
    return noise


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor, timesteps: Tensor) -> Tensor:
    """``x_t`` of arXiv 2006.11239, eq. 4. Latents and noise are (B, C, H, W), timesteps (B,)."""
    signal, sigma = _signal_and_sigma(alpha_bar, timesteps)
    return signal * latents + sigma * noise


def target(
    latents: Tensor, noise: Tensor, alpha_bar: Tensor, timesteps: Tensor, prediction: PredictionType
) -> Tensor:
    """What the UNet should predict: ``eps``; for v_prediction ``v = sqrt(alpha_bar) eps -
    sqrt(1 - alpha_bar) x_0`` (arXiv 2202.00512, section 4). Shapes as in `add_noise`."""
    if prediction == "epsilon":
        return noise
    signal, sigma = _signal_and_sigma(alpha_bar, timesteps)
    return signal * noise - sigma * latents


def clean_and_noise(
    noised: Tensor,
    predicted: Tensor,
    alpha_bar: Tensor,
    timesteps: Tensor,
    prediction: PredictionType,
) -> tuple[Tensor, Tensor]:
    """What a prediction says of ``x_0`` and ``eps``: the inverse of `add_noise` and `target`.

    ``x_0`` is clamped to `CLEAN_RANGE`, as a wild prediction at high noise would leave it.
    """
    signal, sigma = _signal_and_sigma(alpha_bar, timesteps)
    if prediction == "epsilon":
        clean, noise = (noised - sigma * predicted) / signal.clamp_min(1e-4), predicted
    else:
        clean = signal * noised - sigma * predicted
        noise = signal * predicted + sigma * noised
    return clean.clamp(-CLEAN_RANGE, CLEAN_RANGE), noise


def _signal_and_sigma(alpha_bar: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    signal, sigma = _roots(alpha_bar)[:, timesteps].view(2, -1, 1, 1, 1)
    return signal, sigma


@lru_cache(maxsize=4)
def _roots(alpha_bar: Tensor) -> Tensor:
    """(2, T), of all timesteps; the same at each step of a run."""
    return torch.stack([alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()])


# ------------------------------------------------------------------------------ encoding of text


@dataclass(frozen=True)
class TextConditioning:
    """What the UNet attends to.

    Prompts of a batch may have different numbers of chunks. The shorter ones are filled up with
    zeros, which the UNet does not attend to: what a prompt means does not depend on the batch. The
    drawing tools come to the same (ComfyUI repeats the shorter one; A1111 asks the UNet twice).
    """

    hidden: Tensor  # (B, L, D) text features, L = 77 for each chunk of the longest prompt
    # (B, P) of SDXL's second encoder, of each prompt's first chunk; None for SD 1 and SD 2.
    pooled: Tensor | None
    # B, how many of the L features each prompt has; empty: all of them.
    lengths: tuple[int, ...] = ()

    @classmethod
    def of(cls, hidden: Sequence[Tensor], pooled: Sequence[Tensor] | None) -> TextConditioning:
        """From the features of each prompt, (L_i, D) and (P,)."""
        lengths = tuple(map(len, hidden))
        return cls(
            pad_sequence(list(hidden), batch_first=True),
            None if pooled is None else torch.stack(list(pooled)),
            lengths if len(set(lengths)) > 1 else (),
        )

    def __getitem__(self, rows: slice | list[int]) -> TextConditioning:
        """The features of some of the prompts."""
        hidden, pooled = self.hidden[rows], None if self.pooled is None else self.pooled[rows]
        if not self.lengths:
            return TextConditioning(hidden, pooled)
        numbers = range(len(self.lengths))[rows] if isinstance(rows, slice) else rows
        lengths = tuple(self.lengths[number] for number in numbers)
        hidden = hidden[:, : max(lengths, default=0)]
        return TextConditioning(hidden, pooled, lengths if len(set(lengths)) > 1 else ())

    def to(self, device: torch.device) -> TextConditioning:
        """The same on a device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return TextConditioning(self.hidden.to(device), pooled, self.lengths)

    def rows(self) -> list[Tensor]:
        """The hidden features of each prompt, (L_i, D)."""
        lengths = self.lengths or (self.hidden.shape[1],) * len(self.hidden)
        return [row[:length] for row, length in zip(self.hidden, lengths, strict=True)]

    @property
    def mask(self) -> Tensor | None:
        """(B, L) bool, what the UNet attends to; None: everything."""
        if not self.lengths:
            return None
        places = torch.arange(self.hidden.shape[1], device=self.hidden.device)
        return places < torch.tensor(self.lengths, device=places.device)[:, None]


def encode(base: BaseModel, prompts: Sequence[str], device: torch.device | str) -> TextConditioning:
    """Encode prompts on the device where the text encoders are, as diffusers' pipelines do.

    Gradients flow to whatever requires them; wrap the call in ``torch.no_grad()`` otherwise.
    SD 1 and SD 2: the last hidden state after the final norm; with clip skip that of an earlier
    layer. SDXL (arXiv 2307.01952, section 2.1): the penultimate hidden states of both encoders,
    concatenated, and the second one's pooled projection. Of a prompt in several chunks
    (`trainer.models.text`) the features of all chunks follow each other, and the first is pooled.

    Returns:
        (B, L, D) and (B, P) in the text encoder's number format.
    """
    states: list[Tensor] = []
    pooled: Tensor | None = None
    places = base.embedding_ids()
    chunked = [
        [token_chunks(tokenizer, prompt, base.max_tokens, places) for prompt in prompts]
        for tokenizer in base.tokenizers
    ]
    counts = [max(map(len, of_prompt)) for of_prompt in zip(*chunked, strict=True)]
    is_sdxl = base.family.name == "sdxl"
    parts = zip(base.tokenizers, base.text_encoders, chunked, strict=True)
    for number, (tokenizer, encoder, of_prompts) in enumerate(parts):
        rows = [
            chunk
            for chunks, count in zip(of_prompts, counts, strict=True)
            for chunk in [*chunks, *[[]] * (count - len(chunks))]
        ]
        ids, mask = padded_ids(tokenizer, rows)  # (R, 77), R chunks of all prompts
        wants_mask = not is_sdxl and bool(getattr(encoder.config, "use_attention_mask", False))
        learned = [vectors[number] for vectors in base.embeddings.values()]
        with learned_words(encoder, ids, learned):
            output = encoder(
                ids.clamp_min(0).to(device),
                attention_mask=mask.to(device) if wants_mask else None,
                output_hidden_states=is_sdxl or base.clip_skip > 1,
            )
        if is_sdxl:
            states.append(output.hidden_states[-2])
        elif base.clip_skip > 1:
            norm = cast("torch.nn.Module", getattr(encoder, "text_model", encoder).final_layer_norm)
            states.append(norm(output.hidden_states[-base.clip_skip]))
        else:
            states.append(output[0])
        if isinstance(encoder, CLIPTextModelWithProjection):
            pooled = output.text_embeds
    # (R, 77, 768) + (R, 77, 1280) -> (R, 77, 2048); that of one encoder needs no copy
    hidden = states[0] if len(states) == 1 else torch.cat(states, dim=-1)
    hidden = hidden.to(base.text_encoders[-1].dtype)
    if max(counts, default=1) == 1:
        return TextConditioning(hidden, pooled)
    firsts = [end - count for end, count in zip(accumulate(counts), counts, strict=True)]
    return TextConditioning.of(
        [part.flatten(0, 1) for part in split(hidden, counts)],
        None if pooled is None else list(pooled[firsts]),
    )


# --------------------------------------------------------------------------------- the UNet's call


@dataclass(frozen=True)
class Points:
    """Where the UNet is asked for a prediction; all of one size."""

    prompts: tuple[str, ...]  # N, the text of each
    noised: Tensor  # (N, C, H, W) float32
    timesteps: Tensor  # (N,) int64
    sizes: tuple[Sizes, ...]  # N, used by SDXL only

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice | list[int]) -> Points:
        """Some of the points."""
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows
        return Points(
            tuple(self.prompts[number] for number in numbers),
            self.noised[rows],
            self.timesteps[rows],
            tuple(self.sizes[number] for number in numbers),
        )

    def joined(self, other: Points) -> Points:
        """These points and others of the same size, on the device of these."""
        device = self.noised.device
        return Points(
            self.prompts + other.prompts,
            torch.cat([self.noised, other.noised.to(device, self.noised.dtype)]),
            torch.cat([self.timesteps.to(device), other.timesteps.to(device)]),
            self.sizes + other.sizes,
        )


def call_unet(base: BaseModel, points: Points, text: TextConditioning) -> Tensor:
    """The UNet's prediction at points, with gradients where something requires them.

    Args:
        text: features of the points' prompts, on the UNet's device and in its number format.

    Returns:
        (N, C, H, W): noise or velocity, as the model was trained to give.
    """
    hidden = text.hidden
    timesteps = points.timesteps.to(hidden.device)
    # Its layers ask for it, also when they are computed again in the backward pass.
    base.training_timesteps = timesteps if base.unet.training else None
    return base.unet(
        points.noised.to(hidden.device, hidden.dtype),
        timesteps,
        encoder_hidden_states=hidden,
        encoder_attention_mask=text.mask,
        added_cond_kwargs=added_conditioning(text.pooled, points.sizes),
    ).sample


def added_conditioning(pooled: Tensor | None, sizes: Sequence[Sizes]) -> dict[str, Tensor] | None:
    """SDXL's size and crop conditioning (arXiv 2307.01952, section 2.2) for ``added_cond_kwargs``.

    Args:
        pooled: (B, P) from `encode`.
        sizes: B.

    Returns:
        ``text_embeds`` (B, P) and ``time_ids`` (B, 6), the latter in fp32, since bf16 cannot
        tell 1023 from 1024; None for SD 1 and SD 2.
    """
    if pooled is None:
        return None
    rows = [(*original, *corner, *shown) for original, corner, shown in sizes]
    time_ids = torch.tensor(rows, dtype=torch.float32, device=pooled.device)
    return {"text_embeds": pooled, "time_ids": time_ids}


@torch.no_grad()
def predict(base: BaseModel, points: Points, device: Device) -> Tensor:
    """What the UNet predicts at the points, with the base model's adapters as they are now.

    The text is encoded by the same model, so that what an adapter of the text encoder does counts.
    The same points give the same batches: two calls differ by the adapters alone.

    Returns:
        (N, C, H, W) float32 on the CPU.
    """
    prompts = list(dict.fromkeys(points.prompts))
    place = {prompt: number for number, prompt in enumerate(prompts)}
    batches = [slice(at, at + device.rows) for at in range(0, len(points), device.rows)]
    with evaluating(base):
        with device.reading(base):
            texts = [
                encode(base, prompts[at : at + device.rows], device.torch_device)
                for at in range(0, len(prompts), device.rows)
            ]
        pooled = [row for text in texts if text.pooled is not None for row in text.pooled]
        text = TextConditioning.of([row for text in texts for row in text.rows()], pooled or None)
        return torch.cat([
            call_unet(base, points[rows], text[[place[p] for p in points.prompts[rows]]])
            .float()
            .cpu()
            for rows in batches
        ])  # fmt: skip


@contextmanager
def evaluating(base: BaseModel) -> Generator[None]:
    """UNet and text encoders in evaluation mode, so that no adapter drops anything; then back."""
    roots = (base.unet, *base.text_encoders)
    in_training = [one for root in roots for _, one in named_modules(root) if one.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def stratified_timesteps(count: int, total: int) -> Tensor:
    """The middles of ``count`` equal parts of a schedule of ``total`` timesteps, (count,) int64."""
    return torch.tensor([int((place + 0.5) / count * total) for place in range(count)])
