"""What a file that no allowed decoder takes really is, told by its first bytes."""

from __future__ import annotations

from trainer.data.problems import ImageProblem

_EXPORT = "Open it in an image editor and export it as PNG or JPEG."
_DOWNLOAD = "Download the picture itself again."

# (bytes at the start, after white space; what it is; the way out)
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"%!PS", "an EPS or PostScript file", _EXPORT),
    (b"\xc5\xd0\xd3\xc6", "an EPS or PostScript file", _EXPORT),
    (b"%PDF", "a PDF file", _EXPORT),
    (b"8BPS", "a Photoshop (PSD) file", _EXPORT),
    (b"\xff\x0a", "a JPEG XL picture", _EXPORT),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture", _EXPORT),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture", _EXPORT),
    (b"\x00\x00\x01\x00", "an icon (ICO) file", _EXPORT),
    (b"gimp xcf", "a GIMP (XCF) file", _EXPORT),
    (b"PK\x03\x04", "a zip archive", "Unpack it, and point to the folder."),
    (b"Rar!", "a RAR archive", "Unpack it, and point to the folder."),
    (b"version https://git-lfs", "a git-lfs pointer, not the picture", "Run: git lfs pull"),
    (b"<!doctype html", "a web page (HTML), not a picture", _DOWNLOAD),
    (b"<html", "a web page (HTML), not a picture", _DOWNLOAD),
    (b"<svg", "an SVG drawing", _EXPORT),
)
_PICTURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")


def unread_reason(start: bytes) -> ImageProblem:
    """Say what a file is that could not be identified as a picture.

    Args:
        start: its first bytes; a few thousand are plenty.
    """
    if start[4:8] == b"ftyp" and any(brand in start[8:64] for brand in _HEIC_BRANDS):
        return ImageProblem(
            "It is a HEIC picture, and the package that reads these, pillow-heif, is not "
            "installed.",
            "Install it with: pip install pillow-heif. Or export the picture as JPEG.",
        )
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, kind, hint in _KINDS:
        if start.startswith(magic) or text[: len(magic)].lower() == magic:
            return ImageProblem(f"It is {kind}.", hint)
    if text.startswith(b"<?xml") and b"<svg" in text:
        return ImageProblem("It is an SVG drawing.", _EXPORT)
    if kind := _picture_kind(start):
        return ImageProblem(
            f"It begins like a picture ({kind}), but is damaged or cut off.",
            "Copy or download it again.",
        )
    if _is_text(start):
        return ImageProblem("It is a text file, not a picture.", "Move it out, or rename it.")
    return ImageProblem(
        "It is not a picture in a format that is read here (JPEG, PNG, WebP, AVIF, BMP, GIF, "
        "TIFF).",
        _EXPORT,
    )


def _picture_kind(start: bytes) -> str:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[4:8] == b"ftyp":
        return "AVIF" if b"avif" in start[8:64] else ""
    return next((kind for magic, kind in _PICTURES if start.startswith(magic)), "")


def _is_text(start: bytes) -> bool:
    controls = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in start)
    return controls == 0
