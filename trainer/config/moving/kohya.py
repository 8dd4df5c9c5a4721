"""sd-scripts' trainer and dataset files, and the JSON of kohya_ss, which starts them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.config.moving.theirs import KOHYA, WANTED, Theirs, TheirSet, is_on, number, squares
from trainer.errors import UserError
from trainer.untyped import as_table, is_list, is_table

_RENAMED = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
    "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "batch_size": "train_batch_size",
    "caption_extention": "caption_extension",
    "dataset_repeats": "num_repeats",
}
"""Other names of one option: of kohya_ss, of dataset files, and older ones."""
_OTHER_MODELS = {
    "flux1_checkbox": "Flux",
    "sd3_checkbox": "Stable Diffusion 3",
    "anima_checkbox": "Anima",
    "lumina_checkbox": "Lumina",
    "hunyuan_image_checkbox": "HunyuanImage",
}
_ONLY_LYCORIS = (
    *("decompose_both", "use_cp", "use_tucker", "use_scalar", "rank_dropout_scale"),
    *(
        "constrain",
        "rescaled",
        "unit",
        "train_norm",
        "train_on_input",
        "bypass_mode",
        "LyCORIS_preset",
    ),
)
_PER_FOLDER = ("image_dir", "metadata_file", "num_repeats", "class_tokens", "is_reg")
_NO_LORA = {"learning_rate_te", "learning_rate_te1", "full_path", "num_vectors_per_token"}
_ALGORITHMS = {"networks.lora": "lora", "lycoris.kohya": "lora", "locon.locon_kohya": "locon"}


def read_kohya(tree: Mapping[str, Any], open_named: Callable[[str], str | None]) -> Theirs:
    """Settings of sd-scripts; sections of a trainer file are heaped together, as it does.

    Raises:
        UserError: they are for models that are not Stable Diffusion.
    """
    from trainer.config.moving.theirs import parse

    values: dict[str, Any] = {}
    tables = ("datasets", "general")
    for key, value in tree.items():
        values |= value if is_table(value) and key not in tables else {key: value}
    theirs = Theirs(KOHYA, values)
    for key, model in _OTHER_MODELS.items():
        if is_on(values.pop(key, False)):
            raise UserError(
                f"These settings are for {model}, which Rarebit does not train.", WANTED
            )
    if not {"LoRA_type", "network_module"} & values.keys() and _NO_LORA & values.keys():
        raise UserError("These settings train a whole model or an embedding, not a LoRA.", WANTED)
    _read_window(values)
    for old, new in _RENAMED.items():
        if old in values:
            values.setdefault(new, values.pop(old))
    named = str(values.get("dataset_config") or "")
    if named and "datasets" not in values:
        text = open_named(named)
        values |= parse(text, named) if text else {}
        if text:
            del values["dataset_config"]
    _read_arguments(values)
    _read_network(values)
    _read_sets(theirs)
    _read_prompts(theirs, open_named)
    return theirs


def _read_window(values: dict[str, Any]) -> None:
    """What kohya_ss' window calls otherwise, or writes although it has no effect."""
    kind = values.pop("LoRA_type", None)
    if kind is None:
        return
    kind = str(kind).rpartition("/")[2].removeprefix("Kohya ").casefold()
    values["algo"] = "lora" if kind == "standard" else kind
    if kind not in ("locon",):
        for name in ("conv_dim", "conv_alpha", "conv_block_dims", "conv_block_alphas"):
            values.pop(name, None)
    for name in _ONLY_LYCORIS:
        values.pop(name, None)
    epochs, steps = values.pop("epoch", 0), values.get("max_train_steps")
    if not is_on(steps) and not is_on(values.get("max_train_epochs")):
        values["max_train_epochs"] = epochs
    # In per cent of the run; sd-scripts takes a number below 1 as a share.
    share = number(values.pop("lr_warmup", 0)) or 0.0
    if not is_on(values.get("lr_warmup_steps")):
        values["lr_warmup_steps"] = share / 100
    multires = str(values.pop("noise_offset_type", "Original")) == "Multires"
    for name in (
        ("noise_offset", "adaptive_noise_scale") if multires else ("multires_noise_iterations",)
    ):
        values.pop(name, None)
    if not is_on(values.get("multires_noise_iterations")):
        values.pop("multires_noise_discount", None)
    for name in ("text_encoder_lr", "unet_lr"):
        if values.get(name) == "":
            del values[name]
    for name in ("stop_text_encoder_training", "stop_text_encoder_training_pct"):
        values.pop(name, None)  # the window itself ignores it


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
                theirs.sets.append(TheirSet(str(path), 1, words, role))
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
        theirs.sets.append(TheirSet(path, repeats, words, role))
    keys = dict.fromkeys(key for one in found for key in one if key not in _PER_FOLDER)
    trained = [one for one in found if not is_on(one.get("is_reg"))] or found
    for key in keys:
        here = theirs.first_of(key, [one.get(key) for one in trained])
        values[_RENAMED.get(key, key)] = here
    theirs.sets[:] = dict.fromkeys(theirs.sets)  # one folder at several resolutions


def _subsets(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    general, sets = as_table(values.pop("general", None)), values.pop("datasets")
    for one in map(as_table, sets if is_list(sets) else []):
        subsets = one.get("subsets")
        shared = {key: value for key, value in one.items() if key != "subsets"}
        for subset in map(as_table, subsets if is_list(subsets) else []):
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
