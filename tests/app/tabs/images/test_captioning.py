"""Captions by a model in the page: proposed, looked at, written and undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from app import client as service
from app.tabs.images import captioning
from app.tabs.images.captioning import BASE, Captioning, Proposed, captioners, words_in
from app.tabs.images.captions import CaptionSession, read_captions, save_caption, version_of
from app.tabs.images.edits import undo
from app.tabs.images.imagesets import SetNotes, find_set, write_notes
from app.tabs.images.storage import copy_set
from tests.trainer.captioning.fake_server import Fake, serving
from tests.trainer.data.folders_for_tests import picture, put
from trainer import places
from trainer.commands.caption import propose
from trainer.errors import UserError

FORM = (BASE, "thing", "", "")
SERVER = ("server home", "thing", "shiny", "")


@dataclass
class Room:
    """The tab's room for captions, without a browser."""

    root: Path
    room: Captioning
    session: CaptionSession
    asked: list[Mapping[str, Any]]

    @property
    def parts(self) -> Any:
        return self.room.parts

    def propose(
        self, which: str = "empty", form: tuple[str, ...] = FORM, name: str = "mine"
    ) -> Any:
        """The last answer of the button, with all updates before it."""
        request, picture = Mock(session_hash="s"), "1.png"
        propose: Any = self.room.propose  # whose form is a tuple of this length
        steps = propose(request, name, picture, self.session, "tiny-emoji", *form, which)
        together: dict[Any, Any] = {}
        for step in steps:
            together |= step
        return together

    def captions(self, name: str = "mine") -> dict[str, str]:
        return read_captions(find_set(self.root, name))


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    """A set of the page's own with four pictures, one of which has a caption."""
    root = tmp_path / "datasets"
    files = {f"bundled/{n}.png": picture(n) for n in range(4)}
    put(root, {**files, "bundled/0.txt": "by hand, sea"})
    monkeypatch.setattr(places, "DATASETS", root)
    monkeypatch.setattr(places, "SERVERS", tmp_path / "servers.toml")
    copy_set(root, find_set(root, "bundled"))
    asked: list[Mapping[str, Any]] = []

    def call(verb: str, arguments: Mapping[str, Any], *more: Any) -> Any:
        """The worker's answer without a worker; the base model is a server too."""
        assert verb == "caption"
        asked.append(arguments)
        return propose({**arguments, "server": arguments["server"] or "home"}, more[1])

    monkeypatch.setattr(service, "call", call)
    parts = Mock()
    show: Callable[..., Any] = lambda *_: {}  # noqa: E731
    return Room(root, Captioning(parts, show), CaptionSession(), asked)


def owner(room: Room, fake: Fake) -> None:
    places.SERVERS.write_text(f"[home]\naddress = '{fake.address}'\nmodel = 'llava'\n")


@pytest.fixture
def mine(room: Room) -> str:
    """The id of the page's own set."""
    (name,) = [path.name for path in room.root.iterdir() if path.name != "bundled"]
    return name


def test_only_empty_ones_and_nothing_before_it_was_looked_at(room: Room, mine: str) -> None:
    before = room.captions(mine)
    with serving(Fake(text="a shiny dog, wood")) as fake:
        owner(room, fake)
        shown = room.propose(form=SERVER, name=mine)
    proposed = shown[room.parts.proposed]
    assert (
        room.captions(mine) == before and "Nothing is written" in shown[room.parts.caption_progress]
    )
    assert sorted(one.after for one in proposed.changes) == ["a dog, wood"] * 3
    room.room.write(mine, "", room.session, "tiny-emoji", proposed)
    after = room.captions(mine)
    assert [text for text in after.values() if text != "a dog, wood"] == ["by hand, sea"]
    assert "3 captions" in undo(find_set(room.root, mine))
    assert room.captions(mine) == before


@pytest.mark.parametrize(("which", "changed"), [("all", 4), ("one", 1), ("empty", 3)])
def test_which_pictures(which: str, changed: int, room: Room, mine: str) -> None:
    with serving(Fake()) as fake:
        owner(room, fake)
        request = room.propose(which, name="bundled")
    assert len(request[room.parts.proposed].changes) == changed
    assert len(fake.requests) == changed


def test_a_caption_that_was_written_meanwhile_stays(room: Room, mine: str) -> None:
    with serving(Fake()) as fake:
        owner(room, fake)
        proposed = room.propose(name=mine)[room.parts.proposed]
    folder = find_set(room.root, mine)
    name = proposed.changes[0].picture
    save_caption(folder, name, "mine", version_of(""))
    with pytest.raises(UserError, match="changed since the preview"):
        room.room.write(mine, "", room.session, "tiny-emoji", proposed)
    assert room.captions(mine)[name] == "mine"


def test_a_read_only_set_is_copied(room: Room) -> None:
    with serving(Fake()) as fake:
        owner(room, fake)
        proposed = room.propose(name="bundled")[room.parts.proposed]
    room.room.write("bundled", "1.png", room.session, "tiny-emoji", proposed)
    copy = find_set(room.root, room.session.copies["bundled"])
    assert sorted(read_captions(copy).values()) == ["a dog on a sofa"] * 3 + ["by hand, sea"]
    assert not (room.root / "bundled" / "1.txt").exists()


def test_one_click_takes_out_what_nearly_all_have(room: Room, mine: str) -> None:
    folder = find_set(room.root, mine)
    write_notes(folder, SetNotes("mine", "ohwx", "car"))
    for name, text in zip(room.captions(mine), ["sea", "hill", "sky", "wood"], strict=True):
        now = room.captions(mine)[name]
        save_caption(folder, name, f"a shiny car, {text}", version_of(now))
    checked: dict[Any, Any] = dict(room.room.check_words(mine, "tiny-emoji", "thing"))
    assert "shiny" in checked[room.parts.word_report]
    taken: dict[Any, Any] = dict(room.room.take_out(checked[room.parts.proposed]))
    proposed = taken[room.parts.proposed]
    room.room.write(mine, "", room.session, "tiny-emoji", proposed)
    assert sorted(room.captions(mine).values()) == [
        f"a car, {x}" for x in ("hill", "sea", "sky", "wood")
    ]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("error401", "wants a key"),
        ("redirect", "not followed"),
        ("error500", "refused this picture"),
    ],
)
def test_what_goes_wrong_is_shown(mode: str, words: str, room: Room) -> None:
    with serving(Fake(mode)) as fake:
        owner(room, fake)
        shown = room.propose(form=SERVER, name="bundled")
    assert words in shown[room.parts.caption_progress] and not shown[room.parts.proposed]


def test_answers_are_shown_as_text(room: Room) -> None:
    with serving(Fake(text="a dog &lt;img src=x onerror=alert(1)&gt;")) as fake:
        owner(room, fake)
        shown = room.propose(form=SERVER, name="bundled")
    assert "<img src=x" not in shown[room.parts.made]


def test_the_browser_names_servers_and_no_addresses(room: Room) -> None:
    with serving(Fake()) as fake:
        form = (f"server {fake.address}", "thing", "", "")
        shown = room.propose(form=form, name="bundled")
        assert "There is no server" in shown[room.parts.caption_progress]
        owner(room, fake)
        assert [value for _, value in captioners()] == [BASE, "server home"]
    assert not fake.requests


def test_stopped_work_keeps_what_was_done(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {
        "captioner": "x", "proposals": [{"picture": "1.png", "before": "", "after": "a dog"}],
        "problems": {}, "kept": 1, "stopped": True, "written": [], "report": {},
    }  # fmt: skip
    monkeypatch.setattr(service, "call", lambda *_: answer)
    shown = room.propose(name="bundled")
    assert "Stopped" in shown[room.parts.caption_progress]
    assert [one.picture for one in shown[room.parts.proposed].changes] == ["1.png"]


def test_what_was_not_shown_is_not_written(room: Room) -> None:
    for shown in (None, Proposed("other", captioning.Wording(), {})):
        with pytest.raises(UserError, match="Look at the captions first"):
            room.room.write("bundled", "", room.session, "tiny-emoji", shown)


def test_words_between_commas() -> None:
    assert words_in(" blue,, red lights\nblue; x ") == ["blue", "red lights", "x"]
