"""What is preserved in a run: the base model's predictions, or class pictures."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.runs_for_tests import make_images, never, session_for
from trainer.diffusion import clean_and_noise, predict
from trainer.errors import UserError
from trainer.lora.attach import disabled
from trainer.preservation.rows import PicturePreservation, PredictionPreservation, RowSchedule
from trainer.preservation.teacher import STEPS
from trainer.training.session import Session
from trainer.training.step import batch_loss, training_step


@pytest.fixture
def session(tiny_base: TinyBase, tmp_path: Path) -> Any:
    def make(name: str = "sd1", folder: str = ".", **changes: Any) -> Session:
        return session_for(
            tiny_base(name),
            make_images(tmp_path / "images"),
            tmp_path / folder / "run",
            **{"preservation__every": 1, **changes},
        )

    return make


def predictions(session: Session) -> PredictionPreservation:
    assert isinstance(session.preservation, PredictionPreservation)
    return session.preservation


# ------------------------------------------------------------------------------ which rows when


@pytest.mark.parametrize(
    ("share", "total"), list(itertools.product((0.1, 0.25, 1.0, 2.5), (1, 3, 4, 16)))
)
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_every_row_of_a_step_is_taken_once(share: float, total: int, pieces: int) -> None:
    schedule = RowSchedule(share, 2, 16)
    slots = list(range(total))
    cuts = [
        slots[place * total // pieces : (place + 1) * total // pieces] for place in range(pieces)
    ]
    rows = [row for cut in cuts for row in schedule.of_slots(cut, total)]
    assert sorted(rows) == list(range(max(1, round(share * total))))


def test_rows_of_successive_steps_are_numbered_on() -> None:
    schedule = RowSchedule(0.5, 3, 4)
    numbers = [schedule.number(step, n) for step in (0, 3, 6) for n in range(schedule.count(4))]
    assert numbers == [0, 1, 2, 3, 4, 5]


def test_every_point_comes_up_equally_often(session: Any) -> None:
    preservation = predictions(session(preservation__share=1.0))
    known = preservation.known.points
    seen: list[tuple[str, int]] = []
    for step in range(len(known)):
        rows = preservation.rows(step, [0, 1], 2)
        assert rows is not None
        assert rows.count == len(rows.points) == 2
        seen += zip(rows.points.prompts, rows.points.timesteps.tolist(), strict=True)
    points = sorted(zip(known.prompts, known.timesteps.tolist(), strict=True))
    assert sorted(seen) == sorted([*points, *points])


@pytest.mark.parametrize("method", ["prediction", "pictures"])
def test_a_step_cut_in_two_preserves_the_same(session: Any, method: str) -> None:
    made = session(
        preservation__method=method,
        preservation__share=1.0,
        training__batch_size=4,
        adapter__text_encoder=False,
        images__buckets=False,
    )
    for _ in range(2):
        training_step(made, never)
    rows = made.preservation.rows(2, [0, 1, 2, 3], 4)
    parts = [made.preservation.rows(2, slots, 4) for slots in ([0, 1], [2, 3])]
    together = [prompt for part in parts for prompt in part.points.prompts]
    assert together == list(rows.points.prompts)
    with torch.no_grad():
        whole = batch_loss(made, None, rows)[1].item()
        shares = [batch_loss(made, None, part)[1].item() for part in parts]
    assert whole > 0
    assert sum(shares) == pytest.approx(whole, rel=1e-4)


# ------------------------------------------------------------------------ the teacher's predictions


@pytest.mark.parametrize("name", TINY_NAMES)
def test_the_teacher_is_the_base_model(session: Any, name: str) -> None:
    made = session(name, preservation__pictures=3)
    known = predictions(made).known
    # Three drawings, one of them without a prompt too, and three of the set's own pictures.
    assert len(known.points) == len(known.predicted) == STEPS * (3 + 1 + 3)
    assert known.points.prompts.count("") >= STEPS
    # One timestep of each part of the schedule.
    parts = {timestep * STEPS // 1000 for timestep in known.points.timesteps.tolist()}
    assert parts == set(range(STEPS))
    for _ in range(2):  # the adapter moves; what was predicted does not
        training_step(made, never)
    with disabled(made.base):
        again = predict(made.base, known.points, made.device)
    torch.testing.assert_close(known.predicted, again, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(predict(made.base, known.points, made.device), again, atol=1e-6)


def test_predictions_come_from_the_cache_the_second_time(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = predictions(session(folder="a")).known
    monkeypatch.setattr("trainer.preservation.teacher.Teacher._ask", None)
    second = predictions(session(folder="b")).known
    assert torch.equal(first.predicted, second.predicted)
    assert first.points.prompts == second.points.prompts


def test_rows_of_another_size_get_a_pass_of_their_own(session: Any) -> None:
    """The wide picture of the set is alone in its bucket; the rows have the others' size."""
    made = session("sdxl", training__batch_size=1, images__resolution=64)
    shapes = set()
    for _ in range(4):
        batch = next(made.batches.step(made.step))
        shapes.add(batch.latents.shape[1:] == predictions(made).known.predicted.shape[1:])
        done, _ = training_step(made, never)
        assert done.preservation is not None
    assert shapes == {True, False}


# ---------------------------------------------------------------------------------- class pictures


@pytest.mark.parametrize("name", TINY_NAMES)
def test_class_pictures_are_trained_as_pictures_are(session: Any, name: str) -> None:
    made = session(name, preservation__method="pictures", preservation__share=1.0)
    preservation = made.preservation
    assert isinstance(preservation, PicturePreservation)
    assert [picture.prompt for picture in preservation.pictures] == ["a thing"] * 2
    rows = preservation.rows(3, [0, 1], 2)
    assert rows is not None
    assert not rows.text_features
    later = preservation.rows(4, [0, 1], 2)
    assert later and not (later.points.timesteps == rows.points.timesteps).any()
    alpha_bar, timesteps = preservation.alpha_bar, rows.points.timesteps
    clean, _ = clean_and_noise(
        rows.points.noised, rows.wanted, alpha_bar, timesteps, made.base.prediction_type
    )
    pictures = torch.stack([picture.latents for picture in preservation.pictures]).clamp(-5, 5)
    few = timesteps < 600  # beyond, hardly anything of the picture is left
    unlike = [(pictures - one).abs().amax(dim=(1, 2, 3)).min() for one in clean[few]]
    assert all(value < 1e-2 for value in unlike)
    done, _ = training_step(made, never)
    assert done.preservation is not None
    assert done.preservation > 0.01  # an ordinary loss, not a distance from the base's prediction


def test_class_pictures_of_ones_own(
    session: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_images(tmp_path / "own", count=3)
    (own / "2.txt").unlink()
    made = session(preservation__method="pictures", preservation__folder=str(own))
    preservation = made.preservation
    assert isinstance(preservation, PicturePreservation)
    assert [picture.prompt for picture in preservation.pictures] == [
        "picture 0, of a thing, red, blue",
        "picture 1, of a thing, red, blue",
        "a thing",
    ]
    assert {picture.latents.shape[1:] for picture in preservation.pictures} == {(16, 16)}
    assert "also among the pictures of the subject" in capsys.readouterr().out  # the same pixels
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="does not exist"):
        session(folder="b", preservation__method="pictures", preservation__folder=nowhere)


@pytest.mark.parametrize("value", [{"preservation__method": "none"}, {"preservation__weight": 0.0}])
def test_nothing_is_preserved_where_that_is_asked(session: Any, value: dict[str, Any]) -> None:
    done, _ = training_step(session(**value), never)
    assert done.preservation is None


@pytest.mark.parametrize(
    ("changes", "method", "prompts"),
    [
        ({}, "pictures", ["a thing", "a red thing"]),
        ({"captions__class_word": ""}, "pictures", ["a blue thing", "a red thing"]),
        ({"captions__class_word": "dog"}, "pictures", ["a blue thing", "a red thing"]),
        ({"preservation__regularization": False}, "prediction", None),
        ({"preservation__method": "none"}, "none", None),
    ],
)
def test_regularisation_pictures_of_the_set_are_class_pictures(
    tiny_base: TinyBase,
    tmp_path: Path,
    changes: dict[str, Any],
    method: str,
    prompts: list[str] | None,
) -> None:
    images = make_images(tmp_path / "set" / "img" / "10_ohwx thing", count=2).parent.parent
    reg = make_images(images / "reg" / "1_blue thing", count=2)
    (reg / "0.txt").unlink()
    (reg / "1.txt").write_text("ohwx, a red thing")  # its trigger is taken out
    made = session_for(tiny_base("sd1"), images, tmp_path / "run", **changes)
    assert made.config.preservation.method == method
    assert [picture.entry.name for picture in made.pictures] == [
        "img/10_ohwx thing/0.png",
        "img/10_ohwx thing/1.png",
    ]
    found = getattr(made.preservation, "pictures", None)
    assert (found and [picture.prompt for picture in found]) == prompts


def test_a_subject_without_class_pictures_of_its_own_gets_drawn_ones(
    tiny_base: TinyBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (make_images(tmp_path / name, count=2) for name in ("one", "two"))
    make_images(one / "reg" / "1_car", count=1)
    words = ((one, "ohwx", "car"), (two, "bnha", "truck"))
    concepts = [{"path": str(p), "trigger": t, "class_word": c} for p, t, c in words]
    alone = {"captions__trigger": "", "captions__class_word": "", "concepts": concepts}
    drawn = {"preservation__pictures": 2}
    made = session_for(tiny_base("sd1"), Path(), tmp_path / "run", **alone, **drawn)
    found = [(one.prompt, one.latents.shape) for one in made.preservation.pictures]  # type: ignore[union-attr]
    shape = found[0][1]
    assert [prompt for prompt, _ in found][1::2] == ["a truck"] * 2
    assert found[0::2] == [found[0]] * 2 and all(one == shape for _, one in found)
    assert "For truck the base model draws some" in capsys.readouterr().out
