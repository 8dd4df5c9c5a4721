"""Captions in files: which belongs to which picture, told by name and never by position.

They stand in a file with the picture's name, or in a table. `find_captions` knows both.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath

from trainer.data.caption_tables import (
    MAX_JSON_BYTES,
    MOST_COLUMNS,
    judge_encoding,
    read_tables,
)
from trainer.data.captions import (
    MAX_CAPTION_BYTES,
    MAX_CAPTION_CHARACTERS,
    TRANSLATION,
    decode_caption,
    decode_text,
)
from trainer.data.columns import caption_of, choose_text_column
from trainer.data.encodings import utf8_or_none
from trainer.data.images import PICTURE_SUFFIXES
from trainer.data.names import list_names, matching_key
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
    owners = {
        file: index.beside(file.stem) or index.elsewhere(file.stem) for file in contents.captions
    }
    for file in contents.metadata:
        described = _described(file, index, contents.pictures)
        owners |= {} if described is None else {file: described}
    contents.metadata = [file for file in contents.metadata if file not in owners]
    strange: dict[str, bytes] = {}
    for file in owners:
        with suppress(OSError):
            data = read_start(file.path, MAX_CAPTION_BYTES)
            if utf8_or_none(data, cut=len(data) > MAX_CAPTION_BYTES) is None:
                strange[file.shown] = data[:MAX_CAPTION_BYTES]
    contents.encoding = judge_encoding(contents, strange)
    beside = _read_sidecars(contents, owners)
    listed = read_tables(contents, index)
    for name in sorted(beside.keys() & listed.keys()):
        if listed[name] != beside[name]:
            message = (
                "It has different captions in the table and in the file beside it; the file "
                "counts. Delete one of them."
            )
            contents.doubt(name, "warning", message)
    return {**listed, **beside}


# ------------------------------------------------------------------------------ files beside


def _read_sidecars(
    contents: FolderContents, owners_of: Mapping[FoundFile, list[FoundFile]]
) -> dict[str, str]:
    """The captions that stand in files beside the pictures.

    A caption file belongs to the pictures with its own name but for the suffix (``a.txt`` to
    ``a.png``, or ``a.png.txt`` to ``a.png``). Of several for a picture one with a text counts:
    ``a.png.txt`` comes before ``a.txt``, ``.txt`` before ``.caption``, and JSON last.
    """
    texts: dict[FoundFile, str] = {}
    candidates: dict[str, list[FoundFile]] = defaultdict(list)
    for file, owners in owners_of.items():
        if not owners:
            continue
        names = list_names([picture.shown for picture in owners])
        if not _is_beside(file, owners[0]):
            if not in_one_folder(owners):
                message = (
                    f"Several pictures have its name ({names}): not used. Put it beside its own."
                )
                contents.doubt(file.name, "error", message)
                continue
            message = "It has the name of a picture in another folder, and is the caption of that."
            contents.doubt(file.name, "note", message)
        if len(owners) > 1:
            message = f"It belongs to several pictures, and all get it: {names}. Rename them."
            contents.doubt(file.name, "warning", message)
        texts[file] = _read(file, contents)
        for picture in owners if texts[file] else ():
            candidates[picture.name].append(file)
    orphans = [file.shown for file, owners in owners_of.items() if not owners]
    severity = "note" if all(map(is_about, orphans)) else "warning"
    contents.doubt_all(orphans, severity, _NO_PICTURE)
    captions: dict[str, str] = {}
    for picture in contents.pictures:
        found = sorted(candidates[picture.name], key=lambda file: _rank(file, picture))
        if len({texts[file] for file in found}) > 1:
            names = list_names([file.shown for file in found])
            message = f"It has several caption files, and the first counts: {names}. Delete others."
            contents.doubt(picture.name, "warning", message)
        if found:
            captions[picture.name] = texts[found[0]]
    return captions


def _is_beside(file: FoundFile, picture: FoundFile) -> bool:
    return matching_key(file.folder) == matching_key(picture.folder)


def _rank(file: FoundFile, picture: FoundFile) -> tuple[int, bool, bool, str]:
    kind = [*CAPTION_SUFFIXES, ".json"].index(file.path.suffix.casefold())
    whole = matching_key(file.stem) == matching_key(picture.name)
    return (kind // 2, not _is_beside(file, picture), not whole, f"{kind} {file.name}")


def _described(
    file: FoundFile, index: PictureIndex, pictures: list[FoundFile]
) -> list[FoundFile] | None:
    """Those that a JSON file is named like; None of any other, and of what is no such file."""
    found = _DESCRIBES.fullmatch(file.path.stem)
    if found is None or file.path.suffix.casefold() != ".json":
        return None
    if owners := index.beside(file.stem):
        return owners
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


def _read(file: FoundFile, contents: FolderContents) -> str:
    """A caption file's text; "" where it has none or cannot be read, with a finding."""
    is_json = file.path.suffix.casefold() == ".json"
    most = MAX_JSON_BYTES if is_json else MAX_CAPTION_BYTES
    try:
        data = read_start(file.path, most)
    except OSError as error:
        contents.doubt(file.name, "error", f"It cannot be read ({error.strerror}).")
        return ""
    if contents.encoding is None and utf8_or_none(data, cut=len(data) > most) is None:
        return ""  # `judge_encoding` has said so
    whole = decode_text(data, cut=True, encoding=contents.encoding)
    if is_json:
        return _read_json(file, whole, contents)
    text = decode_caption(data, contents.encoding)
    if not text:
        message = "It is empty: the trigger word and class word will be the caption."
        contents.doubt(file.name, "warning", message)
    if TRANSLATION.search(whole) and not TRANSLATION.search(text):
        message = "Lines such as de.utf8=… are taken for translations, and not trained."
        contents.doubt(file.name, "note", message)
    if len(data) > most or len(text) == MAX_CAPTION_CHARACTERS:
        message = f"It is longer than {MAX_CAPTION_CHARACTERS:,} characters, and is cut there."
        contents.doubt(file.name, "warning", message)
    return text


def _read_json(file: FoundFile, text: str, contents: FolderContents) -> str:
    """The caption in a JSON file of one picture; says what is doubtful about its entries."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    value = {"text": value} if isinstance(value, str) else value
    if not is_table(value):
        message = 'It cannot be read as a caption: it is no JSON object. Write {"text": "…"}.'
        contents.doubt(file.name, "error", message)
        return ""
    entries = {
        name: [one]
        for name, one in islice(value.items(), MOST_COLUMNS)
        # The name of the picture itself, such as Google's "title", is no caption.
        if not (isinstance(one, str) and Path(one[-9:]).suffix.casefold() in PICTURE_SUFFIXES)
    }
    column = choose_text_column(entries)
    if column.message:
        contents.doubt(file.name, column.severity, column.message)
    return (column.name and caption_of(value[column.name], column.name)) or ""


def read_start(path: Path, size: int) -> bytes:
    """The first ``size`` bytes of a file, and one more if there is more."""
    with open_file(path) as stream:
        return stream.read(size + 1)
