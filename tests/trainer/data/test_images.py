"""The door for pictures: what comes through, as which pixels, and what is refused how."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from tests.corpus.pictures import (
    claimed_bombs,
    disguised,
    encode,
    pattern,
    quarters,
    real_bomb_png,
    text_bombs,
)
from trainer.data import images
from trainer.data.buckets import CropPlan
from trainer.data.images import ImageHeader, ImageProblem, inspect_image, load_rgb, read_texts
from trainer.data.masks import fit

Colour = tuple[int, int, int]
SIZE = (70, 66)


def pixel(data: bytes, background: str = "#ffffff") -> Colour:
    """The colour of a picture of one colour."""
    colour = load_rgb(data, background).getpixel((33, 33))
    assert isinstance(colour, tuple)
    return (int(colour[0]), int(colour[1]), int(colour[2]))


def plain(mode: str, value: object) -> Image.Image:
    return Image.new(mode, SIZE, value)  # pyright: ignore[reportArgumentType]


def near(first: Colour, second: Colour, tolerance: int) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(first, second, strict=True))


# -- what is read


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "AVIF", "GIF", "TIFF"])
def test_every_format_is_read(kind: str, tmp_path: Path) -> None:
    data = encode(pattern(), kind)
    path = tmp_path / "a"
    path.write_bytes(data)
    assert (
        inspect_image(path).header
        == inspect_image(data).header
        == ImageHeader(96, 64, kind, 1, False)
    )
    rgb = np.asarray(load_rgb(path)).astype(int)
    assert rgb.shape == (64, 96, 3)
    assert np.abs(rgb - np.asarray(pattern()).astype(int)).mean() < 6


# How a camera stores an upright scene under each EXIF orientation (CIPA DC-008, 4.6.4.A). Pillow's
# ROTATE_90 is counter-clockwise.
AS_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    stored = quarters()
    if orientation in AS_STORED:
        stored = stored.transpose(AS_STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    data = encode(stored, kind, **options)
    header = inspect_image(data).header
    assert (header.width, header.height) == (96, 64)
    upright = load_rgb(data)
    assert upright.size == (96, 64)
    expected: dict[tuple[int, int], Colour] = {
        (10, 10): (255, 0, 0),
        (85, 10): (0, 255, 0),
        (10, 55): (0, 0, 255),
        (85, 55): (0, 0, 0),
    }
    for place, colour in expected.items():
        found = upright.getpixel(place)
        assert isinstance(found, tuple)
        assert near((int(found[0]), int(found[1]), int(found[2])), colour, 24)
    left, right = inspect_image(data).thumbnail[0, 0], inspect_image(data).thumbnail[0, -1]
    assert left[0] > 200 and right[1] > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff"])
def test_damaged_exif_does_not_spoil_a_picture(exif: bytes) -> None:
    data = encode(quarters(), "JPEG", exif=exif)
    assert inspect_image(data).header == ImageHeader(96, 64, "JPEG", 1, False)
    assert load_rgb(data).size == (96, 64)


@pytest.mark.parametrize(("kind", "frames"), [("GIF", 2), ("PNG", 3), ("WEBP", 3), ("AVIF", 3)])
def test_the_first_frame_of_an_animation_is_used(kind: str, frames: int) -> None:
    red, blue, green = (plain("RGB", colour) for colour in ("red", "blue", "lime"))
    data = encode(red, kind, save_all=True, append_images=[blue, green], duration=50)
    assert inspect_image(data).header.frames == frames
    assert near(pixel(data), (255, 0, 0), 3)


def test_a_phones_jpeg_with_a_second_picture_is_one_picture() -> None:
    data = encode(plain("RGB", "red"), "MPO", save_all=True, append_images=[plain("RGB", "blue")])
    assert inspect_image(data).header == ImageHeader(*SIZE, "JPEG", 1, False)
    assert near(pixel(data), (255, 0, 0), 3)


# -- as which pixels


def wide_gamut_profile() -> bytes:
    """An sRGB profile with red and green exchanged: what it says must change the pixels."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


KINDS: tuple[tuple[str, object, str, bytes | None, Colour], ...] = (
    # mode, value, format, ICC profile, expected
    ("I;16", 32768, "TIFF", None, (128, 128, 128)),
    ("L", 77, "PNG", None, (77, 77, 77)),
    ("1", 1, "PNG", None, (255, 255, 255)),
    ("P", 0, "PNG", None, (0, 0, 0)),
    ("CMYK", (255, 0, 0, 0), "TIFF", None, (0, 255, 255)),
    ("CMYK", (0, 0, 0, 128), "TIFF", None, (127, 127, 127)),
    ("CMYK", (0, 255, 0, 128), "JPEG", None, (127, 0, 127)),
    ("LAB", (255, 128, 128), "TIFF", None, (255, 255, 255)),
    ("LAB", (128, 128, 128), "TIFF", None, (119, 119, 119)),  # L* 50.2
    ("RGB", (200, 30, 10), "PNG", SRGB, (200, 30, 10)),
    ("RGB", (200, 30, 10), "PNG", wide_gamut_profile(), (30, 200, 10)),
    ("L", 77, "PNG", SRGB, (77, 77, 77)),  # a profile of other pixels
    ("CMYK", (255, 0, 0, 0), "TIFF", SRGB, (0, 255, 255)),
    ("RGB", (200, 30, 10), "PNG", b"no profile", (200, 30, 10)),
)


@pytest.mark.parametrize(("mode", "value", "kind", "profile", "expected"), KINDS)
def test_pixels_are_converted_as_stated(
    mode: str, value: object, kind: str, profile: bytes | None, expected: Colour
) -> None:
    options = {} if profile is None else {"icc_profile": profile}
    assert near(pixel(encode(plain(mode, value), kind, **options)), expected, 2)


@pytest.mark.parametrize(
    ("deep", "expected"), [(0, 0), (128, 0), (129, 1), (32768, 128), (65406, 254), (65535, 255)]
)
def test_16_bit_grey_is_rounded(deep: int, expected: int) -> None:
    assert pixel(encode(plain("I;16", deep), "PNG")) == (expected,) * 3


def test_lab_colours_lie_the_right_way_round() -> None:
    assert near(pixel(encode(plain("LAB", (138, 209, 198)), "TIFF")), (255, 0, 0), 6)
    assert near(pixel(encode(plain("LAB", (75, 196, 16)), "TIFF")), (0, 0, 255), 24)


HALF, CLEAR = (255, 0, 0, 128), (255, 0, 0, 0)
TRANSPARENT: tuple[tuple[str, object, str, dict[str, object], Colour], ...] = (
    # mode, value, format, options, expected on blue
    ("RGBA", HALF, "PNG", {}, (127, 0, 128)),
    ("RGBA", HALF, "WEBP", {"lossless": True}, (127, 0, 128)),
    ("RGBA", HALF, "AVIF", {"quality": 100}, (127, 0, 128)),
    ("RGBA", CLEAR, "PNG", {}, (0, 0, 255)),  # the hidden colour stays hidden
    ("RGBA", (255, 0, 0, 255), "PNG", {}, (255, 0, 0)),
    ("LA", (0, 64), "PNG", {}, (0, 0, 191)),
    ("RGBA", CLEAR, "GIF", {}, (0, 0, 255)),
    ("P", 0, "PNG", {"transparency": 0}, (0, 0, 255)),
    ("P", 0, "PNG", {"transparency": b"\x80"}, (0, 0, 127)),
    ("RGB", (9, 8, 7), "PNG", {"transparency": (9, 8, 7)}, (0, 0, 255)),
    ("L", 9, "PNG", {"transparency": 9}, (0, 0, 255)),
    ("L", 9, "PNG", {"transparency": 8}, (9, 9, 9)),  # a key that no pixel has
    ("1", 1, "PNG", {"transparency": 1}, (0, 0, 255)),
    ("I;16", 512, "PNG", {"transparency": 512}, (0, 0, 255)),
)


@pytest.mark.parametrize(("mode", "value", "kind", "options", "expected"), TRANSPARENT)
def test_transparency_shows_the_background(
    mode: str, value: object, kind: str, options: dict[str, object], expected: Colour
) -> None:
    data = encode(plain(mode, value), kind, **options)
    assert near(pixel(data, "#0000ff"), expected, 2)
    assert inspect_image(data).header.has_alpha
    assert inspect_image(data).transparent == (expected not in ((255, 0, 0), (9, 9, 9)))


def test_a_few_transparent_pixels_are_noticed() -> None:
    speckled = pattern(400, 300)
    for place in range(20):
        speckled.putpixel((place * 7, place * 11), (1, 2, 3))
    assert inspect_image(encode(speckled, "PNG", transparency=(1, 2, 3))).transparent
    clear = pattern(400, 300).convert("RGBA")
    clear.paste((0, 0, 0, 0), (100, 100, 110, 110))
    assert inspect_image(encode(clear, "PNG")).transparent


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_values_are_refused(mode: str) -> None:
    with pytest.raises(ImageProblem, match=r"32 bits.*8 or 16"):
        load_rgb(encode(plain(mode, 1), "TIFF"))


def test_fit_resizes_cuts_and_flips() -> None:
    plan = CropPlan(48, 32, 8, 0, 32, 32)
    assert plan.cut_off == pytest.approx(1 / 3)
    assert replace(plan, box=(0.5, 0.0, 1.0, 1.0)).cut_off == pytest.approx(2 / 3)
    pixels = fit(quarters(), plan, flip=False)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert pixels[4, 4].tolist() == [255, 0, 0] and pixels[4, 28].tolist() == [0, 255, 0]
    assert np.array_equal(fit(quarters(), plan, flip=True), pixels[:, ::-1])
    same = CropPlan(96, 64, 0, 0, 96, 64)
    assert np.array_equal(fit(pattern(), same, flip=False), np.asarray(pattern()))


def test_texts_in_a_png_are_read(tmp_path: Path) -> None:
    info, path = PngInfo(), tmp_path / "a.png"
    info.add_text("parameters", "grün, Steps: 3")
    info.add_itxt("rarebit", '{"prompt": "日本 <b>"}')
    info.add_text("long", "x" * (images.MAX_TEXT + 1))
    pattern().save(path, pnginfo=info)
    assert read_texts(path) == {"parameters": "grün, Steps: 3", "rarebit": '{"prompt": "日本 <b>"}'}
    for data in (
        b"",
        path.read_bytes()[:60],
        encode(pattern(), "JPEG"),
        *dict(text_bombs()).values(),
    ):
        path.write_bytes(data)
        assert read_texts(path) == {}


# -- what is refused


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "AVIF", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_cut_off_files_are_refused(kind: str, share: float) -> None:
    noise = Image.effect_noise((200, 160), 80).convert("RGB")
    data = encode(noise, kind)
    whole = load_rgb(data)
    assert whole.size == (200, 160)
    cut = data[: int(len(data) * share)]
    for read in (load_rgb, inspect_image):
        with pytest.raises(ImageProblem, match=r"cut off|damaged") as problem:
            read(cut)
        assert problem.value.hint


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (7, 300)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_smallest_pictures_are_read(kind: str, size: tuple[int, int]) -> None:
    seen = inspect_image(encode(Image.new("RGB", size, "red"), kind))
    assert (seen.header.width, seen.header.height) == size
    assert seen.thumbnail.shape == (8, 9, 3) and (seen.thumbnail[..., 0] > 200).all()


def test_unsupported_kinds_are_not_called_damaged() -> None:
    bitmap = bytearray(encode(pattern(), "BMP"))
    bitmap[28] = 7  # bits per pixel
    with pytest.raises(ImageProblem, match="rare variant"):
        inspect_image(bytes(bitmap))


@pytest.mark.parametrize("place", [0.2, 0.6])
def test_damaged_pixels_are_refused(place: float) -> None:
    data = bytearray(encode(Image.effect_noise((99, 99), 80), "PNG"))
    data[int(len(data) * place)] ^= 0xFF
    with pytest.raises(ImageProblem):
        load_rgb(bytes(data))


@pytest.mark.parametrize(("name", "data", "word"), list(disguised()))
def test_other_files_are_named_for_what_they_are(
    name: str, data: bytes, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "Popen", _no_process)
    path = tmp_path / name
    path.write_bytes(data)
    for read in (load_rgb, inspect_image):
        with pytest.raises(ImageProblem) as problem:
            read(path)
        assert word in problem.value.reason
        assert problem.value.hint
        assert str(tmp_path) not in str(problem.value)


def _no_process(*_: object, **__: object) -> None:
    raise AssertionError("a picture started a program")  # as Pillow does for PostScript


@pytest.mark.parametrize(("name", "data"), list(claimed_bombs()))
def test_claimed_bombs_are_refused_from_the_header(name: str, data: bytes) -> None:
    for read in (load_rgb, inspect_image):
        with pytest.raises(ImageProblem, match="64 million pixels"):
            read(data)


def test_the_limit_is_64_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 96)
    assert inspect_image(encode(pattern(96, 64), "PNG")).header.width == 96
    with pytest.raises(ImageProblem, match="97 × 64 pixels"):
        inspect_image(encode(pattern(97, 64), "PNG"))


@pytest.mark.parametrize(("name", "data"), list(text_bombs()))
def test_text_bombs_are_damaged_metadata(name: str, data: bytes) -> None:
    assert 150_000 < len(data) < 300_000
    with pytest.raises(ImageProblem, match="damaged metadata"):
        inspect_image(data)


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(real_bomb_png())
    for name, data in [*claimed_bombs(), *text_bombs()]:
        (tmp_path / name).write_bytes(data)
    program = (
        "import resource, sys, pathlib\n"
        "from trainer.data.images import ImageProblem, inspect_image, load_rgb\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "refused, before = 0, peak()\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    for read in (inspect_image, load_rgb):\n"
        "        try: read(path)\n"
        "        except ImageProblem: refused += 1\n"
        "print(refused, peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    refused, grown = map(int, done.stdout.split())
    assert refused == 2 * len(list(tmp_path.iterdir()))
    assert grown * (1 if sys.platform == "darwin" else 1024) < 100e6


def test_an_empty_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    empty, pipe = tmp_path / "empty.png", tmp_path / "pipe.png"
    empty.touch()
    os.mkfifo(pipe)
    cases = {empty: "empty", pipe: "pipe", tmp_path: "directory", tmp_path / "none.png": "opened"}
    for path, word in cases.items():
        with pytest.raises(ImageProblem, match=word):
            inspect_image(path)


def test_large_files_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(pattern(), "PNG")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(ImageProblem, match="the limit is"):
        inspect_image(data)


def test_no_file_stays_open(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode(pattern(), "PNG"))
    bad.write_bytes(good.read_bytes()[:300])
    inspect_image(good)
    with pytest.raises(ImageProblem):
        inspect_image(bad)
    assert not [
        file for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))
    ]
