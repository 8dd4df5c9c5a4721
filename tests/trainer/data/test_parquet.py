"""Tables of pictures in parquet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.data.folders_for_tests import about, captions_of, picture, put
from trainer.data import parquet
from trainer.data.findings import Finding
from trainer.data.scan import FoundFile
from trainer.data.sets import ImageSet, scan_image_set
from trainer.errors import UserError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(
    seeds: Sequence[int], kind: pa.DataType = STRUCT, text: pa.DataType | None = None
) -> pa.Table:
    """Rows of a picture and a caption "of SEED"."""
    values: list[object] = [picture(seed) for seed in seeds]
    if pa.types.is_struct(kind):
        values = [{"bytes": value, "path": f"{value!r:.9}"} for value in values]
    captions = [f"of {seed}" for seed in seeds]
    images = pa.array(values, kind)
    return pa.table({"image": images, "text": pa.array(captions, text or pa.string())})


def scanned(
    folder: Path, tables: Mapping[str, pa.Table], files: Mapping[str, bytes | str] | None = None
) -> ImageSet:
    """The set of a folder with these tables and files."""
    put(folder, files or {})
    for name, content in tables.items():
        (folder / name).parent.mkdir(exist_ok=True)
        pq.write_table(content, folder / name)
    return scan_image_set(folder)


@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
def test_rows_keep_their_captions_and_order(
    kind: pa.DataType, text: pa.DataType, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(table([5, 1, 9], kind, text), data / "train-00000-of-00002.parquet")
    pq.write_table(
        table([4, 2, 8, 3, 7], kind, text), data / "train-00001-of-00002.parquet", row_group_size=2
    )
    image_set = scan_image_set(tmp_path)
    order = [5, 1, 9, 4, 2, 8, 3, 7]
    assert [entry.caption for entry in image_set.entries] == [f"of {seed}" for seed in order]
    assert image_set.entries[0].name == "data/train-00000-of-00002.parquet row 1"
    for entry, seed in reversed(list(zip(image_set.entries, order, strict=True))):
        assert entry.read() == picture(seed)


def test_pictures_are_read_lazily(tmp_path: Path) -> None:
    pq.write_table(table(range(8)), tmp_path / "a.parquet", row_group_size=2)
    image_set = scan_image_set(tmp_path)
    assert parquet._pictures.cache_info().currsize == 0
    image_set.entries[5].read()
    assert parquet._pictures.cache_info().currsize == 1
    for entry in image_set.entries:
        entry.read()
    assert parquet._pictures.cache_info().currsize == 2


def test_files_and_tables_go_together(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "a.txt": "file"}
    image_set = scanned(tmp_path, {"b.parquet": table([2])}, files)
    assert captions_of(image_set) == {"a.png": "file", "b.parquet row 1": "of 2"}


def test_folder_names_repeat_tables_too(tmp_path: Path) -> None:
    names = ("3_dog/a.parquet", "0_off/a.parquet")
    (entry,) = scanned(tmp_path, dict.fromkeys(names, table([1]))).entries
    assert (entry.name, entry.repeats) == ("3_dog/a.parquet row 1", 3)


def test_bad_rows_do_not_shift_captions(tmp_path: Path) -> None:
    contents = (picture(1), None, None, b"no picture", picture(2))
    rows = [{"bytes": content, "path": "elsewhere.png"} for content in contents]
    images = pa.array([*rows[:2], None, *rows[3:]], STRUCT)
    texts = pa.array(["one", "no bytes", "null", "text", None])
    image_set = scanned(tmp_path, {"a.parquet": pa.table({"image": images, "text": texts})})
    assert captions_of(image_set) == {"a.parquet row 1": "one", "a.parquet row 5": None}
    assert about(image_set, "row 2", "no picture in it") and about(image_set, "row 3", "no picture")
    assert about(image_set, "row 4", "text file")


def test_a_table_without_captions(tmp_path: Path) -> None:
    image_set = scanned(tmp_path, {"a.parquet": table([1]).drop_columns(["text"])})
    assert captions_of(image_set) == {"a.parquet row 1": None}
    assert about(image_set, "a.parquet", "no column named text")


def test_other_tables_are_named(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "bad.parquet": b"PAR1 nonsense PAR1", "empty.parquet": b""}
    paths = pa.table({"image": ["a.png"], "text": ["x"]})
    tables = {"urls.parquet": pa.table({"url": ["x"]}), "paths.parquet": paths}
    image_set = scanned(tmp_path, tables, files)
    assert len(image_set.entries) == 1
    assert about(image_set, "urls.parquet", "no pictures in a column named image.*: url")
    assert about(image_set, "paths.parquet", "no pictures")
    assert about(image_set, "bad.parquet", "cannot be read")
    assert about(image_set, "empty.parquet", "cannot be read")


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_table_never_ends_the_scan(place: float, tmp_path: Path) -> None:
    pq.write_table(table(range(6)), tmp_path / "a.parquet")
    put(tmp_path, {"a.png": picture(9)})
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    at = int(len(data) * place)
    data[at : at + 40] = bytes(40)
    (tmp_path / "a.parquet").write_bytes(bytes(data))
    image_set = scan_image_set(tmp_path)
    assert len(image_set.entries) == 7 or about(image_set, "a.parquet")
    for entry in image_set.entries:
        assert entry.read() in [picture(seed) for seed in (*range(6), 9)]


def test_a_table_that_changes_is_not_read(tmp_path: Path) -> None:
    image_set = scanned(tmp_path, {"a.parquet": table([1, 2])})
    pq.write_table(table([3]), tmp_path / "a.parquet")
    for entry in image_set.entries:
        with pytest.raises(UserError, match=r"a.parquet row . ?(has been changed|.*no picture)"):
            entry.read()
    (tmp_path / "a.parquet").unlink()
    parquet.forget_tables()
    with pytest.raises(UserError, match="damaged or gone"):
        image_set.entries[0].read()


def test_a_row_group_too_large_for_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_ROW_GROUP_BYTES", 500_000)
    put(tmp_path, {"a.png": picture(9)})
    zeros = pa.table({"image": pa.array([bytes(600_000)], pa.binary())})
    path = tmp_path / "a.parquet"
    pq.write_table(zeros, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 10_000
    image_set = scan_image_set(tmp_path)
    assert about(image_set, "a.parquet", "row group 0 has")
    assert len(image_set.entries) == 1


def test_no_more_rows_are_listed_than_needed(tmp_path: Path) -> None:
    pq.write_table(table(range(9)), tmp_path / "a.parquet", row_group_size=2)
    file = FoundFile(tmp_path / "a.parquet", "a.parquet")
    assert len(list(parquet.open_table(file, [], limit=4))) == 5


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    pq.write_table(table(range(5)), tmp_path / "a.parquet", row_group_size=1)
    with pytest.raises(UserError, match="more than 4 pictures"):
        scan_image_set(tmp_path, limit=4)


def test_one_picture_in_many_rows_is_in_memory_once(tmp_path: Path) -> None:
    """A megabyte that would be four gigabytes."""
    rows = 10_000
    picture_bytes = os.urandom(400_000)
    indices, long = pa.array([0] * rows, pa.int32()), pa.array(["x" * 10_000])
    images = pa.StructArray.from_arrays(
        [pa.DictionaryArray.from_arrays(indices, pa.array([picture_bytes]))], ["bytes"]
    )
    texts = pa.DictionaryArray.from_arrays(indices, long)
    written = pa.table({"image": images, "text": texts})
    pq.write_table(written, tmp_path / "a.parquet", store_schema=False)
    file = FoundFile(tmp_path / "a.parquet", "a.parquet")
    before = pa.total_allocated_bytes()
    found = list(parquet.open_table(file, [], limit=rows))
    assert len(found) == rows
    assert len({id(caption) for _, caption in found}) == 1
    assert found[-1][0].read() == picture_bytes
    assert pa.total_allocated_bytes() - before < 5_000_000
    parquet.forget_tables()


@pytest.mark.parametrize("text", [True, False])
def test_rows_that_are_only_claimed(text: bool, tmp_path: Path) -> None:
    """The footer's numbers of rows, changed to 2^59."""
    written = pa.table({"image": pa.array([b"x"] * 1000, pa.binary()), "text": ["x"] * 1000})
    path = tmp_path / "a.parquet"
    pq.write_table(written if text else written.drop_columns(["text"]), path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    claimed = b"\x80" * 8 + b"\x10"  # in zigzag, seven bits a byte
    footer = data[-8 - length : -8].replace(b"\xd0\x0f", claimed)
    assert len(footer) > length
    path.write_bytes(data[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    findings: list[Finding] = []
    found = list(parquet.open_table(FoundFile(path, "a.parquet"), findings, limit=2000))
    assert findings or len(found) <= 2001


@pytest.mark.parametrize(
    ("columns", "captions", "said"),
    [
        ({"image": [1], "caption": ["red"]}, ["red"], "column caption"),
        ({"image": [1, 2], "text": [["red", "big"], []]}, ["red\nbig", None], ""),
        ({"image": [1], "tags": [["red", "big"]], "id": ["x y"]}, ["red, big"], "column tags"),
        ({"image": [1], "additional_feature": ["a hat"]}, ["a hat"], "additional_feature"),
        ({"jpg": [1], "txt": ["red"]}, ["red"], "Pictures are read from its column jpg"),
        ({"image": [1], "caption": ["red"], "prompt": ["blue"]}, [None], "told: caption, prompt"),
        ({"image": [1], "text": ["red"], "control": [2]}, ["red"], ""),
        ({"photo": [1], "mask": [2], "text": ["red"]}, None, "no pictures in a column named image"),
    ],
)
def test_other_columns(
    columns: dict[str, list[object]], captions: list[str | None] | None, said: str, tmp_path: Path
) -> None:
    values = {
        name: [picture(one) if isinstance(one, int) else one for one in column]
        for name, column in columns.items()
    }
    image_set = scanned(tmp_path, {"a.parquet": pa.table(values)}, {"0.png": picture(9)})
    assert [entry.caption for entry in image_set.entries[1:]] == (captions or [])
    findings = [one for one in image_set.findings if one.name == "a.parquet"]
    found = [one for one in findings if said in one.message] if said else []
    assert found if said else not [one for one in findings if one.severity != "note"]
