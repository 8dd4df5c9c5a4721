"""``mask``: from transparency and from a plain background; nothing there is replaced."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.trainer.data.folders_for_tests import picture, put
from trainer.captioning.masks import mask_of
from trainer.commands.cli import main
from trainer.data.sets import scan_image_set


def drawn(kind: str, size: tuple[int, int] = (200, 120)) -> bytes:
    """A ring on blue, or on nothing; or all of one colour."""
    ground = (0, 0, 0, 0) if kind == "alpha" else (20, 40, 220, 255)
    image = Image.new("RGBA", size, ground)
    if kind != "empty":
        box = (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4)
        ImageDraw.Draw(image).ellipse(box, fill=None, outline=(250, 250, 0, 255), width=12)
    stream = io.BytesIO()
    (image if kind == "alpha" else image.convert("RGB")).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "alpha.png": drawn("alpha"), "plain.png": drawn("plain"), "empty.png": drawn("empty"),
        "noise.png": picture(1), "large.png": drawn("plain", (1500, 900)),
        "masked.png": picture(2), "masked.mask.png": picture(3),
    }  # fmt: skip
    return put(tmp_path / "set", files)


def ask(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    capsys.readouterr()
    assert main(["mask", str(folder), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("source", "masks", "problems"),
    [
        ("alpha", {"alpha.png"}, {"plain.png": "no transparency"}),
        (
            "background",
            {"alpha.png", "plain.png", "large.png"},
            {"noise.png": "several colours", "empty.png": "hardly anything"},
        ),
    ],
)
def test_masks_are_proposed_written_and_read(
    source: str,
    masks: set[str],
    problems: dict[str, str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    found = ask(folder, capsys, "--from", source)
    assert {one["picture"] for one in found["masks"]} == masks and found["kept"] == 1
    assert all(words in found["problems"][name] for name, words in problems.items())
    assert sorted(path.name for path in folder.iterdir()) == before and not found["written"]
    mask = (folder / "masked.mask.png").read_bytes()
    written = ask(folder, capsys, "--from", source, "--write")["written"]
    assert set(written) == {name.replace(".png", ".mask.png") for name in masks}
    assert (folder / "masked.mask.png").read_bytes() == mask
    entries = scan_image_set(folder).entries
    assert {entry.name for entry in entries if entry.mask} == masks | {"masked.png"}
    assert ask(folder, capsys, "--from", source, "--write")["written"] == []


def test_what_is_within_the_subject_belongs_to_it(folder: Path) -> None:
    """A ring on blue: its middle is blue as well."""
    entries = {entry.name: entry for entry in scan_image_set(folder).entries}
    for name in ("plain.png", "large.png"):
        mask = mask_of(entries[name], "background")
        width, height = mask.size
        assert mask.size == (entries[name].header.width, entries[name].header.height)
        assert mask.getpixel((width // 2, height // 2)) == 255 and mask.getpixel((2, 2)) == 0
    alpha = mask_of(entries["alpha.png"], "alpha")
    assert alpha.getpixel((100, 60)) == 0 and alpha.getpixel((100, 35)) == 255
    soft = np.asarray(mask_of(entries["plain.png"], "background", 0.03))
    assert len(np.unique(soft)) > 20


@pytest.mark.parametrize("soft", ["-1", "0.5", "nan"])
def test_a_wrong_edge(soft: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mask", str(folder), "--soft", soft]) == 2
    assert "--soft" in capsys.readouterr().err
