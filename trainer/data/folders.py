"""What the names of an image set's folders say: repeats, subjects, what is not trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal

from trainer.data.findings import Finding, Severity
from trainer.data.names import display_name

MAX_REPEATS = 1000
_REPEATS_FOLDER = re.compile(r"([0-9]+)_")
# 12_25_2023, and 100_FUJI as cameras name them (DCF): they repeat nothing.
_OF_CAMERA = re.compile(r"\d{1,4}[_.-]\d{1,2}[_.-]\d{1,4}(?!\d)|[1-9]\d\d_[0-9A-Z]{4}$")


def repeats_of(name: str) -> int:
    """How often a picture comes up in an epoch, by kohya's rule for folder names.

    The nearest folder above it that is named ``N_name``, N up to `MAX_REPEATS`, says N; 1 without.

    Args:
        name: below the set's folder.
    """
    numbers = map(folder_repeats, reversed(PurePosixPath(name).parts[:-1]))
    return next((one for one in numbers if one is not None and one <= MAX_REPEATS), 1)


def folder_repeats(folder: str) -> int | None:
    """The N of a folder named ``N_name``, else None; dates and cameras' folders have none."""
    found = None if _is_of_camera(folder) else _REPEATS_FOLDER.match(folder)
    # Nine digits are more than any limit; Python refuses to convert some thousands.
    return int(found[1].lstrip("0")[:9] or "0") if found else None


def repeats_findings(names: Iterable[str]) -> list[Finding]:
    """A word on each folder whose name repeats the pictures in it, or seems to."""
    folders = {folder for name in names for folder in PurePosixPath(name).parents}
    numbers = {folder: folder_repeats(folder.name) for folder in sorted(folders)}
    found = [
        Finding(display_name(str(folder)), *_about_repeats(repeats))
        for folder, repeats in numbers.items()
        if repeats is not None
    ]
    cameras = [display_name(str(one)) for one in sorted(folders) if _is_of_camera(one.name)]
    if cameras:
        found.append(Finding.of_several(cameras, "note", _NOT_REPEATED))
    subjects = {folder_words(f"{one}/a").partition(" ")[0].casefold() for one in folders} - {""}
    if len(subjects) > 1:
        names = [display_name(str(one)) for one, n in numbers.items() if n is not None]
        found.append(Finding.of_several(names, "warning", _SEVERAL_SUBJECTS))
    return found


_NOT_REPEATED = "Named as cameras or by a date, so its pictures are not repeated."
_SEVERAL_SUBJECTS = (
    "Named after different subjects, and all are trained with the same trigger word. Give each "
    "folder as a concept of its own, or name them alike if they are one."
)


def _is_of_camera(folder: str) -> bool:
    return _OF_CAMERA.match(folder) is not None


def _about_repeats(repeats: int) -> tuple[Severity, str]:
    if repeats == 0:
        return "warning", "0 repeats: its pictures are left out. Rename the folder to use them."
    if repeats > MAX_REPEATS:
        return "warning", (
            f"A folder named N_name repeats its pictures N times, but N is at most {MAX_REPEATS}: "
            "these are not repeated. Rename it if that is not meant."
        )
    return "note", (
        f"Its pictures come up {repeats} times in an epoch, as its name says. The rest of the name "
        "is not used as a caption."
    )


Role = Literal["class", "split", "drawn"]
ABOUT_ROLES: dict[Role, str] = {
    "class": "Regularisation: its pictures are class pictures of prior preservation, get no "
    "trigger word and are not trained on as the subject (preservation.regularization).",
    "split": "Named like the part of a public set that is kept out to test by: not trained on. "
    "Rename it if it is meant for training.",
    "drawn": "Named like the previews that a trainer drew: not trained on. Rename it if it is "
    "meant for training.",
}
_KIND = r"(s|set|imgs?|images?|pics?|pictures?|photos?|data|samples)?"
# kohya's reg, the others of the web's guides, and the example of diffusers (class_images).
_CLASS = re.compile(rf"(reg|regulari[sz]ation|regulari[sz]er|priorpreservation|class){_KIND}")
_SPLIT = re.compile(rf"(test|testing|val|valid|validation|eval|evaluation|holdout){_KIND}")
_DRAWN = re.compile(r"samples?|previews?")
# Kinds of things are sorted into folders like these: not without a folder of instances beside.
_DOUBTFUL = frozenset({"class", "classs", "classset"})
_INSTANCE = re.compile(rf"(instance|concept|subject){_KIND}")
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
    if _DRAWN.fullmatch(letters):
        return "drawn"
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
        if (found := _WORDS.fullmatch(folder)) and not _is_of_camera(folder):
            words = found[1].replace("_", " ").strip()
            return "" if _CLASS.fullmatch(_letters(words)) else words
    return ""
