"""A mask painted in the page: opened with its picture, saved beside it, undone."""

from __future__ import annotations

import hashlib
import io
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency
from gradio.utils import get_upload_folder
from PIL import Image, ImageChops, ImageOps, ImageStat

from app import client as service
from app.client import ShouldStop, follow
from app.files import disk_trouble
from app.render import refused
from app.shared import QUIET, Shared, says_errors
from app.tabs.images.bulk import Room, ShowAgain, to_write
from app.tabs.images.captions import CaptionSession
from app.tabs.images.edits import change_mask
from app.tabs.images.imagesets import SetFolder, find_set
from app.tabs.images.layout import Parts, html
from app.tabs.images.mask_parts import FINDERS, OPACITY, PAINT, canvas_of, mask_of
from app.tabs.images.setview import SetView, look_at
from app.tabs.images.words import noting
from trainer import places
from trainer.captioning.masks import as_png, checked, softened
from trainer.captioning.memory import memory_said
from trainer.data.decoder import load_rgb
from trainer.data.images import ImageProblem
from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.events import Progress
from trainer.runs.atomic import replacing

Updates = dict[Block, object]
Painted = dict[str, Any]
"""What the editor gives: masks of its size under "layers"."""
States = tuple[Image.Image, Image.Image, Image.Image | None]
"""The mask as it was saved last; as it was last put into the editor; what it then took the place of
there, which a browser goes on to send until it shows the new one."""
SECONDS = 300.0
"""Without a sign of life from the worker."""
# The editor sends what was painted a moment after the stroke: a button that is pressed at once
# would get what was there before. `layout.KEYS` counts what is on its way.
ARRIVED = """async () => {
    const pause = time => new Promise(done => setTimeout(done, time));
    await pause(200);
    while (window.rarebitUploads) await pause(50);
    await pause(50);
}"""
COUNTS = "Masks count in training where images.masks is “files”."


@dataclass(frozen=True)
class Painting:
    """A mask that is painted, as it stands in the browser.

    Attributes:
        opened, picture: the open set and picture.
        base: the base model.
        about: set and picture whose mask is painted; empty for none.
        painted: what the editor gives.
        soft: width of the edge's blur, in percent of the shorter side.
        finder, text: what finds a subject, and what is to be found.
    """

    opened: str
    picture: str
    session: CaptionSession
    base: str
    about: list[str] = field(default_factory=list[str])
    painted: Painted | None = None
    states: States | None = None
    soft: float = 0.0
    finder: str = "grabcut"
    text: str = ""

    @property
    def mask(self) -> Image.Image:
        """The mask in the editor, of the size that it came in.

        Raises:
            UserError: it did not arrive.
        """
        layers: list[Image.Image] = (self.painted or {}).get("layers") or []
        if not layers or self.states is None:
            raise UserError(
                "What is painted did not arrive here, and nothing was saved.",
                "Press the button again.",
            )
        _, put, instead = self.states
        mask = layers[0].resize(put.size)
        return put if instead and not changed(mask, instead) else mask

    @property
    def saved(self) -> Image.Image:
        """The mask as it was saved last."""
        return self.states[0] if self.states else self.mask

    @property
    def unsaved(self) -> bool:
        """Whether something is painted that is not saved."""
        return changed(self.mask, self.saved)

    def view(self) -> SetView:
        """The set whose mask is painted."""
        return look_at(find_set(places.DATASETS, self.about[0]), "")


def wire(
    parts: Parts, shared: Shared, show_again: ShowAgain, shown: list[Block], undone: Dependency
) -> None:
    """Connects the painting of masks; arguments as for `bulk.wire`, and what has undone an edit."""
    p, m, room = parts, parts.mask, Masking(parts, show_again)
    painted: list[Block] = [m.about, m.editor, m.states]
    answer: list[Any] = [*painted, m.title, m.column, m.open, m.soft, m.status]
    everything = [*answer, *(one for one in shown if one not in answer)]
    here = [p.opened, p.picture, p.session, shared.base, *painted, m.soft, m.finder, m.text]
    once: dict[str, Any] = {**QUIET, "trigger_mode": "once"}
    m.open.click(says_errors(room.open), here[:4], answer, **once)
    left = p.picture.change(leave, [p.opened, p.picture, m.about], m.title, **QUIET)
    left.then(says_errors(room.follow), here, everything, **QUIET)
    undone.then(says_errors(room.undone), here, answer, **QUIET)
    for button, change in (
        (m.rectangle, boxed),
        (m.invert, lambda mask, _: ImageOps.invert(mask)),
        (m.clear, lambda mask, _: Image.new("L", mask.size)),
    ):
        arrived(button)(says_errors(room.changing(change)), here, [*painted, m.status], **QUIET)
    noting(arrived(m.find), p, shared)(
        room.find, here, [*painted, m.status, m.find], **QUIET, concurrency_limit=None
    )
    entered = [p.mask.open.click, shared.rooms["images"].select]
    gr.on(entered, lambda: gr.Dropdown(choices=finders()), None, m.finder, **QUIET)
    arrived(m.save)(says_errors(room.save), here, everything, **QUIET)
    m.remove.click(says_errors(room.remove), here, everything, **once)
    m.close.click(says_errors(room.closed), None, answer, **QUIET)


def arrived(button: gr.Button) -> Any:
    """What connects a handler to a button, so that the last stroke has arrived here before."""
    return button.click(None, None, None, js=ARRIVED, **QUIET, trigger_mode="once").then


def finders() -> list[tuple[str, str]]:
    """(label, value) of what may find a subject here."""
    models = (
        (f"Model {name} ({memory_said(places.MASKERS / name, masks=True)})", f"model {name}")
        for name in places.masker_models()
    )
    return [*FINDERS, *models]


def leave(opened: str, picture: str, about: list[str]) -> object:
    """Another picture was opened: until its mask is there, nothing is painted on the old one."""
    comes = about and picture and about != [opened, picture]
    words = f"Opening the mask of {display_name(picture)} …"
    return html("status", words, "waits") if comes else gr.skip()


def boxed(mask: Image.Image, before: Image.Image) -> Image.Image:
    """The box around what was painted last, filled; emptied where that was erased.

    Around all that is painted, where nothing was since.

    Raises:
        UserError: nothing is painted.
    """
    box = ImageChops.difference(mask, before).point(_present).getbbox() or mask.getbbox()
    if box is None:
        raise UserError(
            "Nothing is painted yet.", "Draw a line from corner to corner of the rectangle first."
        )
    filled = before.copy()
    erased = ImageStat.Stat(mask).sum[0] < ImageStat.Stat(before).sum[0]
    filled.paste(0 if erased else 255, box)
    return filled


class Masking(Room):
    """The handlers."""

    def open(self, *values: Any) -> Updates:
        """The open picture and its mask come into the editor."""
        m, now = self.parts.mask, Painting(*values)
        chosen = look_at(find_set(places.DATASETS, now.opened), now.base).picture(now.picture)
        if chosen.entry is None:
            raise UserError("This picture can't be painted on.", "Choose another one.")
        canvas = canvas_of(chosen)
        try:
            mask = mask_of(chosen, canvas.size)
            said = ""
        except ImageProblem as problem:
            mask, said = Image.new("L", canvas.size), f"Its mask can't be shown. {problem}"
        return {
            **self.painting([now.opened, now.picture], canvas, mask, mask),
            m.title: html("status", f"Mask of {chosen.name}: paint what counts", ""),
            m.column: gr.Column(visible=True),
            m.open: gr.Button(visible=False),
            m.soft: 0,
            m.status: html("status", said, "bad") if said else "",
        }

    def undone(self, *values: Any) -> Updates:
        """An edit was undone: the mask as it is now comes up, where nothing is unsaved."""
        m, now = self.parts.mask, Painting(*values)
        if now.about != [now.opened, now.picture] or now.unsaved:
            return {m.open: gr.skip()}
        return self.open(*values)

    def follow(self, *values: Any) -> Updates:
        """Another picture was opened: what was painted is saved, and that one comes up."""
        m, now = self.parts.mask, Painting(*values)
        opened, picture, session = now.opened, now.picture, now.session
        if now.about == [opened, picture]:
            return {m.status: gr.skip()}
        if not now.about:
            return {m.open: gr.Button(visible=bool(picture)), m.status: ""}
        saved, said = self._save_left(now)
        if not picture or now.about[0] != opened:
            return {**self.closed(), m.open: gr.Button(visible=bool(picture)), m.status: said}
        again: Updates = {}
        if saved:  # where the set was read only, in a copy, which is shown from now on
            folder, picture = to_write(opened, picture, session)
            again, opened = self.show_again(folder, picture, session, now.base), folder.id
        return {**again, **self.open(opened, picture, session, now.base), m.status: said}

    def _save_left(self, now: Painting) -> tuple[bool, str]:
        """Whether what was left unsaved is saved now, and what is said of it."""
        name = display_name(now.about[1])
        try:
            if not (now.mask.getbbox() and now.unsaved):
                return False, ""
            self._write(now)
        except UserError as error:
            return False, html("status", f"The mask of {name} is not saved. {error}", "bad")
        said = f"The mask of {name} is saved as well. Undo brings the old one back."
        return True, html("status", said)

    def _write(self, now: Painting) -> tuple[SetFolder, str, float]:
        """The set and the picture that have the mask now, and how much of it counts."""
        folder, name = to_write(now.about[0], now.about[1], now.session)
        entry = look_at(folder, "").picture(name).entry
        if entry is None:
            raise UserError("This picture can't be opened any more.", "Choose another one.")
        size = (entry.header.width, entry.header.height)
        whole = softened(now.mask.resize(size, Image.Resampling.BILINEAR), now.soft / 100)
        try:
            covers = checked(whole)
        except ImageProblem as problem:
            raise UserError(problem.reason, problem.hint) from None
        change_mask(folder, name, as_png(whole))
        return folder, name, covers

    def save(self, *values: Any) -> Updates:
        """The painted mask becomes a file beside its picture."""
        m, now = self.parts.mask, Painting(*values)
        folder, name, covers = self._write(now)
        said = f"Saved: {covers:.0%} of {display_name(name)} counts. {COUNTS}"
        return {
            **self.show_again(folder, name, now.session, now.base),
            m.about: [folder.id, name],
            m.states: (now.mask, now.mask, None),
            m.status: html("status", said),
        }

    def remove(self, *values: Any) -> Updates:
        """The picture has no mask any more; undo brings it back."""
        now = Painting(*values)
        folder, name = to_write(now.about[0], now.about[1], now.session)
        change_mask(folder, name, None)
        said = html("status", f"{display_name(name)} has no mask: all of it counts.")
        shown = self.show_again(folder, name, now.session, now.base)
        return {**shown, **self.closed(), self.parts.mask.status: said}

    def changing(self, change: Callable[[Image.Image, Image.Image], Image.Image]) -> Any:
        """A handler that changes what is painted by a function of it and of what was there."""

        def handler(*values: Any) -> Updates:
            now = Painting(*values)
            before = now.states[1] if now.states else now.mask
            return self._replaced(now, change(now.mask, before))

        return handler

    def find(self, *values: Any) -> Iterator[Updates]:
        """The worker looks for the subject; what it finds takes the place of what is painted."""
        m, now = self.parts.mask, Painting(*values)
        yield {
            m.status: html("status", "Looking for the subject …"),
            m.find: gr.Button(interactive=False),
        }
        found: dict[str, Any] = {}
        updates: Updates
        try:
            view = now.view()
            shown = view.picture(now.about[1])
            asked: dict[str, Any] = {
                "folder": str(view.folder.path.resolve()),
                "picture": shown.entry.name if shown.entry else "",
                "source": now.finder,
                "text": now.text.strip() or view.notes.class_word,
                "box": share_of(now.mask),
            }

            def work(tell: Progress, should_stop: ShouldStop) -> None:
                found.update(service.call("mask", asked, SECONDS, tell, should_stop))

            for told in follow(work, threading.Event()):
                yield {m.status: html("status", told.message)}
            made = load_rgb(b64decode(found["png"]), "#000000").getchannel(0)
            updates = self._replaced(now, made.resize(now.mask.size))
        except UserError as error:
            updates = {m.status: refused(error)}
        yield {**updates, m.find: gr.Button(interactive=True)}

    def _replaced(self, now: Painting, mask: Image.Image) -> Updates:
        """Another mask in place of what is painted."""
        canvas = canvas_of(now.view().picture(now.about[1]))
        said = f"{ImageStat.Stat(mask).mean[0] / 255:.0%} of the picture would count."
        painting = self.painting(now.about, canvas, mask, now.saved, now.mask)
        return {**painting, self.parts.mask.status: html("status", said)}

    def painting(
        self,
        about: list[str],
        canvas: Image.Image,
        mask: Image.Image,
        saved: Image.Image,
        instead: Image.Image | None = None,
    ) -> Updates:
        """A picture and a mask in the editor."""
        m = self.parts.mask
        layer = Image.new("RGBA", mask.size, (*PAINT, 0))
        layer.putalpha(mask.point([round(level * OPACITY / 255) for level in range(256)]))
        value = {"background": _file(canvas), "layers": [_file(layer)], "composite": None}
        return {m.about: about, m.editor: gr.update(value=value), m.states: (saved, mask, instead)}

    def closed(self) -> Updates:
        """No mask is painted."""
        m = self.parts.mask
        return {
            m.about: [],
            m.editor: None,
            m.states: None,
            m.column: gr.Column(visible=False),
            m.open: gr.Button(visible=True),
            m.soft: 0,
            m.status: "",
        }


def share_of(mask: Image.Image) -> list[float] | None:
    """The box around what is painted, as shares of width and height; None without."""
    box = mask.point(_present).getbbox()
    return box and [at / side for at, side in zip(box, (*mask.size, *mask.size), strict=True)]


def changed(mask: Image.Image, before: Image.Image) -> bool:
    """Whether something was painted."""
    return ImageChops.difference(mask, before).point(_present).getbbox() is not None


def _present(level: int) -> int:
    """Levels that differ by rounding alone are equal."""
    return 255 if level > 8 else 0


def _file(image: Image.Image) -> str:
    """A picture where the page may serve it from, named by its content."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    name = hashlib.sha256(stream.getvalue()).hexdigest()[:32]
    path = Path(get_upload_folder()) / "thumbnails" / f"{name}.png"
    with disk_trouble():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_bytes(stream.getvalue())
    return str(path)
