"""Stage "unet": the UNet and its text encoder, trained together on cached latents."""

import random
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.build import latents as latent_cache
from models.build.captions import UNKNOWN_ADJECTIVE, Content, caption, unknown_words
from models.build.parallel import Workers
from models.build.state import Progress, Training, averaged, digest, generator, learning_rate
from models.build.subjects import FIRST

BATCH, PART = 16, 8
"""Pictures of a step, and of one thread's share."""
STEPS = 14_000
"""Optimizer steps of a whole build."""
FIRST_STEPS = 3500
"""Steps on the first subjects alone."""
ADJECTIVE_STEPS = 7500
"""Steps with unknown words before subjects. Then they stop, lest a word beside a subject never be
heard, as triggers have to be; how much that does was not measured apart."""
PEAK_RATE, DECAY = 1e-3, 0.5
"""The learning rate, and the share of all steps over which it falls in the end."""
EMBEDDING_SCALE = 4.0
"""× CLIP's own initial token embeddings (0.23 long at this width). The embeddings of words that no
caption uses stay about as they are; those that are taught come to a length of about 1.4."""
MIN_SNR_GAMMA = 5.0
MIRRORED = 0.1
WIDTH = 128
"""Features of a text token."""
EVERY = 200
"""Steps between checkpoints."""


def new_unet() -> UNet2DConditionModel:
    """About 8.8 M parameters; text is heard at 16×16, 8×8 and, in the middle, 4×4."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # Small attention on a CPU: with plain products and a softmax a step takes 0.7 of the time that
    # torch's composite one takes backward and forward.
    unet.set_attn_processor(AttnProcessor())
    return unet


def new_text_encoder() -> CLIPTextModel:
    """CLIP's text model in small: 3 layers over the full vocabulary, 6.9 M parameters."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49_408,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=WIDTH,
            bos_token_id=49_406,
            eos_token_id=49_407,
            pad_token_id=49_407,
        )
    )
    model.set_attn_implementation("eager")
    words = model.get_input_embeddings()
    words.sparse = True  # a batch has some hundred of 49,408 rows
    with torch.no_grad():
        words.weight.mul_(EMBEDDING_SCALE)
    return model


def new_scheduler() -> DDPMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )


def loss_weights(levels: Tensor) -> Tensor:
    """Weight of the squared noise error at each timestep, mean 1; `levels` is ᾱ, (T,).

    The error of velocity prediction, (SNR + 1) / SNR times that of the noise (arXiv 2202.00512,
    appendix D), with the SNR in the numerator capped as in min-SNR (arXiv 2303.09556). With
    min-SNR alone the noisiest steps, where the words decide what appears and on which colour,
    weigh so little that the text was hardly heard after 16,000 pictures.
    """
    ratio = levels / (1 - levels)
    weights = (ratio.clamp(max=MIN_SNR_GAMMA) + 1) / ratio
    return weights / weights.mean()


class Batches:
    """Latents and captions of a step, a pure function of (seed, step)."""

    def __init__(self, cache: latent_cache.Latents, tokenizer: CLIPTokenizer, seed: int) -> None:
        self.cache, self.tokenizer, self.seed = cache, tokenizer, seed
        self.unknown = unknown_words(tokenizer.get_vocab(), cache.subjects)
        self.all = range(len(cache.subjects))
        self.first = [row for row in self.all if cache.subjects[row] in FIRST]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(latents (B, 4, 16, 16), token ids (B, 77)). Every picture once an epoch, shuffled."""
        source = random.Random(f"{self.seed}/{step}")
        adjectives = UNKNOWN_ADJECTIVE if step < ADJECTIVE_STEPS else 0.0
        chosen, texts = [], []
        for position in range(step * BATCH, (step + 1) * BATCH):
            subject, style = self._picture(position)
            background = source.randrange(len(self.cache.backgrounds))
            mirrored = int(source.random() < MIRRORED)
            chosen.append(self.cache.values[subject, style, background, mirrored])
            content = Content(
                self.cache.subjects[subject],
                self.cache.styles[style],
                self.cache.backgrounds[background],
            )
            texts.append(caption(content, source, self.unknown, adjectives))
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        return torch.stack(chosen), tokens.input_ids

    def _picture(self, position: int) -> tuple[int, int]:
        """(subject, style) at a place in the endless shuffled order."""
        subjects = self.first if position < FIRST_STEPS * BATCH else self.all
        total = len(subjects) * len(self.cache.styles)
        epoch, place = divmod(position, total)
        order = torch.randperm(total, generator=generator(self.seed, epoch, 2))
        row, style = divmod(int(order[place]), len(self.cache.styles))
        return subjects[row], style


@dataclass(frozen=True)
class Share:
    """What one thread computes the loss of."""

    latents: Tensor
    """(B, 4, 16, 16), unit spread"""
    tokens: Tensor
    """(B, 77)"""
    steps: Tensor
    """(B,) timesteps"""
    noise: Tensor
    """like `latents`"""


def shares(batch: tuple[Tensor, Tensor], total_steps: int, source: torch.Generator) -> list[Share]:
    """Adds noise and timesteps to a batch and splits it."""
    latents, tokens = batch
    count = len(latents)
    # Timesteps with density 2t/T, for the late ones weigh most; stratified, one from every count-th
    # of the distribution, so that batches are alike; shuffled, so that the parts are alike too.
    places = (torch.arange(count) + torch.rand(count, generator=source)) / count
    steps = (
        (places.sqrt() * total_steps)
        .long()
        .clamp(max=total_steps - 1)[torch.randperm(count, generator=source)]
    )
    noise = torch.randn(latents.shape, generator=source)
    whole = (latents, tokens, steps, noise)
    return [Share(*parts) for parts in zip(*(each.split(PART) for each in whole), strict=True)]


def loss_of(unet: nn.Module, text_encoder: nn.Module, levels: Tensor, share: Share) -> Tensor:
    """Weighted squared error of the predicted noise (arXiv 2006.11239, equation 14)."""
    level = levels[share.steps]
    kept = level[:, None, None, None]
    noisy = kept.sqrt() * share.latents + (1 - kept).sqrt() * share.noise
    with torch.autocast("cpu", torch.bfloat16):
        text = text_encoder(share.tokens).last_hidden_state
        predicted = unet(noisy, share.steps, text).sample
    error = (predicted.float() - share.noise).square().mean(dim=(1, 2, 3))
    density = 2 * (share.steps + 0.5) / len(levels)
    return (loss_weights(levels)[share.steps] / density * error).mean()


def train(work: Path, tokenizer: CLIPTokenizer, steps: int, deadline: float, seed: int = 0) -> None:
    """Goes on from the last checkpoint, up to `steps` steps in all or the deadline (epoch time)."""
    torch.manual_seed(seed)
    unet, text_encoder = new_unet(), new_text_encoder()
    state = work / "unet" / "state.safetensors"
    recipe = {
        "seed": seed,
        "batch": BATCH,
        "rate": PEAK_RATE,
        "first steps": FIRST_STEPS,
        "adjective steps": ADJECTIVE_STEPS,
        "embedding scale": EMBEDDING_SCALE,
        "latents": digest(latent_cache.values_file(work)),
    }
    training = Training({"unet": unet, "text_encoder": text_encoder}, state, 0.998, recipe)
    training.load()
    batches = Batches(latent_cache.load(work), tokenizer, seed)
    levels = new_scheduler().alphas_cumprod
    workers, report = Workers(), Progress("unet", training.step, steps, BATCH)
    while training.step < steps and time.time() < deadline:
        source = generator(seed, training.step, 1)
        parts = [
            partial(loss_of, unet, text_encoder, levels, share)
            for share in shares(batches(training.step), len(levels), source)
        ]
        loss = workers.accumulate(parts, list(training.parameters.values()))
        training.update(learning_rate(training.step, steps, PEAK_RATE, warmup=100, decay=DECAY))
        report(training.step, loss)
        if training.step % EVERY == 0:
            training.save()
    training.save()


def load_models(work: Path) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The averaged weights of both, frozen."""
    state = work / "unet" / "state.safetensors"
    unet, text_encoder = new_unet(), new_text_encoder()
    unet.load_state_dict(averaged(state, "unet"))
    text_encoder.load_state_dict(averaged(state, "text_encoder"), strict=True)
    return unet.eval().requires_grad_(False), text_encoder.eval().requires_grad_(False)
