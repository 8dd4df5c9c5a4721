"""An empty folder of runs for each test of the Runs tab, and readers that look every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import jobs
from app.tabs.runs import reader, tab
from trainer import places


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(places, "ADAPTERS", tmp_path / "adapters")
    monkeypatch.setattr(jobs, "FRESH", 0.0)
    monkeypatch.setattr(reader, "_readers", {})
    monkeypatch.setattr(tab, "_drawings", {})
