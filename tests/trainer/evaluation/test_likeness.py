"""Likeness is zero for the base model, and one for a model that knows the pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.evaluation.test_drift import DEVICE, adapted, move, on_device
from tests.trainer.runs_for_tests import make_images
from trainer.config.schema import ImagesConfig, ObjectiveConfig
from trainer.data.cache import TensorCache
from trainer.data.latents import LatentSource, MaskSource
from trainer.data.report import fit_pictures
from trainer.data.sets import Picture, scan_image_set
from trainer.evaluation import likeness as likeness_module
from trainer.evaluation.likeness import Example, Losses, likeness, make_examples, measure_losses
from trainer.models.base import BaseModel


def pictures_of(base: BaseModel, folder: Path) -> tuple[list[Picture], LatentSource]:
    image_set = scan_image_set(make_images(folder, side=64))
    found = fit_pictures(image_set, ImagesConfig(resolution=64), base.resolution_step).fitted
    return found, LatentSource(base, TensorCache(folder / "cache", print), "#ffffff")


def examples_of(base: BaseModel, folder: Path) -> list[Example]:
    pictures, latents = pictures_of(base, folder)
    pairs = [(picture, f"ohwx, picture {number}") for number, picture in enumerate(pictures)]
    return make_examples(base, pairs, latents, ObjectiveConfig(), timesteps=2)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_fresh_adapter_is_no_better_than_the_base(
    tiny_base: TinyBase, tmp_path: Path, name: str
) -> None:
    base = on_device(tiny_base(name))
    examples = examples_of(base, tmp_path)
    assert len(examples) == 2  # square and wide
    before = measure_losses(base, examples, DEVICE)
    assert before.weighted > 0
    attachment = adapted(base)
    assert likeness(measure_losses(base, examples, DEVICE), before) == 0.0
    move(attachment)
    assert likeness(measure_losses(base, examples, DEVICE), before) != 0.0


@pytest.mark.parametrize("name", ["sd1", "sd2-v"])
def test_a_perfect_model_has_no_loss(
    tiny_base: TinyBase, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of the model: noise for one, velocity for the other."""
    base = on_device(tiny_base(name))
    examples = examples_of(base, tmp_path)
    before = measure_losses(base, examples, DEVICE)
    answers = {id(example.points): example.wanted for example in examples}
    monkeypatch.setattr(likeness_module, "predict", lambda _, points, __: answers[id(points)])
    after = measure_losses(base, examples, DEVICE)
    assert after.weighted == 0.0
    assert likeness(after, before) == 1.0


def test_points_belong_to_the_picture_not_to_its_company(
    tiny_base: TinyBase, tmp_path: Path
) -> None:
    base = on_device(tiny_base("sd1"))
    pictures, latents = pictures_of(base, tmp_path)
    objective = ObjectiveConfig()
    one, other = (pictures[0], "b"), (pictures[1], "a")
    (alone,) = make_examples(base, [other], latents, objective, timesteps=2)
    (together,) = make_examples(base, [one, other], latents, objective, timesteps=2)
    assert torch.equal(alone.points.noised, together.points.noised[2:])


def test_only_what_the_mask_shows_counts(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = on_device(tiny_base("sd1"))
    folder = make_images(tmp_path, side=64)
    for picture in sorted(folder.glob("*.png")):
        with Image.open(picture) as opened:
            mask = Image.new("L", opened.size)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        mask.save(picture.with_suffix(".mask.png"))
    config = ImagesConfig(resolution=64, masks="files", mask_outside=0.0)
    pictures = fit_pictures(scan_image_set(folder), config, base.resolution_step).fitted
    latents = LatentSource(base, TensorCache(tmp_path / "cache", print), "#ffffff")
    masks = MaskSource(config, base.vae_scale_factor)
    pairs, objective = [(picture, "ohwx") for picture in pictures], ObjectiveConfig()
    examples = make_examples(base, pairs, latents, objective, masks=masks)
    answers = {id(example.points): example.wanted.clone() for example in examples}
    for answer in answers.values():
        answer[..., answer.shape[-1] // 2 :] += 1  # wrong, on the black side
    monkeypatch.setattr(likeness_module, "predict", lambda _, points, __: answers[id(points)])
    assert measure_losses(base, examples, DEVICE).weighted == 0.0
    whole = make_examples(base, pairs, latents, objective)
    answers |= {
        id(one.points): answers[id(other.points)]
        for one, other in zip(whole, examples, strict=True)
    }
    assert measure_losses(base, whole, DEVICE).weighted > 0.0


@pytest.mark.parametrize(
    ("adapted_errors", "base_errors", "expected"),
    [
        ([0.5, 0.5], [0.5, 0.5], 0.0),
        ([0.25, 0.005], [0.5, 0.01], 0.5),  # every noise level counts the same
        ([0.5, 0.02], [0.5, 0.01], -0.5),
    ],
)
def test_likeness_is_a_mean_of_shares(
    adapted_errors: list[float], base_errors: list[float], expected: float
) -> None:
    value = likeness(Losses(0, torch.tensor(adapted_errors)), Losses(0, torch.tensor(base_errors)))
    assert value == pytest.approx(expected)


def test_nothing_to_measure_on(tiny_base: TinyBase) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        measure_losses(on_device(tiny_base("sd1")), [], DEVICE)
