"""Which picture a mask, a caption or a chosen place belongs to, told by names alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path, PurePosixPath

from trainer.config.moving.moved import SetFacts
from trainer.data.buckets import WHOLE, Focus
from trainer.data.folders import folder_repeats, repeats_of
from trainer.data.names import list_names, matching_key
from trainer.data.scan import FolderContents, FoundFile, look_into
from trainer.errors import UserError
from trainer.runs.atomic import write_text

# The words by which tools and people mark masks, as a whole word of a name: NAME.mask.png,
# NAME-masklabel.png (OneTrainer), NAME_mask.jpg, mask_NAME.png, NAMEMask.png, cat_masks/.
_WORD = r"(?:masks?|mask[ _-]?labels?|condlabels?|mattes?|segmentations?)"
_MARK = re.compile(
    rf"(?i:(?:^|[ ._(\[-]+){_WORD}(?=$|[ ._)\]-]))|(?<=[a-z0-9])Masks?(?=$|[ ._)\]-])"
)
_SURE_MARK = re.compile(r"(?i)(?:\.mask|[._-]masklabel)$")  # marks that no picture of its own has
_CONDITION = re.compile(r"(?i)[._-]condlabel$")
_FOLDER = re.compile(
    rf"(?i)[ ._-]*(?:{_WORD}|mask[ _-]?(?:images?|files?)|conditioning(?:[ _-]\w+)?)[ ._-]*"
)
"""The whole name of a folder of masks; sd-scripts calls it conditioning."""
_CONDITIONING = "A picture that steers another tool (conditioning, as for ControlNet): not used."
_MOST_PICTURES = 100_000  # of a set whose pictures are only counted
MAX_NAME = 4096  # characters of a path; what is longer names nothing


class PictureIndex:
    """Finds the pictures that another file points to by name.

    A name counts as it is; where no picture has it, by case and Unicode form.
    """

    def __init__(self, pictures: Sequence[FoundFile]) -> None:
        self._found: dict[tuple[str, ...], list[FoundFile]] = defaultdict(list)
        for picture in pictures:
            for kind, name in (("name", picture.name), ("stem", picture.stem)):
                self._found[kind, name].append(picture)
                like = matching_key(name)
                self._found[f"like {kind}", like].append(picture)
                *folders, last = like.split("/")
                for place in range(len(folders)):
                    rest = "/".join([*folders[place + 1 :], last])
                    self._found[f"across {kind}", "/".join(folders[:place]), rest].append(picture)
                self._found[f"last {kind}", last].append(picture)

    def beside(self, stem: str) -> list[FoundFile]:
        """Those whose name, or else whose stem, this is: ``a.png`` or ``a`` for ``a.png``."""
        like = matching_key(stem)
        return self._first(("name", stem), ("stem", stem), ("like name", like), ("like stem", like))

    def named(self, name: str) -> list[FoundFile]:
        """Those whose whole name this is."""
        return self._first(("name", name), ("like name", matching_key(name)))

    def across(self, base: str, rest: str) -> list[FoundFile]:
        """Those in one folder more: ``images/x/a.png`` for the base "" and the rest ``x/a``.

        Otherwise all that have the same last name anywhere below the base.

        Args:
            rest: a name or a stem, as for `beside`.
        """
        base, rest = matching_key(base), matching_key(rest)
        if found := self._first(("across name", base, rest), ("across stem", base, rest)):
            return found
        last = rest.rpartition("/")[2]
        below = f"{base}/" if base else ""
        for kind in ("last name", "last stem"):
            if found := [
                picture
                for picture in self._found.get((kind, last), ())
                if matching_key(picture.name).startswith(below)
            ]:
                return found
        return []

    def elsewhere(self, stem: str) -> list[FoundFile]:
        """Those that a file without a picture beside it may mean: ``images/a`` for ``captions/a``.

        The nearest folder in which the two may differ counts.
        """
        *folders, last = stem.split("/")
        for place in reversed(range(len(folders))):
            base, rest = "/".join(folders[:place]), "/".join([*folders[place + 1 :], last])
            if found := self.beside("/".join(filter(None, (base, rest)))):
                return found
            like = matching_key(base), matching_key(rest)
            if found := self._first(("across name", *like), ("across stem", *like)):
                return found
        return self.across("", last)

    def knows(self, name: object) -> bool:
        """Whether a value may name a picture, in whatever folder."""
        if not isinstance(name, str) or len(name) > MAX_NAME:
            return False
        last = matching_key(name.strip().replace("\\", "/").rpartition("/")[2])
        return ("last name", last) in self._found or ("last stem", last) in self._found

    def _first(self, *keys: tuple[str, ...]) -> list[FoundFile]:
        return next((self._found[key] for key in keys if key in self._found), list[FoundFile]())


def in_one_folder(pictures: Sequence[FoundFile]) -> bool:
    """Whether pictures of one name differ in their suffixes alone."""
    return len({picture.folder for picture in pictures}) <= 1


# ------------------------------------------------------------------------------ masks


def read_folder(root: Path, limit: int) -> FolderContents:
    """As `look_into`, with the masks taken out of the pictures.

    Raises:
        UserError: as `look_into`.
    """
    contents = look_into(root, limit)
    take_masks(contents)
    return contents


def count_pictures(path: Path, reads: str) -> SetFacts | None:
    """The pictures of an image set, by their names alone; None where it is none.

    Args:
        reads: which of them another trainer trains, see `TheirSet.reads`.
    """
    try:
        names = [one.name for one in read_folder(path, _MOST_PICTURES).pictures]
    except (OSError, UserError, ValueError):
        return None
    used = [name for name in names if repeats_of(name)]
    there = [
        name
        for name in used
        if reads == "all"
        or (
            name.count("/") == (reads == "numbered") and (reads == "direct" or folder_repeats(name))
        )
    ]
    repeats = [repeats_of(name) for name in there or used]
    folders = {name.partition("/")[0] for name in names if "/" in name}
    left_out = sorted({*used} - {*there}) if there else []
    return SetFacts(len(repeats), sum(repeats), (*sorted(folders),), (*left_out,)) if used else None


def looks_like_mask(name: str) -> bool:
    """Whether a file's or a folder's name, without a suffix, has a word that marks masks."""
    return bool(_MARK.search(name) or _FOLDER.fullmatch(name))


def _is_marked(path: str) -> bool:
    return any(map(looks_like_mask, path.split("/")))


def take_masks(contents: FolderContents) -> None:
    """Moves the masks of a folder's pictures from `pictures` to `masks`; says what is doubtful.

    A file is a mask where its name, or that of its folder, has a word that marks masks, and one
    picture has the name without it. Of a folder with at least one mask all files are masks. What
    only looks like a mask stays a picture, with a warning.
    """
    marked = [file for file in contents.pictures if _is_marked(file.stem)]
    pictures = [file for file in contents.pictures if not _is_marked(file.stem)]
    # A picture may be called gas_mask.png, and have a mask of its own.
    rest = _pair(contents, pictures, marked)
    others = _pair(contents, [file for file in rest if not _is_marked(file.folder)], rest)
    mask_folders = {file.folder for file in marked if file not in others}
    for file in others:
        if _SURE_MARK.search(file.stem) or (
            _is_marked(file.folder) and file.folder in mask_folders
        ):
            message = "A mask, but no picture beside it has its name, so it is not used."
        elif _CONDITION.search(file.stem):
            message = _CONDITIONING
        else:
            pictures.append(file)
            message = (
                "Named like a mask, but there is no picture that it could belong to: it is trained "
                "on as a picture. Remove it if that is not meant."
            )
        contents.doubt(file.name, "warning", message)
    contents.pictures = sorted(pictures, key=attrgetter("name"))
    names = sorted({file.shown for file in contents.masks.values()})
    message = 'Masks of pictures: used with images.masks = "files", and never trained on.'
    contents.doubt_all(names, "note", message)


def _pair(
    contents: FolderContents, pictures: list[FoundFile], files: list[FoundFile]
) -> list[FoundFile]:
    """Gives the masks among files to their pictures; returns the others."""
    others: list[FoundFile] = []
    index = PictureIndex(pictures)
    for file in files:
        owners = [owner for owner in _owners(file, index) if owner != file]
        shown = list_names([owner.shown for owner in owners])
        if not owners:
            others.append(file)
            continue
        if _CONDITION.search(file.stem):
            contents.doubt(file.name, "warning", _CONDITIONING)
            continue
        if not in_one_folder(owners):
            message = (
                f"It looks like a mask, but it cannot be told of which picture ({shown}), so it is "
                "not used. Put it beside its picture, as NAME.mask.png."
            )
            contents.doubt(file.name, "error", message)
            continue
        if len(owners) > 1:
            message = f"The mask of several pictures, which all get it: {shown}."
            contents.doubt(file.name, "warning", message)
        for owner in owners:
            if (first := contents.masks.setdefault(owner.name, file)) != file:
                message = (
                    f"{owner.shown} has several masks, and {first.shown} counts. Delete this one, "
                    "or the other."
                )
                contents.doubt(file.name, "warning", message)
    return others


def _owners(file: FoundFile, index: PictureIndex) -> list[FoundFile]:
    """The pictures whose mask a file is by its name, the nearest first to be found."""
    path = PurePosixPath(file.name)
    folders, stem = list(path.parent.parts), file.stem.rpartition("/")[2]
    place = next((i for i in reversed(range(len(folders))) if looks_like_mask(folders[i])), None)
    if place is None:
        return _first(index.beside("/".join([*folders, name])) for name in _unmarked(stem))
    base, rest = folders[:place], folders[place + 1 :]
    names = [path.name, stem, *_unmarked(stem)]
    if not _FOLDER.fullmatch(folders[place]):  # cat_masks/a.png is of cat/a.png
        others = list(_unmarked(folders[place]))
        paths = ([*base, other, *rest, name] for other in others for name in names)
        return _first(index.beside("/".join(parts)) for parts in paths)
    return _first(index.beside("/".join([*base, *rest, name])) for name in names) or _first(
        index.across("/".join(base), "/".join([*rest, name])) for name in names
    )


def _first(found: Iterator[list[FoundFile]]) -> list[FoundFile]:
    return next(filter(None, found), list[FoundFile]())


def _unmarked(name: str) -> Iterator[str]:
    """What a name is without the word that marks masks: ``cat_001`` for ``cat_mask_001``."""
    for mark in reversed(list(_MARK.finditer(name))):
        before, after = name[: mark.start()], name[mark.end() :].lstrip(")]")
        yield before + after if before else after.lstrip(" ._-")
        if before and after:
            yield before


# ------------------------------------------------------------------------------ crops


FOCUS_SUFFIX = ".focus"
"""``NAME.focus`` beside ``NAME.png`` holds two numbers, the shares of width and height from the top
left corner: ``0.5 0.2`` is the middle of the upper part. Training cuts as near to that as the edges
let it. Behind them may stand ``turn 90`` (degrees, clockwise), ``flip`` and ``crop 0.1 0 0.9 1``
(left, top, right and bottom of the turned picture); the two numbers are then of what is left."""
_FOCUS_BYTES = 200
_FOCUS = re.compile(
    r"(\S+) (\S+)(?: turn (0|90|180|270))?( flip)?(?: crop (\S+ \S+ \S+ \S+))?", re.IGNORECASE
)


def find_focuses(contents: FolderContents) -> dict[str, Focus]:
    """The chosen places by the names of their pictures; what is wrong with one is a finding."""
    index = PictureIndex(contents.pictures)
    found: dict[str, Focus] = {}
    for file in contents.focuses:
        focus = _read_focus(file.path)
        pictures = index.beside(file.stem) or index.elsewhere(file.stem)
        if focus is None:
            message = (
                "It does not hold two numbers from 0 to 1, such as 0.5 0.2 (from the left and from "
                "the top), and behind them at most turn 90, flip and crop 0.1 0 0.9 1, so the "
                "picture is taken as it is. Mend it, or delete it."
            )
            contents.doubt(file.name, "warning", message)
        elif not pictures or not in_one_folder(pictures):
            message = "It says where to cut a picture, but "
            message += "of which can't be told." if pictures else "none beside it has its name."
            contents.doubt(file.name, "warning", message)
        else:
            found |= dict.fromkeys([picture.name for picture in pictures], focus)
    return found


def write_focus(path: Path, focus: Focus | None) -> None:
    """Keep how the picture at a path is seen; None: as it is.

    Raises:
        OSError: it cannot be written.
    """
    file = path.with_suffix(FOCUS_SUFFIX)
    if focus is None:
        file.unlink(missing_ok=True)
    else:
        write_text(file, f"{words_of(focus)}\n")


def words_of(focus: Focus) -> str:
    """What stands in the file."""
    words = [f"{focus.across:.4f} {focus.down:.4f}"]
    words += [f"turn {90 * focus.turns}"] if focus.turns else []
    words += ["flip"] if focus.mirrored else []
    words += ["crop {:.4f} {:.4f} {:.4f} {:.4f}".format(*focus.box)] if focus.box != WHOLE else []
    return " ".join(words)


def _read_focus(path: Path) -> Focus | None:
    try:
        with path.open("rb") as stream:
            words = stream.read(_FOCUS_BYTES + 1).decode("utf-8-sig")
        found = _FOCUS.fullmatch(" ".join(words.split()))
        if found is None or len(words) > _FOCUS_BYTES:
            return None
        across, down = float(found[1]), float(found[2])
        left, top, right, bottom = (float(word) for word in (found[5] or "0 0 1 1").split())
    except (OSError, ValueError):
        return None
    inside = all(0 <= share <= 1 for share in (across, down, left, top, right, bottom))
    if not inside or left >= right or top >= bottom:
        return None
    turns = int(found[3] or 0) // 90
    return Focus(across, down, turns, bool(found[4]), (left, top, right, bottom))
