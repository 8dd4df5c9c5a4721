"""Tables of pictures in parquet: columns image and text, as public data sets are published.

``image`` is the file's bytes, or a struct of ``bytes`` and ``path``; ``text`` may be missing. Only
one row group's pictures are in memory at a time (two while crossing from one to the next).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trainer.data.captions import clean_caption
from trainer.data.findings import Finding, Severity
from trainer.data.folders import FoundFile
from trainer.data.names import display_name, list_names
from trainer.data.problems import ImageProblem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_ROW_GROUP_BYTES = 4_000_000_000
_MAX_RATIO = 10
"""Pictures are packed already: what unpacks to more times its size is made to fill the memory."""
_UNSUSPICIOUS_BYTES = 50_000_000
_MAX_DICTIONARY_BYTES = 1_000_000_000
"""Arrow addresses a dictionary in 32 bits."""

# What arrow raises of itself over numbers and names that lie, besides its own errors.
_UNREADABLE = (OSError, ValueError, KeyError, MemoryError, OverflowError)
_one_reader = threading.Lock()


@dataclass(frozen=True)
class ParquetRow:
    """Where a picture of a table lies.

    Attributes:
        path: of the parquet file.
        group, offset: row group, and row within it.
        column: "image" or "image.bytes".
    """

    path: Path
    group: int
    offset: int
    column: str

    def read(self) -> bytes:
        """The picture's file as bytes.

        Raises:
            ImageProblem: the table cannot be read, or there is nothing in this row.
        """
        import pyarrow as pa

        with _one_reader:
            try:
                pictures = _pictures(self.path, self.group, self.column)
            except (*_UNREADABLE, pa.ArrowException) as error:
                raise ImageProblem(
                    "The table that holds it is damaged or gone.", "Copy or download it again."
                ) from error
            value = pictures[self.offset].as_py() if self.offset < len(pictures) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ImageProblem("Its row of the table has no picture in it.", "Leave it out.")
        return data


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        name: the table's and the row's number from 1.
        caption: None where the table says nothing.
    """

    name: str
    caption: str | None
    source: ParquetRow


def open_table(file: FoundFile, findings: list[Finding], limit: int) -> Iterator[TableRow]:
    """The rows of a table in their order, pictures not yet read; at most ``limit`` and one more.

    A table that cannot be used gives no rows, and a finding.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def doubt(severity: Severity, message: str) -> None:
        findings.append(Finding(file.shown, severity, message))

    try:
        with pq.ParquetFile(file.path) as table:
            column = _image_column(table.schema_arrow)
            if not column:
                names = list_names(
                    [display_name(name[:40]) for name in table.schema_arrow.names], 10
                )
                doubt(
                    "warning",
                    f"The table has no pictures in a column named image, and is not used. Its "
                    f"columns: {names}.",
                )
                return
            if not _has_text(table.schema_arrow):
                doubt("note", "The table has no column named text, so its pictures lack captions.")
            yield from _rows(file, table, column, limit)
    except (*_UNREADABLE, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason"
        doubt(
            "error",
            f"The table cannot be read ({display_name(reason)}). Copy or download it again.",
        )


def forget_tables() -> None:
    """Free the row groups that are still in memory."""
    _pictures.cache_clear()


def _rows(file: FoundFile, table: pq.ParquetFile, column: str, limit: int) -> Iterator[TableRow]:
    number = 0
    clean = lru_cache(maxsize=1000)(clean_caption)  # a caption that is repeated is kept once
    for group in range(table.num_row_groups):
        _check_size(table.metadata, group)
        captions: Iterable[object] = repeat(None, max(0, table.metadata.row_group(group).num_rows))
        if _has_text(table.schema_arrow):
            captions = _read_column(file.path, group, "text")
        for offset, value in enumerate(captions):
            number += 1
            if number > limit + 1:
                return
            caption = None if value is None else cast("pa.Scalar", value).as_py()
            yield TableRow(
                f"{file.shown} row {number}",
                clean(caption) or None if isinstance(caption, str) else None,
                ParquetRow(file.path, group, offset, column),
            )


def _check_size(metadata: pq.FileMetaData, group: int) -> None:
    """Raises ValueError where a row group would not fit into memory."""
    found = metadata.row_group(group)
    columns = [found.column(index) for index in range(found.num_columns)]
    unpacked = max(found.total_byte_size, *(one.total_uncompressed_size for one in columns))
    packed = sum(one.total_compressed_size for one in columns)
    if unpacked > MAX_ROW_GROUP_BYTES:
        raise ValueError(f"row group {group} has {unpacked / 1e9:.0f} GB")
    if unpacked > _UNSUSPICIOUS_BYTES and unpacked > _MAX_RATIO * packed:
        raise ValueError(f"row group {group} unpacks to more than {_MAX_RATIO} times its size")


def _has_text(schema: pa.Schema) -> bool:
    import pyarrow as pa

    if "text" not in schema.names:
        return False
    kind = schema.field("text").type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _image_column(schema: pa.Schema) -> str:
    """The column with the files' bytes; "" where there is none."""
    import pyarrow as pa

    def is_bytes(kind: pa.DataType) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    if "image" not in schema.names:
        return ""
    kind = schema.field("image").type
    if is_bytes(kind):
        return "image"
    fields = [kind.field(index) for index in range(kind.num_fields)]
    nested = any(child.name == "bytes" and is_bytes(child.type) for child in fields)
    return "image.bytes" if pa.types.is_struct(kind) and nested else ""


@lru_cache(maxsize=2)
def _pictures(path: Path, group: int, column: str) -> pa.ChunkedArray:
    """All pictures of a row group. Its rows are mostly asked for one after the other."""
    return _read_column(path, group, column)


def _read_column(path: Path, group: int, column: str) -> pa.ChunkedArray:
    """A column of a row group; what is in the file once for many rows is in memory once."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        metadata = table.metadata
        _check_size(metadata, group)
    small = metadata.row_group(group).total_byte_size <= _MAX_DICTIONARY_BYTES
    with pq.ParquetFile(path, read_dictionary=[column] if small else None) as table:
        found = table.read_row_group(group, columns=[column], use_threads=False)
        return found.column(column.partition(".")[0])
