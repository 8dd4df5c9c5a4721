"""Masks: found by their names, fitted as their pictures are, averaged over latents."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.data.folders_for_tests import about, picture, put
from trainer.config.schema import CaptionsConfig, ImagesConfig
from trainer.data.buckets import CropPlan, plan_crop
from trainer.data.findings import ImageProblem
from trainer.data.images import load_alpha, load_grey, load_rgb
from trainer.data.masks import ALL_WHITE, fit, fit_mask, judge_mask, latent_mask
from trainer.data.report import describe_set
from trainer.data.sets import ImageEntry, scan_image_set

FILES = ImagesConfig.model_validate({"masks": "files", "resolution": 64})
ALPHA = ImagesConfig.model_validate({"masks": "alpha"})


def png(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def grey(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Black, with a white box (left, top, right, bottom)."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return pixels


def scanned(folder: Path, files: Mapping[str, bytes | str]) -> dict[str, ImageEntry]:
    return {entry.name: entry for entry in scan_image_set(put(folder, files)).entries}


MASK = png(grey(96, 64, (0, 0, 48, 64)))


def test_a_broken_mask_is_named_and_not_used(tmp_path: Path) -> None:
    folder = put(tmp_path, {"a.png": picture(1), "a.mask.png": b"no picture"})
    image_set = scan_image_set(folder)
    assert image_set.entries[0].mask is None
    assert about(image_set, "a.mask.png", "mask cannot be used")


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("width", "height", "buckets"), [(96, 64, True), (100, 61, False), (64, 130, True)]
)
def test_a_mask_is_cut_exactly_as_its_picture(
    width: int, height: int, buckets: bool, flip: bool
) -> None:
    """A picture that is its own mask: what is left of both is the same, but for the resampling."""
    pixels = grey(width, height, (width // 4, height // 8, width // 2, height - height // 8))
    shown = load_rgb(png(np.repeat(pixels[..., None], 3, axis=2)))
    crop = plan_crop(width, height, 64, 16, buckets, False)
    mask = fit_mask(load_grey(png(pixels)), crop, flip)
    fitted = fit(shown, crop, flip)[..., 0]
    assert mask.shape == fitted.shape == (crop.height, crop.width)
    unlike = (mask > 127) != (fitted > 127)
    assert unlike.mean() < 0.02
    assert 0.1 < (mask > 127).mean() < 0.6


def test_latents_get_the_mean_of_their_pixels(tmp_path: Path) -> None:
    mask = grey(32, 16, (0, 0, 6, 16))
    entries = scanned(tmp_path, {"a.png": picture(1, width=32, height=16), "a.mask.png": png(mask)})
    crop = CropPlan(32, 16, 0, 0, 32, 16)
    weights = latent_mask(entries["a.png"], FILES, crop, False, 4)
    assert weights is not None
    assert weights.dtype == np.float32
    expected = np.array([[1, 0.5, 0, 0, 0, 0, 0, 0]] * 4, dtype=np.float32)
    assert np.array_equal(weights, expected)
    mirrored = latent_mask(entries["a.png"], FILES, crop, True, 4)
    assert mirrored is not None
    assert np.array_equal(mirrored, expected[:, ::-1])
    cut = latent_mask(entries["a.png"], FILES, CropPlan(32, 16, 4, 0, 16, 16), False, 4)
    assert cut is not None
    assert np.array_equal(cut, expected[:, 1:5])
    assert latent_mask(entries["a.png"], ALPHA, crop, False, 4) is None
    assert latent_mask(entries["a.png"], ImagesConfig(), crop, False, 4) is None


def test_alpha_is_a_mask_and_turns_with_the_picture(tmp_path: Path) -> None:
    pixels = np.full((16, 32, 4), 200, dtype=np.uint8)
    pixels[..., 3] = grey(32, 16, (0, 0, 16, 16))
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn clockwise: the left half becomes the upper one
    entries = scanned(tmp_path, {"a.png": png(pixels), "b.png": png(pixels, exif=turned)})
    upright = latent_mask(entries["a.png"], ALPHA, CropPlan(32, 16, 0, 0, 32, 16), False, 8)
    assert upright is not None
    assert upright.tolist() == [[1, 1, 0, 0]] * 2
    crop = CropPlan(16, 32, 0, 0, 16, 32)
    rotated = latent_mask(entries["b.png"], ALPHA, crop, False, 8)
    assert rotated is not None
    assert rotated.tolist() == [[1, 1]] * 2 + [[0, 0]] * 2
    assert load_alpha(picture(1)) is None


def test_transparent_parts_of_a_mask_file_do_not_count() -> None:
    pixels = np.full((4, 4, 4), 255, dtype=np.uint8)
    pixels[:, :2, 3] = 0
    assert np.array_equal(np.asarray(load_grey(png(pixels)))[0], [0, 0, 255, 255])


BOX = grey(96, 64, (8, 8, 56, 56))
# Pixels of a mask; what is said of it, or why the picture is left out; and what of BOX it is.
JUDGED: dict[str, tuple[np.ndarray, str, float | None]] = {
    "ordinary": (BOX, "", 1.0),
    "half": (BOX // 2 + grey(96, 64, (56, 8, 60, 56)), "", 0.5),
    "0 and 1": (BOX // 255, "one dark level", 1.0),
    "0 and 5": (BOX // 51, "one dark level", 1.0),
    "colours of classes": (
        BOX[..., None] // 255 * np.array([128, 0, 0], np.uint8),
        "one dark level",
        1.0,
    ),
    "several classes": (BOX // 255 + grey(96, 64, (56, 8, 60, 56)) // 127, "nearly nothing", None),
    "three everywhere": (np.full_like(BOX, 3), "nearly nothing", None),
    "a dot": (grey(96, 64, (8, 8, 11, 11)), "nearly nothing", None),
    "white": (np.full_like(BOX, 255), "change nothing", None),
    "in its transparency": (
        np.dstack([np.zeros_like(BOX)] * 3 + [BOX]),
        "shape in its transparency",
        1.0,
    ),
    "black": (np.zeros_like(BOX), "black all over", None),
    "opaque black": (np.full((64, 96, 4), [0, 0, 0, 255], np.uint8), "black all over", None),
    "another shape": (BOX.T.copy(), "another shape", None),
    "smaller": (BOX[::2, ::2], "", 1.0),
}


@pytest.mark.parametrize("kind", JUDGED)
def test_masks_that_cannot_be_meant_are_said_or_mended(kind: str, tmp_path: Path) -> None:
    pixels, said, share = JUDGED[kind]
    files = {"a.png": picture(1), "a.mask.png": png(pixels), "b.png": picture(2)}
    files["b.mask.png"] = files["a.mask.png"]
    image_set = scan_image_set(put(tmp_path, files))
    report = describe_set(image_set, FILES, CaptionsConfig(), step=16)
    own = [one.message for one in report.findings if "ask" in one.message and one.pictures]
    own = [one for one in own if not one.startswith(("Masks of", "By its name"))]
    assert [said in one for one in own] == [True] * bool(said)
    if share is not None:
        crop = CropPlan(96, 64, 0, 0, 96, 64)
        weights = latent_mask(report.fitted[0].entry, FILES, crop, False, 8)
        assert weights is not None
        assert weights[4, 4] == pytest.approx(share, abs=0.01)


def test_one_white_mask_among_others_is_ordinary(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "a.mask.png": MASK, "b.png": picture(2)}
    entries = scanned(tmp_path, files | {"b.mask.png": png(np.full((64, 96), 255, np.uint8))})
    crop = plan_crop(96, 64, 64, 16, True, False)
    assert judge_mask(entries["b.png"], FILES, crop) == (ALL_WHITE,)
    assert judge_mask(entries["b.png"], ImagesConfig(), crop) == ()
    report = describe_set(scan_image_set(tmp_path), FILES, CaptionsConfig(), step=16)
    assert not [one for one in report.findings if one.message == ALL_WHITE]


def test_a_mask_that_changes_is_noticed(tmp_path: Path) -> None:
    entries = scanned(tmp_path, {"a.png": picture(1), "a.mask.png": MASK})
    (tmp_path / "a.mask.png").write_bytes(png(grey(96, 64, (0, 0, 10, 10))))
    mask = entries["a.png"].mask
    assert mask is not None
    with pytest.raises(ImageProblem, match="changed"):
        mask.read()
