"""The pictures of a set beside each other: all of them, or those with a tag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import gradio as gr
from gradio.blocks import Block

from app.render import cut
from app.shared import QUIET, Shared, says_errors
from app.tabs.images.imagesets import find_set
from app.tabs.images.layout import Parts
from app.tabs.images.setview import PictureView, SetView, look_at
from app.tabs.images.thumbnails import thumbnails
from trainer import places
from trainer.data.captions import tags_of
from trainer.data.names import display_name

Updates = dict[Block, object]
MOST_TAGS = 300
_LABEL = 90  # characters of a caption under its picture
_MARKS = {"error": "✕ ", "warning": "! "}


def wire(parts: Parts, shared: Shared) -> None:
    """Connects the choice of a tag."""
    p = parts

    def choose(opened: str, tag: str | None, base: str) -> Updates:
        view = look_at(find_set(places.DATASETS, opened), base)
        return show(p, [one for one in view.pictures if has_tag(one, tag or "")])

    shown: list[Block] = [p.gallery, p.listed]
    p.tag.input(says_errors(choose), [p.opened, p.tag, shared.base], shown, **QUIET)


def has_tag(picture: PictureView, tag: str) -> bool:
    """Whether a tag is in one of the picture's captions; "" is in all."""
    return not tag or any(tag in tags_of(line) for line in picture.caption.split("\n"))


def show(parts: Parts, pictures: Sequence[PictureView], chosen: int | None = None) -> Updates:
    """These pictures, one of them chosen, and the names by which a click finds them."""
    labels = labels_of(pictures)
    return {
        parts.gallery: gr.Gallery(
            value=list(zip(thumbnails(pictures), labels, strict=True)),
            selected_index=chosen,
            visible=True,
        ),
        parts.listed: [one.name for one in pictures],
    }


def choose(parts: Parts, view: SetView, listed: Sequence[str], at: int, changed: bool) -> Updates:
    """Marks a picture as chosen; where a caption has changed, what stands under them is new."""
    if not changed:
        return {parts.gallery: gr.Gallery(selected_index=at)}
    shown = [view.pictures[n] for one in listed if (n := view.place(one)) is not None]
    return show(parts, shown or view.pictures, at)


def labels_of(pictures: Sequence[PictureView]) -> list[str]:
    """What stands under each picture: its caption, or its name, after a mark where it needs one.

    What is so of most pictures marks none of them: it is said once, below.
    """
    said = Counter(text for one in pictures for text in {doubt.message for doubt in one.findings})
    most = max(1.0, len(pictures) / 2)
    labels: list[str] = []
    for one in pictures:
        own = {doubt.severity for doubt in one.findings if said[doubt.message] <= most}
        mark = next((mark for severity, mark in _MARKS.items() if severity in own), "")
        first = next(iter(one.caption.splitlines()), "").strip()
        caption = display_name(first) or f"no caption · {display_name(one.name)}"
        labels.append(cut(f"{mark}{caption}", _LABEL))
    return labels


def show_all(parts: Parts, view: SetView) -> Updates:
    """All pictures of a set, and its tags to choose from."""
    tags = list((view.report.tags if view.report else {}).items())[:MOST_TAGS]
    choices = [("every picture", ""), *((f"{tag[:60]} ({count})", tag) for tag, count in tags)]
    chosen = gr.Dropdown(choices=choices, value="", visible=bool(tags))
    return {**show(parts, view.pictures), parts.tag: chosen}


def go_to(
    view: SetView, listed: Sequence[str], picture: str, to: int | None, by: int
) -> tuple[int, str]:
    """Place and name of a picture among those that are shown; (-1, "") where there is none.

    Args:
        listed: the names of those that are shown. A copy, which the first edit makes, has others.
        picture: the one that is open, or "".
        to: its place, from 0; None: it is ``by`` places after the open one.
    """
    copied = {one.original: one.name for one in view.pictures}
    names = [name if view.place(name) is not None else copied.get(name, "") for name in listed]
    if to is None and names:
        here = names.index(picture) if picture in names else (-1 if by > 0 else 0)
        to = (here + by) % len(names)
    return (to, names[to]) if to is not None and 0 <= to < len(names) else (-1, "")
