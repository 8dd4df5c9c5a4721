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
from app.shared import LAST, QUIET, Shared, go, says_errors
from app.tabs.images import api as images_api
from app.tabs.images import bulk as images_bulk
from app.tabs.images import captioning as images_captioning
from app.tabs.images import framing as images_framing
from app.tabs.images import gallery as images_gallery
from app.tabs.images import manage as images_manage
from app.tabs.images import masking as images_masking
from app.tabs.images import words as images_words
from app.tabs.images.captions import CaptionSession, Outcome, Typed
from app.tabs.images.edits import history
from app.tabs.images.imagesets import SetFolder, find_set, list_sets, read_notes, set_choices
from app.tabs.images.layout import KEYS, STAMP, STAMP_LATER, Parts, html
from app.tabs.images.setview import SetView, look_at
from app.tabs.images.thumbnails import thumbnails
from app.tabs.images.uploads import store_uploads
from trainer import places
from trainer.data.names import display_name
from trainer.errors import UserError

Updates = dict[Block, object]
EXAMPLE = "police-car"  # comes with Rarebit


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    parts = Parts()
    tab = ImagesTab(parts, shared)
    tab.wire()
    for noted in images_words.wire(parts, shared):
        noted.then(says_errors(tab.reread), *tab.rereading, **QUIET)
    images_gallery.wire(parts, shared)
    undone = images_bulk.wire(parts, shared, tab.show_again, tab.everything)
    images_framing.wire(parts, shared, tab.show_again, tab.everything)
    images_masking.wire(parts, shared, tab.show_again, tab.everything, undone)
    images_captioning.wire(parts, shared, tab.show_again, tab.everything)
    images_manage.wire(parts, shared, tab.everything)
    images_api.expose()


class ImagesTab:
    """The handlers, and which components they touch."""

    def __init__(self, parts: Parts, shared: Shared) -> None:
        self.parts, self.shared = parts, shared
        p = parts
        self.saved: list[Block] = [
            *(p.status, p.clash, p.theirs, p.chosen, p.opened, p.remembered, p.summary),
            *(shared.image_set, p.into),
        ]
        self.everything: list[Block] = [
            *self.saved,
            *(
                p.remarks,
                p.new_title,
                p.picture,
                p.text,
                p.loaded,
                p.large,
                p.facts,
                p.removal.group,
            ),
            *(p.gallery, p.listed, p.tag),
            *(p.frame, p.across, p.down, p.zoom, p.tags),
            *(p.findings, p.buckets, p.undo, p.desk, p.use, p.try_it, p.manage),
            *(p.trigger, p.class_word, p.verdict, p.measured, shared.trigger, shared.class_word),
        ]
        told = [p.opened, p.picture, shared.base, p.session]
        self.rereading = (told, [p.summary, p.findings, p.facts, p.use])

    def wire(self) -> None:
        """Connects everything that is about a set and a picture."""
        p, shared = self.parts, self.shared
        edit = [p.preview, p.apply]
        opening, opened = [shared.base, p.session], [*self.everything, *edit]
        choosing, following = ([one, p.opened, *opening] for one in (p.chosen, shared.image_set))
        p.chosen.input(says_errors(self.choose), choosing, opened, **LAST)
        shared.image_set.change(says_errors(self.follow), following, opened, **QUIET)
        shared.page.load(says_errors(self.arrive), [p.remembered, *opening], opened, **QUIET)
        shared.page.load(None, None, None, js=KEYS, api_visibility="private")
        shared.rooms["images"].select(
            says_errors(self.enter), [p.opened, shared.base], self.everything, **QUIET
        )
        p.drop.upload(
            says_errors(self.upload),
            [p.drop, p.title, p.into, p.opened, *opening],
            [p.drop, p.title, *opened],
            show_progress_on=[p.remarks],
            api_visibility="private",
        )
        typed = [p.opened, p.picture, p.text, p.loaded, p.session, shared.base, p.listed]
        inputs = [*typed, p.stamp]
        saved = p.text.input(says_errors(self.save), inputs, self.saved, **LAST, js=STAMP_LATER)
        for event, handler in (
            (p.gallery.select, self.select),
            (p.next.click, self.go_on),
            (p.previous.click, self.go_back),
        ):
            event(says_errors(handler), inputs, self.everything, **QUIET, js=STAMP)
        p.keep_mine.click(says_errors(self.keep_mine), typed, [*self.saved, p.loaded], **QUIET)
        p.take_theirs.click(says_errors(self.take_theirs), typed, self.everything, **QUIET)
        for event in (p.text.blur, saved.then):
            event(says_errors(self.reread), *self.rereading, **QUIET)
        chosen = [shared.image_set, shared.trigger, shared.class_word, shared.tabs]
        p.try_it.click(says_errors(self.try_it), None, chosen, **QUIET)
        p.use.click(self.use, [p.opened, p.trigger, p.class_word], chosen, **QUIET)

    def nothing(self) -> Updates:
        """An answer that changes nothing: gradio takes no empty one."""
        return {self.parts.chosen: gr.skip()}

    # -------------------------------------------------------------------------- choosing

    def choose(
        self, set_id: str | None, opened: str, base: str, session: CaptionSession
    ) -> Updates:
        """A set was chosen in the list, which tells a choice twice."""
        if set_id == opened or session.is_told_again(set_id or "", opened):
            return self.nothing()
        return self.open(set_id, base, session)

    def follow(self, set_id: str, opened: str, base: str, session: CaptionSession) -> Updates:
        """Another tab chose a set, and says its words itself: more may have been typed since."""
        told = (self.shared.trigger, self.shared.class_word)
        updates = self.choose(set_id or opened, opened, base, session)
        return {part: update for part, update in updates.items() if part not in told}

    def arrive(self, remembered: str, base: str, session: CaptionSession) -> Updates:
        """The page was loaded: the set that this browser had open is opened again."""
        if remembered in [one.id for one in list_sets(places.DATASETS)]:
            return self.open(remembered, base, session)
        return {self.parts.chosen: gr.Dropdown(choices=set_choices(), value=None)}

    def enter(self, opened: str, base: str) -> Updates:
        """The tab was entered: sets may have come and gone, the base model may be another one."""
        if opened in [one.id for one in list_sets(places.DATASETS)]:
            return self.refresh(look_at(find_set(places.DATASETS, opened), base))
        if opened:  # it was deleted in another window, or on the disk
            return images_manage.closed(self.parts, self.shared)
        return {self.parts.chosen: gr.Dropdown(choices=set_choices(), value=None)}

    def open(self, set_id: str | None, base: str, session: CaptionSession) -> Updates:
        """Show a set, none of its pictures chosen."""
        p, shared = self.parts, self.shared
        folder = find_set(places.DATASETS, set_id or "")
        session.opened(folder)
        view = look_at(folder, base)
        return {
            **self.refresh(view),
            **self.nothing_chosen(),
            p.trigger: view.notes.trigger,
            p.class_word: view.notes.class_word,
            p.remarks: "",
            p.new_title: view.title,
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
        p, done = self.parts, history(view.folder)
        undo = f"Undo: {done[-1].what}"[:120] if done else "Nothing to undo"
        return {
            p.chosen: gr.Dropdown(choices=set_choices(), value=view.folder.id),
            p.opened: view.folder.id,
            p.summary: html("summary", view),
            p.findings: html("findings", view),
            p.buckets: html("buckets", view),
            p.tags: html("tags", view),
            p.undo: gr.Button(undo, visible=bool(done)),
            p.desk: gr.Column(visible=True),
            p.use: _use_button(view),
            p.try_it: gr.Button(visible=False),
            p.manage: gr.Accordion(visible=view.folder.owned),
            p.into: gr.Checkbox(interactive=view.folder.owned),
            **images_gallery.show_all(p, view),
        }

    def show_again(
        self, folder: SetFolder, picture: str, session: CaptionSession, base: str
    ) -> Updates:
        """A set that was changed as a whole, with the open picture, if it is still there."""
        p = self.parts
        view = look_at(folder, base)
        place = view.place(picture)
        editor = self.nothing_chosen() if place is None else self.show(view, place, session)
        return {
            **editor,
            **self.refresh(view),
            p.remembered: folder.id,
            self.shared.image_set: folder.id,
        }

    def nothing_chosen(self) -> Updates:
        """The editor without a picture."""
        p = self.parts
        return {
            p.picture: "",
            p.text: gr.Textbox(value="", label="Caption", interactive=False),
            p.loaded: "",
            p.large: gr.Image(value=None, visible=False),
            **images_framing.show(p, None),
            p.facts: html("no_picture"),
            p.status: "",
            p.clash: gr.Column(visible=False),
            p.removal.group: gr.Group(visible=False),
        }

    def upload(
        self,
        uploads: list[Upload],
        title: str,
        add: bool,
        opened: str,
        base: str,
        session: CaptionSession,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio wants it
    ) -> Updates:
        """Files were dropped: they become a set, or part of the one that is open."""
        p, uploads, title = self.parts, as_uploads(uploads), title.strip()
        if not uploads:
            return {p.drop: None}
        try:
            into = find_set(places.DATASETS, opened) if add and opened else None
            into = into if into and into.owned else None
            progress(0.1, "Storing the pictures")
            stored = store_uploads(places.DATASETS, uploads, title=title, into=into)
        except UserError as error:
            return {p.drop: None, p.remarks: refused(error)}
        finally:
            forget(uploads)
        progress(0.5, "Looking at the pictures")
        return {
            **self.open(stored.image_set.id, base, session),
            p.drop: None,
            p.title: "",
            p.remarks: html("stored", stored),
        }

    # -------------------------------------------------------------------------- one caption

    def save(self, *values: Any) -> Updates:
        """The caption was typed into."""
        typed = Typed(*values)
        return self._save(typed)[0] if typed.picture else {self.parts.status: ""}

    def _save(self, typed: Typed) -> tuple[Updates, Outcome]:
        outcome = typed.session.save(
            places.DATASETS, typed.opened, typed.picture, typed.text, typed.loaded, typed.stamp
        )
        return self.in_words(outcome, typed.base), outcome

    def in_words(self, outcome: Outcome, base: str) -> Updates:
        """What became of a save, in words."""
        p = self.parts
        if outcome.state == "late":
            return self.nothing()
        if outcome.state == "conflict":
            return {
                p.status: html("status", "Not saved.", "bad"),
                p.clash: gr.Column(visible=True),
                p.theirs: html("conflict", outcome.saved),
            }
        if not outcome.copied:
            words = "Saved." if outcome.state == "saved" else ""
            return {p.status: html("status", words), p.clash: gr.Column(visible=False)}
        folder = outcome.image_set
        words = f"Saved in {read_notes(folder).title}: the original is never changed."
        return {
            p.status: html("status", words, ""),
            p.clash: gr.Column(visible=False),
            p.chosen: gr.Dropdown(choices=set_choices(), value=folder.id),
            p.opened: folder.id,
            p.remembered: folder.id,
            p.into: gr.Checkbox(interactive=True),
            p.summary: html("summary", look_at(folder, base)),
            self.shared.image_set: folder.id,
        }

    def select(self, event: gr.SelectData, *values: Any) -> Updates:
        """A picture was clicked."""
        return self._leave(Typed(*values), to=event.index)

    def go_on(self, *values: Any) -> Updates:
        """The next picture."""
        return self._leave(Typed(*values), by=1)

    def go_back(self, *values: Any) -> Updates:
        """The previous picture."""
        return self._leave(Typed(*values), by=-1)

    def _leave(self, typed: Typed, to: int | None = None, by: int = 0) -> Updates:
        """Save what was typed last, and show another picture, unless the caption is in conflict."""
        updates: Updates = {self.parts.status: ""}
        picture, view = typed.picture, None
        if picture:
            updates, outcome = self._save(typed)
            if outcome.state == "conflict":
                return updates
            view = look_at(outcome.image_set, typed.base)
        view = view or typed.view
        at, name = images_gallery.go_to(view, typed.listed, picture, to, by)
        place = view.place(name)
        if place is None or name == picture:
            return updates
        changed = bool(picture) and typed.text != typed.loaded
        chosen = images_gallery.choose(self.parts, view, typed.listed, at, changed)
        return {**updates, **self.show(view, place, typed.session), **chosen}

    def show(self, view: SetView, place: int, session: CaptionSession) -> Updates:
        """A picture in the editor."""
        p, chosen = self.parts, view.pictures[place]
        session.see(view.folder, chosen.name, chosen.caption)
        name = display_name(chosen.name)
        return {
            p.picture: chosen.name,
            p.text: gr.Textbox(
                value=chosen.caption,
                label=f"Caption of {name} ({place + 1} of {len(view.pictures)})",
                interactive=True,
            ),
            p.loaded: chosen.caption,
            p.large: gr.Image(value=thumbnails([chosen])[0], visible=True),
            **images_framing.show(p, chosen),
            p.facts: html("facts", chosen),
            p.clash: gr.Column(visible=False),
            p.removal.group: gr.Group(visible=False),
        }

    def keep_mine(self, *values: Any) -> Updates:
        """Both captions were seen, and the one in the field chosen."""
        typed = Typed(*values)
        outcome = typed.session.overwrite(places.DATASETS, typed.opened, typed.picture, typed.text)
        return {**self.in_words(outcome, typed.base), self.parts.loaded: outcome.saved}

    def take_theirs(self, *values: Any) -> Updates:
        """Both captions were seen, and the saved one chosen."""
        typed = Typed(*values)
        view = typed.view
        place = view.pictures.index(view.picture(typed.picture))
        return {**self.show(view, place, typed.session), self.parts.status: ""}

    def reread(self, opened: str, picture: str, base: str, session: CaptionSession) -> Updates:
        """A caption or a word was changed: what is said about the set and the picture follows."""
        p = self.parts
        if not opened:
            return self.nothing()
        view = look_at(find_set(places.DATASETS, opened), base)
        place = view.place(picture)
        left = session.seen not in (("", ""), (opened, picture))  # another one is open by now
        shown = {} if place is None or left else {p.facts: html("facts", view.pictures[place])}
        told = {p.summary: html("summary", view), p.findings: html("findings", view)}
        return {**told, p.use: _use_button(view), **shown}

    def try_it(self) -> Sequence[object]:
        """On to Train with an example, whose words are noted as if they had been typed."""
        words = images_words.remember(EXAMPLE, "ohwx", "car")
        return EXAMPLE, *words, go("train")

    def use(self, opened: str, trigger: str, class_word: str) -> Sequence[object]:
        """On to Train, with this set and its words."""
        return opened, trigger.strip(), class_word.strip(), go("train")


def _use_button(view: SetView) -> gr.Button:
    """The next step, once the set has its trigger word."""
    usable = bool(view.report and view.report.pictures)
    return gr.Button(visible=usable, variant="primary" if view.notes.trigger else "secondary")
