"""A mask painted in the page: opened with its picture, saved beside it, undone."""

from __future__ import annotations

import hashlib
import io
from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.utils import get_upload_folder
from PIL import Image, ImageChops, ImageOps, ImageStat

from app import client as service
from app.files import disk_trouble
from app.render import refused
from app.shared import QUIET, Shared, says_errors
from app.tabs.images.bulk import ShowAgain, to_write
from app.tabs.images.captions import CaptionSession
from app.tabs.images.edits import change_mask
from app.tabs.images.imagesets import find_set
from app.tabs.images.layout import Parts, html
from app.tabs.images.mask_parts import FINDERS, OPACITY, PAINT
from app.tabs.images.setview import PictureView, look_at
from trainer import places
from trainer.captioning.masks import as_png, checked, softened
from trainer.data.colours import WHITE
from trainer.data.decoder import load_rgb
from trainer.data.images import ImageProblem
from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.runs.atomic import replacing

Updates = dict[Block, object]
Painted = dict[str, Any]
"""What the editor gives: masks of its size under "layers"."""
States = tuple[Image.Image, Image.Image, Image.Image | None]
"""The mask as it was saved last; as it was last put into the editor; what it then took the place of
there, which a browser goes on to send until it shows the new one."""
SECONDS = 300.0
"""Without a sign of life from the worker."""
SIDE = 768
"""Pixels of the longer side that is painted on; a latent stands for 8 of what is trained."""
COUNTS = "Masks count in training where images.masks is “files”."


def wire(parts: Parts, shared: Shared, show_again: ShowAgain, shown: list[Block]) -> None:
    """Connects the painting of masks; arguments as for `bulk.wire`."""
    p, m, room = parts, parts.mask, Masking(parts, show_again)
    here = [p.opened, p.picture, p.session, shared.base]
    painted: list[Block] = [m.about, m.editor, m.states]
    answer: list[Block] = [*painted, m.column, m.open, m.soft, m.status]
    everything = [*answer, *(one for one in shown if one not in answer)]
    saving = [*here, *painted, m.soft]
    once: dict[str, Any] = {**QUIET, "trigger_mode": "once"}
    m.open.click(says_errors(room.open), here, answer, **once)
    p.picture.change(says_errors(room.follow), saving, everything, **QUIET)
    for button, change in (
        (m.rectangle, boxed),
        (m.invert, lambda mask, _: ImageOps.invert(mask)),
        (m.clear, lambda mask, _: Image.new("L", mask.size)),
    ):
        button.click(says_errors(room.changing(change)), painted, [*painted, m.status], **once)
    finding = [m.about, m.editor, m.states, m.finder, m.text]
    m.find.click(room.find, finding, [*painted, m.status, m.find], **once, concurrency_limit=None)
    entered = [shared.page.load, shared.rooms["images"].select]
    gr.on(entered, lambda: gr.Dropdown(choices=finders()), None, m.finder, **QUIET)
    m.save.click(says_errors(room.save), saving, everything, **once)
    m.remove.click(says_errors(room.remove), [*here, m.about], everything, **once)
    m.close.click(says_errors(room.closed), None, answer, **QUIET)


def finders() -> list[tuple[str, str]]:
    """(label, value) of what may find a subject here."""
    models = (
        (f"Model {name} ({places.memory_said(places.MASKERS / name)})", f"model {name}")
        for name in places.masker_models()
    )
    return [*FINDERS, *models]


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


class Masking:
    """The handlers."""

    def __init__(self, parts: Parts, show_again: ShowAgain) -> None:
        self.parts, self.show_again = parts, show_again

    def open(self, opened: str, picture: str, session: CaptionSession, base: str) -> Updates:
        """The open picture and its mask come into the editor."""
        m = self.parts.mask
        view = look_at(find_set(places.DATASETS, opened), base)
        place = view.place(picture)
        chosen = None if place is None else view.pictures[place]
        if chosen is None or chosen.entry is None:
            raise UserError("This picture can't be painted on.", "Choose another one.")
        canvas = canvas_of(chosen)
        try:
            mask = mask_of(chosen, canvas.size)
            said = ""
        except ImageProblem as problem:
            mask, said = Image.new("L", canvas.size), f"Its mask can't be shown. {problem}"
        return {
            **self.painting([opened, picture], canvas, mask, mask),
            m.column: gr.Column(visible=True),
            m.open: gr.Button(visible=False),
            m.soft: 0,
            m.status: html("status", said, "bad") if said else "",
        }

    def follow(
        self,
        opened: str,
        picture: str,
        session: CaptionSession,
        base: str,
        about: list[str],
        painted: Painted | None,
        states: States | None,
        soft: float,
    ) -> Updates:
        """Another picture was opened: what was painted is saved, and that one comes up."""
        m = self.parts.mask
        if about == [opened, picture]:
            return {m.status: gr.skip()}
        if not about:
            return {m.open: gr.Button(visible=bool(picture)), m.status: ""}
        saved, said = self._save_left(about, session, painted, states, soft)
        if not picture or about[0] != opened:
            return {**self.closed(), m.open: gr.Button(visible=bool(picture)), m.status: said}
        again: Updates = {}
        if saved:  # where the set was read only, in a copy, which is shown from now on
            folder, picture = to_write(opened, picture, session)
            again, opened = self.show_again(folder, picture, session, base), folder.id
        return {**again, **self.open(opened, picture, session, base), m.status: said}

    def _save_left(
        self,
        about: Sequence[str],
        session: CaptionSession,
        painted: Painted | None,
        states: States | None,
        soft: float,
    ) -> tuple[bool, str]:
        """Whether what was left unsaved is saved now, and what is said of it."""
        name = display_name(about[1])
        try:
            mask = layer_of(painted, states)
            if states and not (mask.getbbox() and changed(mask, states[0])):
                return False, ""
            self._write(about, session, mask, soft)
        except UserError as error:
            return False, html("status", f"The mask of {name} is not saved. {error}", "bad")
        said = f"The mask of {name} is saved as well. Undo brings the old one back."
        return True, html("status", said)

    def _write(
        self, about: Sequence[str], session: CaptionSession, mask: Image.Image, soft: float
    ) -> tuple[Any, str, float]:
        """The set and the picture that have the mask now, and how much of it counts."""
        folder, picture = to_write(about[0], about[1], session)
        view = look_at(folder, "")
        place = view.place(picture)
        entry = None if place is None else view.pictures[place].entry
        if entry is None:
            raise UserError("The picture was removed in another tab.", "Choose another one.")
        size = (entry.header.width, entry.header.height)
        whole = softened(mask.resize(size, Image.Resampling.BILINEAR), soft / 100)
        try:
            covers = checked(whole)
        except ImageProblem as problem:
            raise UserError(problem.reason, problem.hint) from None
        change_mask(folder, picture, as_png(whole))
        return folder, picture, covers

    def save(
        self,
        opened: str,
        picture: str,
        session: CaptionSession,
        base: str,
        about: list[str],
        painted: Painted | None,
        states: States | None,
        soft: float,
    ) -> Updates:
        """The painted mask becomes a file beside its picture."""
        m, mask = self.parts.mask, layer_of(painted, states)
        folder, name, covers = self._write(about, session, mask, soft)
        said = f"Saved: {covers:.0%} of {display_name(name)} counts. {COUNTS}"
        return {
            **self.show_again(folder, name, session, base),
            m.about: [folder.id, name],
            m.states: (mask, mask, None),
            m.status: html("status", said),
        }

    def remove(
        self, opened: str, picture: str, session: CaptionSession, base: str, about: list[str]
    ) -> Updates:
        """The picture has no mask any more; undo brings it back."""
        folder, name = to_write(about[0], about[1], session)
        change_mask(folder, name, None)
        said = html("status", f"{display_name(name)} has no mask: all of it counts.")
        shown = self.show_again(folder, name, session, base)
        return {**shown, **self.closed(), self.parts.mask.status: said}

    def changing(self, change: Any) -> Any:
        """A handler that changes what is painted by a function of it and of what was there."""

        def handler(about: list[str], painted: Painted | None, states: States | None) -> Updates:
            mask = layer_of(painted, states)
            view = look_at(find_set(places.DATASETS, about[0]), "")
            place = view.place(about[1])
            if place is None or states is None:
                raise UserError("The picture was removed in another tab.", "Choose another one.")
            saved, before, _ = states
            canvas, after = canvas_of(view.pictures[place]), change(mask, before)
            said = f"{ImageStat.Stat(after).mean[0] / 255:.0%} of the picture would count."
            painting = self.painting(about, canvas, after, saved, mask)
            return {**painting, self.parts.mask.status: html("status", said)}

        return handler

    def find(
        self,
        about: list[str],
        painted: Painted | None,
        states: States | None,
        finder: str,
        text: str,
    ) -> Iterator[Updates]:
        """The worker looks for the subject; what it finds takes the place of what is painted."""
        m = self.parts.mask
        yield {
            m.status: html("status", "Looking for the subject …"),
            m.find: gr.Button(interactive=False),
        }
        try:
            mask = layer_of(painted, states)
            view = look_at(find_set(places.DATASETS, about[0]), "")
            place = view.place(about[1])
            shown = None if place is None else view.pictures[place]
            if shown is None or shown.entry is None or states is None:
                raise UserError("The picture was removed in another tab.", "Choose another one.")
            asked: dict[str, Any] = {
                "folder": str(view.folder.path.resolve()),
                "picture": shown.entry.name,
                "source": finder,
                "text": text.strip() or view.notes.class_word,
                "box": share_of(mask),
            }
            found = service.call("mask", asked, SECONDS)
            canvas = canvas_of(shown)
            made = load_rgb(b64decode(found["png"]), "#000000").getchannel(0).resize(canvas.size)
            said = html("status", f"{found['covers']:.0%} of the picture would count.")
            updates = self.painting(about, canvas, made, states[0], mask)
        except UserError as error:
            updates, said = Updates(), refused(error)
        yield {**updates, m.status: said, m.find: gr.Button(interactive=True)}

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
        label = f"Mask of {display_name(about[1])}: paint what counts"
        editor = gr.update(value=value, label=label)
        return {m.about: about, m.editor: editor, m.states: (saved, mask, instead)}

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


def layer_of(painted: Painted | None, states: States | None) -> Image.Image:
    """The mask in the editor, of the size that it came in.

    Raises:
        UserError: it did not arrive.
    """
    layers: list[Image.Image] = (painted or {}).get("layers") or []
    if not layers or states is None:
        raise UserError(
            "What is painted did not arrive here, and nothing was saved.", "Press the button again."
        )
    _, put, instead = states
    mask = layers[0].resize(put.size)
    return put if instead and not changed(mask, instead) else mask


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


def canvas_of(picture: PictureView) -> Image.Image:
    """A picture as it is painted on."""
    background = picture.entry.background(WHITE) if picture.entry else WHITE
    small = load_rgb(picture.read(), background)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return small


def mask_of(picture: PictureView, size: tuple[int, int]) -> Image.Image:
    """A picture's mask at a size; black where there is none.

    Raises:
        ImageProblem: it cannot be read.
    """
    mask = picture.entry.mask if picture.entry else None
    if mask is None:
        return Image.new("L", size)
    whole = load_rgb(mask.read(), "#000000").convert("L")
    return whole.resize(size, Image.Resampling.BOX)


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
