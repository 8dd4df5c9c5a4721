"""Captions in metadata.jsonl and metadata.csv: one row a picture, columns file_name and text."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PureWindowsPath

from trainer.data.captions import clean_caption, decode_text
from trainer.data.findings import Finding, Severity
from trainer.data.folders import FoundFile
from trainer.data.names import display_name, matching_key
from trainer.data.sidecars import Captions, read_start

MAX_TABLE_BYTES = 64_000_000
_MAX_ROW_FINDINGS = 20


@dataclass(frozen=True)
class _Row:
    number: int
    file_name: object
    text: object


class _TableError(Exception):
    """A row, or the whole table, that cannot be read."""


def read_metadata(files: list[FoundFile], pictures: list[FoundFile]) -> Captions:
    """The captions that metadata tables give to pictures.

    ``file_name`` is relative to the table's own folder and must stay below the set's; it is
    matched exactly, or else by case and Unicode form. Rows that fit no picture are named.
    """
    captions = Captions()
    names = _PictureNames(pictures)
    for file in files:
        reader = _TableReader(file, names, captions)
        reader.read()
    return captions


class _PictureNames:
    def __init__(self, pictures: list[FoundFile]) -> None:
        self._exact = {picture.name for picture in pictures}
        self._loose: dict[str, list[str]] = defaultdict(list)
        for picture in pictures:
            self._loose[matching_key(picture.name)].append(picture.name)

    def find(self, name: str) -> str | None:
        if name in self._exact:
            return name
        matches = self._loose.get(matching_key(name), [])
        return matches[0] if len(matches) == 1 else None


class _TableReader:
    """Reads one table into captions; says what is wrong with at most 20 of its rows."""

    def __init__(self, file: FoundFile, names: _PictureNames, captions: Captions) -> None:
        self._file = file
        self._names = names
        self._captions = captions
        self._unusable = 0

    def read(self) -> None:
        try:
            data = read_start(self._file.path, MAX_TABLE_BYTES)
            if len(data) > MAX_TABLE_BYTES:
                raise _TableError(f"it has more than {MAX_TABLE_BYTES // 1_000_000} MB")
            for row in self._rows(decode_text(data)):
                self._take(row)
        except (OSError, _TableError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._doubt("error", f"The table cannot be read any further: {reason}.")
        if self._unusable > _MAX_ROW_FINDINGS:
            more = self._unusable - _MAX_ROW_FINDINGS
            self._doubt("warning", f"{more} more rows cannot be used for the like reasons.")

    def _rows(self, text: str) -> Iterator[_Row]:
        is_csv = self._file.path.suffix.casefold() == ".csv"
        return _csv_rows(text) if is_csv else self._json_rows(text)

    def _json_rows(self, text: str) -> Iterator[_Row]:
        # Not splitlines(): a JSON string may hold other line separators as they are.
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield _Row(number, row.get("file_name"), row.get("text"))
            else:
                self._unusable_row(number, "it is no JSON object in braces")

    def _take(self, row: _Row) -> None:
        if not isinstance(row.file_name, str) or not row.file_name.strip():
            return self._unusable_row(row.number, "it has no file_name")
        if row.text is not None and not isinstance(row.text, str):
            return self._unusable_row(row.number, "its text is not in quotes")
        given = row.file_name.strip().replace("\\", "/")
        name = posixpath.normpath(posixpath.join(self._file.folder, given))
        if PureWindowsPath(given).anchor or name.startswith("../"):
            return self._unusable_row(row.number, f"{display_name(given)} lies outside the set")
        picture = self._names.find(name)
        if picture is None:
            return self._unusable_row(row.number, f"there is no picture {display_name(given)}")
        if picture in self._captions.texts:
            return self._unusable_row(row.number, f"{display_name(given)} has a row already")
        if caption := clean_caption(row.text or ""):
            self._captions.texts[picture] = caption
        return None

    def _unusable_row(self, number: int, reason: str) -> None:
        self._unusable += 1
        if self._unusable <= _MAX_ROW_FINDINGS:
            self._doubt("warning", f"Line {number} is not used: {reason}.")

    def _doubt(self, severity: Severity, message: str) -> None:
        self._captions.findings.append(Finding(self._file.shown, severity, message))


def _csv_rows(text: str) -> Iterator[_Row]:
    """Rows of a table with a header line; separated by commas, or as Excel may by semicolons."""
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = {name.strip().casefold(): name for name in reader.fieldnames or () if name}
    if "file_name" not in columns or "text" not in columns:
        found = ", ".join(display_name(name) for name in reader.fieldnames or ()) or "none"
        raise _TableError(f"it needs the columns file_name and text, and has: {found[:200]}")
    for row in reader:
        yield _Row(reader.line_num, row[columns["file_name"]], row[columns["text"]])
