"""The previews of a run one after another: how it learned, as an animated WebP."""

from __future__ import annotations

from PIL import Image, ImageDraw

from trainer.data.images import load_rgb
from trainer.errors import UserError
from trainer.runs.atomic import replacing
from trainer.runs.board import preview_records, spread
from trainer.runs.layout import RunFolder

_MOST_FRAMES = 120
_SIDE = 384  # pixels of the longer side of a picture
_FRAME_MS, _LAST_MS = 400, 2000
_LINE = 18  # pixels below the pictures for the step


def write_timelapse(run: RunFolder) -> None:
    """Writes ``timelapse.webp``: a frame for each step with previews, its pictures side by side.

    A run with fewer than two such steps has none. Prompts that were changed on the way make frames
    of another width: all are put on the widest.
    """
    steps = spread(run.preview_steps(), _MOST_FRAMES)
    frames = [frame for step in steps if (frame := _frame(run, step))]
    if len(frames) < 2:
        return
    size = (max(one.width for one in frames), max(one.height for one in frames))
    padded = [Image.new("RGB", size, "white") for _ in frames]
    for whole, frame in zip(padded, frames, strict=True):
        whole.paste(frame, (0, 0))
    times = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
    with replacing(run.timelapse) as temporary:
        padded[0].save(
            temporary, "WEBP", save_all=True, append_images=padded[1:], duration=times, loop=0,
            quality=85,
        )  # fmt: skip


def _frame(run: RunFolder, step: int) -> Image.Image | None:
    """The first picture of each prompt side by side, the step below."""
    found: dict[str, Image.Image] = {}
    for record in preview_records(run, step):
        try:
            picture = load_rgb(run.preview(step) / str(record["file"]))
        except (UserError, OSError):
            continue
        picture.thumbnail((_SIDE, _SIDE))
        found.setdefault(str(record["prompt"]), picture)
    if not found:
        return None
    pictures = list(found.values())
    width, height = sum(one.width for one in pictures), max(one.height for one in pictures)
    frame = Image.new("RGB", (width, height + _LINE), "white")
    left = 0
    for picture in pictures:
        frame.paste(picture, (left, 0))
        left += picture.width
    ImageDraw.Draw(frame).text((4, height + 3), f"step {step}", fill="black")
    return frame
