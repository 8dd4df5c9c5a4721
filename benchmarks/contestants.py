"""Trainers side by side: this one, and small loops in the way of others.

Each trains rank-16 adapters on the UNet's attention layers (q, k, v, out) alone, with AdamW, a
constant rate, gradients shortened to length 1, the plain epsilon loss, no text encoder, no flips,
and one picture after another; each tells a clock after every step, and writes its adapter file in
its own way at the end. What differs is what the trainers differ in.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.random_base import TRIGGER
from benchmarks.shared import resident_memory
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.memory.devices import choose_device
from trainer.runs.layout import RunFolder
from trainer.runs.layout import prepare as prepare_folder
from trainer.training.export import export_adapter
from trainer.training.session import prepare
from trainer.training.step import training_step

Precision = Literal["fp32", "bf16"]

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
RATE = 1e-4
TEXT_TO_IMAGE = Path("examples", "text_to_image", "train_text_to_image_lora.py")


@dataclass(frozen=True)
class Work:
    """What is to be done: the same for all.

    Attributes:
        base, images, out: folders; ``out`` is the contestant's own.
        resolution: in pixels.
        steps: optimizer steps.
        preserves: this trainer holds the rest still, as by default; the others can't.
        peer: a checkout of diffusers, for its own script.
    """

    base: str
    images: str
    out: str
    resolution: int
    batch_size: int
    steps: int
    precision: Precision
    rank: int = 16
    seed: int = 0
    preserves: bool = False
    peer: str = ""


@dataclass
class Clock:
    """When each step was done: CPU seconds of this process, and wall time.

    Attributes:
        losses: what each step said of its loss; empty for a script that can't be asked.
        peak: the most resident memory so far, in bytes.
        adapter: the file that was written at the end.
    """

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int = 0
    adapter: str = ""

    def tick(self, loss: float | None = None) -> None:
        """A step is done."""
        self.cpu.append(time.process_time())
        self.wall.append(time.time())
        self.peak = resident_memory(peak=True)
        if loss is not None:
            self.losses.append(loss)


# ------------------------------------------------------------------------------ this trainer


def rarebit(work: Work, clock: Clock) -> None:
    """As `trained_here`, with the layers and the loss that all have in common."""
    trained_here(rarebit_config(work), Path(work.out), clock)


def trained_here(config: TrainingConfig, out: Path, clock: Clock) -> None:
    """The trainer's own preparation, steps and export, without previews and measurements."""
    run = RunFolder(out / "run")
    prepare_folder(run)
    device = choose_device(config.training.precision, offload=config.memory.offload)
    session = prepare(config, run, device, lambda _: None, lambda *_: None)
    for _ in range(config.training.steps):
        clock.tick(training_step(session, lambda: False)[0].loss)
    clock.adapter = str(export_adapter(session, run.adapter).path)


def rarebit_config(work: Work) -> TrainingConfig:
    """The same work in the terms of this trainer."""
    values: dict[str, object] = {
        "base.name": work.base,
        "images.path": work.images,
        "images.resolution": work.resolution,
        "captions.trigger": TRIGGER,
        "captions.class_word": "cloud",
        "adapter.targets": "attention",
        "adapter.rank": work.rank,
        "adapter.text_encoder": False,
        "optimizer.learning_rate": RATE,
        "optimizer.schedule": "constant",
        "optimizer.warmup": 0.0,
        "objective.weighting": "min_snr",
        "objective.min_snr_gamma": 0.0,
        "training.steps": work.steps,
        "training.batch_size": work.batch_size,
        "training.precision": work.precision,
        "training.seed": work.seed,
        "evaluation.enabled": False,
        "evaluation.validation": 0.0,
        "output.precision": "fp32",
    }
    if not work.preserves:
        values["preservation.method"] = "none"
    return with_values(TrainingConfig(), values)


# --------------------------------------------------------------------- in the way of diffusers


class DiffusersLike:
    """What diffusers' ``train_text_to_image_lora.py`` does in a step.

    The whole model in the number format of the mixed precision, PEFT's adapters in the same one
    (the script raises them to float32 for fp16 only), picture and text encoded in every step.
    """

    def __init__(self, work: Work) -> None:
        self.accelerator = Accelerator(
            cpu=True, mixed_precision="bf16" if work.precision == "bf16" else "no"
        )
        dtype = torch.bfloat16 if work.precision == "bf16" else torch.float32
        self.dtype = dtype
        self.schedule = DDPMScheduler.from_pretrained(work.base, subfolder="scheduler")
        self.text = CLIPTextModel.from_pretrained(work.base, subfolder="text_encoder")
        self.vae = AutoencoderKL.from_pretrained(work.base, subfolder="vae")
        self.unet = UNet2DConditionModel.from_pretrained(work.base, subfolder="unet")
        for module in (self.text, self.vae, self.unet):
            module.requires_grad_(False)
            module.to(dtype=dtype)
        self.parameters = self.adapt(work.rank)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, weight_decay=0.01)
        self.rates = get_scheduler("constant", self.optimizer)
        self.unet, self.optimizer, self.rates = self.accelerator.prepare(
            self.unet, self.optimizer, self.rates
        )

    def adapt(self, rank: int) -> list[nn.Parameter]:
        """Puts the adapters on; their parameters."""
        config = LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS
        )
        self.unet.add_adapter(config)
        return [parameter for parameter in self.unet.parameters() if parameter.requires_grad]

    def latents(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to a draw of the scaled latents, (B, 4, H / 8, W / 8)."""
        drawn = self.vae.encode(pixels.to(self.dtype)).latent_dist.sample()
        return drawn * self.vae.config.scaling_factor

    def hidden(self, ids: Tensor) -> Tensor:
        """(B, 77) token ids to text features (B, 77, D)."""
        return self.text(ids, return_dict=False)[0]

    def step(self, latents: Tensor, hidden: Tensor, noise: Tensor, timesteps: Tensor) -> float:
        """One optimizer step; the loss."""
        self.unet.train()
        with self.accelerator.accumulate(self.unet):
            noised = self.schedule.add_noise(latents, noise, timesteps)
            predicted = self.unet(noised, timesteps, hidden, return_dict=False)[0]
            loss = F.mse_loss(predicted.float(), noise.float())
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.rates.step()
            self.optimizer.zero_grad()
        return loss.item()

    def save(self, folder: Path) -> Path:
        """Writes the adapter file."""
        unet = self.accelerator.unwrap_model(self.unet).to(torch.float32)
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
        StableDiffusionPipeline.save_lora_weights(str(folder), unet_lora_layers=layers)
        return folder / "pytorch_lora_weights.safetensors"


def diffusers_like(work: Work, clock: Clock) -> None:
    """Pictures are read, cut and encoded at every step, as there."""
    torch.manual_seed(work.seed)
    peer = DiffusersLike(work)
    batches = peer.accelerator.prepare(loader(work))
    for pixels, ids in _first(batches, work.steps):
        latents = peer.latents(pixels)
        noise, timesteps = _draw(latents)
        clock.tick(peer.step(latents, peer.hidden(ids), noise, timesteps))
    clock.adapter = str(peer.save(Path(work.out)))


# ------------------------------------------------------------------------- in the way of kohya


class KohyaLora(nn.Module):
    """sd-scripts' LoRA layer: two linear layers beside the original one, which it calls."""

    def __init__(self, original: nn.Linear, rank: int) -> None:
        super().__init__()
        self.lora_down = nn.Linear(original.in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, original.out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_down.weight, a=5**0.5)
        nn.init.zeros_(self.lora_up.weight)
        self.scale = self.multiplier = 1.0
        self.original_forward = original.forward
        original.forward = self.forward

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        added = self.lora_up(self.lora_down(inputs))
        return self.original_forward(inputs) + added * self.multiplier * self.scale


class KohyaLike(DiffusersLike):
    """What sd-scripts does with ``--cache_latents --network_train_unet_only --sdpa``.

    Latents are kept; text is encoded in every step (its text cache is for other models). Frozen
    weights in the number format of the mixed precision, the adapter's in float32 under autocast.
    """

    def adapt(self, rank: int) -> list[nn.Parameter]:
        """Only the layers of `TARGETS`, so that all train the same."""
        self.network = nn.ModuleDict(
            {
                f"lora_unet_{name}".replace(".", "_"): KohyaLora(module, rank)
                for name, module in self.unet.named_modules()
                if isinstance(module, nn.Linear) and name.endswith(tuple(TARGETS))
            }
        )
        return list(self.network.parameters())

    def save(self, folder: Path) -> Path:
        """Writes the adapter file: float32, with each layer's alpha."""
        weights = dict(self.network.state_dict())
        for name, layer in self.network.items():
            weights[f"{name}.alpha"] = torch.tensor(float(layer.lora_down.out_features))
        path = folder / "kohya.safetensors"
        save_file(weights, path)
        return path


def kohya_like(work: Work, clock: Clock) -> None:
    """Latents are computed once, ahead of the steps."""
    torch.manual_seed(work.seed)
    peer = KohyaLike(work)
    kept = [(_encoded(peer, pixels), ids) for pixels, ids in loader(work, batch_size=1)]
    peer.vae.to("cpu")
    batches = DataLoader(kept, work.batch_size, shuffle=True, collate_fn=_collated)  # type: ignore[arg-type]
    for latents, ids in _first(batches, work.steps):
        with torch.no_grad(), peer.accelerator.autocast():
            hidden = peer.hidden(ids)
        noise, timesteps = _draw(latents)
        clock.tick(peer.step(latents, hidden, noise, timesteps))
    clock.adapter = str(peer.save(Path(work.out)))


@torch.no_grad()
def _encoded(peer: DiffusersLike, pixels: Tensor) -> Tensor:
    return peer.latents(pixels)


def _collated(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([latents for latents, _ in items]), torch.cat([ids for _, ids in items])


# ------------------------------------------------------------------------- diffusers' own script


def script(work: Work, clock: Clock) -> None:
    """``train_text_to_image_lora.py`` of a checkout."""
    arguments = (
        *("--pretrained_model_name_or_path", work.base, "--train_data_dir", work.images),
        *("--caption_column", "text", "--resolution", str(work.resolution), "--center_crop"),
        *("--train_batch_size", str(work.batch_size), "--max_train_steps", str(work.steps)),
        *("--learning_rate", str(RATE), "--lr_scheduler", "constant", "--lr_warmup_steps", "0"),
        *("--rank", str(work.rank), "--seed", str(work.seed), "--output_dir", work.out),
        *("--mixed_precision", "bf16" if work.precision == "bf16" else "no"),
    )
    run_script(Path(work.peer) / TEXT_TO_IMAGE, arguments, Path(work.out), clock)


def run_script(path: Path, arguments: Sequence[str], out: Path, clock: Clock) -> None:
    """Runs one of diffusers' scripts as it is.

    Args:
        out: the folder that ``arguments`` tell it to write into.
    """
    watch_steps(clock)
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")
    clock.adapter = str(out / "pytorch_lora_weights.safetensors")


def watch_steps(clock: Clock) -> None:
    """From now on torch tells the clock of every step of an optimizer in this process."""
    register_optimizer_step_post_hook(lambda *_: clock.tick())


CONTESTANTS: dict[str, Callable[[Work, Clock], None]] = {
    "rarebit": rarebit,
    "diffusers-like": diffusers_like,
    "kohya-like": kohya_like,
    "diffusers": script,
}


# ---------------------------------------------------------------------------- what they share


def loader(work: Work, batch_size: int | None = None) -> DataLoader[Any]:
    """Pictures and token ids, read from the files whenever they are asked for.

    Yields:
        (B, 3, H, W) float32 in [-1, 1], and (B, 77) int64.
    """
    tokenizer = CLIPTokenizer.from_pretrained(work.base, subfolder="tokenizer")
    folder = Path(work.images)
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()

    def collate(entries: list[dict[str, str]]) -> tuple[Tensor, Tensor]:
        pixels = [_pixels(folder / entry["file_name"], work.resolution) for entry in entries]
        tokens = tokenizer(
            [entry["text"] for entry in entries],
            max_length=tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        return torch.stack(pixels), tokens.input_ids

    entries: Any = [json.loads(line) for line in lines]
    return DataLoader(entries, batch_size or work.batch_size, shuffle=True, collate_fn=collate)


def _pixels(path: Path, side: int) -> Tensor:
    with Image.open(path) as image:
        square = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1.0


def _draw(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Noise like the latents, and a timestep for each."""
    return torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))


def _first(batches: Any, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches, going through all again and again."""
    done = 0
    while True:
        for batch in batches:
            if done == count:
                return
            done += 1
            yield batch
