"""Masks for the pictures of a set, and what makes them. Torch only where a model is asked for it.

Without a model: transparency, a plain background, and GrabCut (Rother et al., SIGGRAPH 2004) in a
box.

White is what counts in training. A mask is proposed, looked at, and only then written beside its
picture as ``NAME.mask.png``; one that is there is never replaced.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from trainer import places
from trainer.answers import Answer
from trainer.captioning.memory import loading, memory_of
from trainer.data.buckets import Box
from trainer.data.colours import WHITE
from trainer.data.findings import ImageProblem
from trainer.data.gather import scan_again
from trainer.data.images import load_alpha, load_rgb
from trainer.data.sets import ImageEntry, ImageFile
from trainer.errors import UserError
from trainer.events import Progress, no_progress
from trainer.runs.atomic import write_bytes
from trainer.text import counted
from trainer.untyped import is_list

Source = Literal["alpha", "background", "grabcut"]
Maker = Callable[[ImageEntry], Image.Image]
"""Makes a picture's mask, of its size, mode L; raises `ImageProblem` where it can't."""

PLAIN = 24
"""Colours of a border that differ by less, of 255, are one."""
MOST_OTHER = 0.3
"""Share of the border that may have another colour, as where the subject is cut off there."""
SIDE = 512
"""Pixels of the longer side at which a background is looked for."""
LEAST, MOST = 0.005, 0.995
"""Share of a picture that a mask covers, where it means anything."""
EVERYTHING: Box = (0.03, 0.03, 0.97, 0.97)
"""The box where none is given: GrabCut needs a border that it may take for background."""
ROUNDS = 5
POINT = 0.1
"""A box whose sides are shorter than this share is meant as a point."""


@dataclass(frozen=True)
class Prompt:
    """What is to be found in a picture: what a text says, or what lies in a box."""

    text: str = ""
    box: Box | None = None

    @property
    def middle(self) -> tuple[float, float]:
        """Of the box, from left and top."""
        left, top, right, bottom = self.box or EVERYTHING
        return (left + right) / 2, (top + bottom) / 2

    @property
    def is_point(self) -> bool:
        """Whether the box is as small as a point."""
        left, top, right, bottom = self.box or EVERYTHING
        return max(right - left, bottom - top) < POINT


def check_box(box: Sequence[float]) -> Box:
    """The same, where it is one.

    Raises:
        UserError: it is not within the picture, or has no inside.
    """
    if len(box) == 2:
        box = (*box, *box)
    inside = len(box) == 4 and all(0 <= share <= 1 for share in box)
    if not inside or box[0] > box[2] or box[1] > box[3]:
        raise UserError(
            f"{' '.join(f'{share:g}' for share in box)} is no box in a picture.",
            "Give left, top, right and bottom as shares of width and height, such as 0.2 0.1 0.8 "
            "0.9; or the two of a point.",
        )
    return box[0], box[1], box[2], box[3]


@dataclass(frozen=True)
class ProposedMask:
    """A picture's mask."""

    picture: str
    covers: float  # the share of the picture that it is white in


@dataclass(frozen=True)
class MaskedSet(Answer):
    """Masks of a set."""

    masks: tuple[ProposedMask, ...]
    problems: dict[str, str]  # why others have none, by picture
    kept: int  # pictures left alone since they have a mask
    written: tuple[str, ...] = ()  # the files

    def lines(self) -> Iterator[str]:
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
    root: Path,
    make: Maker,
    *,
    write: bool,
    soft: float = 0.0,
    pictures: Collection[str] = (),
    progress: Progress = no_progress,
) -> MaskedSet:
    """Masks for the pictures of a set that have none.

    Args:
        soft: width of the edge's blur, as a share of the shorter side.
        pictures: only those of these names.

    Raises:
        UserError: there is no such set or picture, or nothing in it can be used.
        OSError: a file cannot be written.
    """
    asked = scan_again(root).named(pictures)
    wanted = [entry for entry in asked if entry.mask is None]
    found = MaskedSet((), {}, len(asked) - len(wanted))
    for number, entry in enumerate(wanted):
        progress(number, len(wanted), "Masking")
        try:
            mask = make(entry)
            one = ProposedMask(entry.name, round(checked(mask), 4))
            file = _write(entry, softened(mask, soft)) if write else ""
        except ImageProblem as problem:
            found = replace(found, problems={**found.problems, entry.name: str(problem)})
        else:
            written = (*found.written, file) if file else found.written
            found = replace(found, masks=(*found.masks, one), written=written)
    return found


def mask_of(entry: ImageEntry, source: Source, box: Box | None = None) -> Image.Image:
    """A picture's mask, of its size, mode L.

    Args:
        box: that GrabCut looks in.

    Raises:
        ImageProblem: there is nothing to make one from.
    """
    data = entry.read()
    if source == "alpha":
        mask = load_alpha(data)
        if mask is None:
            raise ImageProblem("It has no transparency.", "Try --from background.")
        return mask
    picture = load_rgb(data, entry.background(WHITE))
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small)
    if source == "grabcut":
        subject = in_box(pixels, box or EVERYTHING)
    else:
        apart = apart_from_background(pixels)
        if apart is None:
            raise ImageProblem("Its background has several colours.", "Paint its mask by hand.")
        subject = _without_holes(apart)
    mask = Image.fromarray((subject * 255).astype(np.uint8))
    return mask.resize(picture.size, Image.Resampling.BILINEAR)


def by_model(
    path: Path, prompt: Prompt, say: Callable[[str], None], check: Callable[[], None] = lambda: None
) -> Maker:
    """What makes masks with a local model, which is loaded for the first picture.

    Args:
        say: is told what is loaded.
        check: is called before each picture; what it raises ends the work.
    """
    loaded: list[Callable[[Image.Image, Prompt], Image.Image]] = []

    def make(entry: ImageEntry) -> Image.Image:
        picture = load_rgb(entry.read(), entry.background(WHITE))
        if not loaded:
            say(loading(path.name, memory_of(path, masks=True)))
            loaded.append(_load(path, check))
        return loaded[0](picture, prompt)

    return make


def _load(path: Path, check: Callable[[], None]) -> Callable[[Image.Image, Prompt], Image.Image]:
    if path.is_dir() and (path / "config.json").is_file():
        from trainer.captioning.segmenters import Segmenter

        return Segmenter(path, check).mask
    from trainer.captioning.onnx_models import BackgroundRemover

    file = path if path.is_file() else next(iter(sorted(path.glob("*.onnx"))), None)
    if file is None:
        raise UserError(
            f"{path} holds no model that makes masks.", "It has neither config.json nor ONNX file."
        )
    return BackgroundRemover(file, check).mask


def in_box(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """What differs within a box from what lies around it (GrabCut).

    Args:
        pixels: (H, W, 3).

    Returns:
        (H, W).

    Raises:
        ImageProblem: the box leaves nothing around it, or there is nothing in it.
    """
    import cv2  # it takes a while, and is needed for this alone

    height, width = pixels.shape[:2]
    left, right = round(box[0] * width), round(box[2] * width)
    top, bottom = round(box[1] * height), round(box[3] * height)
    if (right - left) * (bottom - top) == width * height:
        raise ImageProblem("The box is the whole picture.", "Leave some background around it.")
    if right - left < 2 or bottom - top < 2:
        raise ImageProblem("The box is too small.", "Draw it around the whole subject.")
    found = np.zeros((height, width), np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    place = (left, top, right - left, bottom - top)
    try:
        cv2.grabCut(
            np.ascontiguousarray(pixels), found, place, *models, ROUNDS, cv2.GC_INIT_WITH_RECT
        )
    except cv2.error:
        raise ImageProblem("GrabCut finds no subject in it.", "Draw another box.") from None
    return (found == cv2.GC_FGD) | (found == cv2.GC_PR_FGD)


def checked(mask: Image.Image) -> float:
    """The share of a picture that its mask lets count.

    Raises:
        ImageProblem: that is all of it, or nothing.
    """
    covers = float(np.asarray(mask, np.float64).mean() / 255)
    if not LEAST <= covers <= MOST:
        what = "all" if covers > MOST else "hardly anything"
        raise ImageProblem(
            f"A mask would keep {what} of it.", "Paint one by hand, or leave it without."
        )
    return covers


def softened(mask: Image.Image, soft: float) -> Image.Image:
    """A mask with its edges blurred by a share of the shorter side."""
    return mask.filter(ImageFilter.GaussianBlur(soft * min(mask.size))) if soft > 0 else mask


def as_png(mask: Image.Image) -> bytes:
    """The bytes of a mask's file."""
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    return stream.getvalue()


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
    write_bytes(path, as_png(mask))
    return path.name


def propose_mask(
    values: Mapping[str, object],
    progress: Progress = no_progress,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """A mask for one picture, for the page: ``{"png": base64}``; writes nothing.

    Args:
        values: ``folder``, ``picture``, ``source`` (of `Source`, or ``model NAME`` of
            `places.MASKERS`), ``text``, ``box``.
        check: is called before a model is used; what it raises ends the work.

    Raises:
        UserError: there is no such picture or model, or nothing is found.
    """
    kind, _, name = str(values["source"]).partition(" ")
    box = values.get("box")
    prompt = Prompt(str(values.get("text") or "")[:200], check_box(box) if is_list(box) else None)
    entry = scan_again(Path(str(values["folder"]))).named([str(values["picture"])])[0]
    if kind == "model":
        check()
        if name not in places.masker_models():
            raise UserError(f"There is no model {name} in {places.MASKERS}.", "Put it there.")
        make = by_model(places.MASKERS / name, prompt, partial(progress, 0, 0), check)
    else:
        source: Source = kind if kind in ("alpha", "grabcut") else "background"
        make = partial(mask_of, source=source, box=prompt.box)
    try:
        made = make(entry)
        covers = checked(made)
    except ImageProblem as problem:
        raise UserError(problem.reason, problem.hint) from None
    return {"png": b64encode(as_png(made)).decode(), "covers": covers}
