"""One page about a base model, of trainings that are imagined here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.tuning.imagined import Imagined
from trainer.commands.prove import arms_of, prove
from trainer.commands.train import Sources
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.places import PROJECT


@pytest.fixture(autouse=True)
def not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.tuning.trials.Trial", Imagined)
    monkeypatch.setattr(Imagined, "drawn", staticmethod(lambda config, step: 0.5))


def test_all_train_the_bundled_set_with_settings_of_their_own() -> None:
    private = {"images.path": "/home/me/photos", "captions.trigger": "mine", "adapter.rank": 4}
    arms = dict(arms_of(with_values(TrainingConfig(), private)))
    assert list(arms) == ["plain", "default", "yours"]
    assert {arm.images.path for arm in arms.values()} == {PROJECT / "datasets" / "police-car"}
    assert {arm.training.steps for arm in arms.values()} == {100}
    assert [arm.adapter.rank for arm in arms.values()] == [16, 16, 4]
    methods = [arm.preservation.method for arm in arms.values()]
    assert methods == ["none", "prediction", "prediction"]
    only_their_set = with_values(TrainingConfig(), {"images.path": "/home/me/photos"})
    assert list(dict(arms_of(only_their_set))) == ["plain", "default"]


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Imagined, "refused", "yours")
    folder = tmp_path / "proof"
    base = str(PROJECT / "models" / "tiny-emoji")
    proof = prove(run=folder, sources=Sources(overrides=["adapter.rank=4", f"base.name={base}"]))
    page = proof.page.read_text()
    assert "<td><bdi>default</bdi></td><td><bdi>works</bdi></td><td><bdi>0.50</bdi>" in page
    assert "The loss is not finite." in page  # that settings of theirs fail is a result too
    assert str(PROJECT) not in page and str(tmp_path) not in page
    assert "http" not in page.replace("http-equiv", "")
    assert [row["run"] for row in proof.as_dict()["runs"]] == ["plain", "default", "yours"]
    with pytest.raises(UserError, match="exists already"):
        prove(run=folder, sources=Sources())
