"""Caption files beside pictures: which belongs to which, told by name and never by position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data.captions import (
    MAX_CAPTION_BYTES,
    MAX_CAPTION_CHARACTERS,
    clean_caption,
    decode_caption,
)
from trainer.data.findings import Finding
from trainer.data.folders import CAPTION_SUFFIXES, FoundFile
from trainer.data.names import display_name, list_names, matching_key


@dataclass
class Captions:
    """Captions by the name of the picture, and what was doubtful about them."""

    texts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read_sidecars(pictures: list[FoundFile], files: list[FoundFile]) -> Captions:
    """The captions that stand in files beside the pictures.

    A caption file belongs to the pictures with its own name but for the suffix (``a.txt`` to
    ``a.png``, or ``a.png.txt`` to ``a.png``); where there are none, to those whose name differs
    in case or Unicode form only. With several for a picture, ``a.png.txt`` comes before
    ``a.txt``, and ``.txt`` before ``.caption``.
    """
    owners = _Owners(pictures)
    owned = {file.name: owners.of(file) for file in files}
    captions = Captions(findings=_ownership_findings(files, owned))
    candidates: dict[str, list[FoundFile]] = defaultdict(list)
    texts: dict[str, str] = {}
    for file in files:
        if owned[file.name]:
            texts[file.name] = _read(file, captions.findings)
        for picture in owned[file.name]:
            candidates[picture.name].append(file)
    for picture in pictures:
        found = sorted(candidates[picture.name], key=lambda file: _rank(file, picture))
        if len(found) > 1:
            names = list_names([file.shown for file in found])
            message = f"It has several caption files, and the first counts: {names}. Delete others."
            captions.findings.append(Finding(picture.shown, "warning", message))
        if found and (text := texts[found[0].name]):
            captions.texts[picture.name] = text
    return captions


def _ownership_findings(files: list[FoundFile], owned: dict[str, list[FoundFile]]) -> list[Finding]:
    findings = []
    for file in files:
        if len(owned[file.name]) > 1:
            names = list_names([picture.shown for picture in owned[file.name]])
            message = f"It belongs to several pictures, and all get it: {names}. Name them apart."
            findings.append(Finding(file.shown, "warning", message))
    if orphans := [file.shown for file in files if not owned[file.name]]:
        message = (
            "No picture beside it has its name, so it is used for nothing. A caption must be named "
            "like its picture."
        )
        findings.append(Finding(list_names(orphans), "note", message))
    return findings


class _Owners:
    """Finds the pictures that a caption file's name points to."""

    def __init__(self, pictures: Iterable[FoundFile]) -> None:
        self._tables: list[dict[str, list[FoundFile]]] = [defaultdict(list) for _ in range(4)]
        for picture in pictures:
            for table, key in zip(self._tables, self._keys(picture), strict=True):
                table[key].append(picture)

    @staticmethod
    def _keys(picture: FoundFile) -> tuple[str, str, str, str]:
        names = (picture.name, picture.stem)
        return (*names, matching_key(names[0]), matching_key(names[1]))

    def of(self, file: FoundFile) -> list[FoundFile]:
        exact = file.stem
        loose = matching_key(exact)
        for table, key in zip(self._tables, (exact, exact, loose, loose), strict=True):
            if key in table:
                return table[key]
        return []


def _rank(file: FoundFile, picture: FoundFile) -> tuple[bool, int, str]:
    whole = matching_key(file.stem) == matching_key(picture.name)
    return (not whole, CAPTION_SUFFIXES.index(file.path.suffix.casefold()), file.name)


def _read(file: FoundFile, findings: list[Finding]) -> str:
    """A caption file's text; "" where it has none or cannot be read, with a finding."""
    try:
        data = read_start(file.path, MAX_CAPTION_BYTES)
    except OSError as error:
        findings.append(Finding(file.shown, "error", f"It cannot be read ({error.strerror})."))
        return ""
    text = decode_caption(data)
    if not text:
        message = "It is empty: trigger and class word will be the caption instead."
        findings.append(Finding(file.shown, "warning", message))
    if len(data) > MAX_CAPTION_BYTES or len(text) == MAX_CAPTION_CHARACTERS:
        message = (
            f"It is longer than {MAX_CAPTION_CHARACTERS:,} characters, and is cut there. The model "
            "reads 75 tokens, some 50 words."
        )
        findings.append(Finding(file.shown, "warning", message))
    return text


def read_start(path: Path, size: int) -> bytes:
    """The first ``size`` bytes of a file, and one more if there is more."""
    with path.open("rb") as stream:
        return stream.read(size + 1)


def merge_captions(captions: Captions, table: Captions) -> Captions:
    """Captions of sidecars and of a metadata table together; the sidecar's counts."""
    merged = Captions({**table.texts, **captions.texts}, captions.findings + table.findings)
    for name in sorted(captions.texts.keys() & table.texts.keys()):
        if clean_caption(table.texts[name]) != captions.texts[name]:
            merged.findings.append(
                Finding(
                    display_name(name),
                    "warning",
                    "It has different captions in the table and in the file beside it; the file "
                    "counts. Delete one of them.",
                )
            )
    return merged
