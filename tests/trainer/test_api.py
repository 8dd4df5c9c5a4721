"""The public names, and the page of the documentation that shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trainer
from trainer.places import PROJECT

PYTHON = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/python.md").read_text(), re.DOTALL)


QUICKLY = """
from trainer.system import collect_garbage_rarely
collect_garbage_rarely()
import pytest
from benchmarks import trigger_study
from tests.trainer.runs_for_tests import measure_quickly
from trainer.evaluation import drift
from trainer.generation.sampling import Drawing
from trainer.preservation.teacher import Teacher
measure_quickly(pytest.MonkeyPatch())
trigger_study.PROBES = drift.ProbeSettings()
trigger_study.DRAWN = 2
Drawing.inference_steps = property(lambda _: 1, lambda *_: None)
whole = Teacher.predictions
Teacher.predictions = lambda one, prompts, _, own, told: whole(one, prompts, 2, own[:2], told)
"""


@pytest.mark.slow
def test_the_code_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, since the places of runs are read when the library is loaded."""
    (tmp_path / "datasets").symlink_to(PROJECT / "datasets")
    script = tmp_path / "all.py"
    script.write_text(
        "\n".join([QUICKLY, *PYTHON, "print(len(pictures), result.run.path.parent.name)"])
    )
    environment = {"PYTHONPATH": str(PROJECT), "RAREBIT_RUNS": str(tmp_path / "my-runs")}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "taken" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 my-runs"
    assert (tmp_path / "my-runs" / "ohwx" / "diffusers.safetensors").is_file()


def test_importing_loads_nothing_heavy_and_changes_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ)\n"
        "import trainer; from trainer import TrainingConfig\n"
        "assert dict(os.environ) == before; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


def test_every_public_name_is_there() -> None:
    public: Any = trainer
    assert all(getattr(public, name) for name in trainer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = public.nonsense
