"""Copies of an adapter's matrices give the same gradients as casting each for itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from benchmarks.launches import FIRST, count
from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, session_for
from trainer.lora.product import COPY
from trainer.training.copies import Copies
from trainer.training.session import Session
from trainer.training.step import add_gradients


def gradients(session: Session, copies: Copies) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses and gradients of a step."""
    session.copies = copies
    session.optimizer.zero_grad(set_to_none=True)
    sums = sum(add_gradients(session, batch, True) for batch in session.batches.step(0))
    assert isinstance(sums, torch.Tensor)
    found = {n: p.grad.clone() for n, p in session.parameters.items() if p.grad is not None}
    return sums, found


@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("at_once", [None, 1])
def test_gradients_are_the_same_bits(
    alpha: float | None, at_once: int | None, tiny_base: TinyBase, tmp_path: Path
) -> None:
    """In one pass, and added up over several."""
    changes = {
        "training__precision": "bf16", "training__batch_size": 2, "adapter__alpha": alpha,
        "memory__pictures_at_once": at_once,
    }  # fmt: skip
    images = make_images(tmp_path / "images")
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", **changes)
    with torch.no_grad():
        for parameter in session.parameters.values():
            parameter.add_(0.01)  # B is zero at first
    made = session.copies
    assert made.parameters
    with_copies, without = gradients(session, made), gradients(session, Copies([], torch.bfloat16))
    assert torch.equal(with_copies[0], without[0])
    assert with_copies[1].keys() == without[1].keys()
    for name, gradient in without[1].items():
        assert torch.equal(with_copies[1][name], gradient), name


def test_copies_are_there_within_the_block_alone() -> None:
    """A preview between two steps must not draw with those of the step before."""
    parameter = Parameter(torch.ones(2, 2))
    copies = Copies([parameter], torch.bfloat16)
    with copies.used():
        assert getattr(parameter, COPY).dtype == torch.bfloat16
    assert not hasattr(parameter, COPY)
    with pytest.raises(RuntimeError), copies.used():
        raise RuntimeError
    assert not hasattr(parameter, COPY) and parameter.grad is None
    with copies.used(False):
        assert not hasattr(parameter, COPY)


def test_nothing_is_copied_in_float32() -> None:
    assert Copies([Parameter(torch.ones(2, 2))], torch.float32).parameters == []


@pytest.mark.parametrize(
    ("base", "text_encoder", "most"),
    [("sd15", True, 0.485), ("sd15", False, 0.5), ("sdxl", True, 0.425)],
)
def test_a_step_starts_less(base: str, text_encoder: bool, most: float) -> None:
    """Of a full-size model without weights; benchmarks/launches.py prints the table."""
    now = count(base, text_encoder=text_encoder)
    assert now.total() <= most * FIRST[base, text_encoder]
    assert now["mul_"] + now["_to_copy"] < 50
