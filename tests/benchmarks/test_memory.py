"""The memory benchmark, on the processor: its steps are steps, and its numbers come from them."""

from __future__ import annotations

import pytest
import torch

from benchmarks.memory import CASES, LEGEND, MODES, PREDICTED, Bench, Case, measurements, plot

CPU = torch.device("cpu")
SMALL = Case("tiny-emoji", 64, ("plain", "checkpointing"), rows=2, text=True)


def test_rows_of_a_case() -> None:
    memory, *repeats = list(measurements(SMALL, CPU))[1:]
    assert memory["mode"] == "checkpointing" and isinstance(memory["measured"], float)
    assert isinstance(memory["predicted"], float) and memory["predicted"] > 0.01
    assert [row["exact"] for row in repeats] == [False, True]
    assert all(row["repeats"] and row["apart"] == 0 for row in repeats)


def test_a_step_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(SMALL, CPU)
    real, times = bench.gradients, iter(range(100))

    def drifting() -> None:
        bench.points.noised.add_(1e-3 * next(times))
        real()

    monkeypatch.setattr(bench, "gradients", drifting)
    found = bench.repeats(exact=False)
    assert not found["repeats"] and isinstance(found["apart"], float) and found["apart"] > 0


def test_every_case_has_a_name_and_modes_of_its_own() -> None:
    for cases in (CASES, PREDICTED):
        assert len({case.name for case in cases}) == len(cases)
        assert all(set(case.modes) <= set(MODES) for case in cases)


def test_predictions_as_bars() -> None:
    parts = SMALL.predicted("lean")
    assert parts["adapter"] > 0 and parts["activations"] > 0
    picture = plot({"lean": parts, "with text encoders trained": parts})
    assert picture.count(">lean<") == 1 and "text encoders trained" not in picture
    assert picture.count("<rect") == 2 * len(LEGEND)  # of the legend and of the bar
