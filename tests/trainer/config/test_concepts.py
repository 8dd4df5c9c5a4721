"""Several concepts in one adapter: their words, their shares, their way through a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.runs_for_tests import digest, make_images, small_config, train_small
from trainer.config.concepts import (
    captions_of,
    class_words_of,
    concepts_of,
    parse_concept,
    preserved_share,
    triggers_of,
)
from trainer.config.file import ConfigError, format_config, parse_config, with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.memory.devices import choose_device
from trainer.runs.layout import RunFolder
from trainer.training.batches import Batches
from trainer.training.session import prepare

TWO: list[dict[str, Any]] = [
    {"path": "teddy", "trigger": "ohwx", "class_word": "bear"},
    {"path": "peacock", "trigger": "bnha", "class_word": "bird", "repeats": 3},
]


def with_concepts(concepts: list[dict[str, Any]]) -> TrainingConfig:
    return with_values(TrainingConfig(), {"concepts": concepts})


def test_one_concept_is_that_of_the_other_fields() -> None:
    values = {"images.path": "x", "captions.trigger": "ohwx", "captions.class_word": "dog"}
    (concept,) = concepts_of(with_values(TrainingConfig(), values))
    assert (concept.path, concept.trigger, concept.class_word) == (Path("x"), "ohwx", "dog")
    (empty,) = concepts_of(TrainingConfig())
    assert (empty.trigger, triggers_of(TrainingConfig())) == ("", [])


@pytest.mark.parametrize(
    ("concepts", "preservation", "share"),
    [
        ([], {}, 0.25),
        (TWO[:1], {}, 0.25),
        (TWO, {}, 0.5),
        (TWO, {"share": 0.5}, 1.0),
        (TWO, {"method": "pictures", "share": 1.0}, 1.0),
        (TWO, {"method": "none"}, 0.0),
        (TWO, {"weight": 0.0}, 0.0),
    ],
)
def test_predictions_are_held_for_each_concept(
    concepts: list[dict[str, Any]], preservation: dict[str, Any], share: float
) -> None:
    values = {f"preservation.{name}": value for name, value in preservation.items()}
    assert preserved_share(with_values(TrainingConfig(), values | {"concepts": concepts})) == share


def test_several_concepts_have_their_own_words() -> None:
    config = with_concepts(TWO)
    assert triggers_of(config) == ["ohwx", "bnha"]
    assert class_words_of(config) == ["bear", "bird"]
    words = captions_of(config, concepts_of(config)[1])
    assert (words.trigger, words.class_word) == ("bnha", "bird")
    assert words.dropout == config.captions.dropout
    assert parse_config(format_config(config)) == config


@pytest.mark.parametrize(
    ("concepts", "words"),
    [
        ([{"trigger": "ohwx"}, {"trigger": "OHWX"}], "two concepts have the trigger word 'ohwx'"),
        ([{"trigger": "ohwx"}, {"trigger": "a ohwxb"}], "contains the other"),
        ([{"trigger": "ohwxb"}, {"trigger": "ohwx"}], "contains the other"),
        ([{"trigger": ""}], 'concepts 1.trigger: "" given, expected a text that is not empty'),
        ([TWO[0], {"path": "x"}], "concepts 2.trigger: nothing given"),
        ([{**TWO[0], "repeats": 0}], "concepts 1.repeats: 0 given, expected a whole number from 1"),
        ([{**TWO[0], "word": "x"}], "concepts 1.word: there is no such field"),
        (["ohwx"], 'concepts 1: "ohwx" given, expected a [[concepts]] table'),
        ("ohwx", "expected a list of [[concepts]] tables"),
    ],
)
def test_concepts_that_are_refused(concepts: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_concepts(concepts)
    assert words in caught.value.message


def test_one_image_set_and_several_concepts_contradict_each_other() -> None:
    values = {"images.path": "x", "captions.trigger": "sks", "concepts": TWO}
    with pytest.raises(ConfigError, match=r"images\.path and captions\.trigger are both given"):
        with_values(TrainingConfig(), values)


def test_the_command_line_names_concepts(tmp_path: Path) -> None:
    folder = tmp_path / "c:d"
    folder.mkdir()
    table = {"path": str(folder), "trigger": "ohwx", "class_word": "bear"}
    assert parse_concept(f"{folder}:ohwx:bear") == table
    assert parse_concept(f"{folder}:ohwx") == {**table, "class_word": ""}
    assert parse_concept("nowhere:ohwx:teddy bear")["class_word"] == "teddy bear"
    for wrong in ("ohwx", "a:b:c:d:e", ""):
        with pytest.raises(UserError, match="not of the form"):
            parse_concept(wrong)


@pytest.fixture
def two(tiny_base: TinyBase, tmp_path: Path) -> TrainingConfig:
    """Two concepts of 2 and 5 pictures, for a run of a second."""
    return two_concepts(tiny_base("sd1"), tmp_path)


def two_concepts(base: Path, folder: Path, **changes: Any) -> TrainingConfig:
    concepts = [
        {"path": str(make_images(folder / "few", 2)), "trigger": "ohwx", "class_word": "thing"},
        {"path": str(make_images(folder / "many", 5)), "trigger": "bnha", "class_word": "toy"},
    ]
    changes = {"previews__every": 2, **changes}
    config = small_config(base, Path(), captions__trigger="", captions__class_word="", **changes)
    return with_values(config, {"concepts": concepts})


def batches_of(config: TrainingConfig, folder: Path) -> Batches:
    folder.mkdir()
    device = choose_device("fp32")
    return prepare(config, RunFolder(folder), device, print, lambda *_: None).batches


def test_an_epoch_is_balanced_and_every_caption_has_its_own_trigger(
    two: TrainingConfig, tmp_path: Path
) -> None:
    batches = batches_of(two, tmp_path / "run")
    epoch = round(batches.steps_per_epoch())
    samples = [s for step in range(epoch) for batch in batches.samples(step) for s in batch]
    assert [sum(s.picture.concept == number for s in samples) for number in (0, 1)] == [5, 5]
    for sample in samples:
        own, other = (("ohwx", "bnha"), ("bnha", "ohwx"))[sample.picture.concept]
        assert own in sample.caption
        assert other not in sample.caption
    again = batches_of(two, tmp_path / "again")
    late = [[s.caption for batch in b.samples(7) for s in batch] for b in (batches, again)]
    assert late[0] == late[1]  # a pure function of seed and step


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_run_of_two_concepts(tiny_base: TinyBase, tmp_path: Path, name: str) -> None:
    config = two_concepts(tiny_base(name), tmp_path)
    result, _ = train_small(config, tmp_path / "run")
    assert result.finished
    prompts = json.loads((result.run.preview(4) / "prompts.json").read_text())
    drawn = [{word for word in ("ohwx", "bnha") if word in one["prompt"]} for one in prompts]
    assert drawn == [{"ohwx"}, set(), {"ohwx"}, {"bnha"}, set(), {"bnha"}]
    with safe_open(result.run.adapter, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.trigger_phrase"] == "ohwx, bnha"
    assert metadata["modelspec.tags"] == "thing, toy"
    assert set(json.loads(metadata["ss_tag_frequency"])) == {"few", "many"}
    assert str(tmp_path) not in json.dumps(metadata)
    report = result.run.report.read_text()
    assert "ohwx thing" in report
    assert "bnha toy" in report


def test_a_run_of_two_concepts_resumes_to_the_same_bytes(
    two: TrainingConfig, tmp_path: Path
) -> None:
    whole_config = with_values(two, {"optimizer.schedule": "constant"})
    whole, _ = train_small(whole_config, tmp_path / "whole")
    train_small(with_values(whole_config, {"training.steps": 2}), tmp_path / "parts")
    parts, _ = train_small(whole_config, tmp_path / "parts", resume=True)
    assert digest(whole.run.adapter) == digest(parts.run.adapter)


def test_concepts_cannot_change_within_a_run_but_their_folders_may_move(
    two: TrainingConfig, tmp_path: Path
) -> None:
    train_small(with_values(two, {"training.steps": 2}), tmp_path / "run")
    tables = [concept.model_dump(mode="json") for concept in two.concepts]
    with pytest.raises(UserError, match=r"concepts\.1\.trigger: was bnha, is dbz"):
        other = with_values(two, {"concepts": [tables[0], {**tables[1], "trigger": "dbz"}]})
        train_small(other, tmp_path / "run", resume=True)
    with pytest.raises(UserError, match="number of concepts"):
        train_small(with_values(two, {"concepts": tables[:1]}), tmp_path / "run", resume=True)
    moved = tmp_path / "moved"
    (tmp_path / "many").rename(moved)
    config = with_values(two, {"concepts": [tables[0], {**tables[1], "path": str(moved)}]})
    result, _ = train_small(config, tmp_path / "run", resume=True)
    assert result.finished
