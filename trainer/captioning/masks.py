"""Masks without a model: from transparency, and from a plain background. Never torch.

White is what counts in training. A mask is proposed, looked at, and only then written beside its
picture as ``NAME.mask.png``; one that is there is never replaced.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.colours import WHITE
from trainer.data.findings import ImageProblem
from trainer.data.gather import scan_again
from trainer.data.images import load_alpha, load_rgb
from trainer.data.sets import ImageEntry, ImageFile
from trainer.events import Progress, no_progress
from trainer.runs.atomic import write_bytes
from trainer.text import counted

Source = Literal["alpha", "background"]

PLAIN = 24
"""Colours of a border that differ by less, of 255, are one."""
MOST_OTHER = 0.3
"""Share of the border that may have another colour, as where the subject is cut off there."""
SIDE = 512
"""Pixels of the longer side at which a background is looked for."""
LEAST, MOST = 0.005, 0.995
"""Share of a picture that a mask covers, where it means anything."""


@dataclass(frozen=True)
class ProposedMask:
    """A picture's mask. ``covers`` is the share of the picture that it is white in."""

    picture: str
    covers: float


@dataclass(frozen=True)
class MaskedSet:
    """Masks of a set.

    Attributes:
        problems: why others have none, by picture.
        kept: pictures left alone since they have a mask.
        written: the files.
    """

    masks: tuple[ProposedMask, ...]
    problems: dict[str, str]
    kept: int
    written: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        for one in self.masks:
            yield f"{one.picture}: {one.covers:.0%} of it counts"
        yield from (f"{name}: no mask. {reason}" for name, reason in self.problems.items())
        if self.kept:
            yield f"{counted(self.kept, 'picture')} with a mask left alone"
        if self.written:
            done = f"{counted(len(self.written), 'mask')} written"
            yield f"{done}: train with --set images.masks=files"
        elif self.masks:
            yield "Nothing is written yet: --write does that."


def mask_set(
    root: Path, source: Source, *, write: bool, soft: float = 0.0, progress: Progress = no_progress
) -> MaskedSet:
    """Masks for the pictures of a set that have none.

    Args:
        soft: width of the edge's blur, as a share of the shorter side.

    Raises:
        UserError: there is no such set, or nothing in it can be used.
        OSError: a file cannot be written.
    """
    entries = scan_again(root).entries
    wanted = [entry for entry in entries if entry.mask is None]
    found = MaskedSet((), {}, len(entries) - len(wanted))
    for number, entry in enumerate(wanted):
        progress(number, len(wanted), "Masking")
        try:
            mask = mask_of(entry, source, soft)
            covers = float(np.asarray(mask, np.float64).mean() / 255)
            one = ProposedMask(entry.name, round(covers, 4))
            file = _write(entry, mask) if write else ""
        except ImageProblem as problem:
            found = replace(found, problems={**found.problems, entry.name: str(problem)})
        else:
            written = (*found.written, file) if file else found.written
            found = replace(found, masks=(*found.masks, one), written=written)
    return found


def mask_of(entry: ImageEntry, source: Source, soft: float = 0.0) -> Image.Image:
    """A picture's mask, of its size, mode L.

    Raises:
        ImageProblem: there is nothing to make one from.
    """
    data = entry.read()
    if source == "alpha":
        mask = load_alpha(data)
        if mask is None:
            raise ImageProblem("It has no transparency.", "Try --from background.")
    else:
        picture = load_rgb(data, entry.background(WHITE))
        small = picture.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        subject = apart_from_background(np.asarray(small))
        if subject is None:
            raise ImageProblem("Its background has several colours.", "Paint its mask by hand.")
        mask = Image.fromarray((_without_holes(subject) * 255).astype(np.uint8))
        mask = mask.resize(picture.size, Image.Resampling.BILINEAR)
    covers = np.asarray(mask, np.float64).mean() / 255
    if not LEAST <= covers <= MOST:
        what = "all" if covers > MOST else "hardly anything"
        raise ImageProblem(
            f"A mask would keep {what} of it.", "Paint one by hand, or leave it without."
        )
    if soft > 0:
        mask = mask.filter(ImageFilter.GaussianBlur(soft * min(mask.size)))
    return mask


def apart_from_background(pixels: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Where a picture differs from the one colour of its border.

    Args:
        pixels: (H, W, 3).

    Returns:
        (H, W); None where the border has several colours.
    """
    values = pixels.astype(np.int16)
    width = max(1, min(pixels.shape[:2]) // 20)
    ring = np.ones(pixels.shape[:2], bool)
    ring[width:-width, width:-width] = False
    subject = np.abs(values - np.median(values[ring], axis=0)).max(axis=2) > PLAIN
    return None if subject[ring].mean() > MOST_OTHER else subject


def _without_holes(subject: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The same, with what is of the background's colour but within the subject."""
    height, width = subject.shape
    canvas = Image.new("L", (width + 2, height + 2))
    canvas.paste(Image.fromarray(subject.astype(np.uint8) * 255), (1, 1))
    ImageDraw.floodfill(canvas, (0, 0), 128)
    return np.asarray(canvas)[1:-1, 1:-1] != 128


def _write(entry: ImageEntry, mask: Image.Image) -> str:
    if not isinstance(entry.source, ImageFile):
        raise ImageProblem("It comes from a table, where no mask file can lie beside it.")
    path = entry.source.path.with_suffix(".mask.png")
    if path.exists():
        raise ImageProblem(f"{path.name} is there already, and is left alone.")
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    write_bytes(path, stream.getvalue())
    return path.name
