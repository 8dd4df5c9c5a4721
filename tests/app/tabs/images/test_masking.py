"""Masks painted in the page: rectangles, unsaved painting, and undo."""

from __future__ import annotations

from pathlib import Path

import pytest
from gradio.data_classes import FileData
from PIL import Image, ImageDraw

from app.tabs.images.edits import change_mask, history, remove_picture, undo
from app.tabs.images.mask_parts import OPACITY, PAINT, as_mask
from app.tabs.images.masking import boxed, changed, layer_of
from tests.app.sets_for_tests import made, tree
from trainer.captioning.masks import as_png
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


def test_nothing_painted() -> None:
    with pytest.raises(UserError, match="Nothing is painted"):
        boxed(mask(), mask())
    for painted in (None, {}, {"layers": []}):
        with pytest.raises(UserError, match="did not arrive"):
            layer_of(painted, (mask(), mask(), None))
    assert not changed(mask(), mask()) and changed(mask((1, 1, 2, 2)), mask())


def test_a_browser_that_does_not_show_the_newest_yet() -> None:
    """Where it sends what a button took the place of, the button's mask counts."""
    line, box, more = (
        mask((1, 1, 30, 3)),
        mask((1, 1, 30, 20)),
        mask((1, 1, 30, 20), (32, 1, 35, 9)),
    )
    for sent, counts in ((line, box), (box, box), (more, more)):
        assert layer_of({"layers": [sent]}, (mask(), box, line)).tobytes() == counts.tobytes()
    assert layer_of({"layers": [line]}, (mask(), box, None)).tobytes() == line.tobytes()


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
