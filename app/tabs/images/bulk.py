"""Edits of all captions, removed pictures, and undo."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from gradio.blocks import Block

from app.shared import QUIET, Shared, says_errors
from app.tabs.images import history, setwords
from app.tabs.images.captionfiles import read_captions
from app.tabs.images.captions_edit import Edit, EditKind, apply_edit, preview
from app.tabs.images.editing import Preview, Session
from app.tabs.images.frames import frame_of
from app.tabs.images.imagesets import SetFolder, find_set
from app.tabs.images.parts import Parts
from app.tabs.images.setview import SetView, look_at
from trainer import places
from trainer.errors import UserError

Updates = dict[Block, object]


def wire(
    parts: Parts,
    shared: Shared,
    refresh: Callable[[SetView], Updates],
    shown: list[Block],
) -> None:
    """Connects everything that changes many captions, or takes pictures out.

    Args:
        refresh: what the whole tab shows of a set.
        shown: what that touches.
    """
    p = parts
    bulk = Bulk(parts, shared, refresh)
    p.kind.input(_fields, p.kind, [p.other, p.whole], **QUIET)
    edit = [p.kind, p.words, p.other, p.whole]
    looked = [p.preview, p.apply]
    look = [p.opened, *edit, p.session]
    p.look.click(says_errors(bulk.look), look, looked, **QUIET)
    p.words.submit(says_errors(bulk.look), look, looked, **QUIET)
    # What was shown is no longer what would be done.
    gr.on(
        [p.kind.input, p.words.input, p.other.input, p.whole.input], _stale, None, p.apply, **QUIET
    )
    here = [p.opened, p.picture, p.session, shared.base]
    changed = [*looked, p.words, p.remembered, shared.image_set, *shown]
    p.apply.click(says_errors(bulk.apply), here, changed, **QUIET)
    p.undo.click(says_errors(bulk.undo), here, changed, **QUIET)
    p.remove.click(_ask, p.picture, [p.remove_row, p.remove_now], **QUIET)
    p.remove_not.click(lambda: gr.Row(visible=False), None, p.remove_row, **QUIET)
    p.remove_now.click(says_errors(bulk.remove), here, changed, **QUIET)


def undo_button(folder: SetFolder) -> gr.Button:
    """The button that says what it would undo."""
    latest = history.entries(folder)[-1:]
    if not latest:
        return gr.Button("Nothing to undo", visible=False)
    return gr.Button(f"Undo: {latest[0].what}"[:120], visible=True)


class Bulk:
    """The handlers."""

    def __init__(self, parts: Parts, shared: Shared, refresh: Callable[[SetView], Updates]) -> None:
        self.parts, self.shared, self.refresh = parts, shared, refresh

    def look(
        self, opened: str, kind: EditKind, words: str, other: str, whole: bool, session: Session
    ) -> tuple[str, gr.Button]:
        """What an edit would change."""
        folder = find_set(places.DATASETS, opened)
        edit = Edit(
            kind, words or "", other or "", whole if kind in ("remove", "replace") else True
        )
        captions = _captions(folder)
        found = preview(captions, edit)
        session.preview = Preview(opened, edit, captions)
        label = f"Change {len(found)} captions" if found else "Change them"
        return setwords.changes(found, len(captions)), gr.Button(label, interactive=bool(found))

    def apply(self, opened: str, picture: str, session: Session, base: str) -> Updates:
        """Do what was shown."""
        shown = session.preview
        if shown is None or shown.set_id != opened:
            raise UserError("Look first at what would change.", "Press “Show what would change”.")
        folder = find_set(places.DATASETS, opened)
        seen = shown.seen
        if not folder.owned:
            folder, picture = session.copy(places.DATASETS, folder, picture)
            seen = read_captions(folder)
        done = apply_edit(folder, shown.edit, seen)
        session.preview = None
        gr.Info(f"{len(done)} captions changed: {shown.edit}. Undo stands below the pictures.")
        return {
            **self._after(folder, picture, session, base),
            self.parts.preview: "",
            self.parts.words: "",
            self.parts.apply: gr.Button("Change them", interactive=False),
        }

    def undo(self, opened: str, picture: str, session: Session, base: str) -> Updates:
        """Undo the latest edit or removal."""
        folder = find_set(places.DATASETS, opened)
        gr.Info(history.undo(folder))
        return self._after(folder, picture, session, base)

    def remove(self, opened: str, picture: str, session: Session, base: str) -> Updates:
        """Take a picture out; undo brings it back."""
        folder = find_set(places.DATASETS, opened)
        if not folder.owned:
            folder, picture = session.copy(places.DATASETS, folder, picture)
        history.remove_picture(folder, picture)
        return self._after(folder, picture, session, base)

    def _after(self, folder: SetFolder, picture: str, session: Session, base: str) -> Updates:
        """The whole set as it is now; the caption that is open, too."""
        p = self.parts
        view = look_at(folder, frame_of(base))
        updates = {
            **self.refresh(view),
            p.remove_row: gr.Row(visible=False),
            p.remembered: folder.id,
            self.shared.image_set: folder.id,
        }
        place = view.place(picture)
        if place is not None:
            caption = view.pictures[place].caption
            session.see(folder, picture, caption)
            return {
                **updates,
                p.picture: picture,
                p.text: caption,
                p.loaded: caption,
                p.clash: gr.Column(visible=False),
            }
        return {
            **updates,
            p.picture: "",
            p.text: gr.Textbox(value="", label="Caption", interactive=False),
            p.loaded: "",
            p.large: gr.Image(value=None, visible=False),
            p.facts: setwords.NO_PICTURE,
            p.clash: gr.Column(visible=False),
        }


def _captions(folder: SetFolder) -> dict[str, str]:
    if folder.owned:
        return read_captions(folder)
    view = look_at(folder, frame_of(""))
    return {picture.name: picture.caption for picture in view.pictures if picture.size}


def _fields(kind: str) -> tuple[gr.Textbox, gr.Checkbox]:
    seeking = kind in ("remove", "replace")
    return gr.Textbox(visible=kind == "replace"), gr.Checkbox(visible=seeking)


def _stale() -> gr.Button:
    return gr.Button("Change them", interactive=False)


def _ask(picture: str) -> tuple[gr.Row, gr.Button]:
    name = picture.rpartition("/")[2]
    return gr.Row(visible=bool(picture)), gr.Button(f"Remove {name}"[:80])
