"""Settings of other trainers: what each of theirs becomes, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.tabs.train.loading import read_settings
from trainer.commands.import_settings import import_settings
from trainer.config.docs import MOVING_PAGE, moving_page
from trainer.config.fields import all_fields, get_value
from trainer.config.file import format_config, parse_config, read_config
from trainer.config.moving import theirs as reading
from trainer.config.moving.moved import Moved, SetFacts, fitting, move, table
from trainer.config.moving.theirs import AI_TOOLKIT, KOHYA, ONETRAINER, as_theirs
from trainer.errors import UserError


def moved(*texts: str, look: Any = lambda path, reads: None) -> Moved:
    """Settings, brought over without any file of this machine."""
    return move(as_theirs([("a file", text) for text in texts], lambda name: None), look)


def one(trainer: str, settings: dict[str, Any]) -> Moved:
    """Single settings of a trainer, beside what tells whose they are."""
    if trainer == KOHYA:
        return moved(json.dumps({"pretrained_model_name_or_path": "a", **settings}))
    if trainer == ONETRAINER:
        return moved(json.dumps({"training_method": "LORA", **settings}))
    process: dict[str, Any] = {"type": "sd_trainer", "network": {"type": "lora"}, "train": {}}
    for key, value in settings.items():
        *parts, last = key.split(".")
        place = process
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return moved(json.dumps({"job": "extension", "config": {"name": "", "process": [process]}}))


@pytest.mark.parametrize("trainer", [KOHYA, ONETRAINER, AI_TOOLKIT])
def test_every_row_names_a_field_or_a_reason(trainer: str) -> None:
    for row in table(trainer).values():
        if not row.field:
            assert row.note.endswith("."), row
        elif row.field != "done":
            name, _, fields = row.field.partition(" ")
            names = fields.split(", ") if name.startswith("@") else [name.lstrip("!")]
            assert set(names) <= set(all_fields()), row


@pytest.mark.parametrize("trainer", [KOHYA, ONETRAINER, AI_TOOLKIT])
def test_every_default_fits_its_field(trainer: str) -> None:
    for row in table(trainer).values():
        if row.unless_given and row.field in all_fields():
            assert fitting(all_fields()[row.field], row.unless_given) is not None, row


def test_page_of_docs_is_current() -> None:
    assert MOVING_PAGE.read_text(encoding="utf-8") == moving_page(), "python -m trainer.config.docs"


# What each trainer does where its file says nothing, and we would do another thing.
WITHOUT = {
    KOHYA: {
        "adapter.rank": 4, "adapter.alpha": 1.0, "optimizer.learning_rate": 2e-6,
        "optimizer.text_encoder_learning_rate": 2e-6, "optimizer.schedule": "constant",
        "optimizer.warmup": 0.0, "training.steps": 1600, "training.batch_size": 1,
        "captions.dropout": 0.0, "captions.max_tokens": 75, "images.resolution": 512,
        "images.buckets": False, "images.upscale": True, "objective.weighting": "min_snr",
        "objective.min_snr_gamma": 0.0, "preservation.method": "none",
        "evaluation.validation": 0.0, "training.precision": "fp32",
    },
    ONETRAINER: {
        "adapter.rank": 16, "adapter.alpha": 1.0, "adapter.targets": "convolution",
        "optimizer.learning_rate": 3e-6, "training.batch_size": 1, "training.precision": "fp16",
        "training.gradient_checkpointing": True, "objective.min_snr_gamma": 0.0,
        "preservation.method": "none", "output.precision": "fp32",
        "base.name": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    },
    AI_TOOLKIT: {
        "adapter.rank": 4, "adapter.alpha": 1.0, "adapter.text_encoder": False,
        "optimizer.learning_rate": 1e-6, "training.steps": 1000, "training.batch_size": 1,
        "objective.weighting": "min_snr", "objective.min_snr_gamma": 0.0,
        "preservation.method": "none", "optimizer.schedule": "constant", "optimizer.warmup": 0.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("trainer", list(WITHOUT))
def test_what_is_left_out_is_as_the_trainer_does_it(trainer: str) -> None:
    found = one(trainer, {})
    assert {name: get_value(found.config, name) for name in WITHOUT[trainer]} == WITHOUT[trainer]
    said = "\n".join(found.lines())
    for name, value in WITHOUT[trainer].items():
        if value != all_fields()[name].default:
            assert name in said, name


K, ONE, AI = KOHYA, ONETRAINER, AI_TOOLKIT
# Trainer, its settings, and ours.
TAKEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (K, {"network_dim": 32}, {"adapter.rank": 32, "adapter.alpha": 1.0}),
    (K, {"network_dim": "32", "network_alpha": "16"}, {"adapter.alpha": 16.0}),
    (K, {"network_args": ["conv_dim=8", "conv_alpha=4"]}, {"adapter.targets": "convolution"}),
    (K, {"network_module": "lycoris.kohya", "network_args": ["algo=locon"]},
     {"adapter.kind": "lora", "adapter.targets": "convolution"}),
    (K, {"network_module": "lycoris.kohya", "network_args": ["dora_wd=True"]},
     {"adapter.kind": "dora"}),
    (K, {"network_module": "lycoris.kohya", "network_args": ["algo=lokr", "factor=8"],
         "network_dim": 100000, "learning_rate": 1e-3},
     {"adapter.kind": "lokr", "adapter.factor": 8, "adapter.rank": 16, "adapter.alpha": None,
      "optimizer.learning_rate": None}),
    (K, {"network_module": "lycoris.kohya", "network_args": ["algo=loha"], "network_alpha": 1},
     {"adapter.kind": "loha", "adapter.factor": 8, "adapter.alpha": None}),
    (K, {"network_module": "lycoris.kohya", "network_args": ["algo=locon", "dropout=0.1"]},
     {"adapter.dropout": 0.1}),
    (ONE, {"peft_type": "LOKR"}, {"adapter.kind": "lokr", "adapter.factor": -1}),
    (K, {"network_args": ["loraplus_lr_ratio=16"]}, {"optimizer.lora_plus_ratio": 16.0}),
    (K, {"unet_lr": 1e-4, "text_encoder_lr": 5e-5},
     {"optimizer.learning_rate": 1e-4, "optimizer.text_encoder_learning_rate": 5e-5}),
    (K, {"learning_rate": 1e-3}, {"optimizer.text_encoder_learning_rate": 1e-3}),
    (K, {"text_encoder_lr": [5e-5, 1e-5]},
     {"optimizer.text_encoder_learning_rate": 5e-5,
      "optimizer.text_encoder_2_learning_rate": 1e-5}),
    (K, {"loss_type": "huber", "huber_c": 0.2},
     {"objective.loss": "huber", "objective.huber_c": 0.2}),
    (K, {"loss_type": "l2", "huber_c": 0.2, "huber_schedule": "snr"}, {"objective.huber_c": 0.1}),
    (K, {"multires_noise_iterations": 6, "multires_noise_discount": 0.2, "ip_noise_gamma": 0.1},
     {"objective.multires_noise": 0.2, "objective.input_perturbation": 0.1}),
    (K, {"multires_noise_iterations": 0, "multires_noise_discount": 0.2},
     {"objective.multires_noise": 0.0}),
    (K, {"log_with": "wandb", "log_tracker_name": "foxes"},
     {"tracking.tracker": "wandb", "tracking.project": "foxes"}),
    (K, {"learning_rate": 1e-4, "text_encoder_lr": 0}, {"adapter.text_encoder": False}),
    *((K, {"unet_lr": 1e-4, "text_encoder_lr": 0, **settings},
       {"adapter.text_encoder": False, "adapter.unet": True, "optimizer.learning_rate": None})
      for settings in (
          {"optimizer_type": "Adopt"}, {"optimizer_type": "Adafactor"},
          {"network_module": "lycoris.kohya", "network_args": ["algo=loha"]},
      )),
    (K, {"optimizer_type": "Adopt", "learning_rate": 0, "unet_lr": 1e-4}, {"adapter.unet": True}),
    (K, {"network_train_unet_only": True}, {"adapter.text_encoder": False}),
    (K, {"network_train_text_encoder_only": True},
     {"adapter.unet": False, "adapter.text_encoder": True}),
    (K, {"optimizer_type": "Prodigy", "learning_rate": 1, "optimizer_args": ["weight_decay=0.1"]},
     {"optimizer.name": "prodigy", "optimizer.learning_rate": 1.0, "optimizer.weight_decay": 0.1}),
    (K, {"optimizer_type": "PagedAdamW8bit"}, {"optimizer.name": "adamw8bit"}),
    (K, {"optimizer_type": "DAdaptAdam", "learning_rate": 1}, {"optimizer.name": "prodigy"}),
    (K, {"optimizer_type": "Lion"}, {"optimizer.name": "lion", "optimizer.weight_decay": 0.0}),
    (K, {"optimizer_type": "AdamWScheduleFree"},
     {"optimizer.name": "adamw_schedule_free", "optimizer.weight_decay": 0.0}),
    (K, {"optimizer_type": "CAME"}, {"optimizer.name": "came", "optimizer.weight_decay": 0.0}),
    (K, {"optimizer_type": "Adafactor"}, {"optimizer.learning_rate": None}),
    (K, {"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=False"],
         "learning_rate": 4e-4}, {"optimizer.learning_rate": 4e-4}),
    (K, {"optimizer_type": "SGDNesterov", "learning_rate": 1e-5},
     {"optimizer.name": "adamw", "optimizer.learning_rate": None}),
    (K, {"lr_scheduler": "cosine", "lr_warmup_steps": 100, "max_train_steps": 2000},
     {"optimizer.schedule": "cosine", "optimizer.warmup": 0.05}),
    (K, {"lr_scheduler": "cosine", "lr_warmup_steps": 0.1}, {"optimizer.warmup": 0.1}),
    (K, {"lr_scheduler": "constant", "lr_warmup_steps": 100}, {"optimizer.warmup": 0.0}),
    (K, {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 160},
     {"optimizer.schedule": "constant", "optimizer.warmup": 0.1}),
    (K, {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 4},
     {"optimizer.schedule_cycles": 4}),
    (K, {"lr_scheduler": "cosine_with_restarts"}, {"optimizer.schedule_cycles": 1}),
    (K, {"lr_scheduler": "polynomial", "lr_scheduler_power": 3}, {"optimizer.schedule_power": 3.0}),
    (K, {"min_snr_gamma": 5}, {"objective.weighting": "min_snr", "objective.min_snr_gamma": 5.0}),
    (K, {"debiased_estimation_loss": True}, {"objective.weighting": "debiased"}),
    (K, {"resolution": "1024,1024"}, {"images.resolution": 1024}),
    (K, {"resolution": "512,650"}, {"images.resolution": 576}),
    (K, {"resolution": [768, 768]}, {"images.resolution": 768}),
    (K, {"bucket_no_upscale": True}, {"images.upscale": False}),
    (K, {"v_parameterization": True, "zero_terminal_snr": True},
     {"base.prediction": "v_prediction_zero_snr"}),
    (K, {"clip_skip": 2, "max_token_length": 225},
     {"base.clip_skip": 2, "captions.max_tokens": 225}),
    (K, {"shuffle_caption": True, "keep_tokens": 2}, {"captions.keep_tags": 2}),
    (K, {"shuffle_caption": True, "keep_tokens": 0}, {"captions.keep_tags": 0}),
    (K, {"masked_loss": True}, {"images.masks": "files", "images.mask_outside": 0.0}),
    (K, {"reg_data_dir": "reg", "prior_loss_weight": 0.5},
     {"preservation.method": "pictures", "preservation.folder": "reg", "preservation.share": 1.0,
      "preservation.weight": 0.5}),
    (K, {"reg_data_dir": "reg", "max_train_steps": 1000, "lr_scheduler": "cosine",
         "lr_warmup_steps": 100, "save_every_n_steps": 200},
     {"training.steps": 500, "optimizer.warmup": 0.1, "evaluation.every": 100}),
    (K, {"train_data_dir": "pics", "output_name": "mine"},
     {"images.path": Path("pics"), "output.name": "mine"}),
    (K, {"sample_prompts": "a cat --n bad, ugly --w 512 --d 7 --l 7.5 --s 28\n# no\na dog --d 7"},
     {"previews.prompts": ("a cat", "a dog"), "previews.negative": "bad, ugly",
      "previews.seed": 7, "previews.guidance": 7.5, "previews.inference_steps": 28}),
    (K, {"save_every_n_steps": 250, "save_state": True},
     {"evaluation.every": 250, "checkpoints.every": 250}),
    (K, {"mixed_precision": "bf16", "save_precision": "float"},
     {"training.precision": "bf16", "output.precision": "fp32"}),
    # The JSON of kohya_ss' window.
    (K, {"LoRA_type": "Standard", "conv_dim": 8, "max_resolution": "768,768", "optimizer": "Lion"},
     {"adapter.targets": "feed-forward", "images.resolution": 768, "optimizer.name": "lion"}),
    (K, {"LoRA_type": "Kohya LoCon", "conv_dim": 8}, {"adapter.targets": "convolution"}),
    (K, {"datasets": {"resolution": 768, "subsets": [{"image_dir": "pics"}]}, "network_dim": 4},
     {"images.path": Path("pics"), "images.resolution": 768}),
    (K, {"LoRA_type": "Standard", "lr_scheduler": "cosine", "lr_warmup": 10},
     {"optimizer.warmup": 0.1}),
    (K, {"LoRA_type": "Standard", "learning_rate": 1e-4, "unet_lr": 0, "text_encoder_lr": 0},
     {"adapter.unet": True, "optimizer.learning_rate": 1e-4}),
    (ONE, {"lora_rank": 8, "lora_alpha": 4.0}, {"adapter.rank": 8, "adapter.alpha": 4.0}),
    (ONE, {"layer_filter_preset": "attn-only"}, {"adapter.targets": "attention"}),
    (ONE, {"resolution": "512,768"}, {"images.resolutions": (512, 768)}),
    (ONE, {"resolution": "512x768"}, {"images.resolution": 640}),
    (ONE, {"lora_decompose": True}, {"adapter.kind": "dora"}),
    (ONE, {"text_encoder": {"train": False}}, {"adapter.text_encoder": False}),
    (ONE, {"unet": {"learning_rate": 2e-4}, "learning_rate": 1e-4},
     {"optimizer.learning_rate": 2e-4, "optimizer.text_encoder_learning_rate": 1e-4}),
    (ONE, {"loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": 3.0},
     {"objective.min_snr_gamma": 3.0}),
    (ONE, {"masked_training": True, "unmasked_weight": 0.2},
     {"images.masks": "files", "images.mask_outside": 0.2}),
    (ONE, {"text_encoder_layer_skip": 1}, {"base.clip_skip": 2}),
    (ONE, {"ema": "GPU", "ema_decay": 0.99}, {"training.ema_decay": 0.99}),
    (ONE, {"ema": "OFF", "ema_decay": 0.99}, {"training.ema_decay": 0.0}),
    (ONE, {"sample_after": 50, "sample_after_unit": "STEP"}, {"previews.every": 50}),
    (ONE, {"sample_after": 50, "sample_after_unit": "NEVER"}, {"previews.every": 0}),
    # Their steps are batches: one here is four of them.
    (ONE, {"gradient_accumulation_steps": 4, "sample_after": 50, "sample_after_unit": "STEP",
           "backup_after": 200, "backup_after_unit": "STEP", "save_every": 100,
           "save_every_unit": "STEP"},
     {"training.accumulation": 4, "previews.every": 12, "checkpoints.every": 50,
      "evaluation.every": 25}),
    (AI, {"train.gradient_accumulation_steps": 4, "train.steps": 2000, "save.save_every": 200,
          "train.lr_scheduler": "constant_with_warmup",
          "train.lr_scheduler_params": {"num_warmup_steps": 100},
          "sample": {"sample_every": 400}},
     {"training.accumulation": 4, "training.steps": 500, "evaluation.every": 50,
      "optimizer.warmup": 0.05, "previews.every": 100}),
    # A name may mean another thing with another trainer.
    (AI, {"train.lr_scheduler": "constant_with_warmup", "train.steps": 5000},
     {"optimizer.schedule": "constant", "optimizer.warmup": 0.2}),
    (AI, {"train.lr_scheduler": "linear"}, {"optimizer.schedule": "constant"}),
    (ONE, {"learning_rate_scheduler": "COSINE_WITH_RESTARTS"}, {"optimizer.schedule": "cosine"}),
    (ONE, {"learning_rate_scheduler": "COSINE_WITH_HARD_RESTARTS", "learning_rate_cycles": 3},
     {"optimizer.schedule": "cosine_with_restarts", "optimizer.schedule_cycles": 3}),
    (ONE, {"learning_rate_scheduler": "REX"},
     {"optimizer.schedule": "polynomial", "optimizer.schedule_power": 0.2}),
    (AI, {"train.gradient_accumulation": 4, "train.steps": 2000, "sample": {"sample_every": 400}},
     {"training.accumulation": 4, "training.steps": 2000, "previews.every": 400}),
    (ONE, {"optimizer": {"optimizer": "ADAMW_8BIT", "weight_decay": 0.02}},
     {"optimizer.name": "adamw8bit", "optimizer.weight_decay": 0.02}),
    (ONE, {"samples": [{"prompt": "a cat", "seed": 42, "cfg_scale": 7, "diffusion_steps": 20}]},
     {"previews.prompts": ("a cat",), "previews.guidance": 7.0}),
    (AI, {"network.linear": 16, "network.linear_alpha": 8},
     {"adapter.rank": 16, "adapter.alpha": 8.0}),
    (AI, {"train.ema_config": {"use_ema": True}}, {"training.ema_decay": 0.999}),
    (AI, {"train.optimizer": "prodigy", "train.lr": "1e-4"},
     {"optimizer.name": "prodigy", "optimizer.learning_rate": 1.0}),
    (AI, {"network.conv": 8}, {"adapter.targets": "convolution"}),
    (AI, {"train.lr": "1e-4"}, {"optimizer.learning_rate": 1e-4}),
    (AI, {"train.ema_config": {"use_ema": True, "ema_decay": 0.99}}, {"training.ema_decay": 0.99}),
    (AI, {"train.diff_output_preservation": True, "train.diff_output_preservation_class": "man"},
     {"preservation.method": "prediction", "captions.class_word": "man"}),
    (AI, {"trigger_word": "ohwx", "datasets": [{"folder_path": "pics", "resolution": [512, 768]}]},
     {"captions.trigger": "ohwx", "images.path": Path("pics"), "images.resolutions": (512, 768)}),
    (AI, {"sample": {"prompts": ["[trigger] in snow"], "neg": "bad", "sample_every": 250}},
     {"previews.prompts": ("{trigger} in snow",), "previews.negative": "bad",
      "previews.every": 250}),
]  # fmt: skip


@pytest.mark.parametrize(("trainer", "settings", "ours"), TAKEN)
def test_taken(trainer: str, settings: dict[str, Any], ours: dict[str, Any]) -> None:
    config = one(trainer, settings).config
    assert {name: get_value(config, name) for name in ours} == ours
    assert parse_config(format_config(config)) == config


SAID: list[tuple[str, dict[str, Any], str]] = [
    (K, {"network_module": "lycoris.kohya", "network_args": ["algo=diag-oft"]}, "not trained"),
    (K, {"network_module": "lycoris.kohya", "network_args": ["algo=lokr"]}, "are not taken"),
    (K, {"optimizer_type": "SGDNesterov"}, "adamw trains instead"),
    (K, {"optimizer_type": "Adopt", "unet_lr": 1e-4, "text_encoder_lr2": 2e-4},
     "unet_lr = 0.0001, text_encoder_lr2 = 0.0002: It is a rate for Adopt"),
    (ONE, {"resolution": "large"}, 'resolution = "large": It can\'t be read'),
    (K, {"max_train_epochs": 10}, "pictures x repeats x epochs"),
    (K, {"lr_scheduler": "constant", "lr_warmup_steps": 100}, "no warm-up there"),
    (K, {"caption_extension": ".tags"}, "Captions are read from .txt and .caption"),
    (K, {"no_such_option": 3}, "no_such_option: Not known here."),
    (K, {"network_alpha": 4096 * 2}, "adapter.alpha: 8192.0 given"),
    (K, {"zero_terminal_snr": True}, "black pictures"),
    (AI, {"datasets": [{"folder_path": "pics", "mask_path": "/masks"}]}, "a folder masks beside"),
    (K, {"max_timestep": 900}, "All timesteps are trained here."),
    (K, {"output_name": "mine"}, "always called adapter.safetensors"),
    (K, {"dataset_config": "sets.toml"}, "Give that file too"),
    (ONE, {"lora_alpha": 1.0, "epochs": 30}, "pictures x repeats x epochs"),
    (ONE, {"additional_embeddings": [{"placeholder": "<x>"}]}, "adapter.new_tokens"),
    (ONE, {"loss_weight_fn": "P2"}, "Every timestep counts the same instead"),
    (ONE, {"optimizer": {"optimizer": "TIGER"}}, "adamw trains instead"),
    (AI, {"network.type": "lorm"}, "not trained"),
    (AI, {"train.loss_type": "mae"}, "squared error"),
]  # fmt: skip


@pytest.mark.parametrize(("trainer", "settings", "words"), SAID)
def test_said(trainer: str, settings: dict[str, Any], words: str) -> None:
    assert words in "\n".join(one(trainer, settings).lines())


@pytest.mark.parametrize(
    ("key", "value"), [("max_timestep", 1000), ("huber_c", 0.1), ("num_machines", 1)]
)
def test_what_changes_nothing_is_not_said(key: str, value: object) -> None:
    """As kohya_ss writes every setting of its window into the file."""
    assert key not in "\n".join(one(K, {key: value}).lines())


@pytest.mark.parametrize(
    ("trainer", "settings", "said", "times"),
    [
        (ONE, {"loss_weight_fn": "P2"}, "loss_weight_fn", 1),
        (ONE, {"ema": "GPU", "ema_decay": 0.99}, " ema = ", 0),
        (ONE, {"ema": "GPU"}, " ema = ", 1),
        (K, {"lr_scheduler": "constant", "lr_warmup_steps": 100}, "lr_warmup_steps", 1),
        (K, {"dataset_config": "a.toml", "datasets": [{"resolution": 512}]}, "dataset_config", 0),
    ],
)
def test_nothing_is_both_taken_and_lost(
    trainer: str, settings: dict[str, Any], said: str, times: int
) -> None:
    assert "\n".join(one(trainer, settings).lines()).count(said) == times


DATASET = """
[general]
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 1

[[datasets]]
resolution = 512
batch_size = 2

  [[datasets.subsets]]
  image_dir = "/sets/bear"
  class_tokens = "ohwx bear"
  num_repeats = 10
"""
SECOND = """
  [[datasets.subsets]]
  image_dir = "/sets/fox"
  class_tokens = "zqj fox"
  num_repeats = 5
"""
REG = """
  [[datasets.subsets]]
  image_dir = "/sets/reg"
  class_tokens = "bear"
  is_reg = true
"""
TRAINER = '[a]\npretrained_model_name_or_path = "b.safetensors"\n[b]\nmax_train_epochs = 4\n'
SIZES = {"/sets/bear": 20, "/sets/fox": 80}


def count(path: Path, reads: str) -> SetFacts | None:
    size = SIZES.get(path.as_posix())
    return SetFacts(size, size, ()) if size else None


def test_trainer_and_dataset_file_together() -> None:
    found = moved(TRAINER, DATASET, look=count).config
    assert found.images.path == Path("/sets/bear")
    assert (found.captions.trigger, found.captions.class_word) == ("ohwx", "bear")
    assert (found.training.batch_size, found.images.resolution) == (2, 512)
    assert (found.captions.shuffle_tags, found.captions.keep_tags) == (True, 1)
    assert found.training.steps == 4 * 20 * 10 // 2


def test_class_pictures_come_besides_the_own() -> None:
    found = moved(TRAINER, DATASET + REG, look=count).config
    assert found.preservation.folder == "/sets/reg"
    assert found.training.steps == 4 * 20 * 10 // 2


def test_onetrainers_batches_go_on_over_epochs() -> None:
    settings = {
        "training_method": "LORA", "concepts": [{"path": "/sets/fox", "type": "STANDARD"}],
        "batch_size": 3, "gradient_accumulation_steps": 4, "epochs": 10,
    }  # fmt: skip
    found = moved(json.dumps(settings | {"learning_rate_warmup_steps": 27}), look=count)
    # 27 batches an epoch, 270 of them, and 67 steps of four; a tenth of it warms up.
    assert (found.config.training.steps, found.config.optimizer.warmup) == (67, 0.1007)
    assert "in EPOCH" in str(found.groups())  # every ten of them unless given
    for amount, strategy, steps in ((6, "SAMPLES", 5), (0.5, "REPEATS", 35), (2.5, "REPEATS", 167)):
        sets = [{"path": "/sets/fox", "balancing": amount, "balancing_strategy": strategy}]
        counted = moved(json.dumps(settings | {"concepts": sets}), look=count)
        assert counted.config.training.steps == steps
    minutes = {"sample_after": 10, "sample_after_unit": "MINUTE"}
    assert "in EPOCH" not in str(moved(json.dumps(settings | minutes), look=count).groups())


def test_several_subjects_become_concepts_with_their_shares() -> None:
    found = moved(TRAINER, DATASET + SECOND, look=count).config
    shares = {(one.trigger, one.class_word): one.repeats for one in found.concepts}
    assert shares == {("ohwx", "bear"): 1, ("zqj", "fox"): 2}


def test_several_folders_without_words_of_their_own_are_said() -> None:
    texts = (DATASET + SECOND).replace("class_tokens", "# class_tokens")
    assert "Here an image set is one folder" in "\n".join(moved(texts).lines())


def test_one_folder_at_several_resolutions() -> None:
    again = DATASET.split("[[datasets]]")[1].replace("512", "768")
    found = moved(f"{DATASET}\n[[datasets]]{again}")
    assert set(found.config.images.resolutions) == {512, 768}


def test_settings_that_differ_between_folders_are_said() -> None:
    text = DATASET + "  flip_aug = true\n" + SECOND
    assert "It differs between the folders" in "\n".join(moved(text).lines())


def test_concepts_of_onetrainer_in_a_file_of_their_own() -> None:
    concepts = [
        {"path": "/sets/bear", "image": {"enable_random_flip": True}, "text": {}},
        {"path": "/sets/kept", "type": "PRIOR_PREDICTION"},
        {"path": "/sets/off", "enabled": False},
    ]
    settings = {"training_method": "LORA", "concept_file_name": "c.json", "epochs": 3}
    found = moved(json.dumps(settings), json.dumps(concepts), look=count).config
    assert (found.images.path, found.images.flip) == (Path("/sets/bear"), True)
    assert (found.preservation.method, found.training.steps) == ("prediction", 60)


def test_yaml_with_its_numbers_and_comments() -> None:
    text = """
job: extension
config:
  name: "mine"  # a comment
  process:
    - type: sd_trainer
      network: {type: lora, linear: 32, linear_alpha: 32}
      train: {lr: 1e-4, steps: 2000, optimizer: adamw8bit}
      model: {name_or_path: "stabilityai/stable-diffusion-xl-base-1.0", is_xl: true}
"""
    found = moved(text).config
    assert (found.adapter.rank, found.optimizer.learning_rate) == (32, 1e-4)
    assert (found.training.steps, found.output.name) == (2000, "mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"LoRA_type": "Flux1", "flux1_checkbox": true}', "for Flux"),
        ('network_module = "networks.lora_flux"', "for Flux"),
        ('network_module = "networks.lora_sd3"\nnetwork_dim = 4', "for Stable Diffusion 3"),
        ('{"pretrained_model_name_or_path": "a", "learning_rate_te": 1e-5}', "a whole model"),
        ('{"training_method": "EMBEDDING", "model_type": "STABLE_DIFFUSION_15"}', "embedding"),
        ('{"training_method": "LORA", "model_type": "FLUX_DEV_1"}', "for FLUX_DEV_1"),
        ('{"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15_INPAINTING"}', "INPAINT"),
        ("job: e\nconfig:\n  process:\n  - {network: {}, model: {is_flux: true}}", "for flux"),
        ("job: e\nconfig:\n  process:\n  - {network: {}, model: {arch: wan21}}", "for wan21"),
        ("job: e\nconfig:\n  process:\n  - {type: sd_trainer}", "a whole model"),
        ("hello: world", "of no trainer known here"),
        ("", "of no trainer known here"),
        ("[base]\nname = 'a'\n[adapter]\nrank = 3", "Rarebit's own settings"),
        ("a: &a [1]\nb: *a", "references"),
        ("[" * 9000, "can't be read"),
        ("!!python/object/apply:os.system [ls]", "can't be read"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        moved(text)
    assert words in str(refusal.value)


def test_command_counts_writes_and_never_overwrites(tmp_path: Path) -> None:
    folder = tmp_path / "sets" / "3_ohwx bear"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"")
    file, out = tmp_path / "k.json", tmp_path / "ours.toml"
    settings = {"train_data_dir": str(folder.parent), "max_train_epochs": 10}
    file.write_text(json.dumps({"LoRA_type": "Standard", "train_batch_size": 2, **settings}))
    answer = import_settings([file], out=out)
    config = read_config(out)
    assert (config.captions.trigger, config.captions.class_word) == ("ohwx", "bear")
    assert config.training.steps == 4 * 3 * 10 // 2
    assert json.loads(json.dumps(answer.as_dict(), default=str))["values"]["training.steps"] == 60
    with pytest.raises(UserError, match="exists already"):
        import_settings([file], out=out)


@pytest.mark.parametrize(
    ("settings", "steps", "others"),
    [
        ({"train_data_dir": "img", "max_train_epochs": 5}, 2 * 3 * 5, 3),
        ({"datasets": [{"subsets": [{"image_dir": "img/3_ohwx bear"}]}], "max_train_epochs": 5},
         2 * 5, 1),
        ({"training_method": "LORA", "epochs": 5, "concepts": [{"path": "img/3_ohwx bear"}]},
         2 * 5, 1),
        ({"training_method": "LORA", "epochs": 5,
          "concepts": [{"path": "img", "include_subdirectories": True}]}, 11 * 5, 0),
    ],
)  # fmt: skip
def test_what_is_not_trained_there_is_named_and_not_counted(
    settings: dict[str, Any], steps: int, others: int, tmp_path: Path
) -> None:
    names = ("3_ohwx bear/a", "3_ohwx bear/b", "3_ohwx bear/old/c", "loose", "unsorted/d")
    for name in names:
        file = tmp_path / "img" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "k.json").write_text(json.dumps({"base_model_name": "", **settings}))
    moved = import_settings([tmp_path / "k.json"]).moved
    assert moved.config.training.steps == steps
    said = [one.theirs for one in moved.lost if one.key == "pictures that are not trained there"]
    assert said == [others] * bool(others)


def test_command_writes_where_relative_folders_are(tmp_path: Path) -> None:
    """They lead from beside the file; what it writes is trained from any folder."""
    for folder in ("img/5_ohwx cat", "reg/1_cat"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(b"")
    settings = {"train_data_dir": "./img", "reg_data_dir": "./reg", "network_dim": 8}
    (tmp_path / "k.json").write_text(json.dumps(settings))
    config = import_settings([tmp_path / "k.json"]).moved.config
    assert config.images.path == tmp_path / "img"
    assert config.preservation.folder == str(tmp_path / "reg")
    assert config.captions.class_word == "cat"


@pytest.mark.parametrize(
    ("name", "words"), [("", "is a folder"), ("a.safetensors", "a model or an adapter")]
)
def test_command_says_what_is_no_file_of_settings(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        import_settings([tmp_path / name])


def test_command_reads_the_dataset_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(DATASET)
    (tmp_path / "k.toml").write_text('network_dim = 8\ndataset_config = "d.toml"\n')
    config = import_settings([tmp_path / "k.toml"]).moved.config
    assert config.images.path == Path("/sets/bear")


def test_page_opens_nothing_that_a_file_names(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(DATASET)
    text = f'network_dim = 8\ndataset_config = "{(tmp_path / "d.toml").as_posix()}"\n'
    config, found = read_settings([text.encode()])
    assert found is not None
    assert config.images.path == Path()
    assert config.adapter.rank == 8
    assert "Give that file too" in "\n".join(found.lines())


def test_page_still_reads_ours() -> None:
    config, found = read_settings([b"[adapter]\nrank = 7\n"])
    assert (config.adapter.rank, found) == (7, None)
    with pytest.raises(UserError, match="line 2"):
        read_settings([b"[adapter]\nrang = 7\n"])


def test_config_of_another_trainer_says_how_to_import_it(tmp_path: Path) -> None:
    file = tmp_path / "kohya.toml"
    file.write_text('network_module = "networks.lora"\nnetwork_dim = 32\n')
    with pytest.raises(UserError) as refusal:
        read_config(file)
    assert f"import {file}" in (refusal.value.hint or "")


def test_readers_are_told_apart() -> None:
    assert reading.trainer_of(parse_config(format_config(one(K, {}).config)).model_dump()) is None
