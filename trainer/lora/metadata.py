"""What an adapter file says about itself, for the tools that show it and for training it again.

``ss_…`` is kohya's vocabulary, read by A1111, Forge and model sites; ``modelspec.…`` is ModelSpec
1.0.1; ``rarebit.config`` is the configuration. All values are strings. Nothing here depends on when
or where the file is written, so that the same training gives the same bytes, and nothing tells of
the user's disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from trainer import __version__
from trainer.config.adapting import PAIRS
from trainer.config.concepts import class_words_of, triggers_of
from trainer.config.fields import public_values
from trainer.config.file import validate
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.lora.adapter import Adapter
from trainer.lora.reading import json_table
from trainer.models import hub
from trainer.models.base import BaseModel
from trainer.models.diffusers_folder import missing_parts
from trainer.models.families import FAMILIES, Family, PredictionType
from trainer.models.identify import built_in_models
from trainer.untyped import is_table

CONFIG_KEY = "rarebit.config"
CHANGED_KEY = "rarebit.changed"  # since training: resized, tuned and the like
_BASE_KEY = "rarebit.base"
START_KEY = "rarebit.start_from"  # the adapter that the training went on from
_LYCORIS = "lycoris.kohya"  # sd-scripts' name of the module that reads LoHa and LoKr
MAX_TAGS = 500
MAX_TAG_LENGTH = 100
MAX_LENGTH = 100_000
"""A longer value is left out: a header beyond 1 MiB would make the file unreadable for ComfyUI."""


@dataclass(frozen=True)
class TrainingFacts:
    """What the configuration does not say."""

    title: str  # shown name; also that of ``<lora:NAME:1>`` in prompts
    steps: int  # optimizer steps that went into the adapter
    epochs: int  # passes over the images, counting the one it ended in
    # For each folder of the image set its repeats and number of images.
    folders: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    # For each folder how often each tag (or caption) occurs.
    tags: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    # Number of images of each (width, height).
    buckets: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    start: str = ""  # the adapter file that the training went on from, and its SHA-256


def build_metadata(config: TrainingConfig, base: BaseModel, facts: TrainingFacts) -> dict[str, str]:
    """The metadata of a trained adapter, but for the hashes, which writing the file adds."""
    metadata = model_metadata(base, facts.title)
    metadata |= _model_spec(config, base, facts) | _kohya(config, base, facts)
    metadata[START_KEY] = facts.start
    metadata[CONFIG_KEY] = _json(shareable_config(config))
    return {key: value for key, value in metadata.items() if 0 < len(value) <= MAX_LENGTH}


def model_metadata(base: BaseModel, title: str) -> dict[str, str]:
    """What the tools need to know of any adapter: its title, and the base model that it is for."""
    own = {_BASE_KEY: base.fingerprint, "rarebit.version": __version__}
    return _of_family(base.family, base.prediction_type, title) | own


def _of_family(family: Family, prediction: PredictionType, title: str) -> dict[str, str]:
    return {
        "ss_base_model_version": family.base_model_version,
        "ss_v2": str(family.name == "sd2"),
        "ss_network_module": "networks.lora",
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": family.architecture(prediction),
        "modelspec.title": title,
    }


def completed(adapter: Adapter, title: str) -> dict[str, str]:
    """An adapter's metadata with what tools need to know where the file does not say it."""
    if adapter.family is None:
        return adapter.metadata
    family = FAMILIES[adapter.family]
    v_prediction = adapter.metadata.get("modelspec.prediction_type") == "v"
    needed = _of_family(family, "v_prediction" if v_prediction else "epsilon", title)
    needed["modelspec.implementation"] = _implementation(family)
    if not adapter.is_plain:
        needed["ss_network_module"] = _LYCORIS
    scales = {(layer.rank, layer.alpha) for layer in adapter.layers.values()}
    if len(scales) == 1:
        rank, alpha = scales.pop()
        needed |= {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return needed | adapter.metadata


def _implementation(family: Family) -> str:
    """The code that defined the layout of adapters, as sd-scripts has it."""
    stability = "https://github.com/Stability-AI/generative-models"
    return stability if family.name == "sdxl" else "diffusers"


def shareable_config(config: TrainingConfig) -> dict[str, object]:
    """The configuration as JSON values, without what is private or does not change the adapter.

    The images' path, previews, checkpoints and the folders of a base model on the disk are left
    out; what remains is read back by ``TrainingConfig.model_validate``.
    """
    values = public_values(config)
    values["base"]["name"] = shareable_name(config.base.name)
    return values


def shareable_name(name: str) -> str:
    """A base model's name without the folders of this machine; hub ids stay whole.

    What exists on the disk, ends as a file does, or begins as a path does is a path.
    """
    is_path = (
        Path(name).exists()
        or name.lower().endswith(".safetensors")
        or name.startswith(("/", "~", "."))
        or "\\" in name
        or PureWindowsPath(name).drive != ""
        or name.count("/") > 1
    )
    return _last_element(name) if is_path else name


def _last_element(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name or "model"


def _model_spec(config: TrainingConfig, base: BaseModel, facts: TrainingFacts) -> dict[str, str]:
    triggers, side = ", ".join(triggers_of(config)), _resolution(config, base)
    fields = {
        "implementation": _implementation(base.family),
        "description": config.output.description,
        "author": config.output.author,
        "license": config.output.license,
        "resolution": f"{side}x{side}",
        "prediction_type": "v" if base.prediction_type == "v_prediction" else "epsilon",
        "trigger_phrase": triggers,
        "usage_hint": _usage_hint(triggers),
        "tags": ", ".join(class_words_of(config)),
    }
    return {f"modelspec.{name}": value for name, value in fields.items()}


def _usage_hint(triggers: str) -> str:
    if "," in triggers:
        return f"Use one of the trigger words {triggers} in the prompt."
    return f"Use the trigger word {triggers} in the prompt." if triggers else ""


def _kohya(config: TrainingConfig, base: BaseModel, facts: TrainingFacts) -> dict[str, str]:
    adapter, optimizer, training = config.adapter, config.optimizer, config.training
    side = _resolution(config, base)
    objective = config.objective
    debiased = objective.weighting == "debiased"
    rank, alpha = adapter.scale
    # As sd-scripts has it: texts.
    convolutions = {"conv_dim": str(rank), "conv_alpha": str(float(alpha))}
    rate = optimizer.learning_rate or base.family.learning_rate
    text_rate = optimizer.text_encoder_learning_rate or base.family.text_encoder_learning_rate
    folders = {
        folder: {"n_repeats": repeats, "img_count": count}
        for folder, (repeats, count) in facts.folders.items()
    }
    buckets = {
        str(index): {"resolution": list(size), "count": count}
        for index, (size, count) in enumerate(sorted(facts.buckets.items()))
    }
    values: dict[str, object] = {
        "sd_model_name": shareable_name(config.base.name),
        "network_dim": rank,
        "network_alpha": float(alpha),
        "network_dropout": adapter.dropout,
        "network_module": "networks.lora" if adapter.kind in PAIRS else _LYCORIS,
        "network_args": _json(
            (convolutions if adapter.targets == "convolution" else {})
            | ({} if adapter.kind in PAIRS else {"algo": adapter.kind})
            | ({"factor": str(adapter.factor)} if adapter.kind == "lokr" else {})
        ),
        "learning_rate": rate,
        "unet_lr": rate if adapter.unet else None,
        "text_encoder_lr": text_rate if adapter.text_encoder else None,
        "optimizer": optimizer.name,
        "lr_scheduler": optimizer.schedule,
        "lr_warmup_steps": round(optimizer.warmup * training.steps),
        "max_grad_norm": optimizer.max_gradient_norm,
        "steps": facts.steps,
        "max_train_steps": training.steps,
        "num_epochs": facts.epochs,
        "epoch": facts.epochs,
        "seed": training.seed,
        "mixed_precision": {"fp32": "no"}.get(training.precision, training.precision),
        "gradient_checkpointing": training.gradient_checkpointing,
        "gradient_accumulation_steps": training.accumulation,
        "batch_size_per_device": training.batch_size,
        "total_batch_size": training.batch_size * training.accumulation,
        "num_train_images": sum(n * count for n, count in facts.folders.values()),
        "num_reg_images": None if config.preservation.method == "pictures" else 0,
        "resolution": f"({side}, {side})",
        "enable_bucket": config.images.buckets,
        "min_snr_gamma": None if debiased else objective.min_snr_gamma or None,
        "debiased_estimation": debiased,
        "loss_type": {"mse": "l2"}.get(objective.loss, objective.loss),
        "huber_c": objective.huber_c if objective.loss != "mse" else None,
        "huber_schedule": objective.huber_schedule if objective.loss != "mse" else None,
        "noise_offset": objective.noise_offset or None,
        "multires_noise_discount": objective.multires_noise or None,
        "ip_noise_gamma": objective.input_perturbation or None,
        "caption_dropout_rate": config.captions.dropout,
        "shuffle_caption": config.captions.shuffle_tags,
        "clip_skip": config.base.clip_skip if config.base.clip_skip > 1 else None,
        "keep_tokens": config.captions.keep_tags,
        "dataset_dirs": _json(folders),
        "tag_frequency": _tag_frequency(facts),
        "bucket_info": _json({"buckets": buckets}),
    }
    return {f"ss_{name}": str(value) for name, value in values.items()}


def _tag_frequency(facts: TrainingFacts) -> str:
    """The commonest tags of each folder, as many as there is room for."""
    tags = {
        folder: sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        for folder, counts in facts.tags.items()
    }
    limit, text = MAX_TAGS, ""
    while limit and (not text or len(text) > MAX_LENGTH):
        text = _json({
            folder: {tag[:MAX_TAG_LENGTH]: count for tag, count in commonest[:limit]}
            for folder, commonest in tags.items()
        })  # fmt: skip
        limit //= 2
    return text


def _resolution(config: TrainingConfig, base: BaseModel) -> int:
    return config.images.resolution or base.default_resolution


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


# -- reading it back


def recipe_of(adapter: Adapter) -> TrainingConfig:
    """The configuration that an adapter was trained with, but for what `shareable_config` omits.

    The folder of pictures is to be filled in.

    Raises:
        UserError: the file records none, or one that this version does not understand; all
            mistakes are listed.
    """
    tree = json_table(adapter.metadata.get(CONFIG_KEY, ""))
    if tree is None:
        raise UserError(
            f"{adapter.source} records no recipe.",
            "Only adapters trained here do; adapter inspect shows what others say of themselves.",
        )
    return validate(tree, f"the recipe in {adapter.source}")


def recorded_base(adapter: Adapter) -> str | None:
    """The name of the base model that the file was trained on, if it is on this machine.

    Its fingerprint shows whether it is the same: `recorded_fingerprint`.
    """
    section = (json_table(adapter.metadata.get(CONFIG_KEY, "")) or {}).get("base")
    name = section.get("name") if is_table(section) else None
    if not isinstance(name, str) or _BASE_KEY not in adapter.metadata:
        return None
    if name in built_in_models():
        return name
    try:
        snapshot = hub.cached_snapshot(name)
    except (OSError, ValueError):
        return None
    return name if snapshot is not None and not missing_parts(snapshot) else None


def recorded_fingerprint(adapter: Adapter) -> str | None:
    """The fingerprint of the base model that the file was trained on."""
    return adapter.metadata.get(_BASE_KEY)
