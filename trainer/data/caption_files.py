"""Captions in files: which belongs to which picture, told by name and never by position.

They stand in a file with the picture's name, or in a table. `find_captions` knows both.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath

from trainer.data.caption_tables import MAX_JSON_BYTES, MOST_COLUMNS, read_tables
from trainer.data.captions import (
    MAX_CAPTION_BYTES,
    MAX_CAPTION_CHARACTERS,
    TRANSLATION,
    decode_caption,
    decode_text,
)
from trainer.data.columns import TextColumn, caption_of, choose_text_column
from trainer.data.encodings import ENCODING_NAMES, find_encoding, utf8_or_none
from trainer.data.findings import ImageProblem
from trainer.data.images import PICTURE_SUFFIXES
from trainer.data.names import display_name, list_names, matching_key
from trainer.data.pairing import PictureIndex, in_one_folder
from trainer.data.scan import CAPTION_SUFFIXES, FolderContents, FoundFile, is_about
from trainer.plain_files import open_file
from trainer.untyped import is_table

_MORE = ".supplemental-metadata"
_LONGEST = 46
"""Google Photos describes ``a(1).jpg`` in ``a.jpg(1).json`` or, today, in
``a.jpg.supplemental-metadata(1).json``; what stands before the number is cut to so many letters."""
_ENDS = "|".join(re.escape(_MORE[:length]) for length in range(len(_MORE), 0, -1))
_DESCRIBES = re.compile(rf"(.+?)({_ENDS})?(\(\d{{1,5}}\))?")
_NO_PICTURE = (
    "No picture beside it has its name, so it is not used. A caption must be named "
    "like its picture."
)


def find_captions(contents: FolderContents) -> dict[str, str]:
    """The captions of a folder's pictures by their names; decodes none.

    Files beside the pictures count before the tables. What is doubtful becomes a finding.
    """
    index = PictureIndex(contents.pictures)
    contents.encoding = _judge_encoding(contents, index)
    beside = _read_sidecars(contents, index)
    own = _read_json_sidecars(contents, index)
    listed = {**read_tables(contents, index), **own}
    for name in sorted(beside.keys() & listed.keys()):
        if listed[name] != beside[name]:
            message = (
                "It has different captions in the table and in the file beside it; the file "
                "counts. Delete one of them."
            )
            contents.doubt(name, "warning", message)
    return {**listed, **beside}


# ------------------------------------------------------------------------------ files beside


def _read_sidecars(contents: FolderContents, index: PictureIndex) -> dict[str, str]:
    """The captions that stand in files beside the pictures.

    A caption file belongs to the pictures with its own name but for the suffix (``a.txt`` to
    ``a.png``, or ``a.png.txt`` to ``a.png``). With several for a picture, ``a.png.txt`` comes
    before ``a.txt``, and ``.txt`` before ``.caption``.
    """
    captions: dict[str, str] = {}
    candidates: dict[str, list[FoundFile]] = defaultdict(list)
    texts: dict[str, str] = {}
    orphans: list[str] = []
    for file in contents.captions:
        owners = index.beside(file.stem)
        is_beside = bool(owners)
        owners = owners or index.elsewhere(file.stem)
        names = list_names([picture.shown for picture in owners])
        if not owners:
            orphans.append(file.shown)
            continue
        if not is_beside and not in_one_folder(owners):
            message = f"Several pictures have its name ({names}): not used. Put it beside its own."
            contents.doubt(file.name, "error", message)
            continue
        if not is_beside:
            message = "It has the name of a picture in another folder, and is the caption of that."
            contents.doubt(file.name, "note", message)
        if len(owners) > 1:
            message = f"It belongs to several pictures, and all get it: {names}. Rename them."
            contents.doubt(file.name, "warning", message)
        for picture in owners:
            candidates[picture.name].append(file)
        texts[file.name] = _read(file, contents)
    severity = "note" if all(map(is_about, orphans)) else "warning"
    contents.doubt_all(orphans, severity, _NO_PICTURE)
    for picture in contents.pictures:
        found = sorted(candidates[picture.name], key=lambda file: _rank(file, picture))
        if len(found) > 1:
            names = list_names([file.shown for file in found])
            message = f"It has several caption files, and the first counts: {names}. Delete others."
            contents.doubt(picture.name, "warning", message)
        if found and (text := texts[found[0].name]):
            captions[picture.name] = text
    return captions


def _judge_encoding(contents: FolderContents, index: PictureIndex) -> str | None:
    """The encoding of the caption files that are no UTF-8, together; says what it is, or is not."""
    strange: dict[str, bytes] = {}
    sidecars = [file for file, _ in _json_sidecars(contents, index)]
    for file in (*contents.captions, *sidecars):
        with suppress(OSError):
            data = read_start(file.path, MAX_CAPTION_BYTES)
            if utf8_or_none(data, cut=len(data) > MAX_CAPTION_BYTES) is None:
                strange[file.shown] = data[:MAX_CAPTION_BYTES]
    if not strange:
        return None
    encoding = find_encoding(list(strange.values()))
    if encoding is None:
        message = (
            "It is not in UTF-8, and which other encoding it is in can't be told from so little "
            "text: the caption is not used. Save it as UTF-8."
        )
        contents.doubt_all(list(strange), "error", message)
        return None
    first = decode_caption(next(iter(strange.values())), encoding)
    message = (
        f"Not in UTF-8: read as {ENCODING_NAMES.get(encoding, encoding)}. The first begins: "
        f"{display_name(first[:40])}. If that is not what was written, save them as UTF-8."
    )
    contents.doubt_all(list(strange), "warning", message)
    return encoding


def _rank(file: FoundFile, picture: FoundFile) -> tuple[bool, bool, int, str]:
    whole = matching_key(file.stem) == matching_key(picture.name)
    distant = file.folder != picture.folder
    return (distant, not whole, CAPTION_SUFFIXES.index(file.path.suffix.casefold()), file.name)


def _json_sidecars(
    contents: FolderContents, index: PictureIndex
) -> list[tuple[FoundFile, list[FoundFile]]]:
    """The JSON files that are named like a picture, and of which pictures here."""
    files = (file for file in contents.metadata if file.path.suffix.casefold() == ".json")
    owners = ((file, _described(file, index, contents.pictures)) for file in files)
    return [(file, pictures) for file, pictures in owners if pictures is not None]


def _described(
    file: FoundFile, index: PictureIndex, pictures: list[FoundFile]
) -> list[FoundFile] | None:
    """Those that a JSON file is named like; None where it is not named like a picture at all."""
    found = _DESCRIBES.fullmatch(file.path.stem)
    if (owners := index.beside(file.stem)) or found is None:
        return owners or None
    name, more, number = found.groups(default="")
    path, cut = PurePosixPath(name), name + more
    if (more or number) and path.suffix.casefold() in PICTURE_SUFFIXES:
        whole = f"{path.stem}{number}{path.suffix}"
        return index.named(f"{file.folder}/{whole}".lstrip("/"))
    if len(cut) < _LONGEST:
        return None
    alike = [
        picture
        for picture in pictures
        if picture.folder == file.folder
        and picture.path.stem.endswith(number)
        and f"{picture.path.stem.removesuffix(number)}{picture.path.suffix}".startswith(cut)
    ]
    return alike if number or len(alike) == 1 else None


def _read_json_sidecars(contents: FolderContents, index: PictureIndex) -> dict[str, str]:
    """The captions of JSON files that are named like pictures; they leave the tables."""
    captions: dict[str, str] = {}
    files = _json_sidecars(contents, index)
    orphans = [file.shown for file, pictures in files if not pictures]
    contents.doubt_all(orphans, "warning", _NO_PICTURE)
    for file, pictures in files:
        if not pictures:
            continue
        try:
            data = read_start(file.path, MAX_JSON_BYTES)
            if contents.encoding is None and utf8_or_none(data) is None:
                continue  # `_judge_encoding` has said so
            text, column = _read_json(data, contents.encoding)
        except (OSError, ImageProblem) as error:
            reason = getattr(error, "strerror", None) or str(error)
            contents.doubt(file.name, "error", f"It cannot be read as a caption: {reason}")
            continue
        if column.message:
            contents.doubt(file.name, column.severity, column.message)
        captions |= {picture.name: text for picture in pictures if text}
    contents.metadata = [file for file in contents.metadata if file not in dict(files)]
    return captions


def _read_json(data: bytes, encoding: str | None) -> tuple[str, TextColumn]:
    """The caption in a JSON file of one picture, and what is said of its entries.

    Args:
        encoding: of the set's texts that are no UTF-8.

    Raises:
        ImageProblem: it is no JSON object.
    """
    text = decode_text(data, encoding=encoding)
    try:
        value = json.loads(text) if len(data) <= MAX_JSON_BYTES else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, str):
        return caption_of(value, "text") or "", TextColumn("text")
    if not is_table(value):
        raise ImageProblem("It is no JSON object in braces.", 'Write {"text": "…"}.')
    entries = {
        name: [one]
        for name, one in islice(value.items(), MOST_COLUMNS)
        # The name of the picture itself, such as Google's "title", is no caption.
        if not (isinstance(one, str) and Path(one[-9:]).suffix.casefold() in PICTURE_SUFFIXES)
    }
    column = choose_text_column(entries)
    return (caption_of(value[column.name], column.name) or "" if column.name else ""), column


def _read(file: FoundFile, contents: FolderContents) -> str:
    """A caption file's text; "" where it has none or cannot be read, with a finding."""
    try:
        data = read_start(file.path, MAX_CAPTION_BYTES)
    except OSError as error:
        contents.doubt(file.name, "error", f"It cannot be read ({error.strerror}).")
        return ""
    if contents.encoding is None and utf8_or_none(data, cut=len(data) > MAX_CAPTION_BYTES) is None:
        return ""  # `_judge_encoding` has said so
    text = decode_caption(data, contents.encoding)
    if not text:
        message = "It is empty: the trigger word and class word will be the caption."
        contents.doubt(file.name, "warning", message)
    whole = decode_text(data, cut=True, encoding=contents.encoding)
    if TRANSLATION.search(whole) and not TRANSLATION.search(text):
        message = "Lines such as de.utf8=… are taken for translations, and not trained."
        contents.doubt(file.name, "note", message)
    if len(data) > MAX_CAPTION_BYTES or len(text) == MAX_CAPTION_CHARACTERS:
        message = f"It is longer than {MAX_CAPTION_CHARACTERS:,} characters, and is cut there."
        contents.doubt(file.name, "warning", message)
    return text


def read_start(path: Path, size: int) -> bytes:
    """The first ``size`` bytes of a file, and one more if there is more."""
    with open_file(path) as stream:
        return stream.read(size + 1)
