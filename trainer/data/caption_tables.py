"""Tables of captions: CSV, TSV, JSON lines and JSON files that name pictures.

A table is read twice: some rows to tell its columns, then all rows, so that few are in memory.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

from trainer.data.columns import caption_of, choose_text_column
from trainer.data.encodings import ENCODING_NAMES, find_encoding, utf8_or_none
from trainer.data.findings import Severity
from trainer.data.names import display_name, list_names
from trainer.data.pairing import MAX_NAME, PictureIndex, in_one_folder
from trainer.data.scan import FolderContents, FoundFile
from trainer.plain_files import open_file
from trainer.untyped import as_list, is_list, is_table

MAX_TABLE_BYTES = 20_000_000
MAX_JSON_BYTES = 8_000_000
"""Of a file that is one JSON value: parsed, it takes up to thirty times its size."""
_MAX_LINE = 1_000_000  # characters of a line of JSON: the same
_MAX_ROWS = 300_000  # of a set of at most 100,000 pictures
_MOST_FOLDERS = 20  # that a picture is looked for in, where a table's name has more in front
_LOOKED_AT = 200  # rows by which the columns are told
MOST_COLUMNS = 200
_FILE_COLUMNS = (
    *("file_name", "filename", "file", "image", "image_path", "image_file", "image_name", "img"),
    *("path", "file_path", "filepath", "picture", "photo", "name", "key", "id", "image_id"),
)


@dataclass(frozen=True)
class _Row:
    """A row of a table by its columns; `problem` says why it is none."""

    line: int
    cells: Mapping[str, object]
    listed: Sequence[str] = ()  # all cells of a row of CSV, which may be more than its columns
    problem: str = ""


@dataclass(frozen=True)
class _Table:
    """An open table."""

    rows: Callable[[], Iterator[_Row]]  # all of them, from the first
    # Names of the columns by their places; without any, each row names its own.
    header: tuple[str, ...] = ()
    delimiter: str = ""  # between cells; "" for JSON

    def columns(self, index: PictureIndex) -> dict[str, list[object]]:
        """Some values of each column: of rows that name a picture, if there are any."""
        found: dict[str, list[object]] = {name: [] for name in self.header[:MOST_COLUMNS]}
        first: list[list[tuple[str, object]]] = []
        naming: list[list[tuple[str, object]]] = []
        with suppress(csv.Error):  # who reads all rows says where it ends
            for row in islice(self.rows(), _MAX_ROWS):
                cells = [*islice(row.cells.items(), MOST_COLUMNS)]
                first += [cells] * (len(first) < _LOOKED_AT)
                naming += [cells] * any(index.knows(value) for _, value in cells)
                if len(naming) == _LOOKED_AT:
                    break
        for name, value in chain.from_iterable(naming or first):
            found.setdefault(name, []).append(value)
        return found

    def cells(self, row: _Row, name_column: str, text_column: str) -> tuple[object, object, bool]:
        """A row's file name and text, and whether its text had to be joined from several cells."""
        extra = len(row.listed) - len(self.header)
        mended = extra > 0 and text_column in self.header
        cells = row.cells
        if mended:
            at, listed = self.header.index(text_column), [*row.listed]
            listed[at : at + extra + 1] = [self.delimiter.join(listed[at : at + extra + 1])]
            cells = dict(zip(self.header, listed, strict=True))
        return cells.get(name_column), cells.get(text_column), mended


def read_tables(contents: FolderContents, index: PictureIndex) -> dict[str, str]:
    """The captions that stand in tables, by the names of their pictures."""
    texts: dict[str, str] = {}
    for file in contents.metadata:
        try:
            _Reader(file, index, contents, texts).read()
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            message = f"The table cannot be read any further: {reason}."
            contents.doubt(file.name, "error", message)
    return texts


def judge_encoding(contents: FolderContents, files: Mapping[str, bytes]) -> str | None:
    """The encoding of files that are no UTF-8, together; says what it is, or that it can't be told.

    Args:
        files: what they hold, by their names as they are shown.
    """
    if not files:
        return None
    encoding = find_encoding([*files.values()]) or contents.encoding
    if encoding is None:
        message = (
            "It is not in UTF-8, and which other encoding it is in can't be told from so little "
            "text: it is not used. Save it as UTF-8."
        )
        contents.doubt_all([*files], "error", message)
        return None
    lines = next(iter(files.values())).decode(encoding, errors="ignore").splitlines()
    strange = next((line for line in lines if not line.isascii()), "")
    message = (
        f"Not in UTF-8: read as {ENCODING_NAMES.get(encoding, encoding)}. A line of it: "
        f"{display_name(strange[:60])}. If that is not what was written, save it as UTF-8."
    )
    contents.doubt_all([*files], "warning", message)
    return encoding


@dataclass(frozen=True)
class _Reader:
    """Reads one table."""

    file: FoundFile
    index: PictureIndex
    contents: FolderContents
    # Captions by the names of their pictures, those of earlier tables among them.
    texts: dict[str, str]

    def read(self) -> None:
        """Takes its captions, and says what is wrong with its rows."""
        table = self._open()
        if table is None:
            return
        columns = table.columns(self.index)
        name_column = self._name_column(columns)
        rest = {name: values for name, values in columns.items() if name != name_column}
        column = choose_text_column(rest)
        if not columns and not table.delimiter:
            self._take_rows(table, "file_name", "text")  # says why no line is a row
        elif name_column is None:
            found = list_names([display_name(name[:40]) for name in columns], 5) or "none"
            message = (
                "It names no picture of this set, so it is not used. It needs the columns "
                f"file_name and text, and has: {found}."
            )
            self._doubt("warning" if column.name else "note", message)
        elif column.message:
            self._doubt(column.severity, column.message)
        if name_column and column.name:
            self._take_rows(table, name_column, column.name)

    def _doubt(self, severity: Severity, message: str) -> None:
        self.contents.doubt(self.file.name, severity, message)

    def _take_rows(self, table: _Table, name_column: str, text_column: str) -> None:
        joined = 0
        unusable: dict[str, list[tuple[int, str]]] = {}  # lines and names by what is wrong
        for number, row in enumerate(table.rows()):
            if number == _MAX_ROWS:
                raise ValueError(f"it has more than {_MAX_ROWS:,} rows")
            name, text, mended = table.cells(row, name_column, text_column)
            joined += mended
            if reason := row.problem or self._take(name, text, text_column, table):
                shown = display_name(name.strip()[:200]) if isinstance(name, str) else ""
                unusable.setdefault(reason, []).append((row.line, shown))
        for reason, rows in unusable.items():
            which = f"Line {rows[0][0]} is"
            if len(rows) > 1:
                which = f"{len(rows):,} lines ({list_names([str(line) for line, _ in rows])}) are"
            names = list_names([name for _, name in rows if name])
            about = f" (file_name: {names})" if names else ""
            self._doubt("warning", f"{which} not used: {reason}{about}.")
        if joined:
            message = (
                f"{joined} rows have more commas than columns, as texts with commas that are not "
                f"in quotes do: all of it is taken for {display_name(text_column[:40])}."
            )
            self._doubt("warning" if len(table.header) > 2 else "note", message)

    def _take(self, file_name: object, text: object, column: str, table: _Table) -> str:
        """Gives a row's caption to its picture, or says why not."""
        if not isinstance(file_name, str) or not file_name.strip():
            return "it has no file_name"
        caption = caption_of(text, column)
        if caption is None:
            return "the text is not in quotes"
        found = self._named(file_name.strip())
        if not found:
            return "there is no such picture"
        if not in_one_folder(found):
            names = list_names([picture.shown for picture in found])
            return f"it may be any of {names}"
        if table.delimiter and isinstance(text, str) and self._swallows_rows(text, table):
            return "a quote that is not closed takes in the rows after it"
        if found[0].name in self.texts:
            return "it has a row already"
        if caption:
            self.texts.update((picture.name, caption) for picture in found)
        return ""

    def _named(self, given: str) -> list[FoundFile]:
        """The pictures that the table means by a name.

        Relative to the table's folder; or without the first of its folders, if the pictures lie
        there; a plain name, and a whole path as sd-scripts writes it, also in another folder of
        the set.
        """
        if len(given) > MAX_NAME:
            return []
        given, base, index = given.replace("\\", "/"), self.file.folder, self.index
        parts = posixpath.normpath(given).split("/")
        for place in (0, *range(max(1, len(parts) - _MOST_FOLDERS), len(parts))):
            name = posixpath.normpath(posixpath.join(base, *parts[place:]))
            if found := index.named(name) or index.beside(name):
                return found
        is_whole = given.startswith("/") or given[1:3] == ":/"
        last = posixpath.join(base, parts[-1])
        return index.elsewhere(last) if len(parts) == 1 or is_whole else []

    def _swallows_rows(self, text: str, table: _Table) -> bool:
        lines = text.split("\n")[1:]
        return any(self._named(line.split(table.delimiter)[0].strip()) for line in lines)

    def _name_column(self, columns: Mapping[str, Sequence[object]]) -> str | None:
        """The column that names pictures: file_name, or the one that names most of the set's."""
        plain = {name.strip().casefold(): name for name in reversed(list(columns))}
        if "file_name" in plain:
            return plain["file_name"]
        hits: dict[str, tuple[int, int]] = {}
        for name, values in columns.items():
            known = name.strip().casefold() in _FILE_COLUMNS
            rank = _FILE_COLUMNS.index(name.strip().casefold()) if known else len(_FILE_COLUMNS)
            names = {value for value in values if isinstance(value, str)}
            count = sum(bool(self._named(text)) for value in names if (text := value.strip()))
            if count and (known or count * 2 >= len(names)):
                hits[name] = (count, -rank)
        return max(hits, key=lambda name: hits[name]) if hits else None

    # -------------------------------------------------------------------------- kinds of files

    def _open(self) -> _Table | None:
        """A table by its file's suffix; None for a JSON file that is none, or what can't be read.

        Its encoding is its own, or else that of the caption files beside it.
        """
        suffix = self.file.path.suffix.casefold()
        limit = MAX_JSON_BYTES if suffix == ".json" else MAX_TABLE_BYTES
        with open_file(self.file.path) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"it has more than {limit // 1_000_000} MB")
        text = utf8_or_none(data)
        if text is None:
            encoding = judge_encoding(self.contents, {self.file.shown: data})
            if encoding is None:
                return None
            text = data.decode(encoding, errors="ignore")
        if suffix == ".json":
            return self._open_json(text)
        if suffix in (".jsonl", ".ndjson"):
            return _Table(partial(_json_lines, text))
        return self._open_csv(text)

    def _open_csv(self, text: str) -> _Table:
        """A table with a header line, or without one where its first row names a picture.

        Separated by commas, or as Excel may by semicolons, or by tabs.
        """
        first = text.partition("\n")[0]
        found = [mark for mark in "\t;|" if mark in first]
        delimiter = found[0] if found and (found[0] == "\t" or "," not in first) else ","
        rows = (row for row in _reader(text, delimiter) if row)
        header = tuple(name.strip() for name in next(rows, list[str]()))
        skip = 1
        if not {"file_name", "text"} & {*map(str.casefold, header)} and len(header) > 1:
            for place, columns in ((0, ("file_name", "text")), (-1, ("text", "file_name"))):
                if skip and self._named(header[place]):
                    header, skip = columns, 0
        return _Table(partial(_csv_rows, text, delimiter, header, skip), header, delimiter)

    def _open_json(self, text: str) -> _Table | None:
        """A list of rows; or rows, or captions, by the names of their pictures, as sd-scripts'."""
        value = json.loads(text)
        if is_table(value):
            lists = [one for one in value.values() if is_list(one) and one and is_table(one[0])]
            keyed = [
                {**(one if is_table(one) else {"text": one}), "file_name": key}
                for key, one in value.items()
                if is_table(one) or is_list(one) or isinstance(one, str)
            ]
            if any(self._named(str(one["file_name"])) for one in keyed):
                value = keyed
            else:
                value = _coco(value) or (lists[0] if len(lists) == 1 else [value])
        if not is_list(value):
            return None
        rows = [_Row(number, row) for number, row in enumerate(value, 1) if is_table(row)]
        return _Table(lambda: iter(rows)) if rows else None


def _coco(value: Mapping[str, Any]) -> list[dict[str, object]]:
    """Rows of COCO's captions: a picture's annotations name it by its number. Else none."""
    captions: dict[object, list[str]] = defaultdict(list)
    for one in filter(is_table, as_list(value.get("annotations"))):
        if isinstance(one.get("caption"), str) and isinstance(one.get("image_id"), (int, str)):
            captions[one["image_id"]].append(one["caption"])
    return [
        {"file_name": one.get("file_name"), "text": captions.get(one.get("id"))}
        for one in filter(is_table, as_list(value.get("images")))
        if captions and isinstance(one.get("id"), (int, str))
    ]


def _reader(text: str, delimiter: str) -> Any:
    # In “a.png, "one, two"” the quotes count only where the space before them does not.
    spaced = re.search(rf"{re.escape(delimiter)} +\"", text) is not None
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=spaced)


def _csv_rows(text: str, delimiter: str, header: tuple[str, ...], skip: int) -> Iterator[_Row]:
    """Rows but for the first ``skip``; empty cells beyond the columns are left out."""
    reader = _reader(text, delimiter)
    for row in islice((row for row in reader if row), skip, None):
        while len(row) > len(header) and not row[-1].strip():
            row.pop()
        yield _Row(reader.line_num, dict(zip(header, row, strict=False)), row)


def _json_lines(text: str) -> Iterator[_Row]:
    # Not splitlines(): a JSON string may hold other line separators as they are.
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if len(line) > _MAX_LINE:
            yield _Row(number, {}, problem=f"more than {_MAX_LINE:,} characters")
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if is_table(row):
                yield _Row(number, row)
            else:
                yield _Row(number, {}, problem="no JSON object in braces")
