"""Captions in tokens, as the service counts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import client as service
from app.tabs.images import measure as images_measure
from app.tabs.images.imagesets import find_set, read_notes, write_notes
from tests.app.tabs.images.test_setview import harmless
from tests.trainer.data.folders_for_tests import picture, put
from trainer import places
from trainer.errors import UserError


def test_the_service_is_asked_about_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "cars", {"a.png": picture(1)})
    monkeypatch.setattr(places, "DATASETS", tmp_path)
    folder = find_set(tmp_path, "cars")
    write_notes(folder, type(read_notes(folder))(trigger="ohwx"))
    asked = []

    def answer(verb: str, arguments: dict[str, object], timeout: float) -> object:
        asked.append((verb, arguments))
        return {"cut_captions": ["<b>.png"]}

    monkeypatch.setattr(service, "call", answer)
    waiting, (words, _) = images_measure.measure("cars", "tiny-emoji")
    assert waiting[0] == ""
    assert "1 caption has" in words and "&lt;b&gt;.png" in words
    arguments = {"folder": str(tmp_path / "cars"), "base": "tiny-emoji", "trigger": "ohwx"}
    assert asked == [("check-images", arguments)]


def test_a_service_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "cars", {"a.png": picture(1)})
    monkeypatch.setattr(places, "DATASETS", tmp_path)

    def refuse(*_: object) -> object:
        raise UserError("The device is busy.", "Wait.")

    monkeypatch.setattr(service, "call", refuse)
    *_, (words, _) = images_measure.measure("cars", "tiny-emoji")
    assert "The device is busy." in words


@pytest.mark.parametrize(("count", "said"), [(0, "Every caption fits"), (25, "and 5 more")])
def test_in_words(count: int, said: str) -> None:
    assert said in harmless(images_measure.in_words([f"{n}.png" for n in range(count)])).text
