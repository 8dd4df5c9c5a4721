"""The loop: what it learns, what it leaves alone, and when it stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.runs_for_tests import digest, make_images, small_config, train_small
from trainer.events import Ended, Prepared, PreviewSaved, StepDone
from trainer.lora.attach import disabled
from trainer.memory.devices import choose_device
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.runs.status import read_status
from trainer.training.guard import NonFiniteError
from trainer.training.session import Session, prepare
from trainer.training.step import batch_loss, training_step


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def never() -> bool:
    return False


def session_for(base: Path, images: Path, run: Path, **changes: object) -> Session:
    config = small_config(base, images, **changes)
    folder = RunFolder(run)
    run.mkdir(parents=True, exist_ok=True)
    return prepare(config, folder, choose_device("fp32"), print, lambda *_: None)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_every_adapted_layer_gets_a_gradient(
    tiny_base: TinyBase, images: Path, tmp_path: Path, name: str
) -> None:
    """B from the first step; A, whose gradient is zero at B = 0, from the second."""
    session = session_for(tiny_base(name), images, tmp_path / "run")
    base_before = {
        key: value.clone()
        for module in session.base.modules().values()
        for key, value in module.state_dict().items()
        if "lora_" not in key
    }
    for step in range(3):
        before = {key: value.detach().clone() for key, value in session.parameters.items()}
        training_step(session, never)
        moved = {
            key for key, value in session.parameters.items() if not torch.equal(value, before[key])
        }
        expected = {key for key in before if step > 0 or key.endswith("lora_B")}
        assert expected <= moved, sorted(expected - moved)[:5]
    for module in session.base.modules().values():
        for key, value in module.state_dict().items():
            if "lora_" not in key:
                assert torch.equal(value, base_before[key]), key
    parts = {name.split("/")[0] for name in session.parameters}
    encoders = {"text_encoder", "text_encoder_2"} if name == "sdxl" else {"text_encoder"}
    assert parts == {"unet"} | encoders


@pytest.mark.parametrize(("part", "other"), [("unet", "text_encoder"), ("text_encoder", "unet")])
def test_each_part_can_train_alone(
    tiny_base: TinyBase, images: Path, tmp_path: Path, part: str, other: str
) -> None:
    session = session_for(
        tiny_base("sd1"), images, tmp_path / "run", **{f"adapter__{other}": False}
    )
    assert {key.split("/")[0] for key in session.parameters} == {part}
    training_step(session, never)
    training_step(session, never)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_short_run_lowers_the_loss_on_its_pictures(
    tiny_base: TinyBase, images: Path, tmp_path: Path, name: str
) -> None:
    """At fixed noise and timesteps, so that nothing but learning can lower it."""
    session = session_for(
        tiny_base(name), images, tmp_path / "run", training__steps=30, preservation__weight=0.0
    )

    def loss() -> float:
        losses = [batch_loss(session, batch, None)[0] for batch in session.batches.step(1000)]
        return torch.stack(losses).sum().item()

    with torch.no_grad():
        before = loss()
        with disabled(session.base):
            assert loss() == before  # B = 0 is the base model exactly
    for _ in range(30):
        training_step(session, never)
    with torch.no_grad():
        assert loss() < 0.99 * before


def test_preservation_starts_at_zero_and_grows(
    tiny_base: TinyBase, images: Path, tmp_path: Path
) -> None:
    """A fresh adapter predicts what the base does; a moved one does not."""
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", preservation__every=1)
    first, _ = training_step(session, never)
    second, _ = training_step(session, never)
    assert first.preservation == pytest.approx(0, abs=1e-9)
    assert second.preservation is not None
    assert second.preservation > 1e-9


def test_preservation_holds_the_class_word(
    tiny_base: TinyBase, images: Path, tmp_path: Path
) -> None:
    def drift(weight: float) -> float:
        session = session_for(
            tiny_base("sd1"),
            images,
            tmp_path / f"run{weight}",
            preservation__weight=weight,
            preservation__every=1,
            training__steps=25,
        )
        for _ in range(25):
            training_step(session, never)
        noised = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        timestep = torch.tensor([500])
        with torch.no_grad():
            text = session.text.student(["a thing"]).hidden
            moved = session.base.unet(noised, timestep, encoder_hidden_states=text).sample
            with disabled(session.base):
                text = session.text.teacher(["a thing"]).hidden
                kept = session.base.unet(noised, timestep, encoder_hidden_states=text).sample
        return (moved - kept).pow(2).mean().item()

    assert drift(10.0) < 0.7 * drift(0.0)


def test_the_run_folder_is_complete(tiny_base: TinyBase, images: Path, tmp_path: Path) -> None:
    config = small_config(tiny_base("sd1"), images, previews__every=2, checkpoints__every=2)
    result, collected = train_small(config, tmp_path / "run")
    run = result.run
    assert result.finished
    assert run.adapter.is_file()
    assert run.report.is_file()
    assert run.preview_steps() == [0, 2, 4]
    assert run.checkpoint_steps() == [2, 4]
    prompts = json.loads((run.preview(4) / "prompts.json").read_text())
    assert [record["prompt"] for record in prompts] == [
        "ohwx, picture 0, of a thing, red, blue",
        "picture 0, of a thing, red, blue",
    ]
    assert all((run.preview(4) / record["file"]).is_file() for record in prompts)
    events = read_events(run)
    assert isinstance(events[0], Prepared) and events[0].version
    assert isinstance(events[-1], Ended) and events[-1].reason == "finished"
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2, 3, 4]
    status = read_status(run)
    assert status is not None
    assert (status.phase, status.step, status.total_steps) == ("finished", 4, 4)
    prepared = collected.of(Prepared)[0]
    assert prepared.summary.startswith("trains ")
    assert "4 pictures, 4 steps of 2" in prepared.arithmetic
    assert not list(run.path.rglob("*.tmp"))


def test_previews_change_nothing(tiny_base: TinyBase, images: Path, tmp_path: Path) -> None:
    digests = set()
    for every in (0, 1):
        config = small_config(
            tiny_base("sdxl"), images, previews__every=every, adapter__dropout=0.3
        )
        result, collected = train_small(config, tmp_path / f"run{every}")
        assert len(collected.of(PreviewSaved)) == (2 if every == 0 else 5)
        digests.add(digest(result.run.adapter))
    assert len(digests) == 1


def test_seeds_make_runs(tiny_base: TinyBase, images: Path, tmp_path: Path) -> None:
    def trained(name: str, seed: int) -> str:
        config = small_config(tiny_base("sd1"), images, training__seed=seed)
        return digest(train_small(config, tmp_path / name)[0].run.adapter)

    first = trained("a", 1)
    assert first == trained("b", 1)
    assert first != trained("c", 2)


def test_checkpointing_changes_memory_and_not_gradients(
    tiny_base: TinyBase, images: Path, tmp_path: Path
) -> None:
    losses = []
    for number, checkpointing in enumerate((False, True)):
        config = small_config(
            tiny_base("sdxl"), images, training__gradient_checkpointing=checkpointing
        )
        _, collected = train_small(config, tmp_path / str(number))
        losses.append([event.loss for event in collected.of(StepDone)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_accumulated_batches_are_shares_of_one_mean(tiny_base: TinyBase, tmp_path: Path) -> None:
    """Three batches of two: six slots, each once, and six is the denominator of all of them."""
    session = session_for(
        tiny_base("sd1"),
        make_images(tmp_path / "square", count=2),
        tmp_path / "run",
        training__accumulation=3,
    )
    batches = list(session.batches.step(0))
    assert [len(batch.slots) for batch in batches] == [2, 2, 2]
    assert [slot for batch in batches for slot in batch.slots] == [0, 1, 2, 3, 4, 5]
    assert {batch.total for batch in batches} == {6}
    losses = torch.stack([batch_loss(session, batch, None)[0] for batch in batches])
    done, _ = training_step(session, never)
    assert done.loss == pytest.approx(losses.sum().item(), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapter_and_optimizer_stay_in_fp32(
    tiny_base: TinyBase, images: Path, tmp_path: Path, precision: str
) -> None:
    config = small_config(tiny_base("sd1"), images)
    (tmp_path / "run").mkdir()
    device = choose_device(precision)  # type: ignore[arg-type]
    session = prepare(config, RunFolder(tmp_path / "run"), device, print, lambda *_: None)
    done, _ = training_step(session, never)
    assert done.loss > 0
    assert session.base.unet.conv_in.weight.dtype == device.dtype
    assert session.base.vae.dtype == torch.float32
    assert {p.dtype for p in session.parameters.values()} == {torch.float32}
    moments = [
        value
        for state in session.optimizer.state_dict()["state"].values()
        for value in state.values()
    ]
    assert {value.dtype for value in moments} == {torch.float32}


def test_a_loss_that_is_no_number_stops_before_the_optimizer(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_for(tiny_base("sd1"), images, tmp_path / "run")
    training_step(session, never)
    good = {key: value.detach().clone() for key, value in session.parameters.items()}
    monkeypatch.setattr(
        "trainer.training.step.loss_weights", lambda *_: torch.full((2,), float("nan"))
    )
    with pytest.raises(NonFiniteError, match=r"loss of step 2 .*\.png") as caught:
        training_step(session, never)
    assert "after step 1" in caught.value.message
    assert session.step == 1
    assert all(torch.equal(value, good[key]) for key, value in session.parameters.items())


def test_a_run_that_meets_nan_keeps_the_last_good_state(
    tiny_base: TinyBase, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainer.training.step as training

    original = training.loss_weights
    calls: list[int] = []

    def poisoned(*arguments: object) -> torch.Tensor:
        calls.append(1)
        weights = original(*arguments)  # type: ignore[arg-type]
        return weights * float("nan") if len(calls) == 3 else weights

    monkeypatch.setattr(training, "loss_weights", poisoned)
    with pytest.raises(NonFiniteError):
        config = small_config(tiny_base("sd1"), images, preservation__method="none")
        train_small(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert run.checkpoint_steps() == [2]
    ended, status = read_events(run)[-1], read_status(run)
    assert isinstance(ended, Ended) and (ended.reason, ended.code) == ("failed", "non_finite")
    assert status is not None
    assert (status.phase, status.code) == ("failed", "non_finite")
