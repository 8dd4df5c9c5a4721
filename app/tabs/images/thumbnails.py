"""Small pictures for the gallery, with what training cuts off shown pale.

They are made from the pixels alone: nothing of the original's metadata is in them, and nobody's
file is ever sent to a browser as it came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image, ImageDraw

from app.files import disk_trouble
from app.tabs.images.setview import PictureView
from trainer.data.buckets import CropPlan
from trainer.data.colours import WHITE
from trainer.data.decoder import load_rgb
from trainer.data.images import ImageProblem
from trainer.data.masks import seen
from trainer.runs.atomic import replacing

SIDE = 480
_PALE = 0.72  # how far what is cut off fades to white, and what is masked out to this:
_NIGHT = (24, 24, 40)
_LINE = (226, 88, 34)


def thumbnails(pictures: Sequence[PictureView]) -> list[str]:
    """The files of thumbnails, made where they are not there yet, on two threads.

    Raises:
        UserError: the disk is full.
    """
    folder = Path(get_upload_folder()) / "thumbnails"  # where the page may serve them from
    with disk_trouble(), ThreadPoolExecutor(max_workers=2) as pool:
        folder.mkdir(parents=True, exist_ok=True)
        return list(pool.map(lambda picture: str(thumbnail(folder, picture)), pictures))


def thumbnail(folder: Path, picture: PictureView) -> Path:
    """A picture's thumbnail, made where it is not there yet; a blank for one that can't be read.

    What training cuts off is pale, and what the mask leaves out is dark.
    """
    entry = picture.entry
    background = entry.background(WHITE) if entry else WHITE
    facts = f"{entry and entry.id} {picture.crop} {SIDE}"
    facts += f" {entry.mask.digest}" if entry and entry.mask else ""
    facts += f" {background}" if background != WHITE else ""
    key = hashlib.sha256(facts.encode()).hexdigest()[:32]
    path = folder / f"{key}.webp"
    if not path.exists():
        with replacing(path) as temporary:
            _draw(picture, background).save(temporary, "WEBP", quality=82)
    return path


def _draw(picture: PictureView, background: str) -> Image.Image:
    crop, mask = picture.crop, picture.entry and picture.entry.mask
    try:
        if picture.entry is None:
            return _blank()
        small = load_rgb(picture.read(), background)
    except ImageProblem:
        return _blank()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small = seen(small, crop, whole=True) if crop else small
    if mask:
        with suppress(ImageProblem):  # the set's findings say what is wrong with it
            whole = load_rgb(mask.read(), "#000000").convert("L")
            whole = seen(whole, crop, whole=True) if crop else whole
            inside = whole.resize(small.size, Image.Resampling.BOX)
            dark = Image.blend(small, Image.new("RGB", small.size, _NIGHT), _PALE)
            small = Image.composite(small, dark, inside)
    return small if crop is None else show_crop(small, crop)


def show_crop(picture: Image.Image, crop: CropPlan) -> Image.Image:
    """A picture (RGB, whole, turned, at any size) with what is cut off pale, and a line."""
    left, top, right, bottom = box_of(crop, picture.width, picture.height)
    if (left, top, right, bottom) == (0, 0, picture.width, picture.height):
        return picture
    pale = Image.blend(picture, Image.new("RGB", picture.size, "white"), _PALE)
    pale.paste(picture.crop((left, top, right, bottom)), (left, top))
    ImageDraw.Draw(pale).rectangle((left, top, right - 1, bottom - 1), outline=_LINE, width=2)
    return pale


def box_of(crop: CropPlan, width: int, height: int) -> tuple[int, int, int, int]:
    """What is left of a picture shown at width × height: left, top, right, bottom in pixels."""
    left, top, right, bottom = crop.box
    across = (right - left) * width / crop.resize_width
    down = (bottom - top) * height / crop.resize_height
    return (
        round(left * width + crop.left * across),
        round(top * height + crop.top * down),
        round(left * width + (crop.left + crop.width) * across),
        round(top * height + (crop.top + crop.height) * down),
    )


def place_in(picture: PictureView, x: float, y: float) -> tuple[float, float]:
    """What lies at a pixel of a picture's thumbnail, as shares of width and height, turned."""
    if picture.entry is None:
        return 0.5, 0.5
    header, focus = picture.entry.header, picture.entry.focus
    sides = header.width, header.height
    width, height = reversed(sides) if focus and focus.turns % 2 else sides
    scale = min(1.0, SIDE / max(sides))
    across, down = x / (scale * width), y / (scale * height)
    return min(max(across, 0.0), 1.0), min(max(down, 0.0), 1.0)


def _blank() -> Image.Image:
    """What stands for a picture that cannot be opened: a sheet, crossed out."""
    sheet = Image.new("RGB", (SIDE // 2, SIDE // 2), (236, 234, 231))
    draw = ImageDraw.Draw(sheet)
    end = SIDE // 2 - 40
    for line in ((40, 40, end, end), (40, end, end, 40)):
        draw.line(line, fill=(176, 170, 164), width=5)
    return sheet
