"""ai-toolkit's YAML or JSON: a job with one process that trains a LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.config.moving.theirs import (
    AI_TOOLKIT,
    WANTED,
    Theirs,
    TheirSet,
    is_on,
    number,
    squares,
)
from trainer.errors import UserError
from trainer.untyped import as_table, is_list, is_table

_TRAINERS = ("sd_trainer", "ui_trainer", "diffusion_trainer", "")
_FAMILIES = ("sd1", "sd15", "sd2", "sdxl", "")
_NOT_OURS = ("pixart", "pixart_sigma", "auraflow", "v3", "flux", "lumina2", "ssd", "vega")
_PER_FOLDER = ("folder_path", "dataset_path", "num_repeats", "is_reg", "resolution")


def read_ai_toolkit(tree: Mapping[str, Any], open_named: Callable[[str], str | None]) -> Theirs:
    """Settings of ai-toolkit.

    Raises:
        UserError: they train something else than a LoRA of Stable Diffusion.
    """
    config = as_table(tree.get("config"))
    given = config.get("process")
    processes = given if is_list(given) else []
    process = as_table(processes[0]) if processes else {}
    kind = str(process.get("type", ""))
    if kind not in _TRAINERS:
        raise UserError(f"These settings are for {kind or 'nothing'}, not for a LoRA.", WANTED)
    if "network" not in process:
        raise UserError(
            "These settings train a whole model, not a LoRA: they have no network.", WANTED
        )
    model = as_table(process.get("model"))
    arch = str(model.get("arch") or "").partition(":")[0]
    named = [name for name in _NOT_OURS if is_on(model.get(f"is_{name}"))]
    if named or arch not in _FAMILIES:
        what = arch or named[0]
        raise UserError(f"These settings are for {what}, which Rarebit does not train.", WANTED)
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
    if not is_on(theirs.values.pop("train.ema_config.use_ema", False)):
        theirs.values.pop("train.ema_config.ema_decay", None)
    _read_sets(theirs, process.get("datasets"))
    _read_samples(theirs, as_table(process.get("sample")))
    return theirs


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if is_table(value):
            yield from _flat(value, f"{prefix}{key}.") if prefix.count(".") < 4 else ()
        else:
            yield f"{prefix}{key}", value


def _read_sets(theirs: Theirs, given: Any) -> None:
    tables = [as_table(one) for one in given] if is_list(given) else []
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
    names = dict.fromkeys(key for one in trained for key in one if key not in _PER_FOLDER)
    for name in names:
        value = theirs.first_of(f"datasets.{name}", [one.get(name) for one in trained])
        theirs.values[f"datasets.{name}"] = value


def _read_samples(theirs: Theirs, sample: Mapping[str, Any]) -> None:
    prompts, samples = sample.get("prompts"), sample.get("samples")
    texts = [{"prompt": one} for one in prompts] if is_list(prompts) else []
    texts += [as_table(one) for one in samples] if is_list(samples) else []
    names = {"neg": "negative", "sample_steps": "steps", "guidance_scale": "guidance"}
    shared = {names.get(key, key): sample.get(key) for key in ("seed", *names)}
    for one in texts:
        prompt = str(one.get("prompt") or "").replace("[trigger]", "{trigger}")
        theirs.prompts.append({**shared, "prompt": prompt})
    rest = {k: v for k, v in sample.items() if not is_list(v)}
    theirs.values |= {f"sample.{key}": value for key, value in rest.items()}
