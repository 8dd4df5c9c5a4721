"""Which of the pictures in a folder are masks of others, told by their names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from trainer.data.findings import Finding
from trainer.data.folders import FolderContents, FoundFile
from trainer.data.names import list_names, matching_key

_FOLDER = "masks"
_MARK = ".mask"


@dataclass
class MaskFiles:
    """Masks by the name of their picture, and what was doubtful about them."""

    of_picture: dict[str, FoundFile] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def take_masks(contents: FolderContents) -> MaskFiles:
    """Takes the masks out of a folder's pictures.

    ``a.mask.png`` (or ``a.png.mask.png``) is the mask of each picture ``a`` beside it. A folder
    ``masks`` holds masks where the name of one of its files is that of a picture next to the
    folder; otherwise it holds pictures. A mask without a picture is used for nothing, and named.
    """
    owners: dict[str, list[FoundFile]] = {}
    for picture in contents.pictures:
        for name in (picture.stem, picture.name):
            owners.setdefault(matching_key(name), []).append(picture)
    folders = {
        file.folder
        for file in contents.pictures
        if _in_mask_folder(file) and owners.get(matching_key(_beside(file)))
    }
    masks = MaskFiles()
    pictures: list[FoundFile] = []
    orphans: list[str] = []
    for file in contents.pictures:
        marked = matching_key(file.stem).endswith(_MARK)
        if not marked and file.folder not in folders:
            pictures.append(file)
            continue
        owned = owners.get(matching_key(file.stem[: -len(_MARK)] if marked else _beside(file)), [])
        for picture in owned:
            masks.of_picture.setdefault(picture.name, file)
        if not owned:
            orphans.append(file.shown)
    contents.pictures = pictures
    if orphans:
        message = "A mask, but no picture beside it has its name, so it is used for nothing."
        masks.findings.append(Finding(list_names(orphans), "warning", message))
    if masks.of_picture:
        names = sorted({file.shown for file in masks.of_picture.values()})
        message = 'Masks of pictures: used with images.masks = "files", and never trained on.'
        masks.findings.append(Finding(list_names(names), "note", message))
    return masks


def _in_mask_folder(file: FoundFile) -> bool:
    return PurePosixPath(file.folder).name.casefold() == _FOLDER


def _beside(file: FoundFile) -> str:
    """The stem that the picture of a file in a folder of masks has."""
    outer = str(PurePosixPath(file.folder).parent)
    stem = PurePosixPath(file.stem).name
    return stem if outer == "." else f"{outer}/{stem}"
