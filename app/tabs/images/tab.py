"""The Images tab: an image set, its captions, and everything doubtful about it.

What a handler is about comes from the browser in the request (``opened``, ``picture``, ``text``),
never from what this server remembers: a reload, a second tab and a restart change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block

from app.files import Upload, as_uploads, forget
from app.render import refused
from app.shared import QUIET, Shared, go, says_errors
from app.tabs.images import api as images_api
from app.tabs.images import bulk as images_bulk
from app.tabs.images import measure as images_measure
from app.tabs.images import setwords
from app.tabs.images import words as images_words
from app.tabs.images.editing import Outcome, Session
from app.tabs.images.frames import frame_of
from app.tabs.images.gallery import labelled, thumbnails
from app.tabs.images.imagesets import find_set, list_sets, read_notes
from app.tabs.images.parts import KEYS, STAMP, STAMP_LATER, Parts, lay_out, set_choices
from app.tabs.images.setview import PictureView, SetView, look_at
from app.tabs.images.uploads import store_uploads
from trainer import places
from trainer.errors import UserError

Updates = dict[Block, object]


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    parts = lay_out()
    tab = ImagesTab(parts, shared)
    tab.wire()
    noted = images_words.wire(parts, shared)
    about = [parts.opened, parts.picture, shared.base]
    reread = [parts.summary, parts.findings, parts.facts]
    noted.then(says_errors(tab.reread), about, reread, **QUIET)
    images_measure.wire(parts, shared)
    images_bulk.wire(parts, shared, tab.refresh, tab.shown_outputs)
    images_api.expose()


class ImagesTab:
    """The handlers, and which components they touch."""

    def __init__(self, parts: Parts, shared: Shared) -> None:
        self.parts, self.shared = parts, shared
        p = parts
        self.editor_outputs: list[Block] = [
            *(p.picture, p.text, p.loaded, p.large, p.facts, p.status, p.clash, p.theirs),
            *(p.remove_row, p.gallery),
        ]
        self.shown_outputs: list[Block] = [
            *(p.chosen, p.opened, p.summary, p.findings, p.buckets, p.undo, p.desk, p.into),
            p.use,
            *self.editor_outputs,
        ]
        self.opened_outputs: list[Block] = [
            *(p.trigger, p.class_word, p.remembered, p.verdict, p.preview, p.apply, p.measured),
            *(shared.image_set, shared.trigger, shared.class_word),
            *self.shown_outputs,
        ]

    def wire(self) -> None:
        """Connects everything that is about a set and a picture."""
        p, shared = self.parts, self.shared
        opening = [p.opened, shared.base, p.session]
        p.chosen.input(says_errors(self.choose), [p.chosen, *opening], self.opened_outputs, **QUIET)
        shared.image_set.change(
            says_errors(self.follow), [shared.image_set, *opening], self.opened_outputs, **QUIET
        )
        shared.page.load(
            says_errors(self.arrive),
            [p.remembered, shared.base, p.session],
            self.opened_outputs,
            **QUIET,
        )
        shared.page.load(None, None, None, js=KEYS, api_visibility="private")
        shared.rooms["images"].select(
            says_errors(self.enter), [p.opened, shared.base], self.shown_outputs, **QUIET
        )
        p.drop.upload(
            says_errors(self.upload),
            [p.drop, p.title, p.into, *opening],
            [p.drop, p.title, p.remarks, *self.opened_outputs],
            show_progress_on=[p.remarks],
            api_visibility="private",
        )
        self._wire_editor()

    def _wire_editor(self) -> None:
        p, shared = self.parts, self.shared
        typed = [p.opened, p.picture, p.text, p.loaded, p.session, shared.base]
        saved = [
            *(p.status, p.clash, p.theirs, p.chosen, p.opened, p.remembered, p.summary),
            *(shared.image_set, p.into),
        ]
        moved = [*saved, *[one for one in self.editor_outputs if one not in saved]]
        save: dict[str, Any] = {**QUIET, "js": STAMP_LATER, "trigger_mode": "always_last"}
        p.text.input(says_errors(self.save), [*typed, p.stamp], saved, **save)
        move: dict[str, Any] = {**QUIET, "js": STAMP}
        p.gallery.select(says_errors(self.select), [*typed, p.stamp], moved, **move)
        p.next.click(says_errors(self.go_on), [*typed, p.stamp], moved, **move)
        p.previous.click(says_errors(self.go_back), [*typed, p.stamp], moved, **move)
        p.keep_mine.click(says_errors(self.keep_mine), typed, [*saved, p.loaded], **QUIET)
        p.take_theirs.click(
            says_errors(self.take_theirs),
            [p.opened, p.picture, p.session, shared.base],
            self.editor_outputs,
            **QUIET,
        )
        p.text.blur(
            says_errors(self.reread),
            [p.opened, p.picture, shared.base],
            [p.summary, p.findings, p.facts],
            **QUIET,
        )
        p.use.click(
            self.use,
            [p.opened, p.trigger, p.class_word],
            [shared.image_set, shared.trigger, shared.class_word, shared.tabs],
            **QUIET,
        )

    # -------------------------------------------------------------------------- choosing

    def choose(self, set_id: str | None, opened: str, base: str, session: Session) -> Updates:
        """A set was chosen from the list."""
        return self.open(set_id or "", base, session)

    def follow(self, set_id: str, opened: str, base: str, session: Session) -> Updates:
        """Another tab chose a set."""
        if set_id == opened or not set_id:
            return {self.parts.chosen: gr.skip()}
        return self.open(set_id, base, session)

    def arrive(self, remembered: str, base: str, session: Session) -> Updates:
        """The page was loaded: the set that this browser had open is opened again."""
        known = [one.id for one in list_sets(places.DATASETS)]
        if remembered in known:
            return self.open(remembered, base, session)
        return {self.parts.chosen: gr.Dropdown(choices=set_choices(), value=None)}

    def enter(self, opened: str, base: str) -> Updates:
        """The tab was entered: sets may have come and gone, the base model may be another one."""
        if not opened:
            return {self.parts.chosen: gr.Dropdown(choices=set_choices())}
        if opened not in [one.id for one in list_sets(places.DATASETS)]:
            return {self.parts.chosen: gr.Dropdown(choices=set_choices(), value=None)}
        return self.refresh(look_at(find_set(places.DATASETS, opened), frame_of(base)))

    def open(self, set_id: str, base: str, session: Session) -> Updates:
        """Show a set, none of its pictures chosen."""
        p, shared = self.parts, self.shared
        folder = find_set(places.DATASETS, set_id)
        session.opened(folder)
        view = look_at(folder, frame_of(base))
        return {
            **self.refresh(view),
            **self.nothing_chosen(),
            p.trigger: view.notes.trigger,
            p.class_word: view.notes.class_word,
            p.verdict: "",
            p.preview: "",
            p.measured: "",
            p.apply: gr.Button(interactive=False),
            p.remembered: folder.id,
            shared.image_set: folder.id,
            shared.trigger: view.notes.trigger,
            shared.class_word: view.notes.class_word,
        }

    def refresh(self, view: SetView) -> Updates:
        """Everything about the set as a whole, the editor left as it is."""
        p = self.parts
        return {
            p.chosen: gr.Dropdown(choices=set_choices(), value=view.folder.id),
            p.opened: view.folder.id,
            p.summary: setwords.summary(view),
            p.findings: setwords.findings(view),
            p.buckets: setwords.buckets(view),
            p.undo: images_bulk.undo_button(view.folder),
            p.desk: gr.Column(visible=True),
            p.use: gr.Button(visible=True),
            p.into: gr.Checkbox(interactive=view.folder.owned),
            p.gallery: gr.Gallery(value=labelled(view)),
        }

    def nothing_chosen(self) -> Updates:
        """The editor without a picture."""
        p = self.parts
        return {
            p.picture: "",
            p.text: gr.Textbox(value="", label="Caption", interactive=False),
            p.loaded: "",
            p.large: gr.Image(value=None, visible=False),
            p.facts: setwords.NO_PICTURE,
            p.status: "",
            p.clash: gr.Column(visible=False),
            p.remove_row: gr.Row(visible=False),
        }

    def upload(
        self,
        uploads: list[Upload],
        title: str,
        add: bool,
        opened: str,
        base: str,
        session: Session,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio wants it
    ) -> Updates:
        """Files were dropped: they become a set, or part of the one that is open."""
        p, uploads = self.parts, as_uploads(uploads)
        if not uploads:
            return {p.drop: None}
        try:
            into = find_set(places.DATASETS, opened) if add and opened else None
            progress(0.1, "Storing the pictures")
            stored = store_uploads(
                places.DATASETS,
                uploads,
                title=title.strip(),
                into=into if into and into.owned else None,
            )
        except UserError as error:
            return {p.drop: None, p.remarks: refused(error)}
        finally:
            forget(uploads)
        progress(0.5, "Looking at the pictures")
        return {
            **self.open(stored.image_set.id, base, session),
            p.drop: None,
            p.title: "",
            p.remarks: images_api.stored_in_words(stored, title.strip()),
        }

    # -------------------------------------------------------------------------- one caption

    def save(
        self,
        opened: str,
        picture: str,
        text: str,
        loaded: str,
        session: Session,
        base: str,
        stamp: float,
    ) -> Updates:
        """The caption was typed into."""
        if not picture:
            return {self.parts.status: ""}
        outcome = session.save(places.DATASETS, opened, picture, text, loaded, stamp)
        return self.told(outcome, base)

    def told(self, outcome: Outcome, base: str) -> Updates:
        """What became of a save, in words."""
        p = self.parts
        if outcome.state == "late":
            return {p.status: gr.skip()}
        if outcome.state == "conflict":
            return {
                p.status: '<p class="bad">Not saved.</p>',
                p.clash: gr.Column(visible=True),
                p.theirs: setwords.conflict(outcome.saved),
            }
        words = "Saved." if outcome.state == "saved" else ""
        updates: Updates = {
            p.status: f'<p class="quiet" role="status">{words}</p>',
            p.clash: gr.Column(visible=False),
        }
        if not outcome.copied:
            return updates
        folder = outcome.image_set
        name = setwords.escape(read_notes(folder).title)
        return {
            **updates,
            p.status: f'<p role="status">Saved in {name}: the original is never changed.</p>',
            p.chosen: gr.Dropdown(choices=set_choices(), value=folder.id),
            p.opened: folder.id,
            p.remembered: folder.id,
            p.into: gr.Checkbox(interactive=True),
            p.summary: setwords.summary(look_at(folder, frame_of(base))),
            self.shared.image_set: folder.id,
        }

    def select(
        self,
        opened: str,
        picture: str,
        text: str,
        loaded: str,
        session: Session,
        base: str,
        stamp: float,
        event: gr.SelectData,
    ) -> Updates:
        """A picture was clicked."""
        saved, view = self._leave(opened, picture, text, loaded, session, base, stamp)
        if view is None or not 0 <= event.index < len(view.pictures):
            return saved
        chosen = view.pictures[event.index]
        if chosen.name == picture:
            return saved
        return {**saved, **self.show(view, chosen, session)}

    def go_on(
        self,
        opened: str,
        picture: str,
        text: str,
        loaded: str,
        session: Session,
        base: str,
        stamp: float,
    ) -> Updates:
        """The next picture."""
        return self._step(1, opened, picture, text, loaded, session, base, stamp)

    def go_back(
        self,
        opened: str,
        picture: str,
        text: str,
        loaded: str,
        session: Session,
        base: str,
        stamp: float,
    ) -> Updates:
        """The previous picture."""
        return self._step(-1, opened, picture, text, loaded, session, base, stamp)

    def _step(
        self,
        by: int,
        opened: str,
        picture: str,
        text: str,
        loaded: str,
        session: Session,
        base: str,
        stamp: float,
    ) -> Updates:
        saved, view = self._leave(opened, picture, text, loaded, session, base, stamp)
        if view is None or not view.pictures:
            return saved
        place = view.place(picture)
        if place is None:
            place = -1 if by > 0 else 0
        return {
            **saved,
            **self.show(view, view.pictures[(place + by) % len(view.pictures)], session),
        }

    def _leave(
        self,
        opened: str,
        picture: str,
        text: str,
        loaded: str,
        session: Session,
        base: str,
        stamp: float,
    ) -> tuple[Updates, SetView | None]:
        """Save what was typed last; no view where the caption may not be left."""
        updates: Updates = {self.parts.status: ""}
        folder = find_set(places.DATASETS, opened)
        if picture:
            outcome = session.save(places.DATASETS, opened, picture, text, loaded, stamp)
            updates, folder = self.told(outcome, base), outcome.image_set
            if outcome.state == "conflict":
                return updates, None
        return updates, look_at(folder, frame_of(base))

    def show(self, view: SetView, chosen: PictureView, session: Session) -> Updates:
        """A picture in the editor."""
        p = self.parts
        session.see(view.folder, chosen.name, chosen.caption)
        place = view.place(chosen.name)
        place = 0 if place is None else place
        large = thumbnails([chosen])[0]
        return {
            p.picture: chosen.name,
            p.text: gr.Textbox(
                value=chosen.caption,
                label=f"Caption of {chosen.shown} ({place + 1} of {len(view.pictures)})",
                interactive=True,
            ),
            p.loaded: chosen.caption,
            p.large: gr.Image(value=str(large), visible=True, label=chosen.shown),
            p.facts: setwords.picture_facts(view, chosen),
            p.clash: gr.Column(visible=False),
            p.remove_row: gr.Row(visible=False),
            p.gallery: gr.Gallery(selected_index=place),
        }

    def keep_mine(
        self, opened: str, picture: str, text: str, loaded: str, session: Session, base: str
    ) -> Updates:
        """Both captions were seen, and the one in the field chosen."""
        outcome = session.overwrite(places.DATASETS, opened, picture, text)
        return {**self.told(outcome, base), self.parts.loaded: outcome.saved}

    def take_theirs(self, opened: str, picture: str, session: Session, base: str) -> Updates:
        """Both captions were seen, and the saved one chosen."""
        view = look_at(find_set(places.DATASETS, opened), frame_of(base))
        place = view.place(picture)
        if place is None:
            raise UserError("The picture was removed in another tab.", "Choose another one.")
        return {**self.show(view, view.pictures[place], session), self.parts.status: ""}

    def reread(self, opened: str, picture: str, base: str) -> Updates:
        """The caption's field was left: the words about the set and the picture follow."""
        p = self.parts
        if not opened:
            return {p.summary: gr.skip()}
        view = look_at(find_set(places.DATASETS, opened), frame_of(base))
        place = view.place(picture)
        return {
            p.summary: setwords.summary(view),
            p.findings: setwords.findings(view),
            p.facts: gr.skip()
            if place is None
            else setwords.picture_facts(view, view.pictures[place]),
        }

    def use(self, opened: str, trigger: str, class_word: str) -> Sequence[object]:
        """On to Train, with this set and its words."""
        return opened, trigger.strip(), class_word.strip(), go("train")
