"""Captions made by a model: proposed, looked at, and only then written."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block

from app import client as service
from app.client import ProgressUpdate, ShouldStop, Stopped, follow
from app.render import refused, render
from app.shared import NOW, QUIET, Shared, logger, says_errors
from app.tabs.images.bulk import Room, ShowAgain, to_write
from app.tabs.images.captions import CaptionSession, captions_of
from app.tabs.images.edits import Change, apply_changes
from app.tabs.images.imagesets import find_set, read_notes
from app.tabs.images.layout import Parts, html
from app.tabs.images.setview import SetView, look_at
from app.tabs.images.thumbnails import thumbnails
from app.tabs.images.words import noting
from trainer import places
from trainer.captioning.memory import memory_said
from trainer.captioning.server import owner_servers
from trainer.captioning.wording import MAX_PROMPT, Wording, WordReport, report_words, without_words
from trainer.errors import UserError
from trainer.events import Progress

Updates = dict[Block, object]
BASE = "base"
SECONDS = 600.0
"""Without a sign of life from the worker."""
_stops: dict[str, threading.Event] = {}  # what each browser's own button stops


@dataclass(frozen=True)
class Proposed:
    """Captions as they may become, of which set, and from which they were made.

    Attributes:
        captions: all of the set, by picture, as they were.
        after: those that would change.
        by: what made them, in a few words.
        thumbnails: files of those that would change, by picture.
    """

    set_id: str
    wording: Wording
    captions: Mapping[str, str]
    after: Mapping[str, str] = field(default_factory=dict[str, str])
    by: str = ""
    thumbnails: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def changes(self) -> list[Change]:
        """What would be written."""
        pairs = ((name, self.captions.get(name, ""), text) for name, text in self.after.items())
        return [Change(*pair) for pair in pairs if pair[1] != pair[2]]

    @property
    def report(self) -> WordReport:
        """What is doubtful in the captions as they would be."""
        return report_words({**self.captions, **self.after}, self.wording)


class Form(NamedTuple):
    """What the page asks with, from top to bottom."""

    opened: str
    picture: str
    session: CaptionSession
    base: str
    captioner: str
    purpose: str
    leave_out: str
    instruction: str
    which: str

    def request(self, view: SetView) -> dict[str, Any]:
        """What the worker is asked for.

        Raises:
            UserError: no picture is chosen, or it cannot be used.
        """
        entries = {one.name: one.entry.name for one in view.pictures if one.entry}
        one = self.which == "one"
        if one and self.picture not in entries:
            raise UserError(
                "No picture is chosen that can be captioned.", "Click one, or take all."
            )
        kind, _, name = self.captioner.partition(" ")
        return {
            "folder": str(view.folder.path.resolve()),
            "server": name if kind == "server" else "",
            "model": name if kind == "model" else "",
            "base": self.base,
            "purpose": self.purpose,
            "trigger": view.notes.trigger,
            "class_word": view.notes.class_word,
            "leave_out": words_in(self.leave_out),
            "prompt": self.instruction[:MAX_PROMPT],
            "everything": self.which == "all",
            "pictures": [entries[self.picture]] if one else [],
        }


def wire(parts: Parts, shared: Shared, show_again: ShowAgain, shown: list[Block]) -> None:
    """Connects the captions that models make; arguments as for `bulk.wire`."""
    p, room = parts, Captioning(parts, show_again)
    form = [p.captioner, p.purpose, p.leave_out, p.instruction, p.which]
    here = [p.opened, p.picture, p.session, shared.base]
    answer = [p.made, p.word_report, p.take_out, p.keep_captions, p.proposed, p.caption_progress]
    working: list[Block] = [*answer, p.propose, p.caption_stop]
    noting(p.propose.click, p, shared)(
        room.propose, [*here, *form], working, **QUIET, concurrency_limit=None
    )
    p.caption_stop.click(_stop, None, None, **NOW)
    noting(p.check_words.click, p, shared)(
        says_errors(room.check_words), [p.opened, shared.base, p.purpose], answer, **QUIET
    )
    p.take_out.click(says_errors(room.take_out), p.proposed, answer, **QUIET)
    p.keep_captions.click(says_errors(room.write), [*here, p.proposed], [*answer, *shown], **QUIET)
    gr.on(
        [p.captioning.expand, shared.rooms["images"].select],
        lambda: gr.Dropdown(choices=captioners()),
        None,
        p.captioner,
        **QUIET,
    )


def captioners() -> list[tuple[str, str]]:
    """(label, value) of what may make captions here."""
    try:
        servers = owner_servers()
    except UserError:
        servers = {}
    return [
        ("The base model itself", BASE),
        *((f"Server {name} ({one.shown})", f"server {name}") for name, one in servers.items()),
        *(
            (f"Model {name} ({memory_said(places.CAPTIONERS / name)})", f"model {name}")
            for name in places.captioner_folders()
        ),
    ]


class Captioning(Room):
    """The handlers."""

    def propose(self, request: gr.Request, *values: Any) -> Iterator[Updates]:
        """Ask for captions, and show how far it is and what they would be."""
        p, stop, form = self.parts, threading.Event(), Form(*values)
        _stops[request.session_hash or ""] = stop
        told = ProgressUpdate(0, 0, "Getting ready")
        yield {
            **self.shown(None),
            p.caption_progress: render("generate.html", "progress", told),
            p.propose: gr.Button(interactive=False),
            p.caption_stop: gr.Button(visible=True),
        }
        updates = self.shown(None)
        try:
            view = look_at(find_set(places.DATASETS, form.opened), form.base)
            asked = form.request(view)

            found: dict[str, Any] = {}

            def work(tell: Progress, should_stop: ShouldStop) -> None:
                found.update(service.call("caption", asked, SECONDS, tell, should_stop))

            for told in follow(work, stop):
                yield {p.caption_progress: render("generate.html", "progress", told)}
            proposed = proposed_of(view, asked, found)
            updates = self.shown(proposed, html("captioned", found, len(proposed.changes)))
        except Stopped:
            updates = self.shown(None, html("status", "Stopped: nothing was captioned."))
        except UserError as error:
            updates = self.shown(None, refused(error))
        except Exception:
            logger.exception("in captioning")
            fault = "This is a fault of Rarebit's. The terminal that it runs in says more."
            updates = self.shown(None, render("generate.html", "wrong", fault))
        finally:
            _stops.pop(request.session_hash or "", None)
        yield {
            **updates,
            p.propose: gr.Button(interactive=True),
            p.caption_stop: gr.Button(visible=False),
        }

    def check_words(self, opened: str, base: str, purpose: str) -> Updates:
        """What is doubtful in the captions that are there."""
        view = look_at(find_set(places.DATASETS, opened), base)
        wording = wording_of(view, purpose)
        proposed = Proposed(opened, wording, captions_of(view))
        report = proposed.report
        doubtful = report.common or report.over_long
        words = "" if doubtful else "No word is in nearly every caption, and none is too long."
        return self.shown(proposed, html("status", words))

    def take_out(self, proposed: Proposed | None) -> Updates:
        """The same captions without the words that nearly all of them have."""
        if proposed is None:
            raise UserError("There are no captions to look at.", "Propose some, or check those.")
        words = list(proposed.report.common)
        cleaned = without_words({**proposed.captions, **proposed.after}, words)
        changed = {
            name: text for name, text in cleaned.items() if text != proposed.captions.get(name)
        }
        by = proposed.by or f"“{'”, “'.join(words)[:80]}” taken out"
        return self.shown(replace(proposed, after=changed, by=by))

    def write(
        self, opened: str, picture: str, session: CaptionSession, base: str, shown: Proposed | None
    ) -> Updates:
        """Write what was shown; undo brings the old ones back."""
        if shown is None or shown.set_id != opened:
            raise UserError("Look at the captions first.", "Press “Propose captions”.")
        owned = find_set(places.DATASETS, opened).owned
        folder, picture = to_write(opened, picture, session)
        names = {} if owned else {old: new for new, old in read_notes(folder).names.items()}
        changes = [
            replace(one, picture=names.get(one.picture, one.picture)) for one in shown.changes
        ]
        apply_changes(folder, changes, f"captions by {shown.by}" if shown.by else "captions")
        gr.Info(f"{len(changes)} captions written. Undo stands below the pictures.")
        return {**self.show_again(folder, picture, session, base), **self.shown(None)}

    def shown(self, proposed: Proposed | None, said: str = "") -> Updates:
        """What would change, and what is doubtful in it."""
        p = self.parts
        report = proposed.report if proposed else None
        changes = proposed.changes if proposed else []
        common = list(report.common) if report else []
        return {
            p.caption_progress: said,
            p.made: html("changes", changes, len(proposed.captions), proposed.thumbnails)
            if proposed and changes
            else "",
            p.word_report: html("word_report", report, proposed.wording.words) if proposed else "",
            p.take_out: gr.Button(f"Take out: {', '.join(common)}"[:100], visible=bool(common)),
            p.keep_captions: gr.Button(f"Write {len(changes)} captions", visible=bool(changes)),
            p.proposed: proposed,
        }


def proposed_of(view: SetView, asked: Mapping[str, Any], found: Mapping[str, Any]) -> Proposed:
    """The worker's answer, with pictures as the page calls them."""
    names = {one.entry.name: one.name for one in view.pictures if one.entry}
    wording = wording_of(view, asked["purpose"])
    proposals = {names.get(one["picture"]): one["after"] for one in found["proposals"]}
    after = {name: text for name, text in proposals.items() if name}
    by = found["captioner"].partition(",")[0]
    small = dict(zip(after, thumbnails([view.picture(name) for name in after]), strict=True))
    return Proposed(view.folder.id, wording, captions_of(view), after, by, small)


def wording_of(view: SetView, purpose: str) -> Wording:
    """How captions of a set are to be."""
    kind = "person" if purpose == "person" else "style" if purpose == "style" else "thing"
    return Wording(kind, view.notes.trigger, view.notes.class_word)


def words_in(text: str) -> list[str]:
    """Words and phrases that were typed with commas or lines between them."""
    parts = (part.strip() for part in re.split(r"[,;\n]", text or ""))
    return list(dict.fromkeys(filter(None, parts)))[:200]


def _stop(request: gr.Request) -> None:
    if stop := _stops.get(request.session_hash or ""):
        stop.set()
