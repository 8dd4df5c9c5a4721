"""How a picture is seen: closer, elsewhere, around its mask."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from app.tabs.images.edits import change_mask, set_focus
from app.tabs.images.framing import around, middle_of, moved, zoom_of, zoomed
from app.tabs.images.setview import look_at
from app.tabs.images.thumbnails import box_of, place_in, thumbnails
from tests.app.sets_for_tests import made
from trainer.captioning.masks import as_png
from trainer.data.buckets import WHOLE, Focus
from trainer.data.sets import scan_image_set
from trainer.errors import UserError

BOX = (0.2, 0.2, 0.6, 0.4)


@pytest.mark.parametrize(
    ("focus", "place", "after"),
    [
        (Focus(), (0.1, 0.9), Focus(0.1, 0.9)),
        (Focus(0.1, 0.1, 3, True), (0.4, 0.5), Focus(0.4, 0.5, 3, True)),
        (Focus(0.1, 0.1, box=BOX), (0.5, 0.5), Focus(box=(0.3, 0.4, 0.7, 0.6))),
        (Focus(box=BOX), (0.0, 1.0), Focus(box=(0.0, 0.8, 0.4, 1.0))),
    ],
)
def test_moved(focus: Focus, place: tuple[float, float], after: Focus) -> None:
    found = moved(focus, *place)
    assert found[:4] == after[:4] and found.box == pytest.approx(after.box)


@pytest.mark.parametrize("times", [1.0, 1.5, 4.0])
@pytest.mark.parametrize(
    "focus", [Focus(), Focus(0.5, 0.4, 1, True), Focus(box=(0.3, 0.3, 0.7, 0.7))]
)
def test_zoomed(focus: Focus, times: float) -> None:
    """Around the same place, within the picture; the slider shows what it was moved to."""
    found = zoomed(focus, times)
    assert zoom_of(found) == times and found[2:4] == focus[2:4]
    assert (found.box == WHOLE) == (times == 1)
    assert min(found.box) >= 0 and max(found.box) <= 1
    if times > 2:
        assert middle_of(found) == pytest.approx(middle_of(focus))


def test_around_a_mask(tmp_path: Path) -> None:
    """As the picture is turned now, with a margin; what is shown is what is cut to."""
    images = made(tmp_path, {"a": "a cat", "b": "b"})
    name = "0001-a.png"
    Image.effect_noise((480, 320), 50).save(images.path / name)
    size = scan_image_set(images.path).entries[0].size
    mask = Image.new("L", size)
    quarter = (size[0] // 4, size[1] // 4)
    mask.paste(255, (0, 0, *quarter))
    change_mask(images, name, as_png(mask))
    set_focus(images, name, Focus(turns=1))
    picture, other = look_at(images, "sd15").pictures
    left, top, right, bottom = around(picture)
    assert (right, top) == (1.0, 0.0) and 0.7 < left < 0.75 and 0.25 < bottom < 0.3
    with pytest.raises(UserError, match="no mask"):
        around(other)
    set_focus(images, name, Focus(turns=1, box=(left, top, right, bottom)))
    picture = look_at(images, "sd15").pictures[0]
    assert picture.crop and picture.crop.turns == 1
    shown = Image.open(thumbnails([picture])[0])
    assert shown.size == size[::-1]
    box = box_of(picture.crop, *shown.size)
    assert box[0] >= round(left * shown.width) - 1 and box[3] <= round(bottom * shown.height) + 1
    assert place_in(picture, shown.width, 0) == (1.0, 0.0)
