"""A resumed run equals one that never stopped, byte for byte."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import (
    Collected,
    Killed,
    digest,
    make_images,
    measure_quickly,
    session_for,
    small_config,
)
from trainer.commands.cli import main
from trainer.config.file import read_config, with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import Evaluated, Prepared, RunEvent, StepDone, Warned
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.runs.report import step_points
from trainer.runs.status import read_status
from trainer.training.checkpoints import TrainingState, load_latest, save_checkpoint
from trainer.training.resume import changed_settings, image_changes
from trainer.training.runner import Pause, run_training
from trainer.training.session import Session

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"training__precision": "bf16"},
    "accumulation, flips, dropout": {
        "training__accumulation": 2,
        "training__stop_text_encoder_after": 0.7,
        "objective__loss": "huber",
        "objective__multires_noise": 0.3,
        "objective__input_perturbation": 0.1,
        "images__flip": True,
        "captions__dropout": 0.5,
        "captions__shuffle_tags": True,
        "adapter__dropout": 0.2,
    },
    "captions of one and of three chunks, clip skip": {
        "captions__prefix": "a b c d e f g h i j k l m n o p q r s t u v w x y z, " * 3,
        "captions__suffix": "1 2 3 4 5 6 7 8 9 0 " * 10,
        "captions__dropout": 0.5,
        "training__batch_size": 3,
        "base__clip_skip": 2,
        "optimizer__name": "adamw_schedule_free",
    },
    "versions of pictures, several resolutions, single tags, restarts": {
        "images__random_crop": 0.3,
        "images__rotation": 8.0,
        "images__brightness": 0.2,
        "images__hue": 20.0,
        "images__variants": 3,
        "images__flip": True,
        "images__resolutions": [32, 64],
        "images__upscale": True,
        "captions__tag_dropout": 0.5,
        "captions__protected_tags": ["blue"],
        "optimizer__schedule": "cosine_with_restarts",
        "optimizer__warmup": 0.2,
    },
    "EMA, preservation every 3rd step, layers by name": {
        "training__ema_decay": 0.9,
        "preservation__every": 3,
        "optimizer__name": "came",
        "optimizer__lora_plus_ratio": 4.0,
        "adapter__only": ["unet.*"],
        "adapter__without": ["unet.mid_block.*"],
        "adapter__ranks": ["unet.up_blocks.* = 3"],
        "optimizer__layer_rates": ["unet.down_blocks.* = 0.5"],
    },
    "DoRA with convolutions, class pictures": {
        "adapter__kind": "dora",
        "adapter__targets": "convolution",
        "training__ema_decay": 0.9,
        "preservation__method": "pictures",
        "preservation__share": 0.5,
    },
    "T-LoRA, dropout": {
        "adapter__rank": 4,
        "adapter__t_lora_min_rank": 1,
        "adapter__dropout": 0.1,
        "images__resolutions": [32, 64],
        "images__upscale": True,
    },
    "LoHa with convolutions, EMA": {
        "adapter__kind": "loha",
        "adapter__targets": "convolution",
        "adapter__ranks": ["unet.mid_block.* = 3"],
        "training__ema_decay": 0.9,
    },
    "LoKr, weights in 4 bits": {
        "adapter__kind": "lokr",
        "adapter__factor": 4,
        "memory__base_weights": "4bit",
        "training__gradient_checkpointing": True,
    },
    "rsLoRA, weights and optimizer in 8 bits": {
        "adapter__kind": "rslora",
        "memory__base_weights": "8bit",
        "optimizer__name": "adamw8bit",
    },
    "UNet and new tokens, prodigy": {
        "adapter__text_encoder": False,
        "adapter__new_tokens": 2,
        "optimizer__name": "prodigy",
        "optimizer__learning_rate": 1.0,
        "optimizer__text_encoder_learning_rate": 1.0,
    },
}
"""Each needs a training of its own; settings that do not touch each other share one."""


def run_until(
    config: TrainingConfig,
    run: Path,
    kill_after: int | None,
    *,
    resume: bool = False,
    left: tuple[int, Path] | None = None,
    **options: Any,
) -> Collected:
    """Train; die right after a step.

    Args:
        left: a step, and where to copy what would be left if it died there.
    """
    collected = Collected()

    def listen(event: RunEvent) -> None:
        collected(event)
        if left and isinstance(event, StepDone) and event.step == left[0]:
            shutil.copytree(run, left[1])
        if isinstance(event, StepDone) and event.step == kill_after:
            raise Killed

    with suppress(Killed):
        run_training(config, RunFolder(run), listen, resume=resume, **options)  # type: ignore[arg-type]
    return collected


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_killed_twice_and_resumed_is_the_same_bytes(
    tiny_base: TinyBase, tmp_path: Path, settings: dict[str, Any]
) -> None:
    images = make_images(tmp_path / "images", count=5)
    config = small_config(
        tiny_base("sd1"), images, training__steps=6, checkpoints__every=2, **settings
    )
    run_until(config, tmp_path / "whole", None, left=(3, tmp_path / "parts"))
    run_until(config, tmp_path / "parts", 5, resume=True)
    last = run_until(config, tmp_path / "parts", None, resume=True)
    assert [event.step for event in last.of(StepDone)] == [5, 6]
    assert digest(tmp_path / "whole/adapter.safetensors") == digest(
        tmp_path / "parts/adapter.safetensors"
    )
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    state = "checkpoints/step-000006"
    for file in ("adapter.safetensors", "optimizer.safetensors", "ema.safetensors"):
        assert digest(whole.path / state / file) == digest(parts.path / state / file)
    losses = step_points(read_events(whole), StepDone, "loss")
    assert losses == step_points(read_events(parts), StepDone, "loss")


@pytest.fixture
def stopped(tiny_base: TinyBase, tmp_path: Path) -> tuple[TrainingConfig, Path]:
    """A run that was killed at step 3 of 6, with a checkpoint at 2, and its image folder."""
    images = make_images(tmp_path / "images")
    config = small_config(tiny_base("sd1"), images, training__steps=6, checkpoints__every=2)
    run_until(config, tmp_path / "run", 3)
    return config, tmp_path / "run"


def test_steps_and_intervals_may_change(stopped: tuple[TrainingConfig, Path]) -> None:
    config, run = stopped
    longer = with_values(config, {"training.steps": 8, "checkpoints.every": 5})
    collected = run_until(longer, run, None, resume=True)
    assert [event.step for event in collected.of(StepDone)] == [3, 4, 5, 6, 7, 8]
    assert any("training.steps changed from 6 to 8" in e.message for e in collected.of(Warned))


def test_fewer_steps_than_are_done_are_refused(stopped: tuple[TrainingConfig, Path]) -> None:
    config, run = stopped
    with pytest.raises(UserError, match="2 steps are done already"):
        run_until(with_values(config, {"training.steps": 1}), run, None, resume=True)


def test_a_finished_run_is_trained_longer(
    tiny_base: TinyBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(tmp_path / "images")
    config = small_config(tiny_base("sd1"), images, training__steps=2)
    run = RunFolder(tmp_path / "run")
    run_until(config, run.path, None)
    finished = digest(run.adapter)
    for steps in (1, 2):
        assert main(["resume", str(run.path), "--steps", str(steps)]) == 2
        assert "has done 2 steps already" in capsys.readouterr().err
    assert main(["resume", str(run.path), "--steps", "4"]) == 0
    steps = [event.step for event in read_events(run) if isinstance(event, StepDone)]
    assert steps == [1, 2, 3, 4]
    said = [event.message for event in read_events(run) if isinstance(event, Warned)]
    assert any("schedule now spans 4 steps" in text and "%" in text for text in said)
    assert read_config(run.config).training.steps == 4
    assert read_status(run).phase == "finished"  # type: ignore[union-attr]
    assert digest(run.adapter) != finished


def test_a_run_of_an_earlier_version_goes_on_as_it_began(
    tiny_base: TinyBase, tmp_path: Path
) -> None:
    """Its file and its checkpoint lack the fields that came later; the result is the same bytes."""
    settings: dict[str, Any] = {
        "optimizer__schedule": "cosine_with_restarts",
        "optimizer__schedule_cycles": 1,
        "optimizer__schedule_power": 1.0,
    }
    config = small_config(
        tiny_base("sd1"),
        make_images(tmp_path / "images"),
        training__steps=6,
        checkpoints__every=2,
        **settings,
    )
    whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    run_until(config, whole.path, None, left=(3, run.path))
    lines = run.config.read_text(encoding="utf-8").splitlines()
    late = ("schedule_cycles", "schedule_power")
    run.config.write_text("\n".join(line for line in lines if not line.startswith(late)))
    state = load_latest(run, print)
    for key in late:
        del state.config["optimizer"][key]
    save_checkpoint(run, state, keep=2)
    run_until(read_config(run.config, of_run=True), run.path, None, resume=True)
    assert digest(run.adapter) == digest(whole.adapter)
    assert read_config(run.config).optimizer.schedule_cycles == 1


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("adapter", "rank", 3), ("training", "seed", 9), ("optimizer", "learning_rate", 0.5)],
)
def test_what_decided_the_past_may_not(
    stopped: tuple[TrainingConfig, Path], section: str, field: str, value: Any
) -> None:
    config, run = stopped
    old = getattr(getattr(config, section), field)
    changed = with_values(config, {f"{section}.{field}": value})
    with pytest.raises(UserError, match=rf"{section}\.{field}: was {old}, is {value}"):
        run_until(changed, run, None, resume=True)


def test_killed_between_previews_and_checkpoint(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was drawn and measured at a step is replaced when the step is made again."""
    measure_quickly(monkeypatch)
    images = make_images(tmp_path / "images")
    config = small_config(
        tiny_base("sd1"),
        images,
        previews__every=2,
        checkpoints__every=2,
        evaluation__enabled=True,
        evaluation__every=2,
        evaluation__board=0,
    )
    whole = run_until(config, tmp_path / "whole", None)
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):

        def die(_: object, state: TrainingState, __: int) -> Path:
            if state.step == 4:
                raise Killed
            return save_checkpoint(RunFolder(tmp_path / "run"), state, 2)

        patch.setattr("trainer.training.loop.save_checkpoint", die)
        run_until(config, tmp_path / "run", None)
    run = RunFolder(tmp_path / "run")
    assert (run.preview_steps(), run.checkpoint_steps()) == ([0, 2, 4], [2])
    last = run_until(config, run.path, None, resume=True)
    assert [event.step for event in last.of(StepDone)] == [3, 4]
    assert last.of(Evaluated)[-1].meters == whole.of(Evaluated)[-1].meters
    expected = RunFolder(tmp_path / "whole")
    for name in ("adapter.safetensors", "previews/step-000004/00.png"):
        assert digest(expected.path / name) == digest(run.path / name)


def test_another_base_model_is_refused(
    stopped: tuple[TrainingConfig, Path], tiny_base: TinyBase
) -> None:
    config, run = stopped
    other = with_values(config, {"base.name": str(tiny_base("sd2"))})
    with pytest.raises(UserError, match="not the one that this run began with"):
        run_until(other, run, None, resume=True)


def test_a_changed_image_set_is_shown_and_refused_unless_accepted(
    stopped: tuple[TrainingConfig, Path],
) -> None:
    config, run = stopped
    folder = config.images.path
    (folder / "1.txt").write_text("something else")
    (folder / "2.png").unlink()
    Image.new("RGB", (32, 32), "green").save(folder / "new.png")
    with pytest.raises(UserError) as caught:
        run_until(config, run, None, resume=True)
    for part in ("added: new.png", "removed: 2.png", "other caption: 1.png", "--accept-changes"):
        assert part in str(caught.value)
    collected = run_until(config, run, None, resume=True, accept_changes=True)
    assert any("added: new.png" in event.message for event in collected.of(Warned))


@pytest.mark.parametrize(
    ("new", "held_out", "said"),
    [
        ("ac", "", ["added: c.png", "removed: b.png"]),
        # Without b another picture is kept out to measure by, and c, which was, is trained.
        ("c", "a", ["added (or kept out to measure by until now): c.png",
                    "kept out to measure by now: a.png", "removed: b.png"]),
        ("ab", "c", []),
    ],
)  # fmt: skip
def test_another_validation_split_is_no_other_image_set(
    new: str, held_out: str, said: list[str]
) -> None:
    old, now, held = (
        {one: [f"{one}.png", "", 1, ""] for one in names} for names in ("ab", new, held_out)
    )
    assert image_changes(old, now, held) == said


def test_nothing_to_resume_is_an_error(tiny_base: TinyBase, tmp_path: Path) -> None:
    config = small_config(tiny_base("sd1"), make_images(tmp_path / "images"))
    with pytest.raises(UserError, match="no checkpoint"):
        run_until(config, tmp_path / "run", None, resume=True)


def test_a_corrupt_newest_checkpoint_falls_back_with_a_notice(
    stopped: tuple[TrainingConfig, Path],
) -> None:
    config, run = stopped
    run_until(config, run, 5, resume=True)
    newest = RunFolder(run).checkpoint(4) / "adapter.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    collected = run_until(config, run, None, resume=True)
    assert [event.step for event in collected.of(StepDone)] == [3, 4, 5, 6]
    assert any("damaged" in event.message for event in collected.of(Warned))


def test_a_stop_while_a_resumed_run_gets_ready_keeps_its_step(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(tmp_path / "images")
    config = small_config(tiny_base("sd1"), images, training__steps=4, checkpoints__every=2)
    with suppress(Killed):
        run_until(config, tmp_path / "run", 3)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.training.runner.prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_until(config, tmp_path / "run", None, resume=True)
    status = read_status(RunFolder(tmp_path / "run"))
    assert status is not None
    assert (status.phase, status.step, status.message) == ("stopped", 2, "stopped before step 3")


def test_a_value_that_has_another_name_today_has_not_changed() -> None:
    """Weights of "half", of earlier versions, are those of "full" today."""
    before: dict[str, Any] = {"memory": {"base_weights": "half"}, "training": {"steps": 5}}
    config = with_values(TrainingConfig(), {"training.steps": 6, "memory.base_weights": "full"})
    changed = changed_settings(before, config)
    assert changed["training.steps"] == (5, 6)
    assert "memory.base_weights" not in changed


def test_lines_and_wildcards_are_chosen_alike_after_a_resume(
    tiny_base: TinyBase, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images")
    for number in range(4):
        (images / f"{number}.txt").write_text(f"one {{a|b}} {number}\ntwo {number}\n")
    options = {"captions__wildcards": True, "captions__dropout": 0.0, "checkpoints__every": 2}
    config = small_config(tiny_base("sd1"), images, preservation__method="none", **options)
    session = session_for(
        tiny_base("sd1"), images, tmp_path / "session", preservation__method="none", **options
    )
    seen = {
        sample.caption
        for step in range(40)
        for batch in session.batches.samples(step)
        for sample in batch
    }
    texts = ("one a {}", "one b {}", "two {}")
    assert seen == {f"ohwx thing, {text.format(n)}" for text in texts for n in range(4)}
    whole = run_until(config, tmp_path / "whole", None, left=(3, tmp_path / "run"))
    assert "with one of 8 captions at a time" in whole.of(Prepared)[0].arithmetic
    run_until(config, tmp_path / "run", None, resume=True)
    files = [RunFolder(tmp_path / name).adapter for name in ("whole", "run")]
    assert digest(files[0]) == digest(files[1])


def test_a_paused_run_is_the_same_bytes(tiny_base: TinyBase, tmp_path: Path) -> None:
    """It stops by itself and is looked at there; what the look does to it is not saved."""
    config = small_config(tiny_base("sd1"), make_images(tmp_path / "images"))
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    run_training(config, whole, lambda _: None)
    seen: list[int] = []

    def look(session: Session) -> None:
        seen.append(session.step)
        for parameter in session.parameters.values():
            parameter.data.zero_()

    first = run_training(config, parts, lambda _: None, pause=Pause(2, look))
    # As if it had been killed after it was saved there: it is looked at, and trains no further.
    again = run_training(config, parts, lambda _: None, resume=True, pause=Pause(2, look))
    assert [one.step for one in (first, again)] == seen == [2, 2]
    assert not first.finished and not first.asked_to_stop
    last = run_training(config, parts, lambda _: None, resume=True)
    assert last.finished
    assert digest(whole.adapter) == digest(parts.adapter)


def test_a_stop_that_comes_too_late_is_told(tiny_base: TinyBase, tmp_path: Path) -> None:
    config = small_config(tiny_base("sd1"), make_images(tmp_path / "images"), training__steps=1)

    def listen(event: RunEvent) -> None:
        if isinstance(event, StepDone):
            os.kill(os.getpid(), signal.SIGTERM)

    result = run_training(config, RunFolder(tmp_path / "run"), listen)
    assert result.finished and result.asked_to_stop
