"""What is to be in the middle of a crop."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.data.folders_for_tests import about, picture, put
from trainer.config.schema import ImagesConfig
from trainer.data.buckets import Focus, plan_crop
from trainer.data.focus import write_focus
from trainer.data.report import fit_pictures
from trainer.data.sets import scan_image_set


@pytest.mark.parametrize(
    ("focus", "left"),
    [(None, 32), ((0.5, 0.5), 32), ((0.0, 0.5), 0), ((0.3, 0.9), 6), ((1.0, 0.0), 64)],
)
def test_the_crop_is_as_near_to_it_as_the_edges_let_it(focus: Focus | None, left: int) -> None:
    plan = plan_crop(128, 64, 64, 32, buckets=False, upscale=False, focus=focus)
    assert (plan.left, plan.top, plan.size) == (left, 0, (64, 64))


@pytest.mark.parametrize(
    ("files", "left", "doubt"),
    [
        ({}, 32, ""),
        ({"a.focus": "0 0.5\n"}, 0, ""),
        ({"a.png.focus": "1 1"}, 64, ""),
        ({"A.FOCUS": "\ufeff0.3  0.9"}, 6, ""),
        ({"a.focus": "50 50"}, 32, "from 0 to 1"),
        ({"a.focus": "nan 0"}, 32, "from 0 to 1"),
        ({"a.focus": "left"}, 32, "from 0 to 1"),
        ({"a.focus": b"\xff" * 999}, 32, "from 0 to 1"),
        ({"b.focus": "0 0"}, 32, "none beside it"),
    ],
)
def test_it_stands_in_a_file_beside_the_picture(
    files: dict[str, bytes | str], left: int, doubt: str, tmp_path: Path
) -> None:
    image_set = scan_image_set(put(tmp_path, {"a.png": picture(1, width=128, height=64), **files}))
    images = ImagesConfig.model_validate({"resolution": 64, "buckets": False})
    (shown,) = fit_pictures(image_set, images, 32).fitted
    assert shown.crop.left == left
    for name in files:
        found = about(image_set, name, doubt) if doubt else about(image_set, name)
        assert len(found) == bool(doubt)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": picture(1)})
    write_focus(tmp_path / "a.png", (0.25, 1.0))
    assert scan_image_set(tmp_path).entries[0].focus == (0.25, 1.0)
    write_focus(tmp_path / "a.png", None)
    write_focus(tmp_path / "a.png", None)
    assert scan_image_set(tmp_path).entries[0].focus is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
