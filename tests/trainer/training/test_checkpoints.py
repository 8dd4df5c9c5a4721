"""Checkpoints: exact, verified, complete or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.config.optimizers import OPTIMIZERS
from trainer.config.schema import OptimizerConfig
from trainer.errors import UserError
from trainer.lora.changes import relative_difference
from trainer.lora.editing import approximate
from trainer.lora.reading import read_adapter
from trainer.models.load import load_base
from trainer.runs.layout import RunFolder
from trainer.training.checkpoints import (
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    read_checkpoint_adapter,
    save_checkpoint,
)
from trainer.training.optimizers import make_optimizer, parameter_groups


def _state(step: int, optimizer: str = "adamw") -> TrainingState:
    parameter = Parameter(torch.randn(3, 4))
    groups = parameter_groups({"unet": [("x.lora_A", parameter)]}, {"unet": 1.0})
    moved = make_optimizer(OptimizerConfig.model_validate({"name": optimizer}), groups)
    for _ in range(2):
        parameter.grad = torch.randn(3, 4)
        moved.step()
    return TrainingState(
        step=step,
        adapter={"unet/x.lora_A": parameter.detach().clone()},
        ema={"unet/x.lora_A": torch.full((3, 4), 0.1)},
        ema_steps=7,
        optimizer=moved.state_dict(),
        scaler={"scale": 65536.0, "_growth_tracker": 3},
        config={"training": {"seed": 1}, "previews": {"prompts": ["a", "b"]}},
        images={"abc": ["one.png", "0123", 1]},
        base="f00",
    )


def _same(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return (
            isinstance(second, torch.Tensor)
            and first.dtype == second.dtype
            and torch.equal(first, second)
        )
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and list(first) == list(second)
            and all(_same(first[key], second[key]) for key in first)
        )
    if isinstance(first, (list, tuple)):
        return (
            type(first) is type(second)
            and len(first) == len(second)  # type: ignore[arg-type]
            and all(map(_same, first, second))  # type: ignore[arg-type]
        )
    return type(first) is type(second) and first == second


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_comes_back_exactly(run: RunFolder, optimizer: str) -> None:
    state = _state(12, optimizer)
    folder = save_checkpoint(run, state, keep=1)
    assert folder.name == "step-000012"
    loaded = load_checkpoint(folder)
    assert _same(vars(state), vars(loaded))


def test_old_ones_go_only_after_the_new_one_is_there(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20, 30):
        save_checkpoint(run, _state(step), keep=2)
    assert [path.name for path in list_checkpoints(run)] == ["step-000020", "step-000030"]

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(run, _state(40), keep=2)
    assert [path.name for path in list_checkpoints(run)] == ["step-000020", "step-000030"]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "step-000020",
        "step-000030",
    ]


@pytest.mark.parametrize(
    "file", ["adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    run: RunFolder, file: str, damage: str
) -> None:
    save_checkpoint(run, _state(10), keep=2)
    path = save_checkpoint(run, _state(20), keep=2) / file
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 255
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    notices: list[str] = []
    assert load_latest(run, notices.append).step == 10
    assert len(notices) == 1
    assert "step-000020" in notices[0]


@pytest.mark.parametrize("manifest", ["{}", "[]", "3", '{"state.json": 3}', "[" * 9000])
def test_a_manifest_of_another_shape_is_damage(run: RunFolder, manifest: str) -> None:
    folder = save_checkpoint(run, _state(10), keep=2)
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=r"step-000010 can't be read: .*manifest\.json is damaged"):
        load_checkpoint(folder)


def test_any_flipped_bit_of_a_manifest_is_noticed(run: RunFolder) -> None:
    """Or changes nothing, between the lines."""
    state = _state(10)
    folder = save_checkpoint(run, state, keep=2)
    whole = (folder / "manifest.json").read_bytes()
    refused = 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1
        (folder / "manifest.json").write_bytes(data)
        try:
            assert _same(vars(load_checkpoint(folder)), vars(state))
        except UserError:
            refused += 1
    assert refused > len(whole) / 2


def test_no_checkpoint_is_an_error_and_not_step_zero(run: RunFolder) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        load_latest(run, print)


@pytest.mark.parametrize("keep", [1, 2])
def test_later_ones_are_not_of_this_way(run: RunFolder, keep: int) -> None:
    """A run that went back leaves what it had later: the new one stays, whatever is kept."""
    for step in (10, 20, 30):
        save_checkpoint(run, _state(step), keep=3)
    save_checkpoint(run, _state(15), keep=keep)
    names = [path.name for path in list_checkpoints(run)]
    assert names == ["step-000010", "step-000015"][-keep:]


def test_a_damaged_one_of_the_same_step_is_replaced(run: RunFolder) -> None:
    folder = save_checkpoint(run, _state(10), keep=2)
    (folder / "state.json").write_text("damaged")
    save_checkpoint(run, _state(10), keep=2)
    assert load_checkpoint(folder).step == 10


KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"adapter__alpha": 3.0},
    "dora": {"adapter__targets": "convolution", "output__dora_rank": 1000},
    "loha": {"adapter__alpha": 3.0, "adapter__targets": "convolution"},
    "lokr": {"adapter__alpha": 3.0, "adapter__targets": "convolution"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_what_the_file_says(
    tiny_base: TinyBase, tmp_path: Path, kind: str
) -> None:
    images = make_images(tmp_path / "images")
    config = small_config(
        tiny_base("sd1"), images, adapter__kind=kind, training__steps=2, **KINDS[kind]
    )
    result, _ = train_small(config, tmp_path / "run")
    found = read_checkpoint_adapter(list_checkpoints(result.run)[-1])
    if found.needs_base:
        base = load_base(str(tiny_base("sd1")))
        found = approximate(base, found, rank=1000).adapter
        assert result.adapter is not None
        assert "DoRA, written as a plain adapter of rank 1000: is exact" in result.adapter.summary
    saved = read_adapter(result.run.adapter)
    assert found.layers.keys() == saved.layers.keys()
    worst = max(relative_difference(found.layers[key], saved.layers[key]) for key in saved.layers)
    assert worst <= 1e-5
