"""Other trainers' scripts as they are in a checkout of theirs, for SD 1 and SDXL.

Nothing of theirs is copied or changed on the disk. diffusers' scripts run as they are. In
sd-scripts the shape of SD 1's UNet, the scale of its VAE and the tokenizers' names on the hub are
constants; in the process that runs it they are replaced by the base model's, so that the built-in
one can be trained. Of SDXL only the names are replaced. Neither asks the hub.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import Clock, run_script, watch_steps
from trainer.models.configs import read_json
from trainer.places import PROJECT

BASE = PROJECT / "models" / "tiny-emoji"
TOKENIZER = PROJECT / "models" / "clip-tokenizer"
DREAMBOOTH = Path("examples", "dreambooth", "train_dreambooth_lora.py")
DREAMBOOTH_SDXL = DREAMBOOTH.with_name("train_dreambooth_lora_sdxl.py")
SD_SCRIPTS = {False: "train_network", True: "sdxl_train_network"}
CLASS_PICTURES = 32


@dataclass(frozen=True)
class Task:
    """What a script is to train."""

    checkout: str
    out: str  # a folder of its own
    pictures: str  # a folder with nothing but pictures, for diffusers' script
    captioned: str  # a folder of folders "REPEATS_WORDS" with pictures and captions, for sd-scripts
    class_pictures: str  # the same with class pictures
    prompt: str  # of all pictures, where a script takes no captions
    class_prompt: str
    with_class_pictures: bool
    unet_rate: float
    text_rate: float  # diffusers' script has one rate for both, which is `unet_rate`
    rank: int  # alpha is equal to it
    batch_size: int
    steps: int
    side: int  # of the pictures, in pixels
    seed: int
    base: str = str(BASE)  # a folder in diffusers' layout
    precision: str = "no"  # mixed precision, as accelerate names it
    sdxl: bool = False


def diffusers_dreambooth(task: Task, clock: Clock) -> None:
    """``train_dreambooth_lora.py``: attention layers, no captions; the text encoder's where it has
    a rate.

    Every step has as many class pictures as pictures; it draws them first, by the class prompt.
    """
    arguments = [
        *("--pretrained_model_name_or_path", task.base),
        *(("--train_text_encoder",) if task.text_rate else ()),
        *("--instance_data_dir", task.pictures, "--instance_prompt", task.prompt),
        *("--resolution", str(task.side), "--train_batch_size", str(task.batch_size)),
        *("--max_train_steps", str(task.steps), "--rank", str(task.rank)),
        *("--learning_rate", str(task.unet_rate), "--lr_scheduler", "constant"),
        *("--lr_warmup_steps", "0", "--seed", str(task.seed), "--output_dir", task.out),
        *("--mixed_precision", task.precision),
    ]
    if task.with_class_pictures:
        arguments += ["--with_prior_preservation", "--class_prompt", task.class_prompt]
        arguments += ["--class_data_dir", str(Path(task.out) / "class-pictures")]
        arguments += ["--num_class_images", str(CLASS_PICTURES)]
    script = DREAMBOOTH_SDXL if task.sdxl else DREAMBOOTH
    run_script(Path(task.checkout) / script, arguments, Path(task.out), clock)


def sd_scripts(task: Task, clock: Clock) -> None:
    """``train_network.py`` with ``networks.lora``: its default layers, captions, cached latents.

    Class pictures are mixed with the others, one for each: a batch is twice as large, so that as
    many pictures of the subject are seen.
    """
    watch_steps(clock)
    script = _fitted_sd_scripts(task)
    batch_size = task.batch_size * (2 if task.with_class_pictures else 1)
    parser = script.setup_parser()
    options = parser.parse_args([
        *("--pretrained_model_name_or_path", task.base, "--train_data_dir", task.captioned),
        *(("--reg_data_dir", task.class_pictures) if task.with_class_pictures else ()),
        *("--caption_extension", ".txt", "--resolution", str(task.side), "--cache_latents"),
        *("--train_batch_size", str(batch_size), "--max_train_steps", str(task.steps)),
        *("--network_module", "networks.lora", "--network_dim", str(task.rank)),
        *("--network_alpha", str(task.rank), "--unet_lr", str(task.unet_rate)),
        *(("--text_encoder_lr", str(task.text_rate)) if task.text_rate else ()),
        *(() if task.text_rate else ("--network_train_unet_only",)),
        *("--lr_scheduler", "constant", "--optimizer_type", "AdamW", "--sdpa"),
        *("--mixed_precision", task.precision),
        *("--max_data_loader_n_workers", "0", "--seed", str(task.seed)),
        *("--output_dir", task.out, "--output_name", "peer"),
    ])  # fmt: skip
    script.train_util.verify_command_line_training_args(options)
    trainer = script.SdxlNetworkTrainer() if task.sdxl else script.NetworkTrainer()
    scaling = read_json(Path(task.base) / "vae" / "config.json").get("scaling_factor")
    trainer.vae_scale_factor = scaling or trainer.vae_scale_factor
    trainer.train(options)
    clock.adapter = str(Path(task.out) / "peer.safetensors")


def trainer_in(checkout: Path) -> Callable[[Task, Clock], None] | None:
    """Whose checkout a folder is; None: nobody's that is known here."""
    if (checkout / DREAMBOOTH).is_file():
        return diffusers_dreambooth
    return sd_scripts if (checkout / f"{SD_SCRIPTS[False]}.py").is_file() else None


def _fitted_sd_scripts(task: Task) -> Any:
    """The module ``train_network``, or SDXL's, for the base model.

    Raises:
        AttributeError: this version of sd-scripts has not the constants that are replaced.
    """
    from transformers import CLIPImageProcessor

    sys.path.insert(0, task.checkout)
    # The name that transformers 5 has dropped; only sd-scripts' own pipelines use it.
    vars(sys.modules["transformers"]).setdefault("CLIPFeatureExtractor", CLIPImageProcessor)
    base, replaced = Path(task.base), dict[str, Mapping[str, object]]()
    if task.sdxl:
        tokenizers = {"TOKENIZER1_PATH": "tokenizer", "TOKENIZER2_PATH": "tokenizer_2"}
        local = {name: str(base / folder) for name, folder in tokenizers.items()}
        replaced["library.strategy_sdxl"] = local
    else:
        config = read_json(base / "unet" / "config.json")
        replaced["library.original_unet"] = unet_constants(config)
        replaced["library.strategy_sd"] = {"TOKENIZER_ID": str(TOKENIZER)}
    for name, values in replaced.items():
        module = importlib.import_module(name)
        for constant, value in values.items():
            getattr(module, constant)
            setattr(module, constant, value)
    return importlib.import_module(SD_SCRIPTS[task.sdxl])


def unet_constants(config: Mapping[str, Any]) -> dict[str, object]:
    """What sd-scripts' ``library/original_unet.py`` has as constants, of a UNet's configuration."""
    widths, layers = tuple(config["block_out_channels"]), config["layers_per_block"]
    return {
        "BLOCK_OUT_CHANNELS": widths,
        "TIMESTEP_INPUT_DIM": widths[0],
        "TIME_EMBED_DIM": 4 * widths[0],
        "LAYERS_PER_BLOCK": layers,
        "LAYERS_PER_BLOCK_UP": layers + 1,
        "NORM_GROUPS": config["norm_num_groups"],
        "TRANSFORMER_NORM_NUM_GROUPS": config["norm_num_groups"],
        "DOWN_BLOCK_TYPES": list(config["down_block_types"]),
        "UP_BLOCK_TYPES": list(config["up_block_types"]),
    }
