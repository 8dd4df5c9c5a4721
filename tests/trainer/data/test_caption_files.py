"""Captions in tables and in JSON files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.data.folders_for_tests import about, captions_of, picture, put
from trainer.data import caption_tables
from trainer.data.sets import ImageSet, scan_image_set

PICTURES: dict[str, bytes | str] = {
    "a.png": picture(1),
    "b, c.png": picture(2),
    "Sub/Ü.png": picture(3),
}


def scan(folder: Path, files: dict[str, bytes | str]) -> ImageSet:
    return scan_image_set(put(folder, PICTURES | files))


def jsonl(*rows: object) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


ROWS = [
    {"file_name": "a.png", "text": "an a,\u2028 “so”", "more": [1]},
    {"file_name": "b, c.png", "text": "two\nlines"},
    {"file_name": "sub\\U\u0308.PNG", "text": "deep"},
]
EXPECTED = {"a.png": "an a, “so”", "b, c.png": "two lines", "Sub/Ü.png": "deep"}
CSV = (
    'file_name,text,more\n./a.png,"an a,\u2028 “so”",1\n"b, c.png","two\nlines",2\n'
    "Sub/Ü.png,deep,3\n"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", jsonl(*ROWS)),
        ("metadata.jsonl", jsonl(*ROWS) + "\r\n\r\n"),
        ("metadata.jsonl", jsonl(*ROWS).encode("utf-8-sig")),
        ("metadata.jsonl", jsonl(*ROWS).encode("utf-16")),
        ("Metadata.JSONL", jsonl(*ROWS)),
        ("metadata.csv", CSV),
        ("metadata.csv", CSV.encode("utf-8-sig")),
        ("metadata.csv", CSV.replace("file_name,text", "File_Name, TEXT")),
        (
            "metadata.csv",
            'file_name;text\na.png;"an a, “so”"\nb, c.png;two lines\nSub/Ü.png;deep\n',
        ),
    ],
)
def test_captions_are_read(name: str, content: bytes | str, tmp_path: Path) -> None:
    image_set = scan(tmp_path, {name: content})
    assert captions_of(image_set) == EXPECTED
    assert not about(image_set, name)


LARGE = [(f"full/{number:05d}.png", f"text {number}") for number in range(1500)]
"""The table of a large set, of which two pictures were taken."""
LISTED = {
    "captions.csv": "image,caption\n" + "".join(f"{name},{text}\n" for name, text in LARGE),
    "alle.csv": "Bild,caption\n" + "".join(f"{name},{text}\n" for name, text in LARGE),
    "all.tsv": "caption\timage\n" + "".join(f"{text}\t{name}\n" for name, text in LARGE),
    "all.jsonl": jsonl(*({"image": name, "caption": text} for name, text in LARGE)),
    "all.json": json.dumps([{"image": name, "caption": text} for name, text in LARGE]),
    "meta_cap.json": json.dumps({name: {"caption": text} for name, text in LARGE}),
    "metadata.csv": "file_name,text\n" + "".join(f"{name},{text}\n" for name, text in LARGE),
}


@pytest.mark.parametrize("name", LISTED)
def test_of_a_large_table_the_rows_of_a_few_pictures_count(name: str, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"01400.png": picture(1), "01450.png": picture(2)}
    image_set = scan_image_set(put(tmp_path, files | {name: LISTED[name]}))
    assert captions_of(image_set) == {"01400.png": "text 1400", "01450.png": "text 1450"}


def test_each_folder_may_have_its_own(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "Sub/metadata.csv": "file_name,text\nÜ.png,inner\n",
        "metadata.csv": "file_name,text\na.png,outer\n",
    }
    found = captions_of(scan(tmp_path, files))
    assert (found["Sub/Ü.png"], found["a.png"]) == ("inner", "outer")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("not json", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ('{"text": "no name"}', "no file_name"),
        ('{"file_name": 7, "text": "x"}', "no file_name"),
        ('{"file_name": "a.png", "text": 5}', "not in quotes"),
        ('{"file_name": "a.png", "text": [["x"]]}', "not in quotes"),
        ('{"file_name": "gone.png", "text": "x"}', "no picture gone.png"),
        ('{"file_name": "../a.png", "text": "x"}', "lies outside"),
        ('{"file_name": "Sub/../../a.png", "text": "x"}', "lies outside"),
        ('{"file_name": "/etc/passwd", "text": "x"}', "lies outside"),
        ('{"file_name": "' + "../" * 100_000 + '", "text": "x"}', "longer than any path"),
        ('{"file_name": "C:\\\\a.png", "text": "x"}', "lies outside"),
        ('{"file_name": "b, c.png", "text": "again"}', "a row already"),
        ('{"file_name": "\\ud800\\u0000", "text": "x"}', r"no picture \\ud800\\u0000"),
    ],
)
def test_a_bad_row_is_named_and_the_others_count(row: str, reason: str, tmp_path: Path) -> None:
    good = jsonl({"file_name": "b, c.png", "text": "good"}, {"file_name": "a.png", "text": "last"})
    first, last = good.split("\n")
    image_set = scan(tmp_path, {"metadata.jsonl": f"{first}\n{row}\n{last}"})
    assert captions_of(image_set) == {"a.png": "last", "b, c.png": "good", "Sub/Ü.png": None}
    findings = about(image_set, "metadata.jsonl")
    assert [finding.message.split(" is not")[0] for finding in findings] == ["Line 2"]
    assert reason.replace("\\\\", "\\") in findings[0].message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("who,caption\nz.png,x\n", "needs the columns file_name and text, and has: who, caption"),
        ("file_name,caption,prompt\na.png,x,y\n", "cannot be told: caption, prompt"),
        ("file_name,width\na.png,5\n", "no column named text.*: width"),
        ('file_name,text\na.png,"x\nb.jpg,y\nSub/Ü.png,z\n', "a quote that is not closed"),
        ("", "needs the columns"),
        ("file_name,text\na.png," + "x" * 200_000, "cannot be read"),
    ],
)
def test_a_bad_table_is_named(content: str, reason: str, tmp_path: Path) -> None:
    image_set = scan(tmp_path, {"metadata.csv": content})
    assert about(image_set, "metadata.csv", reason)
    assert len(image_set.entries) == 3


def test_short_rows_are_no_rows(tmp_path: Path) -> None:
    image_set = scan(tmp_path, {"metadata.csv": "text,file_name\nlonely\nx,a.png\n"})
    assert captions_of(image_set)["a.png"] == "x"
    assert about(image_set, "metadata.csv", "Line 2 is not used: it has no file_name")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "metadata.jsonl",
            "x\n" * 5000,
            "5,000 lines (1, 2, 3 and 4997 more) are not used: no JSON object in braces.",
        ),
        (
            "metadata.csv",
            "file_name,text\na.png,x\n" + "".join(f"gone{n}.png,y\n" for n in range(30)),
            "30 lines (3, 4, 5 and 27 more) are not used: there is no picture gone0.png, "
            "gone1.png, gone2.png and 27 more.",
        ),
    ],
)
def test_bad_rows_of_one_kind_are_one_warning(
    file: str, content: str, said: str, tmp_path: Path
) -> None:
    assert [one.message for one in about(scan(tmp_path, {file: content}), file)] == [said]


def test_a_huge_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_tables, "MAX_TABLE_BYTES", 100)
    image_set = scan(tmp_path, {"metadata.jsonl": jsonl(*ROWS)})
    assert about(image_set, "metadata.jsonl", "cannot be read any further: it has more than")


HEADER = "file_name,text\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metadata.jsonl", '{"a": [' + "[]," * 400_000 + "1]}", "more than 1,000,000 characters"),
        ("metadata.csv", HEADER + '"b' + "\n" * 200_000, "cannot be read any further"),
        ("metadata.csv", HEADER + "x,y\n" * 1001, "it has more than 1,000 rows"),
    ],
)
def test_rows_made_to_fill_the_memory_are_not_read(
    name: str, content: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_tables, "_MAX_ROWS", 1000)
    image_set = scan(tmp_path, {name: content})
    assert about(image_set, name, reason)
    assert len(image_set.entries) == 3


def test_short_rows_below_many_columns_stay_short(tmp_path: Path) -> None:
    """A dictionary of each row would have 10⁹ entries together."""
    columns = ",".join(["file_name", "text", *map(str, range(20_000))])
    image_set = scan(tmp_path, {"metadata.csv": f"{columns}\n" + "x\n" * 50_000 + "a.png,found"})
    assert captions_of(image_set)["a.png"] == "found"


BOTH = {"a.png": "red, big", "x/b.png": "blue"}
FEATURES = """{"file_name": "a.png", "additional_feature": "red, big"}
{"file_name": "x/b.png", "additional_feature": "blue"}"""
CAPTIONS_AND_TAGS = """{"file_name": "a.png", "caption": "red, big", "tags": "1girl"}
{"file_name": "x/b.png", "caption": "blue", "tags": "2girls"}"""
LISTS = """{"file_name": "a.png", "captions": ["red", "big"]}
{"file_name": "x/b.png", "captions": []}"""
LISTS_OF_TAGS = """{"file_name": "a.png", "tags": ["red", "big"]}
{"file_name": "x/b.png", "tags": ["blue"]}"""
PROMPTS = """{"file_name": "a.png", "prompt": "red, big"}
{"file_name": "x/b.png", "prompt": "blue"}"""
UNNAMED = 'img,what it shows,w\na.png,"red, big",5\nx/b.png,"blue, small",6'
SMALL = {"a.png": "red, big", "x/b.png": "blue, small"}
OF_SD_SCRIPTS = '{"/home/me/a": {"caption": "red, big"}, "/home/me/x/b": {"caption": "blue"}}'
LISTED_ROWS = '[{"image": "a.png", "text": "red, big"}, {"image": "x/b.png", "text": "blue"}]'
IN_A_TABLE = f'{{"version": 1, "data": {LISTED_ROWS.replace("x/b.png", "b")}}}'
FIRST = {"a.png": "red, big"}
TABLES: dict[str, tuple[str, str, dict[str, str], str]] = {
    # file; content; the captions of a.png and x/b.png; what is said
    "caption": (
        "metadata.csv",
        'file_name,caption\na.png,"red, big"\nx/b.png,blue',
        BOTH,
        "column caption",
    ),
    "prompt in JSON lines": ("metadata.jsonl", PROMPTS, BOTH, "column prompt"),
    "one in capitals": ("metadata.csv", 'image,TEXT\na.png,"red, big"\nx/b.png,blue', BOTH, ""),
    "a feature": ("metadata.jsonl", FEATURES, BOTH, "column additional_feature"),
    "caption and tags": ("metadata.jsonl", CAPTIONS_AND_TAGS, BOTH, "caption, and not from tags"),
    "an unknown name": ("captions.csv", UNNAMED, SMALL, "column what it shows is taken"),
    "two that may be": (
        "captions.csv",
        "file,caption,prompt\na.png,one,two",
        {},
        "caption, prompt",
    ),
    "facts are no captions": (
        "metadata.csv",
        "file_name,split\na.png,train",
        {},
        "no column named",
    ),
    "lists": ("metadata.jsonl", LISTS, {"a.png": "red\nbig"}, "column captions"),
    "lists of tags": ("metadata.jsonl", LISTS_OF_TAGS, BOTH, "column tags"),
    "no quotes": (
        "metadata.csv",
        "file_name,text\na.png,red, big\nx/b.png,blue",
        BOTH,
        "1 rows have",
    ),
    "in front": (
        "metadata.csv",
        "text,file_name\nred, big,a.png\nblue,x/b.png",
        BOTH,
        "more commas",
    ),
    "at the end": ("metadata.csv", 'file_name,text\na.png,"red, big",,\nx/b.png,blue,', BOTH, ""),
    "spaces": ("metadata.csv", 'file_name, text\na.png, "red, big"\nx/b.png, blue', BOTH, ""),
    "no header": ("captions.csv", "a.png,red, big\nx/b.png,blue", BOTH, ""),
    "tabs": (
        "captions.tsv",
        "path\tcaption\na.png\tred, big\nx/b.png\tblue",
        BOTH,
        "column caption",
    ),
    "tabs in CSV": ("metadata.csv", "file_name\ttext\na.png\tred, big\nx/b.png\tblue", BOTH, ""),
    "JSON by name": ("captions.json", '{"a.png": "red, big", "x/b.png": "blue"}', BOTH, ""),
    "JSON of sd-scripts": ("meta_cap.json", OF_SD_SCRIPTS, BOTH, "column caption"),
    "JSON, a list": ("data.json", LISTED_ROWS, BOTH, ""),
    "JSON, a list in it": ("data.json", IN_A_TABLE, BOTH, ""),
    "JSON for each": ("a.json", '{"prompt": "red, big", "seed": 5}', FIRST, "column prompt"),
    "JSON for each, whole name": ("a.png.json", '{"tags": ["red", "big"]}', FIRST, ""),
    "of a booru": (
        "a.json",
        '{"tag_string": "red big_hat", "id": 5}',
        {"a.png": "red, big_hat"},
        "",
    ),
    "of another booru": ("a.json", '{"tags": "red big_hat"}', {"a.png": "red, big_hat"}, ""),
    "tags in words": ("a.json", '{"tags": "a red hat"}', {"a.png": "a red hat"}, "column tags"),
    "tags by kind": (
        "a.json",
        '{"tags": {"general": ["red", "big"], "artist": []}, "description": ""}',
        FIRST,
        "",
    ),
    "a text beside tags": (
        "a.json",
        '{"tags": {"general": ["cat"]}, "description": "red, big"}',
        FIRST,
        "description, and not from tags",
    ),
    "COCO": (
        "annotations.json",
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "x/b.png"}],
                "annotations": [
                    {"image_id": 9, "caption": "blue"},
                    *({"image_id": 7, "caption": text} for text in ("red", "big")),
                ],
            }
        ),
        {"a.png": "red\nbig", "x/b.png": "blue"},
        "",
    ),
    "JSON for each, unclear": ("a.json", '{"prompt": "x", "caption": "y"}', {}, "cannot be told"),
    "JSON for each, broken": ("a.json", "{", {}, "cannot be read as a caption"),
    "below": ("meta/captions.csv", 'file_name,text\na.png,"red, big"\nb.png,blue', BOTH, ""),
    "gone": ("metadata.csv", 'file_name,text\ntrain/a.png,"red, big"\nold/x/b.png,blue', BOTH, ""),
    "of other pictures": ("captions.csv", "file_name,text\nz.png,z", {}, "no picture z.png"),
    "of others, otherwise": (
        "captions.csv",
        "img,caption\nz.png,z",
        {},
        "names no picture of this set",
    ),
    "of nothing": ("package.json", '{"scripts": {"a": "b"}}', {}, "names no picture"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_captions_in_other_columns_and_files(kind: str, tmp_path: Path) -> None:
    name, content, expected, said = TABLES[kind]
    pictures: dict[str, bytes | str] = {"a.png": picture(1), "x/b.png": picture(2)}
    image_set = scan_image_set(put(tmp_path, pictures | {name: content}))
    assert {key: text for key, text in captions_of(image_set).items() if text} == expected
    findings = about(image_set, name)
    assert (
        about(image_set, name, said) if said else not [f for f in findings if f.severity != "note"]
    )
    if not expected and kind != "of nothing":  # captions that are lost are more than worth knowing
        assert [finding for finding in findings if finding.severity != "note"]
