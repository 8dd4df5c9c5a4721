"""Trainings that go on from an adapter file, anyone's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TinyBase
from tests.trainer.lora.helpers import adapter_for, change_of, random_adapter
from tests.trainer.runs_for_tests import (
    Killed,
    digest,
    make_images,
    session_for,
    small_config,
    train_small,
)
from trainer.commands.cli import main
from trainer.config.effects import idle_settings
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import RunEvent, StepDone
from trainer.lora.adapter import Adapter
from trainer.lora.layers import find_targets
from trainer.lora.loading import collect
from trainer.lora.reading import read_adapter
from trainer.lora.writing import WritableLayout, write_adapter
from trainer.models.base import BaseModel
from trainer.models.load import load_base
from trainer.runs.layout import RunFolder
from trainer.runs.log import read_events
from trainer.training.runner import run_training


def saved(adapter: Adapter, path: Path, layout: WritableLayout = "kohya") -> str:
    write_adapter(adapter, path, layout, "fp32")
    return str(path)


def of_unet(base: BaseModel) -> Adapter:
    keys = [key for key in find_targets(base, "attention") if key.part == "unet"]
    return random_adapter(base, {key: (3, 1.5) for key in keys[:3]})


# what the file has, the layout it has it in -> rank and alpha of the run, text encoder trained
FILES: dict[
    str, tuple[Callable[[BaseModel], Adapter], WritableLayout, tuple[int, float, bool] | None]
] = {
    "kohya": (lambda base: adapter_for(base, 4, 2.0), "kohya", (4, 2.0, True)),
    "diffusers": (lambda base: adapter_for(base, 4, 4.0), "diffusers", (4, 4.0, True)),
    "mixed ranks and alphas": (lambda base: adapter_for(base, None), "kohya", None),
    "convolutions": (
        lambda base: adapter_for(base, 2, 2.0, "convolution"),
        "kohya",
        (2, 2.0, True),
    ),
    "some layers of the UNet": (of_unet, "kohya", (3, 1.5, False)),
}


@pytest.mark.parametrize("case", FILES)
def test_layers_ranks_and_weights_are_taken_over(
    case: str, tiny_base: TinyBase, tmp_path: Path
) -> None:
    make, layout, expected = FILES[case]
    folder = tiny_base("sd1")
    start = make(load_base(str(folder)))
    path = saved(start, tmp_path / "theirs.safetensors", layout)
    session = session_for(
        folder, make_images(tmp_path / "images"), tmp_path / "run", adapter__start_from=path
    )
    taken = collect(session.base)
    assert taken.layers.keys() == start.layers.keys()
    for key, layer in taken.layers.items():
        assert layer.rank == start.layers[key].rank
        torch.testing.assert_close(change_of(layer), change_of(start.layers[key]))
    config = session.config.adapter
    assert len({layer.alpha for layer in taken.layers.values()}) == 1
    assert (config.rank, config.alpha) == (
        max(start.ranks),
        next(iter(taken.layers.values())).alpha,
    )
    if expected:
        assert (config.rank, config.alpha, config.text_encoder) == expected
        assert all(
            torch.equal(layer.up, start.layers[key].up.reshape(layer.up.shape))
            for key, layer in taken.layers.items()
        )
    assert all(p.requires_grad for p in session.parameters.values())


@pytest.mark.parametrize(("there", "here", "said"), [("2", 1, 1), ("2", 2, 0), ("None", 1, 0)])
def test_another_clip_skip_is_said(
    tiny_base: TinyBase,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    there: str,
    here: int,
    said: int,
) -> None:
    start = replace(of_unet(load_base(str(tiny_base("sd1")))), metadata={"ss_clip_skip": there})
    path, images = saved(start, tmp_path / "theirs.safetensors"), make_images(tmp_path / "images")
    values = {"adapter__start_from": path, "base__clip_skip": here}
    session_for(tiny_base("sd1"), images, tmp_path / "run", **values)
    assert capsys.readouterr().out.count("had base.clip_skip = 2, here it is 1") == said


@pytest.mark.parametrize(
    "settings", [{}, {"memory__base_weights": "8bit", "training__ema_decay": 0.9}], ids=str
)
def test_it_resumes_to_the_same_bytes_without_the_file(
    tiny_base: TinyBase, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder, images = tiny_base("sd1"), make_images(tmp_path / "images")
    path = tmp_path / "theirs.safetensors"
    saved(adapter_for(load_base(str(folder)), None), path)
    config = small_config(
        folder,
        images,
        training__steps=4,
        checkpoints__every=2,
        adapter__start_from=str(path),
        **settings,
    )
    whole, _ = train_small(config, tmp_path / "whole")

    def die(event: RunEvent) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            raise Killed

    parts = RunFolder(tmp_path / "parts")
    with pytest.raises(Killed):
        run_training(config, parts, die)
    path.unlink()
    assert main(["resume", str(parts.path)]) == 0
    assert digest(parts.adapter) == digest(whole.run.adapter)
    metadata = read_adapter(parts.adapter).metadata
    assert metadata["rarebit.start_from"] == f"theirs.safetensors {digest(parts.start)}"
    assert str(tmp_path) not in str(metadata)
    said = [event for event in read_events(parts) if "Goes on from theirs" in str(event)]
    assert len(said) == 1


def dead(adapter: Adapter) -> Adapter:
    layers = {key: replace(layer, alpha=0.0) for key, layer in adapter.layers.items()}
    return replace(adapter, layers=layers)


REFUSED: dict[str, tuple[str, Callable[[Adapter], Adapter], dict[str, Any], str]] = {
    "as DoRA": ("sd1", lambda a: a, {"adapter__kind": "dora"}, "adapter.kind dora cannot"),
    "another family": ("sdxl", lambda a: a, {}, "does not fit"),
    "a part that is off": (
        "sd1",
        lambda a: a,
        {"adapter__text_encoder": False},
        "adapter.text_encoder is off",
    ),
    "nothing in it": ("sd1", dead, {}, "changes nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_gone_on_from_is_refused_by_name(
    case: str, tiny_base: TinyBase, tmp_path: Path
) -> None:
    family, change, settings, said = REFUSED[case]
    adapter = change(adapter_for(load_base(str(tiny_base(family)))))
    path = saved(adapter, tmp_path / "theirs.safetensors")
    with pytest.raises(UserError, match=said) as caught:
        session_for(
            tiny_base("sd1"),
            make_images(tmp_path / "images"),
            tmp_path / "run",
            adapter__start_from=path,
            **settings,
        )
    assert caught.value.hint


def test_a_dora_is_refused_by_name(tiny_base: TinyBase, tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    saved(adapter_for(load_base(str(tiny_base("sd1")))), path)
    tensors = load_file(path)
    lengths = {
        name.replace(".lora_up.weight", ".dora_scale"): torch.ones(len(value), 1)
        for name, value in tensors.items()
        if name.endswith(".lora_up.weight")
    }
    save_file(tensors | lengths, path)
    with pytest.raises(UserError, match="is DoRA, which"):
        session_for(
            tiny_base("sd1"),
            make_images(tmp_path / "images"),
            tmp_path / "run",
            adapter__start_from=str(path),
        )


def test_a_file_that_is_not_there_is_named(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    with pytest.raises(UserError, match=r"nowhere\.safetensors is not a file"):
        session_for(
            tiny_base("sd1"), images, tmp_path / "run", adapter__start_from="nowhere.safetensors"
        )


def test_settings_that_the_file_decides_are_named() -> None:
    values = {"adapter.start_from": "a.safetensors", "adapter.rank": 8, "adapter.kind": "rslora"}
    config = with_values(TrainingConfig(), values)
    assert {str(idle) for idle in idle_settings(config)} == {
        "adapter.rank: 8 has no effect, since adapter.start_from is given.",
        "adapter.kind: rslora has no effect, since adapter.start_from is given.",
    }
