"""A search keeps the better half, its budget, and what it has done before a stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import pytest

from tests.trainer.tuning.imagined import Imagined, drawn_of
from trainer.config.file import read_config, with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.tuning.result import write_result
from trainer.tuning.search import BUDGET, Choice, Pair, Search, choose
from trainer.tuning.space import changes, searched
from trainer.tuning.trials import Trial, TrialScores, run_cost

CONFIG = with_values(
    TrainingConfig(),
    {"images.path": "nowhere", "captions.trigger": "ohwx", "captions.class_word": "cat",
     "adapter.alpha": 16.0,
     "optimizer.learning_rate": 1e-3, "optimizer.text_encoder_learning_rate": 5e-4},
)  # fmt: skip
ALL = ["rate", "rank", "layers", "length", "weight"]


@pytest.fixture(autouse=True)
def as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Imagined, "left", 10**9)


def search(folder: Path, config: TrainingConfig = CONFIG, names: list[str] = ALL) -> Search:
    return Search(config, folder, names, lambda _: None, Imagined)


def last_steps(found: Search) -> dict[str, int]:
    names = {f"trial-{number + 1}" for number in range(found.count)}
    return {trial.name: trial.done for trial in found.trials if trial.name in names}


def test_the_better_half_goes_on(tmp_path: Path) -> None:
    found = search(tmp_path)
    choice = found.run()
    looks, count = found.interval, found.count
    values = {one.name: drawn_of(one.config, looks) for one in found.trials}
    tried = sorted(last_steps(found), key=lambda name: -values[name])
    assert count == len(tried) > 4
    went_on = [name for name in tried if last_steps(found)[name] > looks]
    assert len(went_on) == ceil(count / 2)
    assert [values[name] for name in went_on] == [values[name] for name in tried][: len(went_on)]
    assert choice.trial is not None and choice.trial.name == tried[0]
    assert choice.trial.done == choice.trial.steps
    assert f"{tried[0]}-again" in [one.name for one in found.trials]


def test_a_cluster_gets_all_that_can_be_trained_at_once(tmp_path: Path) -> None:
    """What it has trained is not trained again here, and the choice is the same."""
    expected, found = search(tmp_path / "here").run(), search(tmp_path / "there")
    given: list[int] = []

    def ahead(trials: Sequence[tuple[Trial, int]]) -> None:
        given.append(len(trials))
        Imagined.left = 10**9
        for trial, step in trials:
            trial.reach(step)
        Imagined.left = 0  # nothing is left to be trained here

    found.ahead = ahead
    assert found.run().why == expected.why
    assert {2, found.count, ceil(found.count / 2)} <= set(given)


def test_a_search_that_was_stopped_comes_to_the_same(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole")
    expected = whole.run()
    choice, stops, parts = None, 0, whole
    while choice is None:
        Imagined.left = 1  # one training each time
        parts = search(tmp_path / "parts")
        try:
            choice = parts.run()
        except KeyboardInterrupt:
            stops += 1
    assert stops > 10
    assert [(one.name, one.config) for one in parts.trials] == [
        (one.name, one.config) for one in whole.trials
    ]
    assert choice.why == expected.why


@pytest.mark.parametrize("steps", [3, 400])
@pytest.mark.parametrize("names", [ALL, ["rate"]])
@pytest.mark.parametrize("previews", [0, 50])
def test_the_budget_is_kept(tmp_path: Path, steps: int, names: list[str], previews: int) -> None:
    config = with_values(CONFIG, {"training.steps": steps, "previews.every": previews})
    found = search(tmp_path, config, names)
    found.run()
    assert found.spent <= found.planned(found.count) <= found.budget
    assert found.budget == BUDGET * run_cost(config)


def test_settings_that_cannot_be_trained_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Imagined, "refused", "trial-1")
    found = search(tmp_path)
    found.run()
    assert last_steps(found)["trial-1"] == 0
    monkeypatch.setattr(Imagined, "refused", "defaults")
    with pytest.raises(UserError, match="not finite"):
        search(tmp_path / "defaults").run()


def test_another_search_is_not_gone_on_with(tmp_path: Path) -> None:
    search(tmp_path).run()
    with pytest.raises(UserError, match="other settings"):
        search(tmp_path, with_values(CONFIG, {"adapter.rank": 4})).run()


def test_a_set_that_has_changed_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    caption = tmp_path / "set" / "1.txt"
    caption.parent.mkdir()
    caption.write_text("a cat")
    config = with_values(CONFIG, {"images.path": str(caption.parent)})
    search(tmp_path / "search", config).run()
    search(tmp_path / "search", config).run()
    caption.write_text("a dog")
    with pytest.raises(UserError, match="image set has changed"):
        search(tmp_path / "search", config).run()


def test_what_is_given_stays() -> None:
    assert searched(CONFIG, set()) == ALL
    assert searched(CONFIG, {"adapter.rank", "training.steps"}) == ["rate", "layers", "weight"]
    nothing_held = with_values(CONFIG, {"preservation.method": "none"})
    assert "weight" not in searched(nothing_held, set())
    with_patterns = with_values(CONFIG, {"adapter.only": ["unet.*"]})
    assert "layers" not in searched(with_patterns, set())


def test_a_proposal_as_fields() -> None:
    found = changes(CONFIG, {"rate": 2.0, "rank": 0.5, "layers": "attention", "length": 1.5})
    assert found == {
        "optimizer.learning_rate": 2e-3,
        "optimizer.text_encoder_learning_rate": 1e-3,
        "adapter.rank": 8,
        "adapter.alpha": 16.0,
        "adapter.targets": "attention",
        "training.steps": 600,
    }


DEFAULTS = Pair(
    (TrialScores(0.50, 0.05, 0.2, 0.8, "works"), TrialScores(0.54, 0.01, 0.1, 0.9, "works"))
)
BETTER = TrialScores(0.7, 0.0, 0.1, 0.9, "works")


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (BETTER, BETTER, ""),
        (TrialScores(0.53, 0.0, 0.1, 0.9), BETTER, "only by 0.03"),  # a second seed changes as much
        (BETTER, TrialScores(0.3, 0.0, 0.1, 0.9), "no more of the set with a second seed"),
        (TrialScores(0.7, 0.2, 0.1, 0.9), BETTER, "without the trigger word"),
        (TrialScores(0.7, 0.0, 0.5, 0.9), BETTER, "the class word more"),
        (TrialScores(0.7, 0.0, 0.1, 0.4), BETTER, "listens less"),
        (TrialScores(0.7, 0.0, 0.1, 0.9, "overtrained"), BETTER, "overtrained"),
        (BETTER, None, ""),
    ],
)
def test_only_what_chance_does_not_explain_is_recommended(
    tmp_path: Path, first: TrialScores, second: TrialScores | None, says: str
) -> None:
    trial = search(tmp_path).defaults
    choice: Choice = choose(DEFAULTS, [(trial, first)], lambda _: second)
    assert (choice.trial is trial) == (not says and second is not None)
    assert says in choice.why
    assert ("as good" in choice.why) == (choice.trial is None)


def test_what_is_written(tmp_path: Path) -> None:
    found = search(tmp_path)
    tuned = write_result(found, found.run())
    answer = json.loads((tmp_path / "tune.json").read_text())
    assert answer == json.loads(json.dumps(tuned.as_dict()))
    best = next(one for one in found.trials if one.name == answer["recommended"]["run"])
    recommended = read_config(Path(answer["recommended"]["config"]))
    assert recommended == with_values(found.begun, best.changed)
    assert recommended.previews == CONFIG.previews  # those of the search's runs are sparse
    assert best.name in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "config.toml").exists()  # or the folder would be listed as a run
