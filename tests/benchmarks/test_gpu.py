"""The script for a card, tried with the built-in model on the processor."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from benchmarks import gpu
from benchmarks.gpu import KINDS, jobs, main
from benchmarks.peer_scripts import (
    BASE,
    DREAMBOOTH,
    diffusers_dreambooth,
    sd_scripts,
    trainer_in,
)
from benchmarks.random_base import write_sdxl
from tests.conftest import TinyBase
from trainer.models.load import load_base

TINY = argparse.Namespace(device="cpu", tiny=True, peer_dir=[])


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


STEPS = """
import sys, torch
weight = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([weight])
weight.grad = torch.ones(1)
for _ in range(int(sys.argv[sys.argv.index("--max_train_steps") + 1])):
    optimizer.step()
"""


def test_a_peers_script_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a processor goes: a stand-in for diffusers' script, told of the built-in model."""
    place = tmp_path / "diffusers" / DREAMBOOTH
    place.parent.mkdir(parents=True)
    place.write_text(STEPS)
    handles: list[RemovableHandle] = []
    register = "benchmarks.contestants.register_optimizer_step_post_hook"
    hook = register_optimizer_step_post_hook
    monkeypatch.setattr(register, lambda tick: handles.append(hook(tick)))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    options = argparse.Namespace(**{**vars(TINY), "peer_dir": [str(tmp_path / "diffusers")]})
    found = [job for job in jobs(options, str(tmp_path)) if job.kind == "peer"]
    try:
        (row,) = KINDS["peer"](found[1])
        told = dict(zip(sys.argv, [*sys.argv[1:], ""], strict=True))
    finally:
        for handle in handles:
            handle.remove()
    assert [job.peer for job in found] == ["", str(tmp_path / "diffusers")]
    assert row["case"] == "peer tiny-emoji (diffusers)" and row["seconds"] > 0 and row["gib"] > 0
    assert told["--pretrained_model_name_or_path"] == str(BASE)
    assert len(list(Path(told["--instance_data_dir"]).iterdir())) == 4
    assert "--train_text_encoder" not in told


@pytest.mark.parametrize(
    ("file", "train"), [(DREAMBOOTH, diffusers_dreambooth), ("train_network.py", sd_scripts)]
)
def test_whose_checkout_it_is(file: Path | str, train: object, tmp_path: Path) -> None:
    assert trainer_in(tmp_path) is None
    with pytest.raises(SystemExit):
        main(["--device", "cpu", "--tiny", "--peer-dir", str(tmp_path)])
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    assert trainer_in(tmp_path) is train
