"""Which folders of an image set are not its subject: class pictures, and splits of public sets.

Told by the names of folders and tables alone. Where all pictures of a set lie in such folders, they
are what the set is about after all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

Role = Literal["class", "split"]

_KIND = r"(s|set|imgs?|images?|pics?|pictures?|photos?|data|samples)?"
# kohya's reg, the others of the web's guides, and the example of diffusers (class_images).
_CLASS = re.compile(rf"(reg|regulari[sz]ation|regulari[sz]er|priorpreservation|class){_KIND}")
_SPLIT = re.compile(rf"(test|testing|val|valid|validation|eval|evaluation|holdout){_KIND}")
# Kinds of things are sorted into folders like these: not without a folder of instances beside.
_DOUBTFUL = frozenset({"class", "classs", "classset"})
_INSTANCE = re.compile(r"(instance|concept|subject)" + _KIND)
_TABLE_SPLIT = re.compile(r"(test|val|valid|validation|eval)(-\d+-of-\d+)?\.parquet", re.IGNORECASE)
_WORDS = re.compile(r"\d+_(.+)")


def special_folders(names: Sequence[str]) -> dict[str, tuple[Role, str]]:
    """The role of each picture or table that is not of the subject, and the folder that says so.

    Args:
        names: of all pictures and tables, below the set's folder.

    Returns:
        By name. Empty where nothing would be left to train on.
    """
    folders = {parent for name in names for parent in PurePosixPath(name).parents}
    siblings = {(folder.parent, _letters(folder.name)) for folder in folders}
    found: dict[str, tuple[Role, str]] = {}
    for name in names:
        path = PurePosixPath(name)
        for folder in reversed(path.parents):  # the outermost that says something
            if role := _role(folder, siblings):
                found[name] = (role, folder.as_posix())
                break
        else:
            if _TABLE_SPLIT.fullmatch(path.name):
                found[name] = ("split", name)
    return found if len(found) < len(names) else {}


def _role(folder: PurePosixPath, siblings: set[tuple[PurePosixPath, str]]) -> Role | None:
    letters = _letters(folder.name)
    if _SPLIT.fullmatch(letters):
        return "split"
    if not _CLASS.fullmatch(letters):
        return None
    beside = {name for parent, name in siblings if parent == folder.parent}
    doubtful = letters in _DOUBTFUL and not any(map(_INSTANCE.fullmatch, beside))
    return None if doubtful else "class"


def _letters(folder: str) -> str:
    """A folder's name without what is no letter: ``1_Reg-Images`` is ``regimages``."""
    return re.sub(r"[^a-z]", "", folder.casefold())


def folder_words(name: str) -> str:
    """What the nearest folder named ``N_words`` calls its pictures, as kohya reads it; or ""."""
    for folder in reversed(PurePosixPath(name).parts[:-1]):
        if found := _WORDS.fullmatch(folder):
            return found[1].replace("_", " ").strip()
    return ""
