"""The script for a card, tried with the built-in model on the processor."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import jobs, main
from benchmarks.random_base import write_sdxl
from tests.conftest import TinyBase
from trainer.models.load import load_base

TINY = argparse.Namespace(device="cpu", tiny=True, peer_dir="")


@pytest.mark.slow
def test_everything_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for weights in 8 and 4 bits, whose kernels take a processor half a minute."""
    monkeypatch.setattr("trainer.training.compiled.BACKEND", "eager")
    some = [job for job in jobs(TINY, str(tmp_path)) if "bit" not in job.subject]
    monkeypatch.setattr(gpu, "jobs", lambda *_: some)
    out = tmp_path / "gpu.json"
    tried = ["--device", "cpu", "--tiny", "--minutes", "60", "--out", str(out)]
    assert main(tried) == 0
    found = json.loads(out.read_text())
    assert not found["left_out"]
    assert [(row["case"], row["what"], row.get("remark", "")) for row in found["rows"][3:]] == [
        ("run sdxl-11gb", "to its end", ""),
        ("resume full", "resumed", "the same bytes"),
    ]
    usual, exact, compiled = found["rows"][:3]
    assert usual["predicted"] > 0 and usual["gib"] > 0
    assert all(row["seconds"] > 0 for row in (usual, exact, compiled))
    assert "first step" in compiled["remark"]
    assert "say nothing of a GPU" in capsys.readouterr().out


@pytest.mark.parametrize("given", [["--device", "cpu"], ["--device", "cuda"]])
def test_where_it_makes_no_sense_the_way_out_is_said(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(given)
    assert "--device cpu --tiny" in capsys.readouterr().err


def test_what_is_out_of_time_is_named(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    main(["--device", "cpu", "--tiny", "--minutes", "0", "--out", str(out)])
    found = json.loads(out.read_text())
    assert "resume 4bit" in found["left_out"] and not found["rows"]


def test_a_random_sdxl_is_a_base_model(tiny_base: TinyBase, tmp_path: Path) -> None:
    folder = write_sdxl(tmp_path / "sdxl", torch.device("cpu"), like=str(tiny_base("sdxl")))
    base = load_base(str(folder))
    assert base.family.name == "sdxl" and len(base.text_encoders) == 2
    assert write_sdxl(folder, torch.device("cpu")) == folder  # one that is there stays
