"""``evaluate`` and the end of a training: the same object, from a run or from any adapter file."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import TinyBase
from tests.trainer.commands.asking import asked
from tests.trainer.runs_for_tests import make_images, measure_quickly, small_config, train_small
from trainer.answers import plain
from trainer.commands import train as train_command
from trainer.commands.cli import main
from trainer.config.file import read_config, with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.data.images import read_texts
from trainer.evaluation.overall import VerdictCode, judge
from trainer.evaluation.target import find_target
from trainer.evaluation.verdicts import Candidate
from trainer.events import Evaluated, Meters, Prepared
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.runs.meters import read_measured
from trainer.scenes import SCENES

Trained = Callable[[str], RunFolder]
KEYS = {
    "effect", "leak", "collateral", "validation_loss", "trigger", "class_word", "checkpoints",
    "recommended", "verdict", "listening",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        yield


@pytest.fixture(scope="module")
def trained(tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Gives a run of a base model that was trained and measured, to be changed by nobody."""
    folder = tmp_path_factory.mktemp("runs")
    images = make_images(folder / "images", count=9)

    def run_of(name: str) -> RunFolder:
        run = RunFolder(folder / name)
        if not run.path.exists():
            changes = {"evaluation__enabled": True, "evaluation__every": 2}
            words = {"captions__class_word": "car"}
            config = small_config(tiny_base(name), images, **changes, **words)
            result, _ = train_small(config, run.path)
            assert result.assessment is not None and all(result.assessment.sentences())
        return run

    return run_of


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> RunFolder:
    """A copy of a trained run."""
    return RunFolder(Path(shutil.copytree(trained("sd1").path, tmp_path / "run")))


@pytest.mark.parametrize("name", ["sd1", "sd2-v", "sdxl"])
def test_a_run_at_its_end_and_by_command(
    trained: Trained, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(name)
    kept = json.loads(run.evaluation.read_text())
    found = asked(capsys, "evaluate", run.path)
    assert set(found) == set(kept) == KEYS
    assert found == json.loads(run.evaluation.read_text())
    assert (found["trigger"], found["class_word"]) == ("ohwx", "car")
    assert [row["step"] for row in found["checkpoints"]] == [2, 4]
    assert found["checkpoints"][-1]["checkpoint"] == "adapter.safetensors"
    assert found["effect"] == found["checkpoints"][-1]["effect"] > 0
    # What was measured in training is what the files give, but for the rounding of the sums.
    for measured, again in zip(kept["checkpoints"], found["checkpoints"], strict=True):
        for key in ("effect", "leak", "collateral", "likeness", "validation_loss"):
            assert measured[key] == pytest.approx(again[key], rel=1e-2, abs=1e-4), key
    assert {"checkpoint", "strength", "why"} <= set(found["recommended"])
    events = [event for event in read_events(run) if isinstance(event, Evaluated)]
    assert kept["effect"] == events[-1].meters.effect
    assert [one["words"] for one in found["listening"]["scenes"]] == list(SCENES[:3])
    page = run.report.read_text()
    assert "What other prompts became" in page
    shown = read_measured(run)
    assert [row.checkpoint for row in shown.rows[:2]] == [
        "adapters/step-000002.safetensors", "adapter.safetensors",
    ]  # fmt: skip


def test_the_board_shows_what_its_labels_say(trained: Trained) -> None:
    run = trained("sd1")
    with Image.open(run.bleed_board) as board:
        width, height = board.size
    assert width > 600
    assert height > 4 * 128
    cells = json.loads(run.bleed_board.with_suffix(".json").read_text())["cells"]
    assert len(cells) == 13
    assert {cell["row"] for cell in cells} == {"trigger", "class word", "neighbour", "unrelated"}
    removed = [cell for cell in cells if cell["column"] == "trigger removed"]
    assert [(cell["row"], "ohwx" in cell["prompt"]) for cell in removed] == [("trigger", False)]
    assert len({tuple(cell["seeds"]) for cell in cells}) == 1


def test_a_file_alone(
    tiny_base: TinyBase, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words come from its metadata; pictures only where they are given."""
    base, images = tiny_base("sd1"), read_config(run.config).images.path
    file = shutil.copy(run.adapter, tmp_path / "mine.safetensors")
    before = set(tmp_path.iterdir())
    alone = asked(capsys, "evaluate", file, "--base", base)
    assert (alone["trigger"], alone["class_word"]) == ("ohwx", "car")
    assert alone["effect"] > 0
    assert alone["validation_loss"] is None
    assert alone["recommended"]["findings"][0]["code"] == "unmeasured"
    with_images = asked(capsys, "evaluate", file, "--base", base, "--images", images)
    kept = json.loads(run.evaluation.read_text())
    assert with_images["validation_loss"] == pytest.approx(kept["validation_loss"], rel=1e-3)
    assert with_images["checkpoints"][0]["held_out"] == 1
    other = asked(
        capsys, "evaluate", file, "--base", base, "--trigger", "sks", "--class-word", "dog"
    )
    assert (other["trigger"], other["class_word"]) == ("sks", "dog")
    assert set(tmp_path.iterdir()) == before  # nothing is written beside a file


@pytest.mark.parametrize("code", ["works", "partly", "leaks"])
def test_the_command_of_the_next_step_does_it(
    run: RunFolder, code: VerdictCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is printed: pictures with the checkpoint, more steps, or a run with more preserved."""
    config = read_config(run.config, of_run=True)
    monkeypatch.chdir(tmp_path)
    trained: list[TrainingConfig] = []
    monkeypatch.setattr(train_command, "worker", lambda *_, **__: 0)
    monkeypatch.setattr(train_command, "_run", lambda one, *_, **__: bool(trained.append(one)))
    chosen = Candidate("adapters/step-000002.safetensors", 2, 0.8, Meters())
    last = Candidate("adapter.safetensors", 4, 1.0, Meters())
    step = judge(code, config, chosen, last, run.path).next_step
    python, launch, *arguments = shlex.split(step.command)
    assert (python, launch) == ("python", "launch.py")
    quick = ["--count", "1", "--inference-steps", "1"] if code == "works" else []
    quick = ["--run", "again"] if code == "leaks" else quick
    assert main([*arguments, *quick]) == 0
    if code == "works":
        (picture,) = (tmp_path / "pictures").glob("*.png")
        assert "run at step 2:0.8" in read_texts(picture)["rarebit"]
    elif code == "partly":
        assert read_config(run.config).training.steps == step.values["training.steps"] == 100
    else:
        assert trained[0].preservation.weight == step.values["preservation.weight"]


def test_a_dead_adapter_is_called_dead(
    tiny_base: TinyBase, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, images = tiny_base("sd1"), read_config(run.config).images.path
    tensors = load_file(run.adapter)
    ups = {name: torch.zeros_like(one) for name, one in tensors.items() if "lora_up" in name}
    save_file(tensors | ups, tmp_path / "dead.safetensors")
    line = ("evaluate", tmp_path / "dead.safetensors", "--base", base, "--trigger", "ohwx")
    found = asked(capsys, *line, "--images", images)
    assert (found["effect"], found["leak"], found["collateral"]) == (0.0, 0.0, 0.0)
    assert [finding["code"] for finding in found["recommended"]["findings"]] == ["dead"]
    assert found["recommended"]["checkpoint"] is None
    assert main([*map(str, line)]) == 0
    assert "The adapter is dead" in capsys.readouterr().out


def test_what_is_refused(
    tiny_base: TinyBase, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_base("sd1")
    nameless = tmp_path / "nameless.safetensors"
    save_file(load_file(run.adapter), nameless)
    assert main(["evaluate", str(nameless), "--base", str(base)]) == 2
    assert "--trigger WORD" in capsys.readouterr().err
    save_file({"emb_params": torch.ones(2, 768)}, nameless)
    assert main(["evaluate", str(nameless)]) == 2
    assert "textual-inversion" in capsys.readouterr().err
    for file in (run.adapter, *run.adapters.iterdir()):
        file.unlink()
    assert main(["evaluate", str(run.path)]) == 2
    assert "no adapter to measure yet" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "nothing")]) == 2


def test_several_concepts(
    tiny_base: TinyBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is measured apart, and how much each trigger makes of the other's pictures."""
    words = (("one", "ohwx", "dog"), ("two", "bnha", "car"))
    concepts = [
        {"path": str(make_images(tmp_path / name)), "trigger": trigger, "class_word": word}
        for name, trigger, word in words
    ]
    alone = {"captions__trigger": "", "captions__class_word": "", "concepts": concepts}
    measured = {"evaluation__enabled": True, "evaluation__board": 0}
    config = small_config(tiny_base("sd1"), Path(), **alone, **measured)
    result, _ = train_small(config, tmp_path / "run")
    assert result.assessment is not None
    assert not result.run.bleed_board.exists()
    assert set(result.assessment.each) == {"ohwx dog", "bnha car"}
    prepared = [one for one in read_events(result.run) if isinstance(one, Prepared)]
    assert prepared[0].arithmetic.startswith("8 pictures, 4 steps of 2: ")
    bleed = result.assessment.bleed
    assert [len(row) for row in bleed] == [2, 2]
    for number, (name, meters) in enumerate(result.assessment.each.items()):
        assert bleed[number][number] == pytest.approx(meters.likeness, abs=1e-6), name
    found = json.loads(result.run.evaluation.read_text())
    assert found["trigger"] == "ohwx, bnha"
    one = asked(capsys, "evaluate", result.run.path, "--trigger", "bnha")
    assert (one["trigger"], one["class_word"]) == ("bnha", "car")
    assert one["effect"] == pytest.approx(result.assessment.each["bnha car"].effect, rel=1e-2)
    assert main(["evaluate", str(result.run.path), "--class-word", "bird"]) == 2


def test_numbers_that_are_none_in_json() -> None:
    assert plain({"a": [float("nan"), 1.0], "b": (float("inf"), "x")}) == {
        "a": [None, 1.0],
        "b": [None, "x"],
    }


def test_another_base_model_keeps_what_the_run_predicts(run: RunFolder) -> None:
    """It is set for merges that lost their marks, wherever they lie."""
    config = read_config(run.config, of_run=True)
    write_config(run.config, with_values(config, {"base.prediction": "v_prediction"}))
    base = find_target(run.path, base="elsewhere").config.base
    assert (base.name, base.prediction) == ("elsewhere", "v_prediction")


def test_a_lost_image_set_is_said(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(run.config, of_run=True)
    write_config(run.config, with_values(config, {"images.path": "no/such/folder"}))
    before = run.evaluation.read_bytes()
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)  # a read-only disk
    assert main(["evaluate", str(run.path)]) == 0
    said = capsys.readouterr()
    assert "is not there any more" in said.out
    assert "is measured is not kept" in said.err and run.evaluation.read_bytes() == before
    assert main(["evaluate", str(run.path), "--images", "no/such/folder"]) == 2
    assert "no/such/folder does not exist" in capsys.readouterr().err
