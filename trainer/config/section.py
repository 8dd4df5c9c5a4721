"""What the configuration is declared with: `Section` and `field`.

Everything that is known of a field stands where it is declared: its help is the text below it, and
`field` takes the rest. The file's comments, ``--help``, the page, the docs, resuming, the metadata
of adapters and the prediction of memory read it from there (`trainer.config.fields`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticKnownError

from trainer.untyped import is_sequence

PositiveInt = Annotated[int, Field(ge=1)]
PictureSide = Annotated[int, Field(ge=32, le=4096)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=100.0)]
T = TypeVar("T")
# Neither TOML nor JSON has paths and tuples: these are made from texts and lists.
FilePath = Annotated[Path, Strict(False)]
Several = Annotated[tuple[T, ...], Strict(False)]


class Section(BaseModel):
    """A group of fields: frozen, unknown keys refused, types taken strictly."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: object) -> object:
        """Refuses what nobody means: stray bytes of a command line, and "C:\\new" with its \\n."""
        for text in value if is_sequence(value) else (value,):
            if isinstance(text, str) and re.search("[\ud800-\udfff]", text):
                raise PydanticKnownError("string_unicode")
            if isinstance(text, str) and re.match(r"[A-Za-z]:[^\n]{0,150}[\a-\r]", text):
                raise ValueError(
                    "a \\ in double quotes begins a sign such as \\n: write paths with / or in "
                    "single quotes"
                )
        return value

    @classmethod
    def title(cls) -> str:
        """What the section is called on the page."""
        return cls.model_config.get("title") or cls.__name__


def field(
    default: object = ...,
    *,
    title: str | None = None,
    flag: str = "",
    resume: bool = False,
    private: bool = False,
    place: bool = False,
    memory: bool = False,
    needs: Mapping[str, object] | None = None,
    before: object = ...,
    **limits: Any,
) -> Any:
    """A field of a section.

    Args:
        default: left out for a field that must be given.
        title: label on the page; None: the name with spaces.
        flag: option of the command line with its metavar, ``--rank R``; empty: only ``--set``.
        resume: it may change when a run goes on. All else decides what the steps so far were.
        private: it says something of the user's disk, or nothing about the adapter: it stays out of
            an adapter's metadata.
        place: it names a place on the user's disk: others are shown its last part at most.
        memory: what a run needs of a card's memory depends on it.
        needs: what other fields must be for this one to have an effect, by dotted name: a value,
            a list of them, or True for anything that is not off, empty or 0; of names joined by
            " or " one is enough.
        before: what runs of versions that did not have it yet did, as the file would say it; left
            out where that is the default. Such a run goes on with it.
        limits: what `pydantic.Field` takes, such as ge, le, max_length and pattern.
    """
    facts: JsonDict = {
        "flag": flag,
        "resume": resume,
        "private": private,
        "place": place,
        "memory": memory,
        "needs": cast("JsonDict", dict(needs or {})),
    }
    if before is not ...:
        facts["before"] = cast("Any", before)
    extra = cast("Any", Field)
    return extra(default, title=title, json_schema_extra=facts, **limits)


def number_by_pattern(line: str) -> tuple[str, float]:
    """The pattern and the number of a line.

    Raises:
        ValueError: it is not of this form.
    """
    pattern, equals, number = (part.strip() for part in line.rpartition("="))
    try:
        if pattern and equals:
            return pattern, float(number)
    except ValueError:
        pass
    raise ValueError(f"{line!r} is not PATTERN = NUMBER, such as unet.up_blocks.* = 2")


def number_for(layer: str, lines: Iterable[str], otherwise: float) -> float:
    """What the lines say of a layer, such as ``unet.mid_block.attentions.0.proj_in``."""
    fitting = [
        number for pattern, number in map(number_by_pattern, lines) if fnmatchcase(layer, pattern)
    ]
    return fitting[-1] if fitting else otherwise
