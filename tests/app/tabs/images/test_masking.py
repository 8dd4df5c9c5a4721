"""Masks painted in the page: rectangles, unsaved painting, and undo."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import gradio as gr
import numpy as np
import pytest
from gradio.data_classes import FileData
from PIL import Image, ImageDraw

from app import client as service
from app.tabs.images.captions import CaptionSession
from app.tabs.images.edits import change_mask, history, remove_picture, undo
from app.tabs.images.imagesets import find_set
from app.tabs.images.mask_parts import OPACITY, PAINT, as_mask
from app.tabs.images.masking import Masking, Painting, boxed, changed, leave
from tests.app.sets_for_tests import made, tree
from tests.trainer.data.folders_for_tests import put
from trainer import places
from trainer.captioning.masks import as_png, propose_mask
from trainer.data.sets import scan_image_set
from trainer.errors import UserError

SIZE = (40, 30)
Boxes = list[tuple[int, int, int, int]]


def mask(*boxes: tuple[int, int, int, int]) -> Image.Image:
    made = Image.new("L", SIZE)
    for box in boxes:
        made.paste(255, box)
    return made


@pytest.mark.parametrize(
    ("before", "line", "level", "after"),
    [
        ([], (4, 5, 20, 15), 255, [(4, 5, 21, 16)]),
        ([(30, 20, 40, 30)], (4, 5, 20, 15), 255, [(30, 20, 40, 30), (4, 5, 21, 16)]),
        ([(0, 0, 40, 30)], (4, 5, 20, 15), 0, None),
        ([(4, 5, 10, 9), (12, 20, 14, 22)], None, 0, [(4, 5, 14, 22)]),
    ],
)
def test_a_rectangle(before: Boxes, line: tuple | None, level: int, after: Boxes | None) -> None:
    """Around the line that was painted or erased last; around everything without one."""
    painted = mask(*before)
    if line:
        ImageDraw.Draw(painted).line(line, level)
    expected = mask(*(after if after is not None else before))
    if after is None and line:
        expected.paste(0, (line[0], line[1], line[2] + 1, line[3] + 1))
    assert boxed(painted, mask(*before)).tobytes() == expected.tobytes()


def painting(painted: Any, states: Any) -> Painting:
    return Painting("", "", CaptionSession(), "", [], painted, states)


def test_nothing_painted() -> None:
    with pytest.raises(UserError, match="Nothing is painted"):
        boxed(mask(), mask())
    for painted in (None, {}, {"layers": []}):
        with pytest.raises(UserError, match="did not arrive"):
            _ = painting(painted, (mask(), mask(), None)).mask
    assert not changed(mask(), mask()) and changed(mask((1, 1, 2, 2)), mask())


def test_a_browser_that_does_not_show_the_newest_yet() -> None:
    """Where it sends what a button took the place of, the button's mask counts."""
    line, box, more = (
        mask((1, 1, 30, 3)),
        mask((1, 1, 30, 20)),
        mask((1, 1, 30, 20), (32, 1, 35, 9)),
    )
    for sent, counts in ((line, box), (box, box), (more, more)):
        assert painting({"layers": [sent]}, (mask(), box, line)).mask.tobytes() == counts.tobytes()
    assert painting({"layers": [line]}, (mask(), box, None)).mask.tobytes() == line.tobytes()


def test_a_layer_is_read_as_a_mask(tmp_path: Path) -> None:
    layer = Image.new("RGBA", SIZE, (*PAINT, 0))
    layer.paste((*PAINT, OPACITY - 1), (0, 0, 20, 30))
    layer.save(tmp_path / "layer.png")
    data = FileData(path=str(tmp_path / "layer.png"))
    found = as_mask(None, data)  # type: ignore[arg-type]
    assert found is not None and found.tobytes() == mask((0, 0, 20, 30)).tobytes()
    (tmp_path / "layer.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert as_mask(None, data) is None and as_mask(None, data, True) is None  # type: ignore[arg-type]


def test_masks_are_replaced_removed_and_undone(tmp_path: Path) -> None:
    """The old mask comes back, wherever it lay and whatever it was called."""
    images = made(tmp_path, {"a": "a cat", "b": "b"})
    (images.path / "masks").mkdir()
    (images.path / "masks" / "0001-a.png").write_bytes(as_png(mask((0, 0, 9, 9))))
    first = tree(images.path)
    for new in (as_png(mask((0, 0, 20, 20))), None):
        change_mask(images, "0001-a.png", new)
        entries = scan_image_set(images.path).entries
        assert len(entries) == 2 and (entries[0].mask is not None) == bool(new)
        assert new is None or (entries[0].mask and entries[0].mask.read() == new)
    assert [one.what for one in history(images)] == ["mask of 0001-a.png", "no mask for 0001-a.png"]
    assert undo(images) == "Undone: no mask for 0001-a.png."
    assert (images.path / "0001-a.mask.png").read_bytes() == as_png(mask((0, 0, 20, 20)))
    undo(images)
    back = scan_image_set(images.path).entries[0].mask
    assert back and back.read() == first["masks/0001-a.png"]
    remove_picture(images, "0001-a.png")
    assert undo(images) == "0001-a.png is back."
    assert scan_image_set(images.path).entries[0].mask


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Masking:
    """Two pictures of a disc, which are read only; what a whole tab shows is left out."""
    pixels = np.random.default_rng(0).integers(0, 90, (120, 200, 3))
    rows, columns = np.mgrid[:120, :200]
    pixels[(rows - 60) ** 2 + (columns - 120) ** 2 < 30**2] += 150
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    put(tmp_path / "datasets", {f"discs/{name}.png": stream.getvalue() for name in "ab"})
    monkeypatch.setattr(places, "DATASETS", tmp_path / "datasets")
    monkeypatch.setattr("app.tabs.images.masking.get_upload_folder", lambda: str(tmp_path))
    monkeypatch.setattr(service, "call", lambda verb, asked, _, tell, __: propose_mask(asked, tell))
    return Masking(MagicMock(), lambda *_: {})


def masks_in(name: str) -> dict[str, float]:
    """How much of each picture of a set counts."""
    entries = scan_image_set(find_set(places.DATASETS, name).path).entries
    return {
        one.name: round(float(np.asarray(Image.open(one.mask.path)).mean()) / 255, 2)
        for one in entries
        if one.mask
    }


def test_a_subject_is_found_and_saved_in_a_copy(room: Masking) -> None:
    """GrabCut looks in the box of what was painted; a set that is read only is copied."""
    m, session = room.parts.mask, CaptionSession()
    shown: dict[Any, Any] = room.open("discs", "a.png", session, "sd15")
    assert shown[m.about] == ["discs", "a.png"]
    line = Image.new("L", (200, 120))
    ImageDraw.Draw(line).line((85, 25, 155, 95), 255)
    here: Any = ("discs", "a.png", session, "sd15")
    given: Any = (*here, shown[m.about], {"layers": [line]}, shown[m.states], 0.0)
    found: dict[Any, Any] = {}
    find: Any = room.find
    for step in find(*given, "grabcut", ""):
        found |= step
    assert "12% of the picture" in found[m.status] or "11% of the picture" in found[m.status]
    states: Any = found[m.states]
    saved: dict[Any, Any] = room.save(
        *(*here, found[m.about], {"layers": [states[1]]}, states, 0.0)
    )
    copy, name = saved[m.about]
    assert copy != "discs" and name == "a.png" and not masks_in("discs")
    assert masks_in(copy) == {"a.png": pytest.approx(0.12, abs=0.02)}
    refused: dict[Any, Any] = {}
    for step in find(*given, "alpha", ""):
        refused |= step
    assert "no transparency" in refused[m.status] and m.editor not in refused


@pytest.mark.parametrize(("painted", "kept"), [(True, True), (False, False)])
def test_what_was_painted_is_saved_on_the_way_to_another_picture(
    painted: bool, kept: bool, room: Masking
) -> None:
    m, session = room.parts.mask, CaptionSession()
    shown: dict[Any, Any] = room.open("discs", "a.png", session, "sd15")
    layer = Image.new("L", (200, 120))
    if painted:
        layer.paste(255, (0, 0, 100, 120))
    values: Any = (shown[m.about], {"layers": [layer]}, shown[m.states], 0.0)
    same = room.follow("discs", "a.png", session, "sd15", *values)
    assert set(same) == {m.status}
    assert leave("discs", "a.png", shown[m.about]) == gr.skip() == leave("discs", "a.png", [])
    assert "Opening the mask of b.png" in str(leave("discs", "b.png", shown[m.about]))
    after: dict[Any, Any] = room.follow("discs", "b.png", session, "sd15", *values)
    assert ("saved as well" in after[m.status]) == kept
    sets = [one.name for one in places.DATASETS.iterdir() if one.is_dir() and one.name[0] != "."]
    assert len(sets) == 1 + kept
    shown_now = next(iter(set(sets) - {"discs"}), "discs")
    assert after[m.about] == [shown_now, "b.png"]
    assert masks_in(shown_now) == ({"a.png": 0.5} if kept else {})
