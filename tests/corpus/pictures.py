"""Good and bad pictures, made in memory: nothing large or hostile is kept in the repository."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """A picture's file as bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def pattern(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth picture; every seed gives another one, and no two of its corners are alike."""
    horizontal = Image.linear_gradient("L").rotate(90).resize((width, height))
    vertical = Image.linear_gradient("L").resize((width, height))
    picture = Image.merge("RGB", (horizontal, vertical, Image.new("L", (width, height), 30)))
    for place in range(3):
        x, y = (seed * 37 + place * 29) % width, (seed * 53 + place * 17) % height
        box = (x // 2, y // 2, x // 2 + width // 3, y // 2 + height // 3)
        picture.paste((seed * 91 % 256, place * 120, 255 - seed * 47 % 256), box)
    return picture


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green / blue, black: which way up a picture is shows at its corners."""
    picture = Image.new("RGB", (width, height))
    picture.paste((255, 0, 0), (0, 0, width // 2, height // 2))
    picture.paste((0, 255, 0), (width // 2, 0, width, height // 2))
    picture.paste((0, 0, 255), (0, height // 2, width // 2, height))
    return picture


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """A grey 8-bit PNG of any claimed size, from compressed pixel data and further chunks."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"".join(
        (PNG_SIGNATURE, header, before, png_chunk(b"IDAT", pixels), after, png_chunk(b"IEND", b""))
    )


@cache
def zeros(size: int) -> bytes:
    """Compressed zeros, made a megabyte at a time."""
    compressor = zlib.compressobj(9)
    pieces = [compressor.compress(bytes(min(1 << 20, size - at))) for at in range(0, size, 1 << 20)]
    return b"".join(pieces) + compressor.flush()


def real_bomb_png(side: int = 12_000) -> bytes:
    """A PNG that really is side × side pixels, in some hundred kilobytes."""
    return png(side, side, zeros((side + 1) * side))


def claimed_bombs() -> Iterator[tuple[str, bytes]]:
    """Small files whose headers claim 30,000 × 30,000 pixels; WebP and AVIF allow about 16,000."""
    side = 30_000
    yield "bomb.png", png(side, side, zeros(1000))
    jpeg = bytearray(encode(pattern(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", side, side)
    yield "bomb.jpg", bytes(jpeg)
    gif = bytearray(encode(pattern(), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    yield "bomb.gif", bytes(gif)
    bitmap = bytearray(encode(pattern(), "BMP"))
    bitmap[18:26] = struct.pack("<ii", side, side)
    yield "bomb.bmp", bytes(bitmap)
    webp = bytearray(encode(pattern(), "WEBP", lossless=True))
    at = webp.index(b"VP8L") + 9
    flags = int.from_bytes(webp[at : at + 4], "little") >> 28 << 28
    webp[at : at + 4] = (flags | 16_382 << 14 | 16_382).to_bytes(4, "little")
    yield "bomb.webp", bytes(webp)
    avif = bytearray(encode(pattern(), "AVIF"))
    at = avif.index(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", 16_000, 16_000)
    yield "bomb.avif", bytes(avif)


def text_bombs() -> Iterator[tuple[str, bytes]]:
    """PNGs of about 200 KB with a text, or a profile, that unpacks to 200 MB."""
    packed = zeros(200_000_000)
    whole = zlib.compress(bytes(65 * 64))
    text = png_chunk(b"zTXt", b"Comment\x00\x00" + packed)
    yield "text-before.png", png(64, 64, whole, before=text)
    yield "text-after.png", png(64, 64, whole, after=text)
    international = png_chunk(b"iTXt", b"Comment\x00\x01\x00\x00\x00" + packed)
    yield "international.png", png(64, 64, whole, before=international)
    yield "profile.png", png(64, 64, whole, before=png_chunk(b"iCCP", b"sRGB\x00\x00" + packed))


def disguised() -> Iterator[tuple[str, bytes, str]]:
    """Files that are no pictures, named like pictures, and a word that must be in the reason."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file\nshowpage\n"
    yield "letter.jpg", b"Dear diary,\nthis is no picture.\n", "text"
    yield "drawing.png", eps, "PostScript"
    yield "windows.png", b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(eps)) + eps, "PostScript"
    yield "layers.png", b"8BPS\x00\x01" + bytes(60), "Photoshop"
    yield "vector.png", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"
    yield "bare.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"
    yield "page.png", b"\n<!DOCTYPE html><title>404</title>", "web page"
    yield "pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"
    yield "archive.jpg", b"PK\x03\x04" + bytes(30), "zip"
    yield "pages.jpg", b"%PDF-1.7\n", "PDF"
    yield "noise.jpg", bytes(range(256)) * 4, "not a picture"
    yield "start.png", PNG_SIGNATURE + b"\x00\x00", "damaged or cut off"
    for name, brand in (("phone.heic", b"heic"), ("renamed.jpg", b"mif1")):
        box = b"\x00\x00\x00\x18ftyp" + brand + b"\x00\x00\x00\x00mif1heic"
        yield name, box + bytes(64), "HEIC"


def long_gif(comments: int = 1_000_000) -> bytes:
    """A GIF of 8 × 8 pixels with so many comments ahead of them, 5 MB by default."""
    data = encode(Image.new("P", (8, 8)), "GIF")
    start = data.index(b",")  # where the picture's own block begins
    return data[:start] + b"!\xfe\x01a\x00" * comments + data[start:]
