"""Captions in files: which belongs to which picture, told by name and never by position.

They stand in a file beside the picture, or in a metadata table of its folder. `find_captions` knows
both.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from trainer.data.captions import (
    MAX_CAPTION_BYTES,
    MAX_CAPTION_CHARACTERS,
    clean_caption,
    decode_caption,
    decode_text,
)
from trainer.data.encodings import ENCODING_NAMES, find_encoding, utf8_or_none
from trainer.data.findings import Finding
from trainer.data.names import display_name, list_names, matching_key
from trainer.data.pairing import PictureIndex
from trainer.data.scan import CAPTION_SUFFIXES, FolderContents, FoundFile
from trainer.plain_files import open_file
from trainer.untyped import is_table

MAX_TABLE_BYTES = 20_000_000
_MAX_LINE = 1_000_000
"""Characters of a line of JSON: parsed, it takes up to thirty times its size."""
_MAX_ROWS = 300_000  # of a set of at most 100,000 pictures
_MAX_ROW_FINDINGS = 20
_MAX_NAME = 4096


def find_captions(contents: FolderContents) -> dict[str, str]:
    """The captions of a folder's pictures by their names; decodes none.

    Files beside the pictures count before the tables. What is doubtful becomes a finding.
    """
    index = PictureIndex(contents.pictures)
    contents.encoding = _judge_encoding(contents)
    beside = _read_sidecars(contents, index)
    listed: dict[str, str] = {}
    for file in contents.metadata:
        _read_table(file, index, listed, contents)
    for name in sorted(beside.keys() & listed.keys()):
        if listed[name] != beside[name]:
            message = (
                "It has different captions in the table and in the file beside it; the file "
                "counts. Delete one of them."
            )
            contents.doubt(name, "warning", message)
    return {**listed, **beside}


# ------------------------------------------------------------------------------ files beside


def _read_sidecars(contents: FolderContents, index: PictureIndex) -> dict[str, str]:
    """The captions that stand in files beside the pictures.

    A caption file belongs to the pictures with its own name but for the suffix (``a.txt`` to
    ``a.png``, or ``a.png.txt`` to ``a.png``). With several for a picture, ``a.png.txt`` comes
    before ``a.txt``, and ``.txt`` before ``.caption``.
    """
    captions: dict[str, str] = {}
    candidates: dict[str, list[FoundFile]] = defaultdict(list)
    texts: dict[str, str] = {}
    orphans: list[str] = []
    for file in contents.captions:
        owners = index.beside(file.stem)
        for picture in owners:
            candidates[picture.name].append(file)
        if not owners:
            orphans.append(file.shown)
            continue
        texts[file.name] = _read(file, contents)
        if len(owners) > 1:
            names = list_names([picture.shown for picture in owners])
            message = f"It belongs to several pictures, and all get it: {names}. Name them apart."
            contents.doubt(file.name, "warning", message)
    if orphans:
        message = (
            "No picture beside it has its name, so it is used for nothing. A caption must be named "
            "like its picture."
        )
        contents.findings.append(Finding(list_names(orphans), "note", message))
    for picture in contents.pictures:
        found = sorted(candidates[picture.name], key=lambda file: _rank(file, picture))
        if len(found) > 1:
            names = list_names([file.shown for file in found])
            message = f"It has several caption files, and the first counts: {names}. Delete others."
            contents.doubt(picture.name, "warning", message)
        if found and (text := texts[found[0].name]):
            captions[picture.name] = text
    return captions


def _judge_encoding(contents: FolderContents) -> str | None:
    """The encoding of the caption files that are no UTF-8, together; says what it is, or is not."""
    strange: dict[str, bytes] = {}
    for file in contents.captions:
        with suppress(OSError):
            data = read_start(file.path, MAX_CAPTION_BYTES)
            if utf8_or_none(data, cut=len(data) > MAX_CAPTION_BYTES) is None:
                strange[file.shown] = data[:MAX_CAPTION_BYTES]
    if not strange:
        return None
    encoding = find_encoding(list(strange.values()))
    if encoding is None:
        message = (
            "It is not in UTF-8, and which other encoding it is in can't be told from so little "
            "text: the caption is not used. Save it as UTF-8."
        )
        contents.findings.append(Finding.of_several(list(strange), "error", message))
        return None
    first = decode_caption(next(iter(strange.values())), encoding)
    message = (
        f"Not in UTF-8: read as {ENCODING_NAMES.get(encoding, encoding)}. The first begins: "
        f"{display_name(first[:40])}. If that is not what was written, save them as UTF-8."
    )
    contents.findings.append(Finding.of_several(list(strange), "warning", message))
    return encoding


def _rank(file: FoundFile, picture: FoundFile) -> tuple[bool, int, str]:
    whole = matching_key(file.stem) == matching_key(picture.name)
    return (not whole, CAPTION_SUFFIXES.index(file.path.suffix.casefold()), file.name)


def _read(file: FoundFile, contents: FolderContents) -> str:
    """A caption file's text; "" where it has none or cannot be read, with a finding."""
    try:
        data = read_start(file.path, MAX_CAPTION_BYTES)
    except OSError as error:
        contents.doubt(file.name, "error", f"It cannot be read ({error.strerror}).")
        return ""
    if contents.encoding is None and utf8_or_none(data, cut=len(data) > MAX_CAPTION_BYTES) is None:
        return ""  # `_judge_encoding` has said so
    text = decode_caption(data, contents.encoding)
    if not text:
        message = "It is empty: trigger and class word will be the caption instead."
        contents.doubt(file.name, "warning", message)
    if len(data) > MAX_CAPTION_BYTES or len(text) == MAX_CAPTION_CHARACTERS:
        message = f"It is longer than {MAX_CAPTION_CHARACTERS:,} characters, and is cut there."
        contents.doubt(file.name, "warning", message)
    return text


def read_start(path: Path, size: int) -> bytes:
    """The first ``size`` bytes of a file, and one more if there is more."""
    with open_file(path) as stream:
        return stream.read(size + 1)


# ------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class _Row:
    """A row of a table; `problem` says why it is none."""

    line: int
    file_name: object = None
    text: object = None
    problem: str = ""


def _read_table(
    file: FoundFile, index: PictureIndex, texts: dict[str, str], contents: FolderContents
) -> None:
    """The captions of one metadata table; says what is wrong with at most 20 of its rows.

    ``file_name`` is relative to the table's own folder and must stay below the set's.
    """
    unusable = 0
    try:
        data = read_start(file.path, MAX_TABLE_BYTES)
        if len(data) > MAX_TABLE_BYTES:
            raise ValueError(f"it has more than {MAX_TABLE_BYTES // 1_000_000} MB")
        read_rows = _ROWS[file.path.suffix.casefold()]
        for number, row in enumerate(read_rows(decode_text(data))):
            if number == _MAX_ROWS:
                raise ValueError(f"it has more than {_MAX_ROWS:,} rows")
            reason = row.problem or _take(row, file, index, texts)
            if reason:
                unusable += 1
                if unusable <= _MAX_ROW_FINDINGS:
                    contents.doubt(file.name, "warning", f"Line {row.line} is not used: {reason}.")
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        contents.doubt(file.name, "error", f"The table cannot be read any further: {reason}.")
    if unusable > _MAX_ROW_FINDINGS:
        message = f"{unusable - _MAX_ROW_FINDINGS} more rows cannot be used for the like reasons."
        contents.doubt(file.name, "warning", message)


def _take(row: _Row, table: FoundFile, index: PictureIndex, texts: dict[str, str]) -> str:
    """Gives a row's caption to its picture; or a reason why not."""
    if not isinstance(row.file_name, str) or not row.file_name.strip():
        return "it has no file_name"
    if row.text is not None and not isinstance(row.text, str):
        return "its text is not in quotes"
    if len(row.file_name) > _MAX_NAME:
        return "its file_name is longer than any path"
    given = row.file_name.strip().replace("\\", "/")
    name = posixpath.normpath(posixpath.join(table.folder, given))
    if PureWindowsPath(given).anchor or name.startswith("../"):
        return f"{display_name(given)} lies outside the set"
    found = index.named(name)
    if len(found) != 1:
        return f"there is no picture {display_name(given)}"
    if found[0].name in texts:
        return f"{display_name(given)} has a row already"
    if caption := clean_caption(row.text or ""):
        texts[found[0].name] = caption
    return ""


def _json_rows(text: str) -> Iterator[_Row]:
    # Not splitlines(): a JSON string may hold other line separators as they are.
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if len(line) > _MAX_LINE:
            yield _Row(number, problem=f"it has more than {_MAX_LINE:,} characters")
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if is_table(row):
                yield _Row(number, row.get("file_name"), row.get("text"))
            else:
                yield _Row(number, problem="it is no JSON object in braces")


def _csv_rows(text: str) -> Iterator[_Row]:
    """Rows of a table with a header line; separated by commas, or as Excel may by semicolons."""
    first = text.partition("\n")[0]
    delimiter = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = next((row for row in reader if row), list[str]())
    columns = {name.strip().casefold(): index for index, name in enumerate(header)}
    if "file_name" not in columns or "text" not in columns:
        found = list_names([display_name(name[:40]) for name in header], 5) or "none"
        raise ValueError(f"it needs the columns file_name and text, and has: {found}")
    places = (columns["file_name"], columns["text"])
    for row in reader:
        if row:
            file_name, caption = (row[at] if at < len(row) else None for at in places)
            yield _Row(reader.line_num, file_name, caption)


_ROWS = {".jsonl": _json_rows, ".csv": _csv_rows}
"""What reads the rows of a metadata table, by its suffix."""
