"""The texts in a PNG file, read without decoding it: the settings that a picture was drawn with.

The file may come from anywhere. Only the chunks' frame is followed, nothing is unpacked (a small
compressed text can hold gigabytes), and one text is at most `MAX_TEXT` bytes long.
"""

from __future__ import annotations

from pathlib import Path

MAX_TEXT = 200_000
_MAX_CHUNKS = 1000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_texts(path: Path) -> dict[str, str]:
    """The uncompressed texts of a PNG file by keyword; none for any other or a damaged file.

    Raises:
        OSError: from the file system.
    """
    texts: dict[str, str] = {}
    with path.open("rb") as stream:
        if stream.read(8) != _SIGNATURE:
            return texts
        for _ in range(_MAX_CHUNKS):
            head = stream.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                break
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in (b"tEXt", b"iTXt") and length <= MAX_TEXT:
                data = stream.read(length)
                keyword, text = _text(kind, data) if len(data) == length else ("", None)
                if text is not None:
                    texts.setdefault(keyword, text)
                stream.seek(4, 1)
            else:
                stream.seek(length + 4, 1)
    return texts


def _text(kind: bytes, data: bytes) -> tuple[str, str | None]:
    """Keyword and text of a chunk; None for a text that is compressed or cut off."""
    keyword, separator, rest = data.partition(b"\0")
    name = keyword.decode("latin-1")
    if not separator:
        return name, None
    if kind == b"tEXt":
        return name, rest.decode("latin-1")
    compressed, rest = rest[:1], rest[2:]
    parts = rest.split(b"\0", 2)  # language, translated keyword, text
    if compressed != b"\0" or len(parts) < 3:
        return name, None
    return name, parts[2].decode("utf-8", "replace")
