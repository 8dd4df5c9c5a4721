"""Reads files of settings of other trainers, and brings each to a flat form in its own words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tomli
import yaml

from trainer.config.fields import sections
from trainer.config.mistakes import on_one_line, toml_reason
from trainer.errors import UserError
from trainer.untyped import as_table, is_list, is_table

KOHYA, ONETRAINER, AI_TOOLKIT = "kohya", "onetrainer", "ai-toolkit"
WANTED = "Give the settings of a LoRA for Stable Diffusion 1, 2 or XL."
NAMES = {KOHYA: "kohya's sd-scripts", ONETRAINER: "OneTrainer", AI_TOOLKIT: "ai-toolkit"}
_MARKS: Mapping[str, frozenset[str]] = {
    ONETRAINER: frozenset(
        {"training_method", "model_type", "base_model_name", "concept_file_name", "lora_rank"}
    ),
    KOHYA: frozenset(
        {
            "pretrained_model_name_or_path", "network_module", "network_dim", "train_data_dir",
            "LoRA_type", "unet_lr", "text_encoder_lr", "train_batch_size", "max_train_steps",
            "max_train_epochs", "dataset_config", "optimizer_type", "datasets", "lr_scheduler",
        }
    ),
}  # fmt: skip
_HINT = (
    "Give a TOML or JSON file of sd-scripts or kohya_ss, the JSON of OneTrainer, or the YAML of "
    "ai-toolkit."
)


@dataclass(frozen=True)
class TheirSet:
    """A folder of pictures as another trainer's settings name it."""

    path: str
    repeats: float = 1
    words: str = ""  # trigger and class word where the settings have them, such as ``sks girl``
    role: str = "train"  # what it is for: to train on, class pictures, or validation
    # Which pictures below it are trained there: "all", "direct" (in no folder of it), or "numbered"
    # (in its folders N_name, and in none of theirs).
    reads: str = "all"
    samples: int = 0  # of it in an epoch, whatever it has and however it is repeated


@dataclass
class Theirs:
    """Settings of another trainer."""

    trainer: str  # `KOHYA`, `ONETRAINER` or `AI_TOOLKIT`
    # What is set, by the trainer's own name for it; parts of nested names have dots.
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    sets: list[TheirSet] = field(default_factory=list[TheirSet])
    # Those to draw, each with ``prompt`` and perhaps ``negative``, ``seed``, ``steps`` and
    # ``guidance``.
    prompts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    # Found to have no counterpart while reading: name, value, reason.
    lost: list[tuple[str, Any, str]] = field(default_factory=list[tuple[str, Any, str]])

    def common(
        self, folders: Sequence[Mapping[str, Any]], without: Iterable[str] = (), prefix: str = ""
    ) -> dict[str, Any]:
        """The settings of several folders as one; the first counts where they differ: it is said.

        Args:
            without: settings that each folder has for itself.
            prefix: before the names, here and in what is said.
        """
        shared: dict[str, Any] = {}
        for name in dict.fromkeys(key for one in folders for key in one if key not in without):
            first, *others = found = [one.get(name) for one in folders]
            shared[prefix + name] = first
            if any(one != first for one in others):
                reason = "It differs between the folders, and here is one for the run: the first."
                self.lost.append((prefix + name, found, reason))
        return shared


class _Plain(yaml.SafeLoader):
    """YAML without references, with which a small file grows without end."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has references (*name)")
        return super().compose_node(parent, index)


def parse(text: str, source: str) -> dict[str, Any]:
    """The table, or list under the name ``concepts``, that a text of TOML, JSON or YAML holds.

    Raises:
        UserError: it is none of these.
    """
    read: Sequence[Callable[[str], Any]] = (
        json.loads,
        tomli.loads,
        lambda text: yaml.load(text, _Plain),
    )
    reasons: list[str] = []
    for one in read:
        try:
            tree = one(text)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            plain = isinstance(error, tomli.TOMLDecodeError)
            reason = f"line {error.lineno}: {toml_reason(error)}" if plain else str(error)
            reasons.append(" ".join(reason.split())[:200])
            continue
        if is_table(tree):
            return tree
        if is_list(tree):
            return {"concepts": tree}
    kinds = zip(("JSON", "TOML", "YAML"), reasons, strict=False)
    listed = "; ".join(f"as {kind}: {on_one_line(reason)}" for kind, reason in kinds)
    raise UserError(f"{source} can't be read as settings ({listed}).", _HINT)


def trainer_of(tree: Mapping[str, Any]) -> str | None:
    """Whose settings a tree is; None where that can't be told."""
    if "config" in tree and ("job" in tree or is_list(as_table(tree["config"]).get("process"))):
        return AI_TOOLKIT
    names = {*tree, *(key for value in tree.values() if is_table(value) for key in value)}
    found = {trainer: len(marks & names) for trainer, marks in _MARKS.items()}
    best = max(found, key=lambda trainer: found[trainer])
    return best if found[best] else None


def as_theirs(texts: Iterable[tuple[str, str]], open_named: Callable[[str], str | None]) -> Theirs:
    """One trainer's settings out of one or several files.

    Args:
        texts: source and text of each, such as a trainer file and a dataset file.
        open_named: the text of a file that a file names (its data sets, prompts or concepts), or
            None where it is not to be opened.

    Raises:
        UserError: a file is no such settings, or they are for another kind of model.
    """
    # Here, since it brings a tree to this module's forms.
    from trainer.config.moving import readers

    trees = [(source, parse(text, source)) for source, text in texts]
    found = [(source, tree, trainer_of(tree)) for source, tree in trees]
    known = list(dict.fromkeys(trainer for _, _, trainer in found if trainer))
    if len(known) != 1:
        sources = ", ".join(source for source, _ in trees)
        if all(tree and tree.keys() <= {*sections(), "concepts"} for _, tree in trees):
            hint = "Train with them as they are: train --config FILE."
            raise UserError(f"{sources}: these are Rarebit's own settings.", hint)
        what = "those of different trainers" if known else "those of no trainer known here"
        raise UserError(f"{sources}: these settings are {what}.", _HINT)
    read = {
        KOHYA: readers.read_kohya,
        ONETRAINER: readers.read_onetrainer,
        AI_TOOLKIT: readers.read_ai_toolkit,
    }
    merged: dict[str, Any] = {}
    for _, tree, _ in found:
        merged |= tree
    return read[known[0]](merged, open_named)


def number(value: Any) -> float | None:
    """A number, also one that is written as a text; None for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def is_on(value: Any) -> bool:
    """Whether a setting is anything but empty, off or 0, also as a text."""
    if isinstance(value, str):
        return value.strip().casefold() not in ("", "0", "0.0", "false", "none", "no", "off")
    return bool(value)


def squares(value: Any) -> list[tuple[int, int]]:
    """``512``, ``"512,768"`` or ``[512, 768]`` as one width and height; else nothing."""
    parts = value if is_list(value) else str(value).split(",")
    sides = [int(side) for part in parts if (side := number(part)) and 0 < side < 1e5]
    return [(sides[0], sides[-1])] if sides and len(sides) == len(parts) <= 2 else []
