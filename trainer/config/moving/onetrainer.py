"""OneTrainer's JSON, with the list of concepts inside it or in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.config.moving.theirs import ONETRAINER, WANTED, Theirs, TheirSet, is_on, number
from trainer.errors import UserError
from trainer.untyped import as_table, is_list, is_table

_FAMILIES = ("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_2", "STABLE_DIFFUSION_XL_10_BASE")
_OTHERS = ("INPAINTING", "DEPTH")
_EVERY = ("sample", "backup", "save")
_ROLES = {"STANDARD": "train", "VALIDATION": "validation", "PRIOR_PREDICTION": "prior prediction"}
_TEXT = {
    "enable_tag_shuffling", "keep_tags_count", "tag_delimiter", "caps_randomize_enable",
    "tag_dropout_enable", "tag_dropout_mode", "tag_dropout_probability", "tag_dropout_special_tags",
    "prompt_source", "prompt_path",
}  # fmt: skip


def read_onetrainer(tree: Mapping[str, Any], open_named: Callable[[str], str | None]) -> Theirs:
    """Settings of OneTrainer.

    Raises:
        UserError: they train something else than a LoRA of Stable Diffusion.
    """
    from trainer.config.moving.theirs import parse

    method = str(tree.get("training_method", "FINE_TUNE" if "model_type" in tree else "LORA"))
    if method != "LORA":
        what = method.replace("_", " ").casefold()
        raise UserError(f"These settings are for {what}, not for a LoRA.", WANTED)
    model = str(tree.get("model_type", _FAMILIES[0]))
    if not model.startswith(_FAMILIES) or model.endswith(_OTHERS):
        raise UserError(f"These settings are for {model}, which Rarebit does not train.", WANTED)
    theirs = Theirs(ONETRAINER, dict(_flat({k: v for k, v in tree.items() if not is_list(v)})))
    _read_every(theirs.values)
    _read_encoders(theirs, model)
    sides = [int(side) for part in str(tree.get("resolution", 512)).split(",")
             if (side := number(part))]  # fmt: skip
    theirs.values["resolution"] = [(side, side) for side in sides]
    if is_on(theirs.values.pop("lora_decompose", False)):
        theirs.values["peft_type"] = "DORA"
    named = str(tree.get("concept_file_name") or "")
    concepts = tree.get("concepts")
    if not concepts and named and (text := open_named(named)):
        concepts = parse(text, named).get("concepts")
    if concepts:
        theirs.values.pop("concept_file_name", None)
    _read_concepts(theirs, [as_table(one) for one in concepts if as_table(one).get("enabled", True)]
                   if is_list(concepts) else [])  # fmt: skip
    samples = tree.get("samples")
    for one in map(as_table, samples if is_list(samples) else []):
        if one.get("enabled", True):
            theirs.prompts.append(
                {"prompt": one.get("prompt"), "negative": one.get("negative_prompt"),
                 "seed": one.get("seed"), "steps": one.get("diffusion_steps"),
                 "guidance": one.get("cfg_scale")}
            )  # fmt: skip
    if theirs.prompts:
        theirs.values.pop("sample_definition_file_name", None)
    return theirs


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if is_table(value):
            yield from _flat(value, f"{prefix}{key}.") if prefix.count(".") < 3 else ()
        else:
            yield prefix + key, value


def _read_every(values: dict[str, Any]) -> None:
    """``sample_after`` with its unit becomes ``sample_after in STEP``, or the like."""
    for name in _EVERY:
        for key in (f"{name}_after", f"{name}_every"):
            if key in values:
                unit = values.pop(f"{key}_unit", "MINUTE" if key.endswith("after") else "NEVER")
                count = values.pop(key)
                if unit != "NEVER":
                    values[f"{name} in {unit}"] = count


def _read_encoders(theirs: Theirs, model: str) -> None:
    """SDXL's second text encoder trains too, and they stop after 30 epochs unless told not to."""
    values = theirs.values
    if model == _FAMILIES[2]:
        values.setdefault("text_encoder_2.train", True)
    for name in ("text_encoder", "text_encoder_2"):
        if values.get(f"{name}.stop_training_after_unit") == "NEVER":
            values.pop(f"{name}.stop_training_after", None)
        values.pop(f"{name}.stop_training_after_unit", None)
    values.pop("unet.stop_training_after_unit", None)


def _read_concepts(theirs: Theirs, concepts: list[dict[str, Any]]) -> None:
    for one in concepts:
        role = _ROLES.get(str(one.get("type", "STANDARD")), "train")
        repeats = number(one.get("balancing")) or 1.0
        theirs.sets.append(TheirSet(str(one.get("path") or ""), max(1, round(repeats)), "", role))
    trained = [one for one in concepts if one.get("type", "STANDARD") == "STANDARD"]
    for part in ("image", "text"):
        tables = [as_table(one.get(part)) for one in trained]
        names = dict.fromkeys(key for table in tables for key in table)
        for name in names:
            value = theirs.first_of(f"concept.{part}.{name}", [table.get(name) for table in tables])
            theirs.values[f"concept.{part}.{name}"] = value
    _only_where_enabled(theirs.values)


def _only_where_enabled(values: dict[str, Any]) -> None:
    """Strengths count only beside their switches."""
    for what in ("rotate", "brightness", "contrast", "saturation", "hue"):
        name = f"concept.image.enable_random_{what}"
        if not is_on(values.pop(name, False)):
            for strength in ("max_angle", "max_strength"):
                values.pop(f"concept.image.random_{what}_{strength}", None)
    if not is_on(values.pop("concept.text.tag_dropout_enable", False)):
        for key in [key for key in values if key.startswith("concept.text.tag_dropout")]:
            del values[key]
    if not is_on(values.get("masked_training")):
        values.pop("unmasked_weight", None)
        values.pop("unmasked_probability", None)
    if values.get("ema", "OFF") == "OFF":
        values.pop("ema_decay", None)
