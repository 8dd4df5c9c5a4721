"""How a picture is seen by training: turned, mirrored, closer, and cut around a place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.blocks import Block

from app.shared import QUIET, Shared, says_errors
from app.tabs.images.bulk import Room, ShowAgain, to_write
from app.tabs.images.captions import CaptionSession
from app.tabs.images.edits import set_focus
from app.tabs.images.imagesets import find_set
from app.tabs.images.layout import Parts
from app.tabs.images.mask_parts import mask_of
from app.tabs.images.setview import PictureView, look_at
from app.tabs.images.thumbnails import SIDE, place_in
from trainer import places
from trainer.data.buckets import WHOLE, Box, Focus
from trainer.data.masks import seen
from trainer.errors import UserError

Updates = dict[Block, object]
MARGIN = 0.1
"""Around a mask, as a share of its longer side."""
CLOSEST = 4.0


def wire(parts: Parts, shared: Shared, show_again: ShowAgain, shown: list[Block]) -> None:
    """Connects what changes how a picture is seen; arguments as for `bulk.wire`."""
    p, framing = parts, Framing(parts, show_again)
    here = [p.opened, p.picture, p.session, shared.base]
    p.large.select(says_errors(framing.point), here, shown, **QUIET)
    for event in (p.across.submit, p.down.submit):
        event(says_errors(framing.changing(placed)), [*here, p.across, p.down], shown, **QUIET)
    zoom = framing.changing(lambda focus, _, times: zoomed(focus, min(times, CLOSEST)))
    p.zoom.release(says_errors(zoom), [*here, p.zoom], shown, **QUIET)
    for button, change in (
        (p.left, lambda focus, _: focus.turned().turned().turned()),
        (p.right, lambda focus, _: focus.turned()),
        (p.flip, lambda focus, _: focus.flipped()),
        (
            p.around,
            lambda focus, picture: focus._replace(across=0.5, down=0.5, box=around(picture)),
        ),
        (p.middle, lambda focus, _: Focus(turns=focus.turns, mirrored=focus.mirrored)),
    ):
        button.click(says_errors(framing.changing(change)), here, shown, **QUIET)


def show(parts: Parts, picture: PictureView | None) -> Updates:
    """What stands below a picture about how it is seen; hidden for one that can't be used."""
    p, entry = parts, picture.entry if picture else None
    focus = (entry.focus if entry else None) or Focus()
    across, down = middle_of(focus)
    usable = picture is not None and picture.crop is not None
    return {
        # What makes it unusable may be how it is cut.
        p.frame: gr.Accordion(visible=usable or not focus.is_plain),
        p.across: round(100 * across),
        p.down: round(100 * down),
        p.zoom: zoom_of(focus),
    }


def middle_of(focus: Focus) -> tuple[float, float]:
    """The place that matters most, as shares of the whole turned picture."""
    left, top, right, bottom = focus.box
    return left + focus.across * (right - left), top + focus.down * (bottom - top)


def moved(focus: Focus, across: float, down: float) -> Focus:
    """Another place of the whole turned picture in the middle; what is cut to keeps its size."""
    if focus.box == WHOLE:
        return focus._replace(across=across, down=down)
    left, top, right, bottom = focus.box
    return focus._replace(across=0.5, down=0.5, box=_box(across, down, right - left, bottom - top))


def placed(focus: Focus, _: PictureView, across: float | None, down: float | None) -> Focus:
    """The middle of the crop at percents from left and top.

    Raises:
        UserError: it lies outside.
    """
    given = (50 if across is None else across) / 100, (50 if down is None else down) / 100
    if not all(0 <= share <= 1 for share in given):
        raise UserError("The middle of the crop lies outside the picture.", "Use 0 to 100.")
    return moved(focus, *given)


def zoomed(focus: Focus, times: float) -> Focus:
    """Cut to a share of either side around the same place; 1: not cut."""
    across, down = middle_of(focus)
    if times <= 1:
        return focus._replace(across=across, down=down, box=WHOLE)
    return focus._replace(across=0.5, down=0.5, box=_box(across, down, 1 / times, 1 / times))


def zoom_of(focus: Focus | None) -> float:
    """How close a picture is seen, by the longer side of what is left."""
    left, top, right, bottom = focus.box if focus else WHOLE
    return round(min(CLOSEST, 1 / max(right - left, bottom - top)), 2)


def _box(across: float, down: float, width: float, height: float) -> Box:
    """A box of a size, as near to a place as the edges let it."""
    left = min(max(0.0, across - width / 2), 1 - width)
    top = min(max(0.0, down - height / 2), 1 - height)
    return left, top, left + width, top + height


def around(picture: PictureView) -> Box:
    """The box around what a picture's mask keeps, with a margin.

    Raises:
        UserError: it has no mask, or an empty one.
    """
    entry = picture.entry
    if entry is None or entry.mask is None:
        raise UserError("This picture has no mask to cut around.", "Paint one below.")
    sides = entry.header.width, entry.header.height
    scale = SIDE / max(sides)
    size = max(1, round(scale * sides[0])), max(1, round(scale * sides[1]))
    mask = seen(mask_of(picture, size), entry.focus or Focus(), whole=True)
    box = mask.point([0] * 128 + [255] * 128).getbbox()
    if box is None:
        raise UserError("Its mask is empty.", "Paint what counts.")
    left, top, right, bottom = box
    margin = MARGIN * max(right - left, bottom - top)
    return (
        max(0.0, (left - margin) / mask.width),
        max(0.0, (top - margin) / mask.height),
        min(1.0, (right + margin) / mask.width),
        min(1.0, (bottom + margin) / mask.height),
    )


class Framing(Room):
    """The handlers."""

    def point(self, event: gr.SelectData, *here: Any) -> Updates:
        """The picture was clicked on where the middle of its crop is to be."""
        change = self.changing(lambda focus, shown: moved(focus, *place_in(shown, *event.index)))
        return change(*here)

    def changing(self, change: Callable[..., Focus]) -> Callable[..., Updates]:
        """A handler that changes how a picture is seen.

        Args:
            change: of how it is seen now, the picture, and further inputs.
        """

        def handler(
            opened: str, picture: str, session: CaptionSession, base: str, *values: Any
        ) -> Updates:
            shown = look_at(find_set(places.DATASETS, opened), "").picture(picture)
            now = (shown.entry.focus if shown.entry else None) or Focus()
            after = change(now, shown, *values)
            folder, picture = to_write(opened, picture, session)
            set_focus(folder, picture, None if after == Focus() else after)
            updates: dict[Any, object] = self.show_again(folder, picture, session, base)
            p = self.parts
            # The pictures beside each other do not change: those with a tag stay chosen.
            same = (p.gallery, p.listed, p.tag) if folder.id == opened else ()
            return {part: update for part, update in updates.items() if part not in same}

        return handler
