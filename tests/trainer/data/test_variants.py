"""Versions of a picture: other crops, rotations and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.corpus.pictures import pattern
from tests.trainer.data.folders_for_tests import picture, put
from trainer.config.schema import ImagesConfig
from trainer.data.buckets import CropPlan, crop_facts, plan_crop
from trainer.data.fitting import fit
from trainer.data.report import fit_pictures
from trainer.data.sets import Picture, scan_image_set
from trainer.data.variants import variant_choice, variants_of

ALL = {"random_crop": 0.3, "rotation": 10.0, "brightness": 0.2, "hue": 30.0}


def images(**values: Any) -> ImagesConfig:
    return ImagesConfig.model_validate({"resolution": 64, **values})


@pytest.fixture
def shown(tmp_path: Path) -> Picture:
    """128 x 96 pixels, of which 64 x 64 or so are trained on."""
    folder = put(tmp_path, {"a.png": picture(1, width=128, height=96)})
    return fit_pictures(scan_image_set(folder), images(), 32).fitted[0]


@pytest.mark.parametrize("one", ALL)
def test_each_kind_changes_what_it_says_and_nothing_else(one: str, shown: Picture) -> None:
    first, *others = (
        picture.crop for picture in variants_of(shown, images(**{one: ALL[one]}), seed=1)
    )
    assert (first, len(others)) == (shown.crop, 7)
    plain_facts = crop_facts(first)
    for crop in others:
        assert crop.size == first.size
        changed = {key for key, value in crop_facts(crop).items() if plain_facts.get(key) != value}
        cut = {"resize_width", "resize_height", "left", "top"}
        assert changed and changed <= ({one} if one != "random_crop" else cut)
        assert 0 <= crop.left <= crop.resize_width - crop.width
        assert 0 <= crop.top <= crop.resize_height - crop.height
        assert crop.resize_width <= 128 and crop.resize_height <= 96
        assert first.resize_width / crop.resize_width > 0.7 - 0.02
        assert abs(crop.rotation) <= 10 and 0.8 <= crop.brightness <= 1.2 and abs(crop.hue) <= 30
    assert len(set(others)) == 7


def test_versions_depend_on_seed_and_picture_alone(shown: Picture) -> None:
    config = images(**ALL, variants=5)
    assert variants_of(shown, config, 1) == variants_of(shown, config, 1)
    assert len(variants_of(shown, config, 1)) == 5
    assert variants_of(shown, config, 1)[1:] != variants_of(shown, config, 2)[1:]
    assert variants_of(shown, images(), 1) == [shown]
    chosen = [variant_choice(1, step, "a", 4) for step in range(200)]
    assert chosen == [variant_choice(1, step, "a", 4) for step in range(200)]
    assert set(chosen) == {0, 1, 2, 3}


def test_keys_of_plain_cuts_are_those_of_before() -> None:
    plan = plan_crop(128, 96, 64, 32, buckets=True, upscale=False)
    assert list(crop_facts(plan)) == [
        "resize_width", "resize_height", "left", "top", "width", "height",
    ]  # fmt: skip


PLAN = {"resize_width": 64, "resize_height": 64, "left": 0, "top": 0, "width": 64, "height": 64}


@pytest.mark.parametrize("degrees", [-45.0, -7.0, 3.0, 45.0])
@pytest.mark.parametrize("size", [(100, 100), (200, 60), (61, 150)])
def test_rotation_leaves_no_empty_corner(degrees: float, size: tuple[int, int]) -> None:
    white = Image.new("RGB", size, "white")
    assert fit(white, CropPlan(**PLAN, rotation=degrees), False).min() >= 254


def test_rotation_turns_picture_and_mask_alike() -> None:
    grey = pattern(100, 80).convert("L")
    plan = CropPlan(**PLAN, rotation=20.0, brightness=0.5, hue=90.0)
    mask = fit(grey, plan, True)
    picture = fit(Image.merge("RGB", (grey,) * 3), CropPlan(**PLAN, rotation=20.0), True)
    assert np.array_equal(mask, picture[..., 0])
    assert not np.array_equal(mask, fit(grey, CropPlan(**PLAN), True))


@pytest.mark.parametrize(
    ("colour", "changes", "expected"),
    [
        ((100, 50, 20), {"brightness": 1.5}, (150, 75, 30)),
        ((255, 0, 0), {"hue": 120.0}, (0, 255, 0)),
        ((0, 0, 255), {"hue": -120.0}, (0, 255, 0)),
        ((90, 90, 90), {"hue": 77.0}, (90, 90, 90)),
    ],
)
def test_colours(
    colour: tuple[int, int, int], changes: dict[str, float], expected: tuple[int, int, int]
) -> None:
    found = fit(Image.new("RGB", (64, 64), colour), CropPlan(**PLAN, **changes), False)  # type: ignore[arg-type]
    assert np.abs(found.astype(int) - expected).max() <= 6


def test_a_version_without_what_counts_is_left_as_it_was(tmp_path: Path) -> None:
    mask = Image.new("L", (256, 64), 0)
    mask.paste(255, (124, 0, 132, 64))  # in the very middle alone
    mask.save(tmp_path / "a.mask.png")
    put(tmp_path, {"a.png": picture(1, width=256, height=64)})
    config = images(masks="files", random_crop=0.5, buckets=False, variants=64, resolution=32)
    (shown,) = fit_pictures(scan_image_set(tmp_path), config, 32).fitted
    found = variants_of(shown, config, 1)
    unmasked = variants_of(shown, config.model_copy(update={"masks": "none"}), 1)
    assert found.count(shown) > 1 == unmasked.count(shown)
    assert any(one != shown for one in found)
