"""Edits of all captions, removed pictures, and undo, as the tab does them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from app.shared import QUIET, Shared, says_errors, update
from app.tabs.images.captions import CaptionSession, captions_of, read_captions
from app.tabs.images.edits import Edit, EditKind, apply_edit, preview, remove_picture, undo
from app.tabs.images.imagesets import SetFolder, find_set
from app.tabs.images.layout import Parts, html
from app.tabs.images.setview import look_at
from trainer import places
from trainer.errors import UserError

Updates = dict[Block, object]
ShowAgain = Callable[[SetFolder, str, CaptionSession, str], Updates]


@dataclass(frozen=True)
class Previewed:
    """An edit of all captions as it was shown: of which set, and from which captions."""

    set_id: str
    edit: Edit
    seen: dict[str, str]


def wire(parts: Parts, shared: Shared, show_again: ShowAgain, shown: list[Block]) -> Dependency:
    """Connects everything that changes many captions, or takes pictures out; gives what undoes.

    Args:
        show_again: what the whole tab shows of a changed set, with a picture open, for a session
            and a base model.
        shown: what that touches.
    """
    p, bulk = parts, Bulk(parts, show_again)
    edit = [p.kind, p.words, p.other, p.whole]
    p.kind.input(_fields, p.kind, [p.other, p.whole], **QUIET)
    previewed = [p.preview, p.apply, p.previewed]
    gr.on([p.look.click, p.words.submit], says_errors(look), [p.opened, *edit], previewed, **QUIET)
    # What was shown is no longer what would be done.
    typed = [p.kind.input, p.words.input, p.other.input, p.whole.input]
    nothing = update(interactive=False, value="Change them")
    gr.on(typed, None, None, p.apply, js=nothing, **QUIET)
    here = [p.opened, p.picture, p.session, shared.base]
    changed = [*previewed, p.words, *shown]
    p.apply.click(says_errors(bulk.apply), [*here, p.previewed], changed, **QUIET)
    undone = p.undo.click(says_errors(bulk.undo), here, changed, **QUIET)
    asked = p.removal
    p.remove.click(lambda name: gr.Group(visible=bool(name)), p.picture, asked.group, **QUIET)
    asked.yes.click(says_errors(bulk.remove), here, changed, **QUIET)
    return undone


def look(
    opened: str, kind: EditKind, words: str, other: str, whole: bool
) -> tuple[str, gr.Button, Previewed]:
    """What an edit would change."""
    folder = find_set(places.DATASETS, opened)
    edit = Edit(kind, words or "", other or "", whole if kind in ("remove", "replace") else True)
    captions = captions_of(look_at(folder, ""))
    found = preview(captions, edit)
    said = html("changes", found, len(captions))
    return said, _apply_button(len(found)), Previewed(opened, edit, captions)


@dataclass(frozen=True)
class Room:
    """Handlers of a part of the tab, and what shows the whole of it; see `wire`."""

    parts: Parts
    show_again: ShowAgain


class Bulk(Room):
    """The handlers that change a set."""

    def apply(
        self, opened: str, picture: str, session: CaptionSession, base: str, shown: Previewed | None
    ) -> Updates:
        """Do what was shown."""
        p = self.parts
        if shown is None or shown.set_id != opened:
            raise UserError("Look first at what would change.", "Press “Show what would change”.")
        owned = find_set(places.DATASETS, opened).owned
        folder, picture = to_write(opened, picture, session)
        done = apply_edit(folder, shown.edit, shown.seen if owned else read_captions(folder))
        gr.Info(f"{len(done)} captions changed: {shown.edit}. Undo stands below the pictures.")
        cleared = {p.preview: "", p.words: "", p.apply: _apply_button(0), p.previewed: None}
        return {**self.show_again(folder, picture, session, base), **cleared}

    def undo(self, opened: str, picture: str, session: CaptionSession, base: str) -> Updates:
        """Undo the latest edit or removal."""
        folder = find_set(places.DATASETS, opened)
        gr.Info(undo(folder))
        return self.show_again(folder, picture, session, base)

    def remove(self, opened: str, picture: str, session: CaptionSession, base: str) -> Updates:
        """Take a picture out; undo brings it back."""
        folder, picture = to_write(opened, picture, session)
        remove_picture(folder, picture)
        return self.show_again(folder, picture, session, base)


def to_write(opened: str, picture: str, session: CaptionSession) -> tuple[SetFolder, str]:
    """The set that an edit goes to, a copy where it is read only, and a picture's name in it."""
    folder = find_set(places.DATASETS, opened)
    return (folder, picture) if folder.owned else session.copy(places.DATASETS, folder, picture)


def _apply_button(changes: int) -> gr.Button:
    label = f"Change {changes} captions" if changes else "Change them"
    return gr.Button(label, interactive=bool(changes))


def _fields(kind: str) -> tuple[gr.Textbox, gr.Checkbox]:
    seeking = kind in ("remove", "replace")
    return gr.Textbox(visible=kind == "replace"), gr.Checkbox(visible=seeking)
