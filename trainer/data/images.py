"""Pictures: the only place that opens them; `trainer.data.decoder` does so in another process.

A picture may come from anywhere, so it is judged before it is decoded: only the decoders of
`FORMATS` are tried (never Pillow's PostScript reader, which starts Ghostscript), the size is taken
from the header and refused above `MAX_PIXELS`, and whatever a decoder raises becomes an
`ImageProblem` with one plain sentence.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pillow_heif
from PIL import Image, UnidentifiedImageError

from trainer.data.colours import WHITE, split_alpha, to_srgb, visible_range, without_border
from trainer.data.findings import ImageProblem
from trainer.data.sniffing import unread_reason
from trainer.plain_files import digest_of, open_file

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 512_000_000
MAX_TEXT = 200_000  # characters of a text in a PNG file
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib"),
    *(".gif", ".avif", ".tif", ".tiff", ".heic", ".heif", ".hif"),
)

THUMBNAIL = (8, 9, 3)  # height, width and channels of what near duplicates are told by
LARGE_PIXELS = 16_000_000
"""Decoding more than this at once is done by one thread at a time, so that memory stays flat."""
large_picture = threading.Lock()

when_opened: Callable[[int], None] = lambda _: None  # noqa: E731
"""Is told the pixels of a picture before they are decoded; see `trainer.data.decoder`."""

# Pillow warns of damaged metadata and of large sizes; both are judged here.
warnings.filterwarnings("ignore", module=r"PIL\..*")

_ORIENTATION_TAG = 0x0112
# ImageOps.exif_transpose would do, but it also writes the EXIF anew, which raises where that is
# damaged while the pixels are sound.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED_ASIDE = (5, 6, 7, 8)


pillow_heif.register_heif_opener()
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "AVIF", "TIFF", "HEIF")

# Words of a decoder's exception; what they mean for the owner of the picture; the way out.
_PROBLEMS = (
    (
        ("decompressed data too large", "text chunks"),
        "It has damaged metadata: a small text in it unpacks to megabytes.",
        "Save it again with an image editor, without metadata.",
    ),
    (
        ("truncated",),
        "It is cut off: the file ends before the picture does.",
        "Copy or download it again.",
    ),
    (
        ("unsupported",),
        "It is of a rare variant of its format, which is not read.",
        "Save it again with an image editor, as PNG or JPEG.",
    ),
)

ImageSource = str | Path | bytes


@dataclass(frozen=True)
class ImageHeader:
    """What is known of a picture without its pixels."""

    # width, height: in pixels, upright (after EXIF orientation).
    width: int
    height: int
    format: str  # Pillow's name, one of `FORMATS`
    # 1, or more for an animation or several pages (2 stands for any number where counting means
    # reading the whole file: GIF and TIFF).
    frames: int
    has_alpha: bool  # there is an alpha channel or a transparent colour, used or not


@dataclass(frozen=True)
class ImageFacts:
    """What is found of a picture by decoding it once from end to end."""

    header: ImageHeader  # its header
    digest: str  # SHA-256 of the file's bytes, in hex
    transparent: bool  # some part of it can be seen through
    # (8, 9, 3) uint8, upright on white, without a plain border: what near duplicates are told by.
    thumbnail: np.ndarray
    # The darkest and the brightest value of each channel of what can be seen of a transparent
    # picture (2 % at either end left out); None where it is opaque, and empty where it is
    # transparent all over.
    ink: tuple[int, ...] | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any], pixels: bytes) -> ImageFacts:
        """From what `dataclasses.asdict` made of them, through JSON, and the thumbnail's bytes."""
        thumbnail = np.frombuffer(pixels, np.uint8).reshape(THUMBNAIL)
        ink = None if facts["ink"] is None else tuple(facts["ink"])
        header = ImageHeader(**facts["header"])
        return cls(header, facts["digest"], facts["transparent"], thumbnail, ink)


def load_rgb(source: ImageSource, background: str = WHITE) -> Image.Image:
    """A picture's pixels as training sees them: mode RGB, 8 bit, sRGB, upright.

    The first frame of an animation. Transparent parts show ``background`` ("#rrggbb"). How other
    kinds of pixels are converted is said at `trainer.data.colours.to_srgb`.

    Raises:
        ImageProblem: it is no picture, in no format that is read, above `MAX_PIXELS`, or its pixels
            are damaged or cut off.
    """
    with _opened(source) as (image, _):
        image.load()
        return _upright(to_srgb(image, background), _orientation(image))


def load_grey(source: ImageSource) -> Image.Image:
    """A mask's pixels: mode L, upright; what is transparent is black.

    Where all is black, a shape that is drawn in the transparency counts.

    Raises:
        ImageProblem: as `load_rgb`.
    """
    grey = load_rgb(source, "#000000").convert("L")
    if grey.getbbox() or (alpha := load_alpha(source)) is None:
        return grey
    alpha.info["read"] = "alpha"  # see `trainer.data.masks.READ_AS`
    return alpha if any(alpha.histogram()[:255]) else grey


def load_alpha(source: ImageSource) -> Image.Image | None:
    """How opaque a picture is: mode L, upright; None where it has no transparency.

    Raises:
        ImageProblem: as `load_rgb`.
    """
    with _opened(source) as (image, _):
        image.load()
        _, alpha = split_alpha(image)
        return None if alpha is None else _upright(alpha, _orientation(image))


def inspect_image(source: ImageSource) -> ImageFacts:
    """Decode a picture completely, once, with memory for one picture at a time.

    Raises:
        ImageProblem: as `load_rgb`.
    """
    with _opened(source) as (image, stream):
        large = image.width * image.height > LARGE_PIXELS
        with large_picture if large else contextlib.nullcontext():
            header = _header(image)
            # A JPEG is decoded at an eighth of its size: the whole file is read all the same.
            image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            small = _reduced(image)
            upright = _upright(to_srgb(small, WHITE), _orientation(image))
            thumbnail = without_border(upright).resize((9, 8), Image.Resampling.BOX)
        pixels = np.array(thumbnail, dtype=np.uint8)
        ink = visible_range(small)
        stream.seek(0)
        return ImageFacts(header, digest_of(stream), ink is not None, pixels, ink)


def read_texts(path: Path) -> dict[str, str]:
    """The texts in a PNG file by keyword, such as the settings that it was drawn with.

    Those ahead of the pixels, which are not decoded. Texts over `MAX_TEXT` characters are left out;
    any other or damaged file has none.
    """
    try:
        with _opened(path) as (image, _):
            info = image.info if image.format == "PNG" else {}
            texts = {key: str(value) for key, value in info.items() if isinstance(value, str)}
    except ImageProblem:
        return {}
    return {str(key): text for key, text in texts.items() if len(text) <= MAX_TEXT}


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most `MAX_FILE_BYTES`.

    Raises:
        ImageProblem: it is something else, too large, empty, or cannot be read.
    """
    with open_source(path) as stream:
        return stream.read(MAX_FILE_BYTES)


@contextlib.contextmanager
def _opened(source: ImageSource) -> Generator[tuple[Image.Image, IO[bytes]]]:
    """A picture whose header is read and whose size is allowed, with its stream.

    Any exception within is the picture's fault: decoders raise nearly everything for bad input.
    """
    with open_source(source) as stream:
        try:
            with Image.open(stream, formats=FORMATS) as image:
                _check_size(image)
                _check_planes(image)
                when_opened(image.width * image.height)
                yield image, stream
        except ImageProblem:
            raise
        except Exception as error:
            stream.seek(0)
            raise _problem(error, stream.read(4096)) from error


@contextlib.contextmanager
def open_source(source: ImageSource) -> Generator[IO[bytes]]:
    """The bytes of a picture that may be read at all.

    Raises:
        ImageProblem: it is something else, too large, empty, or cannot be read.
    """
    if isinstance(source, bytes):
        _check_length(len(source))
        yield io.BytesIO(source)
        return
    try:
        stream = open_file(Path(source))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageProblem(
            f"It cannot be opened ({reason}).", "Check that it exists and that you may read it."
        ) from error
    with stream:
        _check_length(os.fstat(stream.fileno()).st_size)
        yield stream


def _check_length(length: int) -> None:
    if length == 0:
        raise ImageProblem("The file is empty (0 bytes).", "Copy or download it again.")
    if length > MAX_FILE_BYTES:
        raise ImageProblem(
            f"The file has {length / 1e6:.0f} MB; the limit is {MAX_FILE_BYTES / 1e6:.0f} MB.",
            "Save it smaller, for example as JPEG.",
        )


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageProblem(
            f"It is {width} × {height} pixels, more than the limit of "
            f"{MAX_PIXELS // 1_000_000} million pixels.",
            "Save a smaller version of it.",
        )
    if width < 1 or height < 1:
        raise ImageProblem("It has no pixels.", "Save it again with an image editor.")


def _check_planes(image: Image.Image) -> None:
    """Raises `ImageProblem` for what Pillow 12 reads as other pixels: 16 bits, plane by plane."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if tags.get(284) == 2 and max(tags.get(258, (8,))) > 8 and tags.get(259, 1) == 1:
        raise ImageProblem(
            "It is a TIFF with planes of 16 bits, which is not read.",
            "Save it again with an image editor, as PNG.",
        )


def _problem(error: Exception, start: bytes) -> ImageProblem:
    """What a decoder's exception means for the owner of the picture."""
    text = str(error).casefold()
    if isinstance(error, UnidentifiedImageError):
        return unread_reason(start)
    if isinstance(error, Image.DecompressionBombError):
        return ImageProblem(
            f"It claims more than the limit of {MAX_PIXELS // 1_000_000} million pixels.",
            "Save a smaller version of it.",
        )
    for words, reason, hint in _PROBLEMS:
        if any(word in text for word in words):
            return ImageProblem(reason, hint)
    return ImageProblem(
        "It is damaged and cannot be decoded.", "Copy or download it again, or leave it out."
    )


def _header(image: Image.Image) -> ImageHeader:
    width, height = image.size
    if _orientation(image) in _TURNED_ASIDE:
        width, height = height, width
    # A phone's JPEG with a depth or gain map behind it (MPO) is one picture to its owner.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    if kind == "JPEG":
        frames = 1
    elif kind in ("GIF", "TIFF"):
        frames = 2 if getattr(image, "is_animated", False) else 1
    else:
        frames = int(getattr(image, "n_frames", 1))
    return ImageHeader(width, height, kind, frames, image.has_transparency_data)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where it is missing or damaged."""
    if image.format in ("TIFF", "HEIF"):
        return 1  # these two decoders turn the picture themselves
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # EXIF may stand behind the pixels
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1  # unreadable EXIF: the pixels can still be used as they lie
    return value if value in _UPRIGHT else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _reduced(image: Image.Image) -> Image.Image:
    """A quick smaller copy for the thumbnail; kinds of pixels that cannot be averaged stay."""
    factor = min(image.size) // 64
    averaged = ("L", "LA", "RGB", "RGBA", "CMYK")
    keyed = "transparency" in image.info  # an averaged colour is no longer the transparent one
    return image.reduce(factor) if factor > 1 and image.mode in averaged and not keyed else image
