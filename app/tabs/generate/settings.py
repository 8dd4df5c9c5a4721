"""The settings that pictures carry, read back into the form."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field, ValidationError

from app.tabs.generate.drawing import AdapterSetting, Settings
from trainer.data.decoder import read_texts
from trainer.errors import UserError

_STRENGTH = re.compile(r"-?[0-9.]{1,20}(?:e-?[0-9]{1,3})?")
_MOST_ADAPTERS = 50


class Restored(NamedTuple):
    """What was found in a picture.

    Attributes:
        settings: for the form; its adapters are those that are here.
        missing: what could not be found here, in words.
    """

    settings: Settings
    missing: tuple[str, ...] = ()


class _PictureFacts(BaseModel):
    """What `trainer.generation.sampling.save_picture` writes; anything else is left out."""

    prompt: str = Field(max_length=5000)
    negative: str = Field(default="", max_length=5000)
    seed: int = Field(ge=0, lt=2**31)
    width: int = Field(default=0, ge=0, le=4096)
    height: int = Field(default=0, ge=0, le=4096)
    inference_steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=0, le=100, allow_inf_nan=False)
    model: str = ""
    adapters: list[str] = []


def read_settings(path: Path, known: dict[str, str], bases: list[str]) -> Restored:
    """The settings in a picture drawn here, or by a tool that writes as A1111 does.

    Args:
        known: ids of the adapters that are here, by the names that pictures use.
        bases: the base models that are here.

    Raises:
        UserError: it carries none.
    """
    texts = read_texts(path)
    facts = _own_facts(texts.get("rarebit", "")) or _a1111_facts(texts.get("parameters", ""))
    if facts is None:
        raise UserError(
            "There are no settings in this picture.",
            "Pictures drawn here carry them, as long as no other program has saved them anew.",
        )
    named = [parse_adapter(text) for text in facts.adapters[:_MOST_ADAPTERS]]
    settings = Settings(
        **facts.model_dump(exclude={"model", "adapters"}),
        adapters=tuple(replace(one, id=known[one.id]) for one in named if one.id in known),
        base=facts.model if facts.model in bases else "",
    )
    missing = [f"the adapter {one.id}" for one in named if one.id not in known]
    if facts.model and not settings.base:
        missing.append(f"the base model {Path(facts.model).name}")
    return Restored(settings, tuple(missing))


def parse_adapter(text: str) -> AdapterSetting:
    """``NAME:STRENGTH`` or ``NAME:STRENGTH:TEXT_STRENGTH``; the name stands for the id."""
    text = text[:300]
    for count in (2, 1):
        name, *numbers = text.rsplit(":", count)
        strengths = [strength for number in numbers if (strength := _strength(number)) is not None]
        if name and len(strengths) == count:
            return AdapterSetting(name, *strengths)
    return AdapterSetting(text)


def _strength(text: str) -> float | None:
    try:
        value = float(text) if _STRENGTH.fullmatch(text) else math.nan
    except ValueError:  # such as 0.5.1
        return None
    return value if math.isfinite(value) else None


def _own_facts(text: str) -> _PictureFacts | None:
    try:
        return _PictureFacts.model_validate_json(text)
    except ValidationError:
        return None


def _a1111_facts(text: str) -> _PictureFacts | None:
    """``PROMPT <lora:NAME:1>``, ``Negative prompt: …`` and ``Steps: 20, Seed: 1, …``."""
    head, _, tail = text.rpartition("\n")
    pairs = {key: value for key, _, value in (p.strip().partition(": ") for p in tail.split(","))}
    prompt, _, negative = head.partition("\nNegative prompt: ")
    plain, adapters = _apart(prompt)
    width, _, height = pairs.get("Size", "").partition("x")
    facts = {
        "prompt": plain,
        "negative": negative,
        "seed": pairs.get("Seed"),
        "width": width,
        "height": height,
        "inference_steps": pairs.get("Steps"),
        "guidance": pairs.get("CFG scale"),
        "model": pairs.get("Model", ""),
        "adapters": adapters,
    }
    try:
        return _PictureFacts.model_validate(facts)
    except ValidationError:
        return None


def _apart(prompt: str) -> tuple[str, list[str]]:
    """A prompt without its ``<lora:NAME:1>`` and the spaces before them, and what stood in these.

    By hand, since patterns take quadratic time for many that are not closed.
    """
    first, *parts = prompt.split("<lora:")
    plain, adapters = [first], []
    for part in parts:
        name, closed, rest = part.partition(">")
        if name and closed:
            adapters.append(name)
            plain[-1] = plain[-1].rstrip()
            plain.append(rest)
        else:
            plain.append(f"<lora:{part}")
    return "".join(plain), adapters
