"""Ordinary messy folders: what is trained on, and what is said. A row for each right behaviour."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.corpus.pictures import encode, pattern
from tests.trainer.data.folders_for_tests import Files, about, described, picture, put
from trainer.config.schema import CaptionsConfig
from trainer.data.captions import compose_caption, decode_caption
from trainer.data.images import load_rgb
from trainer.data.sets import scan_image_set


@pytest.mark.parametrize(
    "junk",
    [
        *("._a.png", "@eaDir/a.png", "x/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", ".thumbnails/a.png"),
        *("__MACOSX/a.png", "#recycle/a.png", "$RECYCLE.BIN/a.png", "lost+found/a.png"),
        *("Thumbs.db", "desktop.ini"),
    ],
)
def test_what_systems_keep_is_neither_trained_nor_named(junk: str, tmp_path: Path) -> None:
    report = described(tmp_path, {"a.png": picture(1), "b.png": picture(2), junk: picture(3)})
    assert report.pictures == 2
    assert not [one for one in report.findings if "Not looked at" in one.message]


@pytest.mark.parametrize(
    "name", ["@jane_1.png", "@jane/b.png", "__MACOSX1.png", "#cat.png", "#recycle.png"]
)
def test_what_people_name_so_is_trained(name: str, tmp_path: Path) -> None:
    assert described(tmp_path, {"a.png": picture(1), name: picture(2)}).pictures == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".b.heic.icloud", "in iCloud"),
        ("x/.b.png.icloud", "in iCloud"),
        *(
            (name, "is a picture whose name")
            for name in ("b", "b.jpg_large", "b.png.1", "b.png?w=8")
        ),
    ],
)
def test_pictures_under_other_names_are_named(name: str, said: str, tmp_path: Path) -> None:
    image_set = scan_image_set(put(tmp_path, {"a.png": picture(1), name: picture(2)}))
    shown = name.replace(".b", "b").removesuffix(".icloud")
    assert [(one.name, one.severity) for one in about(image_set, "", said)] == [(shown, "warning")]


@pytest.mark.parametrize(
    ("files", "said", "severity"),
    [
        (["b.jxl", "c.CR2", "d.svg", "clip.mp4"], "Not read, so not trained on", "warning"),
        (["more.zip"], "Unpack it", "warning"),
        (["a.cr2"], "Not looked at", "note"),  # the camera's own JPEG of it is there
        (["b.xyz", "a.png.bak"], "Not looked at", "note"),
        (["a.tags", "b.WD14", "captions.xlsx"], "ends in .txt, or save them as CSV", "warning"),
    ],
)
def test_kinds_that_are_not_read_are_named(
    files: list[str], said: str, severity: str, tmp_path: Path
) -> None:
    others = dict.fromkeys([*files, "README.md", "LICENSE"], b"x")  # these are for people
    image_set = scan_image_set(put(tmp_path, {"a.png": picture(1), **others}))
    assert about(image_set, "a.png", "the only picture")
    assert not about(image_set, "README.md") and not about(image_set, "LICENSE")
    (finding,) = about(image_set, files[0], said)
    assert (finding.severity, len(finding.pictures)) == (severity, len(files))


@pytest.mark.parametrize(
    ("caption", "trained"),
    [
        (r"mario \(nintendo\), red", "ohwx, mario (nintendo), red"),
        ("(red hat:1.2), (blue)", "ohwx, red hat, (blue)"),
        ("((smile)), (((x:.5)))", "ohwx, smile, x"),
        ("[trigger] on a sofa", "ohwx on a sofa"),
        ("{Trigger}, sofa", "ohwx, sofa"),
        ("a dog <lora:mine:0.8>", "ohwx, a dog"),
        (
            "a cat,\nred\nNegative prompt: lowres, bad\nSteps: 20, Sampler: Euler a",
            "ohwx, a cat, red",
        ),
        ("a cat Steps: 20, CFG scale: 7", "ohwx, a cat"),
        ("a [trigger] {class} on {{trigger}}", "a ohwx on ohwx"),
        ("a {trigger}{class}", "a ohwx"),
        ("a cat BREAK red sofa, BREAK", "ohwx, a cat, red sofa"),
        ("a wall, IN CASE BREAK GLASS", "ohwx, a wall, IN CASE BREAK GLASS"),
        ("a &amp;amp; b, it&#39;s &lt;3 &copy", "ohwx, a & b, it's <3 &copy"),
        ("{{{best}}}, [[low]], [x], {a|b}", "ohwx, best, low, [x], {a|b}"),
        (r"looking\_at\_viewer", "ohwx, looking_at_viewer"),
        ("Steps: a stair, Negative prompts", "ohwx, Steps: a stair, Negative prompts"),
        ("ratio (16:9) at (9:30), (a:b) (1990)", "ohwx, ratio (16:9) at (9:30), (a:b) (1990)"),
    ],
)
def test_captions_written_as_prompts_of_other_tools(
    caption: str, trained: str, tmp_path: Path
) -> None:
    words = CaptionsConfig(trigger="ohwx", dropout=0.0)
    read = decode_caption(caption.encode())
    assert compose_caption(read, words, seed=0, step=0, image_id="") == trained
    report = described(tmp_path, {"a.png": picture(1), "a.txt": caption}, trigger="ohwx")
    said = [one for one in report.findings if "prompt for another tool" in one.message]
    assert bool(said) == (trained != f"ohwx, {caption}")
    assert report.lacking_trigger == ([] if "rigger" in caption else ["a.png"])


DOUBTED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    # a caption, what is set for images and for captions, and what is said
    "refused": ("I'm sorry, but I can't assist with that.", {}, {}, "of some program"),
    "refused too": ("I cannot describe this image.", {}, {}, "of some program"),
    "an empty field": ("null", {}, {}, "of some program"),
    "punctuation": ("(null)", {}, {}, "of some program"),
    **{
        text: (text, {}, {}, "of some program")
        for text in (
            "I am not able to view the image you uploaded.",
            '["ohwx", "cat", "sofa"]',
            '{"caption": "ohwx cat on a chair"}',
            "<p>ohwx cat</p>",
            "<think>The user wants a caption</think>",
            "Sure! Here is a caption for the image: a cat",
            "**Caption:** a cat",
            "Error: rate limit exceeded",
            "https://example.org/cat.jpg",
        )
    },
    **{
        text: (text, {}, {}, "")
        for text in (
            "a surely happy cat",
            "an error sign, red: bright",
            "[1990] cat",
            "caption on a wall",
            "description of a cat, sofa: red",
            "<3 cats",
            "tags hanging from a coat, shop: old",
        )
    },
    "a wildcard": ("a __farm/animal__ on grass", {}, {}, "between underscores"),
    "a template": ("a photo of [name], [filewords]", {}, {}, "[filewords]"),
    "a field": ("a <subject> and a {colour} hat", {}, {}, "[filewords]"),
    "brackets": ("[1990], <3, file_name__2, {trigger}, nullity, none of them", {}, {}, ""),
    "a sorry cat": ("a sorry-looking cat, I think", {}, {}, ""),
    "sides": ("a cat on the left", {"flip": True}, {}, "images.flip"),
    "a text": ('a sign that reads "OPEN"', {"flip": True}, {}, "images.flip"),
    "not mirrored": ("a cat on the left", {}, {}, ""),
    "no sides": ("a copyright lawyer reads a book, bright texture", {"flip": True}, {}, ""),
    "sentences": (
        "A cat on a red sofa, looking at it closely.",
        {},
        {"shuffle_tags": True},
        "Sent",
    ),
    "tags": ("1girl, long hair, looking at viewer", {}, {"shuffle_tags": True}, ""),
}


@pytest.mark.parametrize("case", DOUBTED)
def test_captions_that_may_not_be_meant_are_named(case: str, tmp_path: Path) -> None:
    caption, images, captions, said = DOUBTED[case]
    files: Files = {"a.png": picture(1), "a.txt": caption, "b.png": picture(2), "b.txt": caption}
    report = described(tmp_path, files, images, trigger="ohwx", **captions)
    own = [
        one
        for one in report.findings
        if re.search("some program|wildcard|mirrors|Sentences", one.message)
    ]
    assert [(one.pictures, said in one.message) for one in own] == (
        [(("a.png", "b.png"), True)] if said else []
    )


@pytest.mark.parametrize(
    ("trigger", "class_word", "caption", "trained"),
    [
        ("ohwx man", "man", None, "ohwx man"),
        ("ohwx man", "man", "a [trigger] {class} on {class}", "a ohwx man on man"),
        ("ohwx man", "man", "on grass", "ohwx man, on grass"),
        ("ohwx Man", "man", None, "ohwx Man"),
        ("batman", "man", None, "batman man"),
        ("ohwx", "man", None, "ohwx man"),
    ],
)
def test_a_class_word_in_the_trigger_comes_once(
    trigger: str, class_word: str, caption: str | None, trained: str
) -> None:
    words = CaptionsConfig(trigger=trigger, class_word=class_word, dropout=0.0)
    assert compose_caption(caption, words, seed=0, step=0, image_id="") == trained


def drawn(colour: tuple[int, ...], ground: tuple[int, ...] = (0, 0, 0, 0)) -> bytes:
    image = Image.new("RGBA", (64, 64), ground)
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=colour)
    return encode(image, "PNG")


@pytest.mark.parametrize(
    ("colour", "wanted", "below"),
    [
        ((255, 255, 255, 255), "#ffffff", "#000000"),
        ((250, 250, 245, 255), "#ffffff", "#000000"),
        ((255, 255, 255, 90), "#ffffff", "#000000"),
        ((0, 0, 0, 255), "#000000", "#ffffff"),
        ((128, 128, 128, 255), "#808080", "#000000"),
        ((200, 30, 30, 255), "#ffffff", "#ffffff"),
        ((255, 255, 255, 255), "#0000ff", "#0000ff"),
    ],
)
def test_a_picture_that_its_background_would_hide(
    colour: tuple[int, ...], wanted: str, below: str, tmp_path: Path
) -> None:
    report = described(tmp_path, {"a.png": drawn(colour)}, {"background": wanted})
    (fitted,) = report.fitted
    assert fitted.entry.background(wanted) == below
    pixels = np.asarray(load_rgb(tmp_path / "a.png", below)).astype(int)
    assert np.ptp(pixels) > 16
    said = [one for one in report.findings if "Nothing of it would be seen on" in one.message]
    assert bool(said) == (below != wanted)


def test_a_picture_without_anything_in_it_is_left_out(tmp_path: Path) -> None:
    files: Files = {"a.png": drawn((9, 9, 9, 0)), "b.png": picture(1)}
    image_set = scan_image_set(put(tmp_path, files))
    assert image_set.left_out == ("a.png",)
    assert about(image_set, "a.png", "transparent all over")


@pytest.mark.parametrize(
    ("size", "words"),
    [((200, 50), "50 % is cut off"), ((192, 64), "67 % is cut off"), ((80, 64), "")],
)
def test_what_a_crop_loses_is_said_as_a_number(
    size: tuple[int, int], words: str, tmp_path: Path
) -> None:
    report = described(tmp_path, {"a.png": picture(1, width=size[0], height=size[1])})
    said = [one for one in report.findings if "cut off" in one.message]
    assert [words in one.message for one in said] == ([True] if words else [])
    assert all(one.severity == "warning" for one in said)


def test_small_drawings_on_white_are_no_duplicates(tmp_path: Path) -> None:
    files: Files = {}
    for number in range(12):
        image = Image.new("RGB", (96, 96), "white")
        image.paste(pattern(24, 24, seed=number), (30 + number, 30))
        files[f"{number}.png"] = encode(image, "PNG")
    shifted = Image.new("RGB", (96, 96), "white")
    shifted.paste(pattern(24, 24, seed=0), (50, 44))
    files["shifted.png"] = encode(shifted, "PNG")
    image_set = scan_image_set(put(tmp_path, files))
    assert [one.name for one in about(image_set, "", "Nearly the same")] == ["shifted.png"]


def test_heic_is_read(tmp_path: Path) -> None:
    image = pattern(96, 64, seed=3)
    report = described(tmp_path, {"a.heic": encode(image, "HEIF", quality=95)})
    assert report.formats == {"HEIF": 1}
    unlike = np.abs(np.asarray(load_rgb(tmp_path / "a.heic"), int) - np.asarray(image, int))
    assert unlike.mean() < 8


def planar(bits: int) -> bytes:
    """An uncompressed TIFF of 8 × 4 pixels, plane by plane."""
    size = 32 * bits // 8
    tags = [
        *((256, 3, 1, 8), (257, 3, 1, 4), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 4, 3, 210), (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 3, 222), (284, 3, 1, 2)),
    ]
    out = io.BytesIO(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)))
    out.seek(0, 2)
    for tag in tags:
        out.write(struct.pack("<HHII", *tag))
    out.write(bytes(200 - out.tell()) + struct.pack("<3H", bits, bits, bits))
    out.write(bytes(210 - out.tell()) + struct.pack("<3I", *(300 + n * size for n in range(3))))
    out.write(struct.pack("<3I", size, size, size) + bytes(300 - 234))
    for value in (10, 200, 90):
        out.write(bytes([value]) * size)
    return out.getvalue()


def test_a_planar_tiff_is_read_or_refused_and_never_misread(tmp_path: Path) -> None:
    image_set = scan_image_set(put(tmp_path, {"8.tif": planar(8), "16.tif": planar(16)}))
    assert [entry.name for entry in image_set.entries] == ["8.tif"]
    assert load_rgb(tmp_path / "8.tif").getpixel((3, 2)) == (10, 200, 90)
    (said,) = about(image_set, "16.tif", "planes of 16 bits")
    assert "damaged" not in said.message


STAMP = "A peacock.\nde.utf8=Ein Pfau.\nca@valencia.utf8=Un paó.\nzh_CN.utf8=孔雀\n"


@pytest.mark.parametrize(
    ("text", "caption", "said"),
    [
        (STAMP, "A peacock.", True),
        ("de.utf8=Ein Pfau.\n", "de.utf8=Ein Pfau.", False),
        ("A sign that says en.utf8=x\nde: a sign", "A sign that says en.utf8=x\nde: a sign", False),
    ],
)
def test_translations_are_no_captions(text: str, caption: str, said: bool, tmp_path: Path) -> None:
    image_set = scan_image_set(put(tmp_path, {"a.png": picture(1), "a.txt": text}))
    assert image_set.entries[0].caption == caption
    assert bool(about(image_set, "a.txt", "translations")) == said


@pytest.mark.parametrize(
    ("lines", "severity"),
    [
        (["a red line"] * 2, "note"),
        (["a red line"] * 20, "note"),
        (["a red line"] * 21, "warning"),
        (["1girl", "blue eyes", "sofa"], "warning"),
        (["word " * 60, "word " * 50], "warning"),
        (["a red line", "a red line", "big"], "note"),
    ],
)
def test_what_is_a_doubtful_caption(lines: list[str], severity: str, tmp_path: Path) -> None:
    report = described(tmp_path, {"a.png": picture(1), "a.txt": "\n".join(lines)})
    (finding,) = [one for one in report.findings if "Several captions" in one.message]
    assert finding.severity == severity
