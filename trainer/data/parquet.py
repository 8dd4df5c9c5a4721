"""Tables of pictures in parquet: columns image and text, as public data sets are published.

``image`` is the file's bytes, or a struct of ``bytes`` and ``path``; ``text`` may be missing. Only
one row group's pictures are in memory at a time (two while crossing from one to the next).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.captions import clean_caption
from trainer.data.findings import Finding, Severity
from trainer.data.folders import FoundFile
from trainer.data.names import display_name
from trainer.data.problems import ImageProblem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_ROW_GROUP_BYTES = 4_000_000_000

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
            except (OSError, ValueError, pa.ArrowException) as error:
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
                names = ", ".join(display_name(name) for name in table.schema_arrow.names[:10])
                doubt(
                    "warning",
                    f"The table has no pictures in a column named image, and is not used. Its "
                    f"columns: {names}.",
                )
                return
            if not _has_text(table.schema_arrow):
                doubt("note", "The table has no column named text, so its pictures lack captions.")
            yield from _rows(file, table, column, limit)
    except (OSError, ValueError, pa.ArrowException) as error:
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
    for group in range(table.num_row_groups):
        metadata = table.metadata.row_group(group)
        if metadata.total_byte_size > MAX_ROW_GROUP_BYTES:
            raise ValueError(f"row group {group} has {metadata.total_byte_size / 1e9:.0f} GB")
        captions: list[object] = [None] * metadata.num_rows
        if _has_text(table.schema_arrow):
            captions = table.read_row_group(group, columns=["text"]).column("text").to_pylist()
        for offset, caption in enumerate(captions):
            number += 1
            if number > limit + 1:
                return
            text = clean_caption(caption) if isinstance(caption, str) else ""
            yield TableRow(
                f"{file.shown} row {number}",
                text or None,
                ParquetRow(file.path, group, offset, column),
            )


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
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        return table.read_row_group(group, columns=[column], use_threads=False).column("image")
