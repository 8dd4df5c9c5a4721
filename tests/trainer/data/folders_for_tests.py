"""Image sets on disk for the tests of this room."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.corpus.pictures import encode, pattern
from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.findings import Finding
from trainer.data.report import SetReport, describe_set
from trainer.data.sets import ImageSet, scan_image_set

Files = dict[str, bytes | str]


def put(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write files, given by name below the folder; text as UTF-8."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return folder


def picture(seed: int, kind: str = "PNG", width: int = 96, height: int = 64) -> bytes:
    """A picture's file; every seed another picture."""
    return encode(pattern(width, height, seed), kind)


def described(
    folder: Path, files: Mapping[str, bytes | str], images: Any = None, **captions: Any
) -> SetReport:
    """The report on a set, of which every 75 words are a chunk."""
    fields = ImagesConfig.model_validate({"resolution": 64, **(images or {})})
    return describe_set(
        scan_image_set(put(folder, files)),
        fields,
        CaptionsConfig.model_validate(captions),
        step=32,
        count_chunks=lambda text: -(-len(text.split()) // 75),
    )


def captions_of(image_set: ImageSet) -> dict[str, str | None]:
    """Captions by name."""
    return {entry.name: entry.caption for entry in image_set.entries}


def about(image_set: ImageSet, name: str, words: str = "") -> list[Finding]:
    """The findings about a name whose message has some words (a regular expression)."""
    return [
        finding
        for finding in image_set.findings
        if name in finding.name and re.search(words, finding.message)
    ]
