"""Which column of a table, or entry of a JSON file, holds the captions.

The column ``text`` counts; without it a name that only captions have; without that the only column
with sentences. Where several may be meant none is taken, and they are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.data.captions import clean_caption, clean_lines
from trainer.data.findings import Severity
from trainer.data.names import display_name, list_names
from trainer.untyped import as_list, is_list, is_sequence, is_table

# By falling likelihood; names in lower case.
_TIERS = (
    re.compile(r"text"),
    re.compile(r"captions?|prompts?"),
    re.compile(r"(?!.*negative).*(?:caption|prompt).*"),
    re.compile(
        r"descriptions?|(?:long|short|alt|image)[_ -]?(?:text|description)|alt|txt|sentences?|"
        r"additional_feature|annotations?"
    ),
    re.compile(r"tags?|tag_string|keywords?|labels?|titles?"),
)
_OTHER_FACTS = re.compile(
    r".*(?:url|uri|hash|md5|sha\d*|licen[cs]e|source|author|artist|copyright|user|rating|split|"
    r"date|time|created|updated|status|format|mime|ext|type|category|path|file|name|id|model|"
    r"negative).*"
)
_TAGS = re.compile(r".*(?:tag|keyword).*")


@dataclass(frozen=True)
class TextColumn:
    """The column of the captions."""

    name: str | None  # None where there is none, or it cannot be told
    # severity, message: what to say about it; "" for nothing.
    severity: Severity = "note"
    message: str = ""


def choose_text_column(columns: Mapping[str, Sequence[object]]) -> TextColumn:
    """The column with the captions.

    Args:
        columns: names and some values of all columns but those with the pictures.
    """
    texts = {
        name: values
        for name, values in columns.items()
        if any(map(_is_text, values)) or _plain(name) == "text"
    }
    tiers = [[name for name in texts if tier.fullmatch(_plain(name))] for tier in _TIERS]
    likely = [name for tier in tiers for name in tier]
    for names in filter(None, tiers):
        if len(names) > 1:
            return _unclear(names)
        others = [name for name in dict.fromkeys(likely) if name != names[0]]
        return TextColumn(names[0], *_about(names[0], others))
    sentences = [
        name
        for name, values in texts.items()
        if not _OTHER_FACTS.fullmatch(_plain(name)) and _has_sentences(values)
    ]
    if len(sentences) == 1:
        message = (
            f"Its column {_shown(sentences)} is taken for the captions, as the only one with "
            "sentences. Name it text if that is right."
        )
        return TextColumn(sentences[0], "warning", message)
    if sentences:
        return _unclear(sentences)
    names = _shown(list(columns), 10) or "none"
    return TextColumn(
        None, "warning", f"It has no column named text, so it gives no captions. It has: {names}."
    )


def _about(name: str, others: Sequence[str]) -> tuple[Severity, str]:
    if others:
        message = (
            f"Captions are read from its column {_shown([name])}, and not from {_shown(others)}."
        )
        return ("note" if _plain(name) == "text" else "warning"), message
    if _plain(name) == "text":
        return "note", ""
    return "note", f"Captions are read from its column {_shown([name])}."


def _unclear(names: Sequence[str]) -> TextColumn:
    message = (
        f"Which of its columns holds the captions cannot be told: {_shown(names, 10)}. None is "
        "used. Name the right one text."
    )
    return TextColumn(None, "error", message)


def caption_of(value: object, column: str) -> str | None:
    """The captions in a cell, a line each; None where it is no text.

    A list of tags is one caption, and so are lists by their kinds; any other list of texts is
    several.
    """
    if value is None:
        return ""
    tags = _TAGS.fullmatch(_plain(column))
    if isinstance(value, str):
        # As boorus write them: "long_hair red_eyes".
        if _plain(column).startswith("tag_string") or (tags and "_" in value and "," not in value):
            value = ", ".join(value.split())
        return clean_caption(value)
    value = _unnested(value)
    if is_sequence(value) and all(isinstance(item, str) for item in value):
        return (
            clean_caption(", ".join(value))
            if tags
            else clean_lines("\n".join(map(clean_caption, value)))
        )
    return None


def _plain(name: str) -> str:
    return name[:100].strip().casefold()


def _shown(names: Sequence[str], most: int = 5) -> str:
    return list_names([display_name(name[:40]) for name in names], most)


def _unnested(value: object) -> object:
    """The tags of ``{"general": ["cat"], "artist": ["bob"]}``, one list; else the same."""
    if is_table(value) and all(map(is_list, value.values())):
        return [item for one in value.values() for item in as_list(one)]
    return value


def _is_text(value: object) -> bool:
    value = _unnested(value)
    if is_sequence(value):
        return bool(value) and all(isinstance(item, str) for item in value)
    # Text that is neither empty nor a number.
    return isinstance(value, str) and not re.fullmatch(r"[\s\d.,:%+-]*", value)


def _has_sentences(values: Sequence[object]) -> bool:
    """Whether most texts have several words, and they are not all the same."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    lists = [value for value in values if is_sequence(value) and value]
    several = sum(" " in text.strip() or "," in text for text in texts) + len(lists)
    return several * 2 >= len(texts) + len(lists) and (
        len(set(texts)) > 1 or len(texts) == 1 or bool(lists)
    )
