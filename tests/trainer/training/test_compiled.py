"""A compiled UNet trains as it does otherwise, and where compiling fails without it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from tests.conftest import TinyBase
from tests.trainer.lora.test_joined import with_joined
from tests.trainer.runs_for_tests import make_images, session_for, small_config, train_small
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.events import StepDone, Warned
from trainer.memory.devices import Device
from trainer.models.load import load_base
from trainer.places import cache_folder
from trainer.training.compiled import CACHE_FOLDER
from trainer.training.session import Session, _compiled
from trainer.training.step import add_gradients


def gradients(session: Session) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of a step and all its gradients."""
    losses = [add_gradients(session, batch, True) for batch in session.batches.step(0)]
    found = [p.grad.flatten() for p in session.parameters.values() if p.grad is not None]
    session.optimizer.zero_grad(set_to_none=True)
    return torch.stack(losses).sum(0), torch.cat(found)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_losses_are_the_same(
    precision: str, tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that needs no compiler of C++; in bf16 with joined layers."""
    monkeypatch.setattr("trainer.training.compiled.BACKEND", "aot_eager")
    monkeypatch.setenv(CACHE_FOLDER, default_cache_dir())
    images = make_images(tmp_path / "images")
    changes: dict[str, Any] = {
        "training__compile": True, "training__gradient_checkpointing": True,
        "training__precision": precision,
    }  # fmt: skip
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", **changes)
    assert os.environ[CACHE_FOLDER] == str(cache_folder() / "compiled")
    with torch.no_grad():
        for parameter in session.parameters.values():
            parameter.add_(0.01)  # B is zero at first
    if precision == "bf16":
        session.copies = with_joined(session)
    calls = dict(session.compiled.calls)
    assert {type(module).__name__ for module in calls} == {"BasicTransformerBlock"}
    used: list[int] = []
    session.compiled.calls = {
        module: lambda *given, call=call, **named: used.append(1) or call(*given, **named)
        for module, call in calls.items()
    }
    compiled = gradients(session)
    assert used
    session.compiled.calls = {}
    eager, tolerance = gradients(session), 1e-5 if precision == "fp32" else 0.02
    for one, other in zip(compiled, eager, strict=True):
        assert (one - other).norm() < tolerance * other.norm()


@pytest.mark.slow
def test_where_compiling_fails_it_is_said_and_trained_without(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> NoReturn:
        raise OSError("no C++ compiler found\nmore")

    monkeypatch.setattr("trainer.training.compiled.BACKEND", broken)
    base, images = tiny_base("sd1"), make_images(tmp_path / "images")
    losses: list[list[float]] = []
    for wanted in (True, False):
        config = small_config(base, images, training__steps=2, training__compile=wanted)
        result, collected = train_small(config, tmp_path / str(wanted))
        assert result.finished
        losses.append([event.loss for event in collected.of(StepDone)])
        said = [event.message for event in collected.of(Warned)]
        assert sum("no C++ compiler found" in one and "more" not in one for one in said) == wanted
        assert sum("not to the last bit" in one for one in said) == wanted
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("kind", "graphs"), [("cuda", True), ("cpu", False)])
def test_cuda_graphs_are_asked_for(
    kind: str, graphs: bool, tiny_base: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of torch.compile on a card, a new step before each pass; elsewhere a sentence."""
    asked: list[Any] = []
    said: list[str] = []
    monkeypatch.setattr("torch.compile", lambda module, **options: asked.append(options["mode"]))
    monkeypatch.setattr("torch.compiler.cudagraph_mark_step_begin", lambda: asked.append("begin"))
    monkeypatch.setenv(CACHE_FOLDER, default_cache_dir())
    base = load_base(str(tiny_base("sd1")))
    values = {"training.compile": True, "training.cuda_graphs": True}
    config = with_values(TrainingConfig(), values)
    compiled = _compiled(base, config, Device(torch.device(kind), "fp32"), said.append)
    compiled.calls = {block: block.forward for block in base.unet.down_blocks}
    with compiled.used():
        pass
    expected = "reduce-overhead" if graphs else None
    assert set(asked) == {expected, "begin"} if graphs else set(asked) == {None}
    assert [line.partition(":")[0] for line in said] == [
        "training.cuda_graphs needs an NVIDIA card"
    ] * (not graphs)
