"""Reads the settings of three other trainers, each from the tree of its own files.

sd-scripts' trainer and dataset files with the JSON of kohya_ss, which starts them; OneTrainer's
JSON with its concepts; ai-toolkit's YAML or JSON, a job with one process that trains a LoRA.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.config.moving.theirs import (
    AI_TOOLKIT,
    KOHYA,
    ONETRAINER,
    WANTED,
    Theirs,
    TheirSet,
    is_on,
    number,
    parse,
    squares,
)
from trainer.errors import UserError
from trainer.untyped import as_table, as_tables, is_list, is_table


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables, down to the fifth level, by names with dots."""
    for key, value in tree.items():
        if is_table(value):
            yield from _flat(value, f"{prefix}{key}.") if prefix.count(".") < 4 else ()
        else:
            yield f"{prefix}{key}", value


def _leave_out(values: dict[str, Any], *names: str) -> None:
    for name in names:
        values.pop(name, None)


def _for_other(model: str) -> UserError:
    return UserError(f"These settings are for {model}, which Rarebit does not train.", WANTED)


# ------------------------------------------------------------------------ sd-scripts, kohya_ss


_RENAMED = {
    "max_resolution": "resolution", "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights", "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "batch_size": "train_batch_size", "caption_extention": "caption_extension",
    "dataset_repeats": "num_repeats",
}  # fmt: skip
"""Other names of one option: of kohya_ss, of dataset files, and older ones."""
# By what stands in the name of a network module, a kind of LoRA, or a box that is ticked.
_OTHER_MODELS = {
    **{"flux": "Flux", "sd3": "Stable Diffusion 3", "lumina": "Lumina", "anima": "Anima"},
    **{"hunyuan": "HunyuanImage", "wan": "Wan", "qwen": "Qwen-Image"},
}
_ONLY_LYCORIS = (
    *("decompose_both", "use_cp", "use_tucker", "use_scalar", "rank_dropout_scale", "constrain"),
    *("rescaled", "unit", "train_norm", "train_on_input", "bypass_mode", "LyCORIS_preset"),
)
_ONLY_LOCON = ("conv_dim", "conv_alpha", "conv_block_dims", "conv_block_alphas")
_PER_FOLDER = ("image_dir", "metadata_file", "num_repeats", "class_tokens", "is_reg")
_NO_LORA = {"learning_rate_te", "learning_rate_te1", "full_path", "num_vectors_per_token"}
_ALGORITHMS = {"networks.lora": "lora", "lycoris.kohya": "lora", "locon.locon_kohya": "locon"}


def read_kohya(tree: Mapping[str, Any], open_named: Callable[[str], str | None]) -> Theirs:
    """Settings of sd-scripts; sections of a trainer file are heaped together, as it does.

    Raises:
        UserError: they are for models that are not Stable Diffusion.
    """
    values: dict[str, Any] = {}
    tables = ("datasets", "general")
    for key, value in tree.items():
        values |= value if is_table(value) and key not in tables else {key: value}
    ticked = [key for key in [*values] if key.endswith("_checkbox") and is_on(values.pop(key))]
    named = f"{values.get('network_module')} {values.get('LoRA_type')} {ticked}".casefold()
    if part := next((part for part in _OTHER_MODELS if part in named), None):
        raise _for_other(_OTHER_MODELS[part])
    if is_table(values.get("datasets")):  # [datasets] in place of [[datasets]]
        values["datasets"] = [values["datasets"]]
    if not {"LoRA_type", "network_module"} & values.keys() and _NO_LORA & values.keys():
        raise UserError("These settings train a whole model or an embedding, not a LoRA.", WANTED)
    _read_window(values)
    for old, new in _RENAMED.items():
        if old in values:
            values.setdefault(new, values.pop(old))
    named = str(values.pop("dataset_config", None) or "")
    if named and "datasets" not in values:
        text = open_named(named)
        values |= parse(text, named) if text else {"dataset_config": named}
    _read_arguments(values)
    _read_network(values)
    _read_sets(theirs := Theirs(KOHYA, values))
    _read_prompts(theirs, open_named)
    return theirs


def _read_window(values: dict[str, Any]) -> None:
    """What kohya_ss' window calls otherwise, or writes although it has no effect."""
    kind = values.pop("LoRA_type", None)
    if kind is None:
        return
    others = () if "LyCORIS" in str(kind) else _ONLY_LYCORIS
    kind = str(kind).rpartition("/")[2].removeprefix("Kohya ").casefold()
    values["algo"] = "lora" if kind == "standard" else kind
    _leave_out(values, *others, *(_ONLY_LOCON if kind != "locon" else ()))
    epochs, steps = values.pop("epoch", 0), values.get("max_train_steps")
    if not is_on(steps) and not is_on(values.get("max_train_epochs")):
        values["max_train_epochs"] = epochs
    # In per cent of the run; sd-scripts takes a number below 1 as a share.
    share = number(values.pop("lr_warmup", 0)) or 0.0
    if not is_on(values.get("lr_warmup_steps")):
        values["lr_warmup_steps"] = share / 100
    multires = str(values.pop("noise_offset_type", "Original")) == "Multires"
    plain = ("noise_offset", "adaptive_noise_scale")
    _leave_out(values, *(plain if multires else ("multires_noise_iterations",)))
    if not is_on(values.get("multires_noise_iterations")):
        _leave_out(values, "multires_noise_discount")
    for name in ("text_encoder_lr", "unet_lr"):
        if values.get(name) == "":
            del values[name]
    # The window itself ignores these.
    _leave_out(values, "stop_text_encoder_training", "stop_text_encoder_training_pct")


def _read_arguments(values: dict[str, Any]) -> None:
    """``network_args`` and ``optimizer_args``: texts of the form ``name=value``."""
    for name, prefix in (("network_args", ""), ("optimizer_args", "optimizer_args.")):
        given: Any = values.pop(name, None) or ""
        texts = given if is_list(given) else _split(str(given))
        for text in map(str, texts):
            key, equals, value = text.partition("=")
            if equals:
                values[prefix + key.strip()] = value.strip()


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that is not closed
        return text.split()


def _read_network(values: dict[str, Any]) -> None:
    module = str(values.pop("network_module", "") or "")
    plain = module.removeprefix("networks.").rpartition("lora_")[2] or "lora"
    kind = values.pop("algo", None) or _ALGORITHMS.get(module, plain)
    if is_on(values.pop("dora_wd", False)):
        kind = "dora" if str(kind) in ("lora", "locon") else f"{kind} with DoRA"
    values["network_module"] = kind


def _read_sets(theirs: Theirs) -> None:
    """The folders of a dataset file, or of the options; settings of a folder become the run's."""
    values = theirs.values
    words = str(values.pop("class_tokens", "") or "")
    if "datasets" not in values:
        values.pop("general", None)
        for key, role in (("train_data_dir", "train"), ("reg_data_dir", "class pictures")):
            if path := values.pop(key, None):
                theirs.sets.append(TheirSet(str(path), 1, words, role, "numbered"))
        if value := values.pop("resolution", None):
            values["resolution"] = squares(value)
        return
    for replaced in ("train_data_dir", "reg_data_dir", "resolution"):
        values.pop(replaced, None)
    found = list(_subsets(values))
    values["resolution"] = [pair for one in found for pair in squares(one.pop("resolution", ""))]
    for one in found:
        path = str(one.get("image_dir") or one.get("metadata_file") or "")
        role = "class pictures" if is_on(one.get("is_reg")) else "train"
        repeats = int(number(one.get("num_repeats")) or 1)
        words = str(one.get("class_tokens") or "")
        theirs.sets.append(TheirSet(path, repeats, words, role, "direct"))
    trained = [one for one in found if not is_on(one.get("is_reg"))] or found
    shared = theirs.common(trained, _PER_FOLDER)
    values |= {_RENAMED.get(key, key): value for key, value in shared.items()}
    theirs.sets[:] = dict.fromkeys(theirs.sets)  # one folder at several resolutions


def _subsets(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    general, sets = as_table(values.pop("general", None)), values.pop("datasets")
    for one in as_tables(sets):
        shared = {key: value for key, value in one.items() if key != "subsets"}
        for subset in as_tables(one.get("subsets")):
            yield {**general, **shared, **subset}


def _read_prompts(theirs: Theirs, open_named: Callable[[str], str | None]) -> None:
    given = theirs.values.get("sample_prompts")
    if not is_on(given):
        return
    text = str(given)
    is_file = "\n" not in text and re.search(r"\.(txt|toml|json)$", text.strip(), re.IGNORECASE)
    opened = open_named(text.strip()) if is_file else text
    if opened is None or (is_file and not text.strip().casefold().endswith(".txt")):
        return  # said by the table
    del theirs.values["sample_prompts"]
    names = {"n": "negative", "d": "seed", "s": "steps", "l": "guidance"}
    for line in filter(None, map(str.strip, opened.splitlines())):
        if not line.startswith("#"):
            prompt, *options = f"{line} ".split(" --")
            found = {name: value.strip() for name, _, value in (o.partition(" ") for o in options)}
            given = {ours: found[name] for name, ours in names.items() if name in found}
            theirs.prompts.append({"prompt": prompt.strip(), **given})


# ---------------------------------------------------------------------------------- OneTrainer


_ONETRAINER_FAMILIES = ("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_2", "STABLE_DIFFUSION_XL_10_BASE")
_UNTRAINED = ("INPAINTING", "DEPTH")
_INTERVALS = ("sample", "backup", "save")
_ROLES = {"STANDARD": "train", "VALIDATION": "validation", "PRIOR_PREDICTION": "prior prediction"}


def read_onetrainer(tree: Mapping[str, Any], open_named: Callable[[str], str | None]) -> Theirs:
    """Settings of OneTrainer.

    Raises:
        UserError: they train something else than a LoRA of Stable Diffusion.
    """
    method = str(tree.get("training_method", "FINE_TUNE" if "model_type" in tree else "LORA"))
    if method != "LORA":
        what = method.replace("_", " ").casefold()
        raise UserError(f"These settings are for {what}, not for a LoRA.", WANTED)
    model = str(tree.get("model_type", _ONETRAINER_FAMILIES[0]))
    if not model.startswith(_ONETRAINER_FAMILIES) or model.endswith(_UNTRAINED):
        raise _for_other(model)
    theirs = Theirs(ONETRAINER, dict(_flat(tree)))
    _leave_out(theirs.values, "concepts", "samples")
    _read_every(theirs.values)
    _read_encoders(theirs, model)
    theirs.values["resolution"] = [
        pair
        for part in str(tree.get("resolution", 512)).casefold().split(",")
        for pair in squares(part.replace("x", ","))
    ]
    if not theirs.values["resolution"]:
        theirs.lost.append(("resolution", tree["resolution"], "It can't be read: 512 is taken."))
    if is_on(theirs.values.pop("lora_decompose", False)):
        theirs.values["peft_type"] = "DORA"
    named = str(tree.get("concept_file_name") or "")
    concepts = tree.get("concepts")
    if not concepts and named and (text := open_named(named)):
        concepts = parse(text, named).get("concepts")
    if concepts:
        theirs.values.pop("concept_file_name", None)
    _read_concepts(theirs, [one for one in as_tables(concepts) if one.get("enabled", True)])
    names = {"negative": "negative_prompt", "steps": "diffusion_steps", "guidance": "cfg_scale"}
    for one in as_tables(tree.get("samples")):
        if one.get("enabled", True):
            same = {name: one.get(name) for name in ("prompt", "seed")}
            theirs.prompts.append(same | {ours: one.get(name) for ours, name in names.items()})
    if theirs.prompts:
        theirs.values.pop("sample_definition_file_name", None)
    return theirs


def _read_every(values: dict[str, Any]) -> None:
    """``sample_after`` with its unit becomes ``sample in STEP``, or the like."""
    for name in _INTERVALS:
        for key in (f"{name}_after", f"{name}_every"):
            if key in values:
                unit = values.pop(f"{key}_unit", "MINUTE" if key.endswith("after") else "NEVER")
                # Given in another unit, it has no default in epochs.
                values |= {f"{name} in EPOCH": 0, f"{name} in {unit}": values.pop(key)}


def _read_encoders(theirs: Theirs, model: str) -> None:
    """SDXL's second text encoder trains too, and they stop after 30 epochs unless told not to."""
    values = theirs.values
    if model == _ONETRAINER_FAMILIES[2]:
        values.setdefault("text_encoder_2.train", True)
    for name in ("text_encoder", "text_encoder_2"):
        if values.pop(f"{name}.stop_training_after_unit", None) == "NEVER":
            _leave_out(values, f"{name}.stop_training_after")
    _leave_out(values, "unet.stop_training_after_unit")


def _read_concepts(theirs: Theirs, concepts: list[dict[str, Any]]) -> None:
    for one in concepts:
        role = _ROLES.get(str(one.get("type", "STANDARD")), "train")
        amount = number(one.get("balancing")) or 1.0
        samples = int(amount) if one.get("balancing_strategy") == "SAMPLES" else 0
        reads = "all" if is_on(one.get("include_subdirectories")) else "direct"
        theirs.sets.append(TheirSet(str(one.get("path") or ""), amount, "", role, reads, samples))
    trained = [one for one in concepts if one.get("type", "STANDARD") == "STANDARD"]
    for part in ("image", "text"):
        tables = [as_table(one.get(part)) for one in trained]
        theirs.values |= theirs.common(tables, prefix=f"concept.{part}.")
    _only_where_enabled(theirs.values)


def _only_where_enabled(values: dict[str, Any]) -> None:
    """Strengths count only beside their switches."""
    for what in ("rotate", "brightness", "contrast", "saturation", "hue"):
        name = f"concept.image.enable_random_{what}"
        if not is_on(values.pop(name, False)):
            strengths = (
                f"concept.image.random_{what}_{most}" for most in ("max_angle", "max_strength")
            )
            _leave_out(values, *strengths)
    if not is_on(values.pop("concept.text.tag_dropout_enable", False)):
        _leave_out(values, *[one for one in values if one.startswith("concept.text.tag_dropout")])
    if not is_on(values.get("masked_training")):
        _leave_out(values, "unmasked_weight", "unmasked_probability")
    if values.get("ema", "OFF") == "OFF":
        _leave_out(values, "ema_decay")
    elif "ema_decay" in values:
        _leave_out(values, "ema")


# ---------------------------------------------------------------------------------- ai-toolkit


_PROCESSES = ("sd_trainer", "ui_trainer", "diffusion_trainer", "")
_ARCHITECTURES = ("sd1", "sd15", "sd2", "sdxl", "")
_NOT_OURS = ("pixart", "pixart_sigma", "auraflow", "v3", "flux", "lumina2", "ssd", "vega")
_PER_DATASET = ("folder_path", "dataset_path", "num_repeats", "is_reg", "resolution")


def read_ai_toolkit(tree: Mapping[str, Any], open_named: Callable[[str], str | None]) -> Theirs:
    """Settings of ai-toolkit.

    Raises:
        UserError: they train something else than a LoRA of Stable Diffusion.
    """
    config = as_table(tree.get("config"))
    processes = as_tables(config.get("process"))
    process = processes[0] if processes else {}
    kind = str(process.get("type", ""))
    if kind not in _PROCESSES:
        raise UserError(f"These settings are for {kind or 'nothing'}, not for a LoRA.", WANTED)
    if "network" not in process:
        raise UserError(
            "These settings train a whole model, not a LoRA: they have no network.", WANTED
        )
    model = as_table(process.get("model"))
    arch = str(model.get("arch") or "").partition(":")[0]
    named = [name for name in _NOT_OURS if is_on(model.get(f"is_{name}"))]
    if named or arch not in _ARCHITECTURES:
        raise _for_other(arch or named[0])
    theirs = Theirs(AI_TOOLKIT)
    if len(processes) > 1:
        theirs.lost.append(("config.process", len(processes), "The first alone is taken."))
    rest = {key: value for key, value in process.items() if key not in ("datasets", "sample")}
    theirs.values |= dict(_flat(rest))
    theirs.values["config.name"] = config.get("name")
    if "network.rank" in theirs.values:
        theirs.values["network.linear"] = theirs.values.pop("network.rank")
    if "network.alpha" in theirs.values:
        theirs.values.setdefault("network.linear_alpha", theirs.values.pop("network.alpha"))
    if is_on(theirs.values.pop("train.ema_config.use_ema", False)):
        theirs.values.setdefault("train.ema_config.ema_decay", 0.999)  # which it is there
    else:
        theirs.values.pop("train.ema_config.ema_decay", None)
    _read_datasets(theirs, process.get("datasets"))
    _read_samples(theirs, as_table(process.get("sample")))
    return theirs


def _read_datasets(theirs: Theirs, given: Any) -> None:
    tables = as_tables(given)
    for one in tables:
        path = str(one.get("folder_path") or one.get("dataset_path") or "")
        role = "class pictures" if is_on(one.get("is_reg")) else "train"
        theirs.sets.append(TheirSet(path, int(number(one.get("num_repeats")) or 1), "", role))
    theirs.sets[:] = dict.fromkeys(theirs.sets)
    trained = [one for one in tables if not is_on(one.get("is_reg"))] or tables
    pairs = [
        pair
        for one in trained
        for side in (lambda v: v if is_list(v) else [v])(one.get("resolution", 512))
        for pair in squares(side)
    ]
    theirs.values["datasets.resolution"] = pairs
    theirs.values |= theirs.common(trained, _PER_DATASET, "datasets.")


def _read_samples(theirs: Theirs, sample: Mapping[str, Any]) -> None:
    prompts, samples = sample.get("prompts"), sample.get("samples")
    texts = [{"prompt": one} for one in prompts] if is_list(prompts) else []
    texts += as_tables(samples)
    names = {"neg": "negative", "sample_steps": "steps", "guidance_scale": "guidance"}
    shared = {names.get(key, key): sample.get(key) for key in ("seed", *names)}
    for one in texts:
        prompt = str(one.get("prompt") or "").replace("[trigger]", "{trigger}")
        theirs.prompts.append({**shared, "prompt": prompt})
    rest = {k: v for k, v in sample.items() if not is_list(v)}
    theirs.values |= {f"sample.{key}": value for key, value in rest.items()}
