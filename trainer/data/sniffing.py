"""What a file that no allowed decoder takes really is, told by its first bytes."""

from __future__ import annotations

import re

from trainer.data.findings import ImageProblem

READ = "JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF, TIFF"
"""The formats of pictures, as users know them; `trainer.data.images.FORMATS` has Pillow's names."""

_EXPORT = "Open it in an image editor and export it as PNG or JPEG."
_DOWNLOAD = "Download the picture itself again."
_UNPACK = "Unpack it, and point to the folder."
_AGAIN = "Copy or download it again."

# How it begins, after white space; what it is; the way out. The first that fits counts.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb"%!PS|\xc5\xd0\xd3\xc6", "an EPS or PostScript file", _EXPORT),
    (rb"%PDF", "a PDF file", _EXPORT),
    (rb"8BPS", "a Photoshop (PSD) file", _EXPORT),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture", _EXPORT),
    (rb"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture", _EXPORT),
    (rb"\x00\x00\x01\x00", "an icon (ICO) file", _EXPORT),
    (rb"gimp xcf", "a GIMP (XCF) file", _EXPORT),
    (rb"PK\x03\x04", "a zip archive", _UNPACK),
    (rb"Rar!", "a RAR archive", _UNPACK),
    (rb"version https://git-lfs", "a git-lfs pointer, not the picture", "Run: git lfs pull"),
    (rb"<!doctype html|<html", "a web page (HTML), not a picture", _DOWNLOAD),
    (rb"<svg|<\?xml.*<svg", "an SVG drawing", _EXPORT),
)
_PICTURES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8", "GIF"),
    (rb"BM", "BMP"),
    (rb"II\*\x00|MM\x00\*", "TIFF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"....ftyp.{0,52}?avif", "AVIF"),
    (rb"....ftyp.{0,52}?(?:hei[cmsx]|hev[cx]|mif1)", "HEIC"),
)


def picture_kind(start: bytes) -> str:
    """The format of a picture by its first bytes, as users know it; "" for what is none."""
    return next((kind for pattern, kind in _PICTURES if _begins(start, pattern)), "")


def _begins(start: bytes, pattern: bytes) -> bool:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return any(re.match(pattern, data, re.DOTALL | re.IGNORECASE) for data in (start, text))


def unread_reason(start: bytes) -> ImageProblem:
    """Say what a file is that could not be identified as a picture.

    Args:
        start: its first bytes; a few thousand are plenty.
    """

    for pattern, kind, hint in _KINDS:
        if _begins(start, pattern):
            return ImageProblem(f"It is {kind}.", hint)
    kind = picture_kind(start)
    if kind == "TIFF":  # which has more kinds than anybody reads
        reason = (
            "It is a TIFF of a kind that is not read (such as values with a decimal point, "
            "or many channels), or damaged."
        )
        return ImageProblem(reason, _EXPORT)
    if kind:
        reason = f"It begins like a picture ({kind}), but is damaged or cut off."
        return ImageProblem(reason, _AGAIN)
    if not re.search(rb"[\x00-\x08\x0b\x0e-\x1f]", start):
        return ImageProblem("It is a text file, not a picture.", "Move it out, or rename it.")
    return ImageProblem(f"It is not a picture in a format that is read here ({READ}).", _EXPORT)
