"""``mask``: without a model and by local ones; nothing that is there is replaced."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.trainer.captioning.test_onnx_models import remover
from tests.trainer.commands.asking import asked
from tests.trainer.data.folders_for_tests import picture, put
from trainer.captioning.masks import Box, in_box, mask_of, propose_mask, softened
from trainer.commands.cli import main
from trainer.data.findings import ImageProblem
from trainer.data.sets import scan_image_set
from trainer.errors import UserError
from trainer.places import MASKERS


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
    found = asked(capsys, "mask", folder, "--from", source)
    assert {one["picture"] for one in found["masks"]} == masks and found["kept"] == 1
    assert all(words in found["problems"][name] for name, words in problems.items())
    assert sorted(path.name for path in folder.iterdir()) == before and not found["written"]
    mask = (folder / "masked.mask.png").read_bytes()
    written = asked(capsys, "mask", folder, "--from", source, "--write")["written"]
    assert set(written) == {name.replace(".png", ".mask.png") for name in masks}
    assert (folder / "masked.mask.png").read_bytes() == mask
    entries = scan_image_set(folder).entries
    assert {entry.name for entry in entries if entry.mask} == masks | {"masked.png"}
    assert asked(capsys, "mask", folder, "--from", source, "--write")["written"] == []


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
    mask = mask_of(entries["plain.png"], "background")
    assert softened(mask, 0.05) == mask.filter(ImageFilter.GaussianBlur(6))


ROWS, COLUMNS = np.mgrid[:120, :200]
DISC = (ROWS - 60) ** 2 + (COLUMNS - 120) ** 2 < 30**2


def noisy() -> np.ndarray:
    """A disc of one noise on another."""
    pixels = np.random.default_rng(0).integers(0, 90, (120, 200, 3))
    pixels[DISC] += 150
    return pixels.astype(np.uint8)


@pytest.mark.parametrize("box", [(0.4, 0.2, 0.8, 0.8), (0.03, 0.03, 0.97, 0.97)])
def test_grabcut_finds_what_differs_in_a_box(box: Box) -> None:
    found = in_box(noisy(), box)
    assert (found == DISC).mean() > 0.97
    assert np.array_equal(found, in_box(noisy(), box))


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.5, 0.5, 0.5, 0.9)])
def test_a_box_without_sense(box: Box) -> None:
    with pytest.raises(ImageProblem):
        in_box(noisy(), box)


WRONG_BOXES = ("1 2 3", "0.9 0 0.1 1", "-1 0 1 1", "a b c d", "nan 0 1 1")
MISTAKES: list[tuple[list[str], str]] = [
    *((["--soft", soft], "--soft") for soft in ("-1", "0.5", "nan")),
    *((["--from", "grabcut", "--box", box], "0.2 0.1 0.8 0.9") for box in WRONG_BOXES),
    (["--text", "dog"], "--model"),
    (["--from", "alpha", "--box", "0 0 1 1"], "--model"),
    (["--picture", "c.png"], "no such picture"),
    (["--model", "none.onnx"], "no model"),
]


@pytest.mark.parametrize(("given", "said"), MISTAKES)
def test_mistakes(
    given: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mask", str(folder), *given]) == 2
    assert said in capsys.readouterr().err


def test_masks_by_a_model_for_some_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    Image.fromarray(noisy()).save(stream, "PNG")
    images = put(tmp_path / "set", {"a.png": stream.getvalue(), "b.png": stream.getvalue()})
    model = remover(tmp_path / "models" / "red.onnx", 0.5)
    found = asked(capsys, "mask", images, "--model", str(model), "--picture", "a.png", "--write")
    assert found["written"] == ["a.mask.png"] and len(found["masks"]) == 1
    mask = np.asarray(Image.open(images / "a.mask.png"))
    assert mask[60, 120] > 150 > mask[10, 10]
    grabcut = ("mask", images, "--from", "grabcut", "--box", "0.4 0.2 0.8 0.8", "--write")
    (images / "b.mask.png").write_bytes(b"damaged")
    assert "is there already" in asked(capsys, *grabcut)["problems"]["b.png"]
    (images / "b.mask.png").unlink()
    found = asked(capsys, *grabcut)
    assert found["written"] == ["b.mask.png"] and found["kept"] == 1
    # The page names models, and no paths.
    values = {"folder": str(images), "picture": "a.png", "text": "", "box": None}
    assert 0 < propose_mask({**values, "source": "grabcut"})["covers"] < 1
    with pytest.raises(UserError, match="no model"):
        propose_mask({**values, "source": f"model {model}"})
    monkeypatch.setattr("trainer.places.MASKERS", model.parent)
    assert model.parent != MASKERS
    assert 0 < propose_mask({**values, "source": "model red.onnx"})["covers"] < 1
