"""The GPU's benchmark, on the processor: its steps are steps, and its numbers come from them."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import CASES, Bench, Case, measurements
from benchmarks.memory import MODES

CPU = torch.device("cpu")
SMALL = Case("tiny-emoji", 64, ("plain", "checkpointing"), rows=2, text=True)


def test_rows_of_a_case() -> None:
    memory, *repeats = list(measurements(SMALL, CPU))[1:]
    assert memory["mode"] == "checkpointing" and memory["measured"] == 0  # not counted here
    assert isinstance(memory["predicted"], float) and memory["predicted"] > 0.01
    assert [row["exact"] for row in repeats] == [False, True]
    assert all(row["repeats"] and row["apart"] == 0 for row in repeats)


def test_a_step_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(SMALL, CPU)
    real, times = bench.gradients, iter(range(100))

    def drifting() -> None:
        bench.latents += 1e-3 * next(times)
        real()

    monkeypatch.setattr(bench, "gradients", drifting)
    found = bench.repeats(exact=False)
    assert not found["repeats"] and isinstance(found["apart"], float) and found["apart"] > 0


def test_every_case_has_a_name_and_modes_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(set(case.modes) <= set(MODES) for case in CASES)
