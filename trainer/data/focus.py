"""Where the middle of a picture's crop is to be: a small file that its owner or the page writes.

``NAME.focus`` beside ``NAME.png`` holds two numbers, the shares of width and height from the top
left corner: ``0.5 0.2`` is the middle of the upper part. Training cuts as near to that as the edges
let it. A picture without such a file is cut in its middle.
"""

from __future__ import annotations

from pathlib import Path

from trainer.data.buckets import Focus
from trainer.data.pairing import PictureIndex, in_one_folder
from trainer.data.scan import FolderContents
from trainer.runs.atomic import write_text

SUFFIX = ".focus"
_MAX_BYTES = 100


def find_focuses(contents: FolderContents) -> dict[str, Focus]:
    """The chosen places by the names of their pictures; what is wrong with one is a finding."""
    index = PictureIndex(contents.pictures)
    found: dict[str, Focus] = {}
    for file in contents.focuses:
        focus = _read(file.path)
        pictures = index.beside(file.stem) or index.elsewhere(file.stem)
        if focus is None:
            contents.doubt(
                file.name,
                "warning",
                "It does not hold two numbers from 0 to 1, such as 0.5 0.2 (from the left and from "
                "the top), so the picture is cut in its middle. Mend it, or delete it.",
            )
        elif not pictures or not in_one_folder(pictures):
            message = "It says where to cut a picture, but "
            message += "of which can't be told." if pictures else "none beside it has its name."
            contents.doubt(file.name, "warning", message)
        else:
            found |= dict.fromkeys([picture.name for picture in pictures], focus)
    return found


def write_focus(path: Path, focus: Focus | None) -> None:
    """Keep the place of the picture at a path; None: its middle again.

    Raises:
        OSError: it cannot be written.
    """
    file = path.with_suffix(SUFFIX)
    if focus is None:
        file.unlink(missing_ok=True)
    else:
        write_text(file, "{:.4f} {:.4f}\n".format(*focus))


def _read(path: Path) -> Focus | None:
    try:
        with path.open("rb") as stream:
            across, down = map(float, stream.read(_MAX_BYTES).decode("utf-8-sig").split())
    except (OSError, ValueError):
        return None
    return (across, down) if 0 <= across <= 1 and 0 <= down <= 1 else None
