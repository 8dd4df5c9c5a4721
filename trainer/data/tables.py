"""Captions in metadata.jsonl and metadata.csv: one row a picture, columns file_name and text."""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PureWindowsPath

from trainer.data.captions import clean_caption, decode_text
from trainer.data.findings import Finding, Severity
from trainer.data.folders import FoundFile
from trainer.data.names import display_name, list_names, matching_key
from trainer.data.sidecars import Captions, read_start

MAX_TABLE_BYTES = 32_000_000
_MAX_LINE = 1_000_000
"""Characters: parsed, a line takes up to thirty times its size."""
_MAX_LINES = 300_000
"""A set has at most 100,000 pictures."""
_MAX_ROW_FINDINGS = 20
_MAX_NAME = 4096
# Not splitlines(): a JSON string may hold other line separators as they are.
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_CSV_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


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
        for number, line in enumerate(_lines(text, _LINE), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line) if len(line) <= _MAX_LINE else None
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield _Row(number, row.get("file_name"), row.get("text"))
            else:
                long = f" of at most {_MAX_LINE:,} characters" if len(line) > _MAX_LINE else ""
                self._unusable_row(number, f"it is no JSON object in braces{long}")

    def _take(self, row: _Row) -> None:
        if not isinstance(row.file_name, str) or not row.file_name.strip():
            return self._unusable_row(row.number, "it has no file_name")
        if row.text is not None and not isinstance(row.text, str):
            return self._unusable_row(row.number, "its text is not in quotes")
        if len(row.file_name) > _MAX_NAME:
            return self._unusable_row(row.number, "its file_name is longer than any path")
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
    first = text.partition("\n")[0]
    delimiter = ";" if ";" in first and "," not in first else ","
    lines = _CsvLines(text)
    reader = csv.reader(lines, delimiter=delimiter)
    header = next((row for row in reader if row), [])
    columns = {name.strip().casefold(): index for index, name in enumerate(header)}
    if "file_name" not in columns or "text" not in columns:
        found = list_names([display_name(name[:40]) for name in header], 5) or "none"
        raise _TableError(f"it needs the columns file_name and text, and has: {found}")
    file_name, caption = columns["file_name"], columns["text"]
    for row in reader:
        lines.of_row = 0
        if row:
            given = (row[at] if at < len(row) else None for at in (file_name, caption))
            yield _Row(reader.line_num, *given)


class _CsvLines:
    """The lines of a text, one at a time; a row may take several.

    Attributes:
        of_row: characters given since it was set to 0.
    """

    def __init__(self, text: str) -> None:
        self._lines = _lines(text, _CSV_LINE)
        self.of_row = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.of_row += len(line)
        if self.of_row > _MAX_LINE:
            raise _TableError(f"a row has more than {_MAX_LINE:,} characters")
        return line


def _lines(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    for number, found in enumerate(pattern.finditer(text)):
        if number == _MAX_LINES:
            raise _TableError(f"it has more than {_MAX_LINES:,} lines")
        yield found[0]
