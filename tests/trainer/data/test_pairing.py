"""Which file belongs to which picture: layouts of folders as people and other tools make them.

One table for all: what lies in a folder, which pictures train with which mask, and what is said.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from tests.corpus.pictures import encode
from tests.trainer.data.folders_for_tests import about, captions_of, picture, put
from trainer.config.schema import ImagesConfig
from trainer.data.buckets import Focus, pixels_of, plan_crop
from trainer.data.images import load_rgb
from trainer.data.masks import fit, read_mask, seen
from trainer.data.pairing import write_focus
from trainer.data.report import fit_pictures
from trainer.data.sets import ImageSet, scan_image_set


def masks_of(image_set: ImageSet) -> dict[str, str | None]:
    return {entry.name: entry.mask and entry.mask.name for entry in image_set.entries}


LONG = "n" * 43
MASKS = {
    # each picture that trains = its mask | what is neither | a finding, if one is looked at
    "ours": "a.png=a.mask.png | | a.mask.png: images.masks",
    "OneTrainer": "a.jpg=a-masklabel.png",
    "OneTrainer, no picture": "b.jpg | a-masklabel.png | a-mask: no picture",
    "OneTrainer, conditioning": "a.jpg | a-condlabel.png | a-cond: not used",
    "whole name and ours": "a.png=a.png.mask.png",
    "ours in capitals": "a.png=A.MASK.PNG",
    "another suffix": "a.png=a.mask.webp",
    "a folder beside nothing": "a.png; b/masks/c.png | | b/masks/c.png: Named like a mask",
    "left over in a folder": "x/a.png=x/masks/a.png; y/a.png | x/masks/gone.png; y/gone.mask.png | "
    "x/masks/gone.png, y/gone.mask.png: no picture beside it",
    "underscore": "a.png=a_mask.jpg",
    "dash": "a.png=a-mask.png",
    "space": "a b.png=a b mask.png",
    "brackets": "a.png=a (mask).png",
    "capitals": "Cat.PNG=cat_MASK.Png",
    "camel case": "cat.png=catMask.png",
    "in front": "a.png=mask_a.png",
    "in the middle": "cat_001.png=cat_mask_001.png",
    "numbered": "a.png=a_mask_0.png",
    "whole name": "a.png=a.png_mask.png",
    "dots": "v1.5.png=v1.5_mask.png",
    "unicode": "café.png=cafe\u0301-mask.png",
    "case decides": "A.png=A_mask.png; a.png=a_mask.png",
    "folder mask": "a.png=mask/a.png",
    "folder and name": "a.png=masks/a_mask.jpg",
    "folder of sd-scripts": "a.png=conditioning/a.png",
    "folders side by side": "images/a.png=masks/a.png",
    "trees side by side": "img/10_x/a.png=Masks/10_x/a.png; img/5_y/a.png=Masks/5_y/a.png",
    "a flat folder of masks": "img/10_x/a.png=masks/a.png; img/5_y/b.png=masks/b.png",
    "folders named alike": "train/a.png=train_masks/a_mask.png",
    "a folder for each": "cat/a.png=cat_masks/a.png",
    "same stems": "a.png=masks/a.png; a.jpg=masks/a.jpg",
    "one for two": "a.png=a_mask.png; a.jpg=a_mask.png | | "
    "a_mask.png: several pictures, which all get it: a.jpg, a.png",
    "two for one": "a.png=a-mask.png | a_mask.png | "
    "a_mask.png: several masks, and a-mask.png counts",
    "ambiguous": "x/a.png; y/a.png | masks/a.png | "
    "masks/a.png: cannot be told of which picture .x/a.png, y/a.png",
    "a picture of a mask": "gas_mask.png; b.png | | "
    "gas_mask.png: Named like a mask.*trained on as a picture",
    "its mask": "gas_mask.png=masks/gas_mask.png",
    "pictures of masks": "masks/x.png; hats/y.png | | masks/x.png: Named like a mask",
    "no word of its own": "a.png; amask.png; unmasked.png",
}
CAPTIONS = {
    # each picture = its caption file, whose name is its text | what is neither | a finding
    "both kinds of sidecars": "a.png=a.txt; b.png=b.caption; c.png=c.TXT; d.png=d.Caption; e.png "
    "| | e.png: No caption: the trigger word and class word",
    "nested folders": "a.png; x/a.png=x/a.txt; y/z/a.png=y/z/a.txt | | a.png: No caption",
    "one text for two": "a.jpg=a.txt; a.png=a.txt; b.png=b.txt | | a.txt: all get it: a.jpg, a.png",
    "the whole file named": "a.jpg=a.txt; a.png=a.png.txt | | "
    "a.png: the first counts: a.png.txt, a.txt",
    "both sidecars": "a.png=a.txt | a.caption | "
    "a.png: several caption files, and the first counts: a.txt, a.caption",
    "none from a neighbour": "a.png; b.png; c.png=c.txt | | a.png, b.png: No caption",
    "folders side by side": "images/a.png=captions/a.txt | | captions/a.txt: in another folder",
    "trees side by side": "img/x/a.png=txt/x/a.txt; img/y/a.png=txt/y/a.txt",
    "captions in a folder": "a.png=captions/a.txt",
    "captions above": "img/a.png=a.txt",
    "across case": "Cat.PNG=cat.txt",
    "across Unicode forms": "café.png=cafe\u0301.txt; Ü.png=u\u0308.TXT",
    "beside comes first": "img/a.png=img/a.txt | captions/a.txt | "
    "img/a.png: the first counts: img/a.txt",
    "ambiguous": "x/a.png; y/a.png | captions/a.txt | "
    "captions/a.txt: Several pictures have its name",
    "dots and spaces": "my v1.5 cat.png=my v1.5 cat.txt",
    "a mask's caption is nobody's": "a.png | a_mask.png; a_mask.txt | "
    "a_mask.txt: No picture beside it",
    "Google Photos": "a(1).png=a.png.supplemental-me(1).json; "
    "a.png=a.png.supplemental-metadata.json",
    "older Google Photos": "a(1).png=a.png(1).json; a.png",
    "a long name of Google Photos": "LONG(1).png=LONG.pn(1).json; LONG.png",
    "Google Photos without the picture": "a.png; LONG.png | a.png(1).json; LONG.pn(1).json | "
    "a.png(1).json: No picture beside it",
}


def content(name: str, seed: int) -> bytes | str:
    """A picture in colour, a mask in grey, or a caption that is the file's own name."""
    if name.endswith(".json"):
        title = name.partition(".")[0] + ".png"
        return json.dumps({"title": title, "imageViews": "3", "description": name})
    if re.search(r"(?i)\.(txt|caption)$", name):
        return name
    if re.search(r"(?i)mask|condition|matte|segm", name):
        return encode(Image.new("L", (96, 64), 255 - seed), "PNG")
    return picture(seed)


def laid_out(row: str, folder: Path) -> tuple[ImageSet, dict[str, str | None], list[str]]:
    """The set of a row of the tables, what belongs to its pictures, and what is in neither."""
    pairs, unused, said = [*map(str.strip, f"{row.replace('LONG', LONG)}||".split("|"))][:3]
    expected = {
        before: after or None
        for before, _, after in (pair.partition("=") for pair in pairs.split("; "))
    }
    rest = unused.split("; ") if unused else []
    names = sorted({*expected, *filter(None, expected.values()), *rest})
    files = {name: content(name, seed) for seed, name in enumerate(names)}
    image_set = scan_image_set(put(folder, files))
    assert not said or about(image_set, *said.split(": ", 1))
    return image_set, expected, rest


@pytest.mark.parametrize("layout", MASKS)
def test_masks_belong_to_pictures_by_name(layout: str, tmp_path: Path) -> None:
    image_set, expected, rest = laid_out(MASKS[layout], tmp_path)
    assert masks_of(image_set) == expected
    for name in rest:
        assert [one for one in about(image_set, name) if one.severity != "note"]


@pytest.mark.parametrize("layout", CAPTIONS)
def test_captions_belong_to_pictures_by_name(layout: str, tmp_path: Path) -> None:
    image_set, expected, _ = laid_out(CAPTIONS[layout], tmp_path)
    assert captions_of(image_set) == {
        name: text and normalize("NFC", text) for name, text in expected.items()
    }


def test_a_mask_in_colour_is_doubted(tmp_path: Path) -> None:
    image_set = scan_image_set(put(tmp_path, {"gas.png": picture(1), "gas_mask.png": picture(2)}))
    assert masks_of(image_set) == {"gas.png": "gas_mask.png"}
    assert about(image_set, "gas_mask.png", "in colour")


@pytest.mark.parametrize(
    ("focus", "left"),
    [(None, 32), ((0.5, 0.5), 32), ((0.0, 0.5), 0), ((0.3, 0.9), 6), ((1.0, 0.0), 64)],
)
def test_the_crop_is_as_near_to_it_as_the_edges_let_it(
    focus: tuple[float, float] | None, left: int
) -> None:
    near = focus and Focus(*focus)
    plan = plan_crop(128, 64, 64, 32, buckets=False, upscale=False, focus=near)
    assert (plan.left, plan.top, plan.size) == (left, 0, (64, 64))


@pytest.mark.parametrize(
    ("files", "left", "doubt"),
    [
        ({}, 32, ""),
        ({"a.focus": "0 0.5\n"}, 0, ""),
        ({"a.png.focus": "1 1"}, 64, ""),
        ({"A.FOCUS": "\ufeff0.3  0.9"}, 6, ""),
        ({"a.focus": "50 50"}, 32, "from 0 to 1"),
        ({"a.focus": "nan 0"}, 32, "from 0 to 1"),
        ({"a.focus": "left"}, 32, "from 0 to 1"),
        ({"a.focus": b"\xff" * 999}, 32, "from 0 to 1"),
        ({"a.focus": "0.5 0.5 turn 45"}, 32, "from 0 to 1"),
        ({"a.focus": "0.5 0.5 crop 0 0 2 1"}, 32, "from 0 to 1"),
        ({"a.focus": "0.5 0.5 crop 0.5 0 0.5 1"}, 32, "from 0 to 1"),
        ({"a.focus": "0 0.5 FLIP\n"}, 0, ""),
        ({"b.focus": "0 0"}, 32, "none beside it"),
    ],
)
def test_it_stands_in_a_file_beside_the_picture(
    files: dict[str, bytes | str], left: int, doubt: str, tmp_path: Path
) -> None:
    image_set = scan_image_set(put(tmp_path, {"a.png": picture(1, width=128, height=64), **files}))
    images = ImagesConfig.model_validate({"resolution": 64, "buckets": False})
    (shown,) = fit_pictures(image_set, images, 32).fitted
    assert shown.crop.left == left
    for name in files:
        found = about(image_set, name, doubt) if doubt else about(image_set, name)
        assert len(found) == bool(doubt)


VIEWS = [
    Focus(0.25, 1.0),
    Focus(turns=1),
    Focus(0.2, 0.3, 3, True),
    Focus(mirrored=True, box=(0.1, 0.2, 0.8, 0.9)),
    Focus(0.1, 0.9, 2, True, (0.5, 0.0, 1.0, 0.25)),
]


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_written_is_read(view: Focus, tmp_path: Path) -> None:
    put(tmp_path, {"a.png": picture(1)})
    write_focus(tmp_path / "a.png", view)
    assert scan_image_set(tmp_path).entries[0].focus == view
    write_focus(tmp_path / "a.png", None)
    write_focus(tmp_path / "a.png", None)
    assert scan_image_set(tmp_path).entries[0].focus is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_trained_is_what_is_seen(view: Focus, masked: bool, tmp_path: Path) -> None:
    """Turned, mirrored, cut: pixels and mask alike, as numpy does it; the file stays as it is."""
    pixels = np.random.default_rng(0).integers(0, 256, (160, 240), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    put(tmp_path, {"a.png": stream.getvalue(), "a.mask.png": stream.getvalue()})
    write_focus(tmp_path / "a.png", view)
    image_set = scan_image_set(tmp_path)
    images = ImagesConfig.model_validate({"resolution": 64, "upscale": True, "masks": "files"})
    (shown,) = fit_pictures(image_set, images, 32).fitted
    expected = np.rot90(pixels, -view.turns)
    expected = expected[:, ::-1] if view.mirrored else expected
    left, top, right, bottom = pixels_of(view.box, expected.shape[1], expected.shape[0])
    expected = expected[top:bottom, left:right]
    assert shown.entry.size == expected.shape[::-1] and shown.sizes[0] == expected.shape
    size = (shown.crop.resize_width, shown.crop.resize_height)
    how = Image.Resampling.BOX if masked else Image.Resampling.LANCZOS
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(expected)).resize(size, how))
    box = slice(shown.crop.top, shown.crop.top + shown.crop.height)
    wanted = resized[box, shown.crop.left : shown.crop.left + shown.crop.width]
    if masked:
        found = read_mask(shown.entry, images, shown.crop)
    else:
        found = fit(load_rgb(shown.entry.read()), shown.crop, False)[..., 0]
    assert found is not None and np.array_equal(found, wanted)


@pytest.mark.parametrize("view", [Focus(), *VIEWS])
def test_turns_and_mirrors_keep_everything_in_its_place(view: Focus) -> None:
    """Four turns, and two mirrors, are none; one turn shows the same part of the picture."""
    once = view.turned()
    back = once.turned().turned().turned()
    for other in (back, view.flipped().flipped()):
        assert other[2:4] == view[2:4]
        assert [*other[:2], *other.box] == pytest.approx([*view[:2], *view.box])
    image = Image.fromarray(np.arange(160 * 240, dtype=np.uint16).reshape(160, 240) % 251)
    image = image.convert("L")
    shown = np.asarray(seen(image, view))
    assert np.array_equal(np.asarray(seen(image, once)), np.rot90(shown, -1))
    assert np.array_equal(np.asarray(seen(image, view.flipped())), shown[:, ::-1])
