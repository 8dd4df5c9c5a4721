"""Fields of the configuration and components of the page: one table, both directions.

Every field gets a component from what `trainer.config.fields` knows of it, so a new field appears
by itself. A form's values are a list in the order of `field_names`;
``form -> configuration -> file -> form`` gives the same list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.components import Component

from app.allowed import base_models
from app.shared import elem
from app.tabs.images.imagesets import set_choices
from trainer import places
from trainer.config.fields import ConfigField, all_fields, get_value
from trainer.config.file import ConfigError, Mistake, validate
from trainer.config.presets import PRESETS
from trainer.config.schema import ConceptConfig, TrainingConfig

Kind = Literal["switch", "choice", "whole", "number", "lines", "text", "images", "base"]
Shown = str | int | float | bool | None
"""What a component shows."""

CONCEPTS = "concepts"
"""The name of the one field that is no section's: the list of concepts."""

_KINDS: dict[str, Kind] = {
    "boolean": "switch",
    "integer": "whole",
    "number": "number",
    "array": "lines",
    "string": "text",
}
_SOURCE = re.compile(r"\s\([^()]{0,150}arXiv[^()]{0,150}\)")
_OF_SUBJECT = re.compile(r"concepts (\d{1,3})\.(\w{1,30})")
_NAME = re.compile(r"(?<![\w.])[a-z]{1,20}\.\w{1,40}(?![\w]|\.\w)")
_EMPTY_LINE = '""'  # how the empty prompt is written in a list of one text a line


# ------------------------------------------------------------------------------ components


def kind_of(field: ConfigField) -> Kind:
    """What sort of component shows a field.

    Raises:
        TypeError: none can; a field of a new type needs a row in `_KINDS`.
    """
    if field.name == "images.path":
        return "images"
    if field.name == "base.name":
        return "base"
    if field.choices:
        return "choice"
    types = list(field.types - {"null"})
    if len(types) == 1 and types[0] in _KINDS:
        return _KINDS[types[0]]
    raise TypeError(f"no component shows {field.name}, which may be {sorted(field.types)}")


def field_names() -> list[str]:
    """The fields of a form in their order."""
    return [*all_fields(), CONCEPTS]


def label_of(name: str) -> str:
    """What a field is called on the page."""
    if name == CONCEPTS:
        return TrainingConfig.model_fields[name].title or name
    return all_fields()[name].title


def explanation(name: str) -> str:
    """What a field is for, without its label again in front."""
    if name == CONCEPTS:
        return (
            "One subject a line: image set | trigger word | class word | share of the training | "
            "what its errors count beside the others'. The last two may be left out."
        )
    if name == "images.path":
        return "One of the image sets on this machine. Your own pictures become one in Images."
    text, label = _with_labels(without_sources(all_fields()[name].description)), label_of(name)
    text = text.removeprefix(f"{label}: ").removeprefix(f"{label}. ")
    return text[:1].upper() + text[1:]


def without_sources(text: str) -> str:
    """A text of the configuration without the papers it names: docs/configuration.md has them."""
    return _SOURCE.sub("", text)


def make_component(name: str, shown: Shown) -> Component:
    """The component of a field, with its label, its explanation and what it shows at first."""
    # Bounds of numbers are left to the configuration, which names all mistakes at once.
    common: dict[str, Any] = {
        "value": shown,
        "label": label_of(name),
        "info": explanation(name),
        "elem_id": elem("train", name.replace(".", "-").replace("_", "-")),
    }
    if name == CONCEPTS:
        return gr.Textbox(lines=2, max_lines=12, **common)
    field = all_fields()[name]
    match kind_of(field):
        case "switch":
            return gr.Checkbox(**common)
        case "choice":
            return gr.Dropdown(list(field.choices), **common)
        case "base":
            return gr.Dropdown(base_models(), allow_custom_value=True, **common)
        case "images":
            return gr.Dropdown(set_choices(), allow_custom_value=True, **common)
        case "whole" | "number" if field.optional:
            # Gradio's number field (6.31) cannot be empty: it turns nothing into 0.
            return gr.Textbox(placeholder="what suits the base model", max_lines=1, **common)
        case "whole" | "number" as kind:
            return gr.Number(step=1 if kind == "whole" else 0.01, **common)
        case "lines":
            return gr.Textbox(lines=3, max_lines=12, **common)
        case "text":
            return gr.Textbox(max_lines=1, **common)


# ------------------------------------------------------------------------------ both directions


def to_shown(field: ConfigField, value: Any) -> Shown:
    """A field's value as its component shows it."""
    match kind_of(field):
        case "lines":
            return "\n".join(" ".join(str(item).split()) or _EMPTY_LINE for item in value)
        case "images":
            return shown_folder(value)
        case "whole" | "number" if field.optional:
            return "" if value is None else repr(value)
        case "text":
            return "" if value is None else str(value)
        case _:
            return value


def to_plain(field: ConfigField, shown: Shown) -> object:
    """What a component shows as a plain value for `trainer.config.file.validate`."""
    match kind_of(field):
        case "lines":
            lines = filter(None, map(str.strip, str(shown or "").splitlines()))
            if field.schema["items"]["type"] != "string":
                return [int(line) if line.isdecimal() else line for line in lines]
            return ["" if line == _EMPTY_LINE else line for line in lines]
        case "images":
            return chosen_folder(str(shown or "")).as_posix()
        case "whole" | "number" as kind:
            number = _number(shown) if isinstance(shown, str) else shown
            # A browser knows one kind of number.
            is_whole = kind == "whole" and isinstance(number, float) and number.is_integer()
            return int(number) if is_whole and number is not None else number
        case "switch":
            return shown
        case _:
            return shown or (None if field.optional else "")


def _number(text: str) -> float | str | None:
    """The number that a text says, None for nothing, and the text itself for anything else."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text.strip()


def shown_folder(path: Path) -> str:
    """An image set's id, or the path of a folder that lies elsewhere; "" for none."""
    if path == Path():
        return ""
    if (places.PROJECT / path).parent == places.DATASETS:
        return path.name
    return f"./{path}" if len(path.parts) == 1 else str(path)


def chosen_folder(shown: str) -> Path:
    """The folder that `shown_folder` showed."""
    if not shown or "/" in shown or "\\" in shown:
        return Path(shown)
    path = places.DATASETS / shown
    return path.relative_to(places.PROJECT) if path.is_relative_to(places.PROJECT) else path


def form_values(config: TrainingConfig) -> list[Shown]:
    """What the components of a whole form show for a configuration."""
    values = [to_shown(field, get_value(config, name)) for name, field in all_fields().items()]
    return [*values, "\n".join(map(_shown_concept, config.concepts))]


def read_form(shown: Sequence[Shown]) -> TrainingConfig:
    """The configuration that a form shows.

    Raises:
        ConfigError: with all mistakes.
    """
    tree: dict[str, Any] = {}
    wrong: list[Mistake] = []
    for field, value in zip(all_fields().values(), shown[:-1], strict=True):
        plain = to_plain(field, value)
        if plain is None and not field.optional:
            wrong.append(Mistake(field.name, f"nothing given, expected {field.expected}"))
        else:
            tree.setdefault(field.section, {})[field.key] = plain
    lines = filter(None, map(str.strip, str(shown[-1] or "").splitlines()))
    tree[CONCEPTS] = [_plain_concept(line) for line in lines]
    return validate(tree, unknown=wrong)


def preset_values(name: str, base: str = "") -> dict[str, Shown]:
    """What the components of a preset's fields show, by the field's name.

    Args:
        base: the base model that the form shows. One that the user chose stays.
    """
    values = dict(PRESETS[name].values)
    offered = {one.values.get("base.name") for one in PRESETS.values()}
    if base and base not in {*offered, all_fields()["base.name"].default}:
        values.pop("base.name", None)
    return shown_values(values)


def shown_values(values: Mapping[str, object]) -> dict[str, Shown]:
    """What the components of some fields show, by the field's name."""
    fields = all_fields()
    return {key: to_shown(fields[key], value) for key, value in values.items()}


def _shown_concept(one: ConceptConfig) -> str:
    """``image set | trigger | class word | share``, and the loss weight where there is one."""
    shown = f"{shown_subject(one.path, one.trigger, one.class_word)} | {one.repeats}"
    return shown if one.loss_weight == 1 else f"{shown} | {one.loss_weight:g}"


def shown_subject(path: Path, trigger: str, class_word: str) -> str:
    """``image set | trigger | class word``."""
    return f"{shown_folder(path)} | {trigger} | {class_word}"


def _plain_concept(line: str) -> dict[str, object]:
    """What stands in a line, to be judged by the configuration."""
    cells = [cell.strip() for cell in line.split("|")] + [""] * 4
    share, weight = cells[3] or "1", cells[4] or "1"
    return {
        "path": chosen_folder(cells[0]).as_posix(),
        "trigger": cells[1],
        "class_word": cells[2],
        "repeats": int(share) if share.isdecimal() else share,
        "loss_weight": _number(weight),
    }


# ------------------------------------------------------------------------------ mistakes


def mistakes_by_field(error: ConfigError) -> dict[str, str]:
    """The message for each field; "" for what is no field's.

    A contradiction stands at every field of it.
    """
    known = field_names()
    found: dict[str, str] = {}
    for mistake in error.mistakes:
        message, names = mistake.message, mistake.fields or (mistake.field,)
        if names[0] not in known:
            of_subject = _OF_SUBJECT.fullmatch(mistake.field)
            if of_subject and message.startswith('""'):
                message = "give a rare word behind the first |, such as ohwx"
            where = "line {}, {}".format(*of_subject.groups()) if of_subject else mistake.field
            message = f"{where.replace('_', ' ')}: {message}".lstrip(": ")
            names = (CONCEPTS if mistake.field.startswith(CONCEPTS) else "",)
        for name in names:
            found.setdefault(name, _sentence(message))
    return found


def _sentence(message: str) -> str:
    """A mistake's message in the words of the page."""
    message = _with_labels(message)
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "?")) else ".")


def _with_labels(text: str) -> str:
    """A text with the labels of fields in place of their names."""
    fields = all_fields()
    return _NAME.sub(
        lambda match: f"“{label_of(match[0])}”" if match[0] in fields else match[0], text
    )
