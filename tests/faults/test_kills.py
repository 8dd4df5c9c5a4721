"""A run that is killed, whenever it is, goes on to the same bytes (FAULTS 26, 28 and 29)."""

from __future__ import annotations

import random
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyBase
from tests.faults.conftest import UMASK, Stage
from tests.trainer.runs_for_tests import digest, make_images, small_config
from trainer.config.file import write_config
from trainer.errors import UserError
from trainer.events import StepDone
from trainer.runs.atomic import sweep_orphans
from trainer.runs.layout import RunFolder
from trainer.runs.log import last_of, read_events
from trainer.training.checkpoints import list_checkpoints, load_checkpoint, load_latest

pytestmark = pytest.mark.slow

KILLS = 25  # of each precision
STEPS = 10
# All that could tell a resumed run from one that never stopped, at once; preservation and
# text-encoder training are on by themselves.
EVERYTHING: dict[str, Any] = {
    "training__steps": STEPS,
    "training__batch_size": 1,
    "training__accumulation": 2,
    "training__ema_decay": 0.9,
    "images__flip": True,
    "captions__dropout": 0.5,
    "captions__shuffle_tags": True,
    "adapter__dropout": 0.1,
    "checkpoints__every": 1,
}
STATE = ("adapter.safetensors", "ema.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("killed") / "images", count=5)


def write_changed(file: Path, base: Path, images: Path, **changes: Any) -> Path:
    """A configuration file with `EVERYTHING`, and changes."""
    config = small_config(base, images, **{**EVERYTHING, **changes})
    assert config.preservation.method != "none"
    assert config.adapter.text_encoder
    file.parent.mkdir(parents=True, exist_ok=True)
    write_config(file, config)
    return file


def five_steps(
    stage: Stage, folder: Path, base: Path, images: Path, **changes: Any
) -> tuple[Path, RunFolder]:
    """A configuration of five steps, a checkpoint at every second, and a run that was not cut."""
    config = write_changed(
        folder / "config.toml", base, images,
        training__steps=5, checkpoints__every=2, **changes,
    )  # fmt: skip
    whole = RunFolder(folder / "whole")
    live(stage, config, whole)
    return config, whole


def live(stage: Stage, config: Path, run: RunFolder, kill_after: float | None = None) -> bool:
    """One life of a run, from where the one before it was cut off; whether it was killed."""
    resume = bool(run.checkpoint_steps())
    end = stage.ask("train", config=config, run=run.path, resume=resume, kill_after=kill_after)
    assert end["signal"] or end["status"] == 0, stage.log()
    return bool(end["signal"])


def assert_equal_results(whole: RunFolder, other: RunFolder, step: int = STEPS) -> None:
    """The same adapter, training state and losses, to the byte."""
    assert digest(whole.adapter) == digest(other.adapter)
    for file in STATE:
        assert digest(whole.checkpoint(step) / file) == digest(other.checkpoint(step) / file)
    assert losses(whole) == losses(other)


def losses(run: RunFolder) -> dict[int, float]:
    return {step: event.loss for step, event in last_of(read_events(run), StepDone).items()}


def is_whole(checkpoint: Path) -> bool:
    try:
        load_checkpoint(checkpoint)
    except UserError:
        return False
    return True


def test_kill_at_every_phase_of_a_checkpoint(
    stage: Stage, tiny_base: TinyBase, images: Path, tmp_path: Path
) -> None:
    """FAULTS 26."""
    changes: dict[str, Any] = {"training__precision": "bf16", "checkpoints__keep": 1}
    config, whole = five_steps(stage, tmp_path, tiny_base("sd1"), images, **changes)
    (tmp_path / "killed").mkdir()
    found = stage.ask(
        "phases",
        config=config,
        run=tmp_path / "run",
        step=4,
        into=tmp_path / "killed",
        keep=1,
    )
    phases: list[str] = found["phases"]
    said = "\n".join(phases)
    order = [
        "os.mkdir .step-000004",  # before the folder
        "write half of adapter.safetensors",
        "open ema.safetensors",  # between files
        "write half of manifest.json",
        "os.rename .step-000004",  # before the rename
        "os.remove",  # after it, before and while pruning
        "os.rmdir step-000002",
    ]
    places = [said.index(part) for part in order]
    assert places == sorted(places)

    outcomes: dict[tuple[tuple[str, bool], ...], Path] = {}
    for number, phase in enumerate(phases):
        run = RunFolder(tmp_path / "killed" / f"{number:03d}")
        # The one before it is whole until the new one is.
        state = load_latest(run, lambda _: None)
        assert state.step == (2 if places[4] >= said.index(phase) else 4), phase
        for folder in list_checkpoints(run):
            for path in folder.iterdir():
                assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~UMASK, (phase, path)
        sweep_orphans(run.checkpoints)
        content = tuple((path.name, is_whole(path)) for path in sorted(run.checkpoints.iterdir()))
        outcomes[content] = run.path
    # Beyond the orphans, three states can be left behind; each goes on to the same end.
    old, new = "step-000002", "step-000004"
    assert set(outcomes) == {
        ((old, True),),
        ((old, True), (new, True)),
        ((old, False), (new, True)),
    }
    for path in outcomes.values():
        run = RunFolder(path)
        (run.checkpoints / ".step-000004.0123abcd.tmp").mkdir()
        (run.checkpoints / ".step-000004.0123abcd.tmp" / "adapter.safetensors").write_bytes(b"half")
        live(stage, config, run)
        assert [folder.name for folder in run.checkpoints.iterdir()] == ["step-000005"]
        assert not list(run.path.rglob("*.tmp"))
        assert_equal_results(whole, run, step=5)


def test_a_second_ctrl_c_leaves_at_once(
    stage: Stage, tiny_base: TinyBase, images: Path, tmp_path: Path
) -> None:
    """FAULTS 36: without the checkpoint that the first would have made, and without damage."""
    run = RunFolder(tmp_path / "run")
    config, whole = five_steps(
        stage, tmp_path, tiny_base("sd1"), images, training__precision="fp32"
    )
    end = stage.ask("train", config=config, run=run.path, interrupt_at=3)
    assert (end["signal"], end["status"]) == (0, 130)
    assert run.checkpoint_steps() == [2]
    live(stage, config, run)
    assert_equal_results(whole, run, step=5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_random_moments_again_and_again(
    stage: Stage, tiny_base: TinyBase, images: Path, tmp_path: Path, precision: str
) -> None:
    """FAULTS 28 and 29, 25 times in each precision."""
    config = write_changed(
        tmp_path / "config.toml", tiny_base("sd1"), images, training__precision=precision
    )
    live(stage, config, RunFolder(tmp_path / "warm"), 0.1)
    whole = RunFolder(tmp_path / "whole")
    took = stage.ask("train", config=config, run=whole.path)["cpu"]
    moments = random.Random(precision)
    kills = number = 0
    run = RunFolder(tmp_path / "run-0")
    while True:
        # A quarter of the whole run: from before anything is loaded to a few steps.
        kill_after = moments.uniform(0.0, took / 4) if kills < KILLS else None
        if live(stage, config, run, kill_after):
            kills += 1
            for folder in list_checkpoints(run):
                load_checkpoint(folder)  # whole, or it would raise
            continue
        assert_equal_results(whole, run)
        if kills >= KILLS:
            return
        number += 1
        run = RunFolder(tmp_path / f"run-{number}")
