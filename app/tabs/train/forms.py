"""Config fields and components: one table, both directions.

Every field of the configuration gets a component from what `trainer.config.fields` knows of it, so
a new field appears by itself. A form's values are a list in the order of `trainer.config.fields`;
``form -> configuration -> file -> form`` gives the same list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import gradio as gr
from gradio.components import Component

from app.shared import base_models, elem, image_sets
from trainer.config.fields import ConfigField, all_fields, get_value
from trainer.config.file import ConfigError, Mistake, validate
from trainer.config.presets import PRESETS
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.places import DATASETS, PROJECT

Kind = Literal["switch", "choice", "whole", "number", "lines", "text", "images", "base"]
Shown = str | int | float | bool | None
"""What a component shows."""

_EMPTY_LINE = '""'  # how the empty prompt is written in a list of one text a line
CONCEPTS = "concepts"
"""The name of the one field that is no section's: the list of concepts."""


# ------------------------------------------------------------------------------ the table


def kind_of(field: ConfigField) -> Kind:
    """What sort of component shows a field.

    Raises:
        TypeError: none can; a field of a new type needs a row here.
    """
    if field.name in ("images.path", "base.name"):
        return "images" if field.name == "images.path" else "base"
    if field.choices:
        return "choice"
    kinds: dict[str, Kind] = {
        "boolean": "switch",
        "integer": "whole",
        "number": "number",
        "array": "lines",
        "string": "text",
    }
    types = field.types - {"null"}
    if len(types) == 1 and (kind := kinds.get(next(iter(types)))):
        return kind
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
            "One subject a line: image set | trigger word | class word | share. Empty: the one "
            "subject of the choices above."
        )
    if name == "images.path":
        return "One of the image sets on this machine. Your own pictures become one in Images."
    text, label = all_fields()[name].description, label_of(name)
    rest = text.removeprefix(f"{label}: ")
    return rest[:1].upper() + rest[1:]


def make_component(name: str, shown: Shown, tab: str = "train") -> Component:
    """The component of a field, with its label, its explanation and what it shows at first."""
    # Bounds of numbers are left to the configuration, which names all mistakes at once.
    common: dict[str, Any] = {
        "value": shown,
        "label": label_of(name),
        "info": explanation(name),
        "elem_id": elem(tab, name.replace(".", "-").replace("_", "-")),
    }
    if name == CONCEPTS:
        return gr.Textbox(lines=2, max_lines=12, **common)
    field = all_fields()[name]
    kind = kind_of(field)
    if kind == "switch":
        return gr.Checkbox(**common)
    if kind == "choice":
        return gr.Dropdown(list(field.choices), **common)
    if kind == "base":
        return gr.Dropdown(base_models(), allow_custom_value=True, **common)
    if kind == "images":
        return gr.Dropdown(image_sets(), allow_custom_value=True, **common)
    if kind in ("whole", "number") and field.optional:
        # Gradio's number field (6.31) cannot be empty: it turns nothing into 0.
        return gr.Textbox(placeholder="what suits the base model", max_lines=1, **common)
    if kind in ("whole", "number"):
        return gr.Number(step=1 if kind == "whole" else 0.01, **common)
    if kind == "lines":
        return gr.Textbox(lines=3, max_lines=12, **common)
    return gr.Textbox(max_lines=1, **common)


# ------------------------------------------------------------------------------ both directions


def to_shown(field: ConfigField, value: object) -> Shown:
    """A field's value as its component shows it."""
    kind = kind_of(field)
    if kind == "lines":
        texts = cast("tuple[str, ...]", value)
        return "\n".join(" ".join(text.split()) or _EMPTY_LINE for text in texts)
    if kind == "images":
        return shown_folder(cast(Path, value))
    if kind in ("whole", "number") and field.optional:
        return "" if value is None else repr(value)
    if kind == "text":
        return "" if value is None else str(value)
    return cast(Shown, value)


def to_plain(field: ConfigField, shown: Shown) -> object:
    """What a component shows as a plain value for `trainer.config.file.validate`."""
    kind = kind_of(field)
    if kind == "lines":
        lines = [line.strip() for line in str(shown or "").splitlines() if line.strip()]
        return ["" if line == _EMPTY_LINE else line for line in lines]
    if kind == "images":
        return chosen_folder(str(shown or "")).as_posix()
    if kind in ("whole", "number"):
        number = _number(shown) if isinstance(shown, str) else shown
        if kind == "whole" and isinstance(number, float) and number.is_integer():
            return int(number)  # a browser knows one kind of number
        return number
    if kind in ("text", "base", "choice"):
        return shown or (None if field.optional else "")
    return shown


def _number(text: str) -> float | str | None:
    """The number that a text says, None for nothing, and the text itself for anything else."""
    text = text.strip()
    try:
        return float(text) if text else None
    except ValueError:
        return text


def shown_folder(path: Path) -> str:
    """An image set's id, or the path of a folder that lies elsewhere; "" for none."""
    if path == Path():
        return ""
    whole = PROJECT / path
    if whole.parent == DATASETS:
        return whole.name
    return f"./{path}" if len(path.parts) == 1 else str(path)


def chosen_folder(shown: str) -> Path:
    """The folder that `shown_folder` showed."""
    if not shown:
        return Path()
    if "/" in shown or "\\" in shown:
        return Path(shown)
    path = DATASETS / shown
    return path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path


def form_values(config: TrainingConfig) -> list[Shown]:
    """What the components of a whole form show for a configuration."""
    values = [to_shown(field, get_value(config, name)) for name, field in all_fields().items()]
    return [*values, _shown_concepts(config.concepts)]


def read_form(shown: Sequence[Shown]) -> TrainingConfig:
    """The configuration that a form shows.

    Raises:
        ConfigError: with all mistakes.
    """
    tree: dict[str, Any] = {}
    wrong: list[Mistake] = []
    for (name, field), value in zip(all_fields().items(), shown[:-1], strict=True):
        section, _, key = name.partition(".")
        plain = to_plain(field, value)
        if plain is None and not field.optional:
            wrong.append(Mistake(name, f"nothing given, expected {field.expected}"))
        else:
            tree.setdefault(section, {})[key] = plain
    tree[CONCEPTS] = _plain_concepts(str(shown[-1] or ""))
    return validate(tree, unknown=wrong)


def _shown_concepts(concepts: Sequence[ConceptConfig]) -> str:
    """One concept a line, ``image set | trigger | class word | share``."""
    return "\n".join(
        f"{shown_folder(one.path)} | {one.trigger} | {one.class_word} | {one.repeats}"
        for one in concepts
    )


def _plain_concepts(text: str) -> list[dict[str, object]]:
    """What stands in the lines, to be judged by the configuration."""
    concepts: list[dict[str, object]] = []
    for line in text.splitlines():
        if line.strip():
            cells = [cell.strip() for cell in line.split("|")] + [""] * 3
            share = cells[3] or "1"
            concepts.append(
                {
                    "path": chosen_folder(cells[0]).as_posix(),
                    "trigger": cells[1],
                    "class_word": cells[2],
                    "repeats": int(share) if share.isdecimal() else share,
                }
            )
    return concepts


def mistakes_by_field(error: ConfigError) -> dict[str, str]:
    """The message for each field; a contradiction stands beside every field that it names."""
    found: dict[str, str] = {}
    for mistake in error.mistakes:
        named = [name for name in all_fields() if name in mistake.message]
        own = mistake.field in all_fields()
        if mistake.field.startswith(CONCEPTS) or (not own and not named):
            place, message = mistake.field, f"{mistake.field}: {mistake.message}".lstrip(": ")
            found.setdefault(CONCEPTS if place.startswith(CONCEPTS) else "", _sentence(message))
        for name in [mistake.field] if own else named:
            found.setdefault(name, _sentence(mistake.message))
    return found


def _sentence(message: str) -> str:
    """A mistake's message in the words of the page."""
    for name in all_fields():
        message = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.])", f"“{label_of(name)}”", message)
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "?")) else ".")


def preset_values(name: str) -> dict[str, Shown]:
    """What the components of a preset's fields show, by the field's name."""
    return {
        dotted: to_shown(all_fields()[dotted], value)
        for dotted, value in PRESETS[name].values.items()
    }
