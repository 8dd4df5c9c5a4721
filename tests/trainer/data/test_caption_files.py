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
        ('{"file_name": "gone.png", "text": "x"}', "no such picture (file_name: gone.png)"),
        ('{"file_name": "/etc/passwd", "text": "x"}', "no such picture (file_name: /etc/passwd)"),
        ('{"file_name": "' + "../" * 100_000 + '", "text": "x"}', "no such picture"),
        ('{"file_name": "b, c.png", "text": "again"}', "a row already"),
        ('{"file_name": "\\ud800\\u0000", "text": "x"}', r"file_name: \\ud800\\u0000"),
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


@pytest.mark.parametrize("name", ["../a.png", "Sub/../../a.png", "C:\\pics\\a.png", "/x/A.PNG"])
def test_paths_of_another_machine_count_by_their_last_parts(name: str, tmp_path: Path) -> None:
    image_set = scan(tmp_path, {"Sub/metadata.jsonl": jsonl({"file_name": name, "text": "x"})})
    assert captions_of(image_set)["a.png"] == "x"


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
            "30 lines (3, 4, 5 and 27 more) are not used: there is no such picture (file_name: "
            "gone0.png, gone1.png, gone2.png and 27 more).",
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
QUOTED, PLAIN = 'a.png,"red, big"\nx/b.png,blue', "a.png,red, big\nx/b.png,blue"
TABS = PLAIN.replace("png,", "png\t")
SMALL = {"a.png": "red, big", "x/b.png": "blue, small"}
UNNAMED = 'img,what it shows,w\na.png,"red, big",5\nx/b.png,"blue, small",6'
OF_SD_SCRIPTS = '{"/home/me/a": {"caption": "red, big"}, "/home/me/x/b": {"caption": "blue"}}'
LISTED_ROWS = '[{"image": "a.png", "text": "red, big"}, {"image": "x/b.png", "text": "blue"}]'
IN_A_TABLE = f'{{"version": 1, "data": {LISTED_ROWS.replace("x/b.png", "b")}}}'
FIRST, LINES, HAT = {"a.png": "red, big"}, {"a.png": "red\nbig"}, {"a.png": "red, big_hat"}
BY_KIND = '{"tags": {"general": ["red", "big"], "artist": []}, "description": ""}'
DESCRIBED = '{"tags": {"general": ["cat"]}, "description": "red, big"}'
COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "x/b.png"}],
    "annotations": [
        {"image_id": number, "caption": text}
        for number, text in ((9, "blue"), (7, "red"), (7, "big"))
    ],
}


def two(first: dict[str, object], second: dict[str, object]) -> str:
    """JSON lines of both pictures."""
    return jsonl({"file_name": "a.png", **first}, {"file_name": "x/b.png", **second})


TABLES: dict[str, tuple[str, dict[str, str], str]] = {
    # file and kind: content; the captions of a.png and x/b.png; what is said
    "metadata.csv: caption": (f"file_name,caption\n{QUOTED}", BOTH, "column caption"),
    "metadata.csv: in capitals": (f"image,TEXT\n{QUOTED}", BOTH, ""),
    "captions.csv: an unknown name": (UNNAMED, SMALL, "column what it shows is taken"),
    "captions.csv: two that may be": ("file,caption,prompt\na.png,x,y", {}, "caption, prompt"),
    "metadata.csv: no captions": ("file_name,split\na.png,train", {}, "no column named"),
    "metadata.csv: no quotes": (f"file_name,text\n{PLAIN}", BOTH, "1 rows have"),
    "metadata.csv: in front": ("text,file_name\nred, big,a.png\nblue,x/b.png", BOTH, "more commas"),
    "metadata.csv: at the end": ('file_name,text\na.png,"red, big",,\nx/b.png,blue,', BOTH, ""),
    "metadata.csv: spaces": ('file_name, text\na.png, "red, big"\nx/b.png, blue', BOTH, ""),
    "captions.csv: no header": (PLAIN, BOTH, ""),
    "captions.tsv: tabs": (f"path\tcaption\n{TABS}", BOTH, "column caption"),
    "metadata.csv: tabs": (f"file_name\ttext\n{TABS}", BOTH, ""),
    "meta/captions.csv: below": ('file_name,text\na.png,"red, big"\nb.png,blue', BOTH, ""),
    "metadata.csv: gone": ('file_name,text\ntrain/a.png,"red, big"\nold/x/b.png,blue', BOTH, ""),
    "captions.csv: of other pictures": ("file_name,text\nz.png,z", {}, "no such picture"),
    "captions.csv: otherwise": ("img,caption\nz.png,z", {}, "names no picture of this set"),
    "metadata.jsonl: prompt": (two({"prompt": "red, big"}, {"prompt": "blue"}), BOTH, "prompt"),
    "metadata.jsonl: a feature": (
        two({"additional_feature": "red, big"}, {"additional_feature": "blue"}),
        BOTH,
        "_feature",
    ),
    "metadata.jsonl: caption and tags": (
        two({"caption": "red, big", "tags": "1girl"}, {"caption": "blue", "tags": "2girls"}),
        BOTH,
        "caption, and not from tags",
    ),
    "metadata.jsonl: lists": (
        two({"captions": ["red", "big"]}, {"captions": []}),
        LINES,
        "captions",
    ),
    "metadata.jsonl: tags": (
        two({"tags": ["red", "big"]}, {"tags": ["blue"]}),
        BOTH,
        "column tags",
    ),
    "captions.json: by name": ('{"a.png": "red, big", "x/b.png": "blue"}', BOTH, ""),
    "meta_cap.json: of sd-scripts": (OF_SD_SCRIPTS, BOTH, "column caption"),
    "data.json: a list": (LISTED_ROWS, BOTH, ""),
    "data.json: a list in it": (IN_A_TABLE, BOTH, ""),
    "annotations.json: COCO": (json.dumps(COCO), LINES | {"x/b.png": "blue"}, ""),
    "package.json: nothing": ('{"scripts": {"a": "b"}}', {}, "names no picture"),
    "a.json: for each": ('{"prompt": "red, big", "seed": 5}', FIRST, "column prompt"),
    "a.png.json: whole name": ('{"tags": ["red", "big"]}', FIRST, ""),
    "a.json: of a booru": ('{"tag_string": "red big_hat", "id": 5}', HAT, ""),
    "a.json: of another booru": ('{"tags": "red big_hat"}', HAT, ""),
    "a.json: tags in words": ('{"tags": "a red hat"}', {"a.png": "a red hat"}, "column tags"),
    "a.json: tags by kind": (BY_KIND, FIRST, ""),
    "a.json: a text beside tags": (DESCRIBED, FIRST, "description, and not from tags"),
    "a.json: unclear": ('{"prompt": "x", "caption": "y"}', {}, "cannot be told"),
    "a.json: broken": ("{", {}, "cannot be read as a caption"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_captions_in_other_columns_and_files(kind: str, tmp_path: Path) -> None:
    name, (content, expected, said) = kind.partition(":")[0], TABLES[kind]
    pictures: dict[str, bytes | str] = {"a.png": picture(1), "x/b.png": picture(2)}
    image_set = scan_image_set(put(tmp_path, pictures | {name: content}))
    assert {key: text for key, text in captions_of(image_set).items() if text} == expected
    findings = about(image_set, name)
    assert (
        about(image_set, name, said) if said else not [f for f in findings if f.severity != "note"]
    )
    if (
        not expected and kind != "package.json: nothing"
    ):  # captions that are lost are more than worth knowing
        assert [finding for finding in findings if finding.severity != "note"]
