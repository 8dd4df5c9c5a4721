"""Tables of pictures in parquet: columns image and text, as public data sets are published.

``image`` is the file's bytes, or a struct of ``bytes`` and ``path``. Both may have other names
(`trainer.data.columns`), and captions may be missing.
Captions are read in batches; of the pictures one row group is in memory at a time (two while
crossing from one to the next).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from trainer.data.columns import caption_of, choose_text_column
from trainer.data.findings import Finding, ImageProblem, Severity
from trainer.data.names import display_name, list_names
from trainer.data.scan import FoundFile
from trainer.untyped import is_list, is_table

MAX_ROW_GROUP_BYTES = 2_000_000_000  # unpacked. Arrow addresses a dictionary in 32 bits.
_BATCH = 1000
_LOOKED_AT = 50  # rows by which the column of captions is told

_one_reader = threading.Lock()


def _parquet() -> Any:
    """pyarrow's module: it has no types, so that what comes from it is of type Any."""
    import pyarrow.parquet

    return pyarrow.parquet


@dataclass(frozen=True)
class ParquetRow:
    """Where a picture of a table lies."""

    path: Path  # of the parquet file
    # group, offset: row group, and row within it.
    group: int
    offset: int
    column: str  # such as "image" or "image.bytes"

    def read(self) -> bytes:
        """The picture's file as bytes.

        Raises:
            ImageProblem: the table cannot be read, or there is nothing in this row.
        """
        with _one_reader:
            try:
                pictures = _pictures(self.path, self.group, self.column)
            except Exception as error:  # as in `open_table`
                raise ImageProblem(
                    "The table that holds it is damaged or gone.", "Copy or download it again."
                ) from error
            value = pictures[self.offset].as_py() if self.offset < len(pictures) else None
        data = value.get("bytes") if is_table(value) else value
        if not isinstance(data, bytes):
            raise ImageProblem("Its row of the table has no picture in it.", "Leave it out.")
        return data


def open_table(
    file: FoundFile, findings: list[Finding], limit: int
) -> Iterator[tuple[ParquetRow, str | None]]:
    """The pictures of a table in their order, not yet read, and their captions.

    At most ``limit`` and one more. A table that cannot be used gives no rows, and a finding.
    """

    def doubt(severity: Severity, message: str) -> None:
        findings.append(Finding(file.shown, severity, message))

    try:
        with _parquet().ParquetFile(file.path) as table:
            column, texts = _columns(table.schema_arrow)
            if not column:
                shown = [display_name(name[:40]) for name in table.schema_arrow.names]
                doubt(
                    "warning",
                    "The table has no pictures in a column named image, and is not used. Its "
                    f"columns: {list_names(shown, 10)}.",
                )
                return
            text = choose_text_column(_some_rows(table, texts))
            if text.message:
                doubt(text.severity, text.message)
            if column.partition(".")[0] != "image":
                doubt("note", f"Pictures are read from its column {display_name(column[:40])}.")
            yield from islice(_rows(file, table, column, text.name), limit + 1)
    except Exception as error:  # arrow raises nearly everything for numbers that lie
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason"
        doubt(
            "error",
            f"The table cannot be read ({display_name(reason)}). Copy or download it again.",
        )


def _columns(schema: Any) -> tuple[str, list[str]]:
    """The column with the pictures' bytes, "" where it cannot be told, and those with texts.

    ``image`` counts, or else the only one with bytes.
    """
    from pyarrow import types as untyped

    types: Any = untyped

    def is_text(kind: Any) -> bool:
        if types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
            kind = kind.value_type
        return types.is_string(kind) or types.is_large_string(kind)

    pictures: list[str] = []
    texts: list[str] = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        column = name
        if types.is_struct(kind):
            column, inner = f"{name}.bytes", kind.get_field_index("bytes")
            kind = kind.field(inner).type if inner >= 0 else None
        if kind is not None and (types.is_binary(kind) or types.is_large_binary(kind)):
            pictures.append(column)
        elif kind is not None and is_text(kind):
            texts.append(name)
    usual = [column for column in pictures if column.partition(".")[0] == "image"]
    return (usual or pictures)[0] if usual or len(pictures) == 1 else "", texts


def _some_rows(table: Any, columns: list[str]) -> dict[str, list[object]]:
    if not columns or not table.num_row_groups:
        return {}
    _check_size(table.metadata, 0)
    batches = table.iter_batches(_LOOKED_AT, row_groups=[0], columns=columns)
    first = next(iter(batches), None)
    return {name: [] if first is None else first.column(name).to_pylist() for name in columns}


def _rows(
    file: FoundFile, table: Any, column: str, text_column: str | None
) -> Iterator[tuple[ParquetRow, str | None]]:
    # A caption that is repeated is in memory once.
    clean = lru_cache(maxsize=1000)(partial(caption_of, column=text_column or ""))
    for group in range(table.num_row_groups):
        _check_size(table.metadata, group)
        for offset, text in enumerate(_texts(table, group, text_column)):
            caption = clean(tuple(text) if is_list(text) else text) or None if text else None
            yield ParquetRow(file.path, group, offset, column), caption


def _texts(table: Any, group: int, column: str | None) -> Iterator[Any]:
    if column is None:
        return repeat(None, table.metadata.row_group(group).num_rows)
    batches = table.iter_batches(_BATCH, row_groups=[group], columns=[column])
    return (value.as_py() for batch in batches for value in batch.column(0))


def _check_size(metadata: Any, group: int) -> None:
    """Raises ValueError where a row group would not fit into memory."""
    found = metadata.row_group(group)
    columns = [found.column(index) for index in range(found.num_columns)]
    unpacked = max(found.total_byte_size, *(one.total_uncompressed_size for one in columns))
    if unpacked > MAX_ROW_GROUP_BYTES:
        raise ValueError(f"row group {group} has {unpacked / 1e9:.0f} GB")


@lru_cache(maxsize=2)
def _pictures(path: Path, group: int, column: str) -> Any:
    """All pictures of a row group. Its rows are mostly asked for one after the other.

    A picture that is in the file once for many rows is in memory once: as a dictionary.
    """
    with _parquet().ParquetFile(path, read_dictionary=[column]) as table:
        _check_size(table.metadata, group)
        found = table.read_row_group(group, columns=[column], use_threads=False)
        return found.column(column.partition(".")[0])


def forget_tables() -> None:
    """Free the row groups that are still in memory."""
    _pictures.cache_clear()
