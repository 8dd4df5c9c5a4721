"""A machine of its own for each test of Generate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.drawing_for_tests import Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """With the finished run ``cat``, which has a checkpoint of step 50."""
    machine = Machine(tmp_path, monkeypatch)
    machine.run("cat", steps=(50,))
    return machine
