"""What is held in place in a run: remembered predictions, or class pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.runs_for_tests import digest, make_images, small_config, train_small
from trainer.diffusion import Points, add_noise, clean_and_noise, predict, target
from trainer.errors import UserError
from trainer.events import StepDone
from trainer.lora.attach import disabled
from trainer.memory.devices import choose_device
from trainer.preservation.pictures import PictureKeeper
from trainer.preservation.remembered import PredictionKeeper
from trainer.preservation.remembering import STEPS
from trainer.runs.layout import RunFolder
from trainer.training.session import Session, prepare
from trainer.training.step import batch_loss, training_step


def session_for(base: Path, folder: Path, **changes: Any) -> Session:
    images = make_images(folder / "images")
    config = small_config(base, images, **{"preservation__every": 1, **changes})
    run = RunFolder(folder / "run")
    run.path.mkdir()
    return prepare(config, run, choose_device("fp32"), print, lambda *_: None)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_clean_pictures_and_noise_are_found_back(prediction: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(2))
    alpha_bar = torch.linspace(0.99, 0.01, 10)
    timesteps = torch.tensor([1, 5, 9])
    noised = add_noise(latents, noise, alpha_bar, timesteps)
    predicted = target(latents, noise, alpha_bar, timesteps, prediction)
    found = clean_and_noise(noised, predicted, alpha_bar, timesteps, prediction)
    torch.testing.assert_close(found[0], latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], noise, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_what_is_remembered_is_what_the_base_predicts(
    tiny_base: TinyBase, tmp_path: Path, name: str
) -> None:
    session = session_for(tiny_base(name), tmp_path, preservation__pictures=3)
    keeper = session.keeper
    assert isinstance(keeper, PredictionKeeper)
    known = keeper.remembered
    # Three drawings, one of them without a prompt too, and three looks at the set's pictures.
    assert len(known.prompts) == len(known.noised) == STEPS * (3 + 1 + 3)
    assert known.prompts.count("") >= STEPS
    # One timestep of each part of the schedule.
    assert sorted({timestep * STEPS // 1000 for timestep in known.timesteps.tolist()}) == list(
        range(STEPS)
    )
    for _ in range(2):  # the adapter moves; what is remembered does not
        training_step(session, lambda: False)
    sizes = ((known.size, (0, 0), known.size),) * len(known.prompts)
    points = Points(known.prompts, known.noised, known.timesteps, sizes)
    with disabled(session.base):
        again = predict(session.base, points, session.device)
    torch.testing.assert_close(known.predicted, again, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(predict(session.base, points, session.device), again, atol=1e-6)


def test_what_is_remembered_comes_from_the_cache_the_second_time(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base("sd1")
    (tmp_path / "a").mkdir()
    first = session_for(base, tmp_path / "a").keeper
    monkeypatch.setattr("trainer.preservation.remembering._draw", None)
    monkeypatch.setattr("trainer.preservation.remembering._look", None)
    (tmp_path / "b").mkdir()
    second = session_for(base, tmp_path / "b").keeper
    assert isinstance(first, PredictionKeeper)
    assert isinstance(second, PredictionKeeper)
    assert torch.equal(first.remembered.predicted, second.remembered.predicted)
    assert first.remembered.prompts == second.remembered.prompts


def test_every_point_comes_up_equally_often(tiny_base: TinyBase, tmp_path: Path) -> None:
    keeper = session_for(tiny_base("sd1"), tmp_path, preservation__share=1.0).keeper
    assert isinstance(keeper, PredictionKeeper)
    seen: list[tuple[str, int]] = []
    for step in range(len(keeper.remembered.prompts)):
        rows = keeper.rows(step, [0, 1], 2)
        assert rows is not None
        assert rows.count == len(rows.points) == 2
        seen += zip(rows.points.prompts, rows.points.timesteps.tolist(), strict=True)
    known = keeper.remembered
    points = sorted(zip(known.prompts, known.timesteps.tolist(), strict=True))
    assert sorted(seen) == sorted([*points, *points])


@pytest.mark.parametrize("method", ["prediction", "pictures"])
def test_a_step_cut_in_two_preserves_the_same(
    tiny_base: TinyBase, tmp_path: Path, method: str
) -> None:
    """Gradients aside: the losses of two shares are those of the whole."""
    session = session_for(
        tiny_base("sd1"),
        tmp_path,
        preservation__method=method,
        preservation__share=1.0,
        training__batch_size=4,
        adapter__text_encoder=False,
        images__buckets=False,
    )
    for _ in range(2):
        training_step(session, lambda: False)
    (whole,) = session.batches.step(2)
    assert session.keeper is not None
    parts = [session.keeper.rows(2, slots, 4) for slots in ([0, 1], [2, 3])]
    rows = session.keeper.rows(2, [0, 1, 2, 3], 4)
    assert rows is not None
    together = [row for part in parts if part for row in part.points.prompts]
    assert together == list(rows.points.prompts)
    with torch.no_grad():
        _, kept = batch_loss(session, whole, rows)
    assert kept > 0


def test_rows_of_another_size_get_a_pass_of_their_own(tiny_base: TinyBase, tmp_path: Path) -> None:
    """The wide picture of the set is alone in its bucket; what is held has the others' size."""
    session = session_for(
        tiny_base("sdxl"), tmp_path, training__batch_size=1, images__resolution=64
    )
    assert isinstance(session.keeper, PredictionKeeper)
    shapes = set()
    for _ in range(4):
        batch = next(session.batches.step(session.step))
        shapes.add(batch.latents.shape[1:] == session.keeper.remembered.noised.shape[1:])
        done, _ = training_step(session, lambda: False)
        assert done.preservation is not None
    assert shapes == {True, False}


@pytest.mark.parametrize("name", TINY_NAMES)
def test_class_pictures_are_trained_as_pictures_are(
    tiny_base: TinyBase, tmp_path: Path, name: str
) -> None:
    session = session_for(
        tiny_base(name), tmp_path, preservation__method="pictures", preservation__share=1.0
    )
    keeper = session.keeper
    assert isinstance(keeper, PictureKeeper)
    assert [picture.prompt for picture in keeper.pictures] == ["a thing"] * 2
    rows = keeper.rows(3, [0, 1], 2)
    assert rows is not None
    assert not rows.holds_text
    alpha_bar = session.base.noise_scheduler().alphas_cumprod
    clean, _ = clean_and_noise(
        rows.points.noised, rows.wanted, alpha_bar, rows.points.timesteps,
        session.base.prediction_type,
    )  # fmt: skip
    kept = torch.stack([picture.latents for picture in keeper.pictures]).clamp(-5, 5)
    few = rows.points.timesteps < 600  # beyond, hardly anything of the picture is left
    unlike = [(kept - one).abs().amax(dim=(1, 2, 3)).min() for one in clean[few]]
    assert all(value < 1e-2 for value in unlike)
    done, _ = training_step(session, lambda: False)
    assert done.preservation is not None
    assert done.preservation > 0.01  # an ordinary loss, not a distance from the base's prediction


def test_class_pictures_of_ones_own(tiny_base: TinyBase, tmp_path: Path) -> None:
    own = make_images(tmp_path / "own", count=3)
    (own / "2.txt").unlink()
    session = session_for(
        tiny_base("sd1"),
        tmp_path,
        preservation__method="pictures",
        preservation__folder=str(own),
    )
    keeper = session.keeper
    assert isinstance(keeper, PictureKeeper)
    prompts = [picture.prompt for picture in keeper.pictures]
    assert prompts == [
        "picture 0, of a thing, red, blue",
        "picture 1, of a thing, red, blue",
        "a thing",
    ]
    assert {picture.latents.shape[1:] for picture in keeper.pictures} == {(16, 16)}
    (tmp_path / "next").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        session_for(
            tiny_base("sd1"),
            tmp_path / "next",
            preservation__method="pictures",
            preservation__folder=str(tmp_path / "nowhere"),
        )


@pytest.mark.parametrize("values", [{"method": "none"}, {"weight": 0.0}])
def test_nothing_is_held_where_that_is_asked(
    tiny_base: TinyBase, tmp_path: Path, values: dict[str, Any]
) -> None:
    changes = {f"preservation__{name}": value for name, value in values.items()}
    config = small_config(tiny_base("sd1"), make_images(tmp_path / "images"), **changes)
    _, collected = train_small(config, tmp_path / "run")
    assert {event.preservation for event in collected.of(StepDone)} == {None}


def test_class_pictures_resume_to_the_same_bytes(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    config = small_config(
        tiny_base("sd1"),
        images,
        preservation__method="pictures",
        preservation__share=0.5,
        optimizer__schedule="constant",
    )
    whole, _ = train_small(config, tmp_path / "whole")
    short = config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})})
    train_small(short, tmp_path / "parts")
    parts, _ = train_small(config, tmp_path / "parts", resume=True)
    assert digest(whole.run.adapter) == digest(parts.run.adapter)
