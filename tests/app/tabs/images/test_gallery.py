"""What stands under the pictures of a set."""

from __future__ import annotations

from pathlib import Path

from app.tabs.images import gallery
from app.tabs.images.setview import PictureView, look_at
from tests.app.sets_for_tests import made
from trainer.data.findings import Finding


def test_a_mark_is_for_what_is_so_of_this_picture(tmp_path: Path) -> None:
    """What holds of most pictures is said once; captions stand below."""
    set_wide, own = Finding("the set", "warning", "x"), Finding("2.png", "warning", "y")
    pictures = [
        PictureView(f"{n}.png", "", None, None, (set_wide, own) if n == 2 else (set_wide,), bytes)
        for n in range(4)
    ]
    labels = gallery.labels_of(pictures)
    assert labels[2] == "! no caption · 2.png" and labels[0] == "no caption · 0.png"
    folder = made(tmp_path, {"a": "a cat <b>\nanother of them", "b": "dog"})
    shown = look_at(folder, "tiny-emoji").pictures
    assert gallery.labels_of(shown) == ["a cat <b>", "dog"]
