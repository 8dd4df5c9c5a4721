"""The doctor: it says what is there, and its self-test fails when something is broken."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer.commands.asking import asked
from trainer.commands import doctor
from trainer.commands.cli import main
from trainer.memory.devices import Device
from trainer.places import PROJECT

CPU = Device(torch.device("cpu"), "fp32")


@pytest.fixture(autouse=True)
def runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RUNS", tmp_path / "runs")


def test_healthy_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("system", "processor", "GPU", "disk", "used", "packages", "self-test  passed"):
        assert word in text
    assert "FAILED" not in text
    assert list((tmp_path / "runs").iterdir()) == []  # the self-test leaves nothing


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    told = asked(capsys, "doctor")
    assert told["passed"] is True
    assert told["machine"]["torch"] == torch.__version__
    assert told["machine"]["memory_gib"] > told["machine"]["free_memory_gib"] > 0
    names = {check["name"] for check in told["checks"]}
    assert names == {"one LoRA step", "a file written and read"}
    assert {package["name"] for package in told["packages"]} >= {"torch", "gradio", "jinja2"}


@pytest.mark.parametrize(
    ("place", "name", "broken", "said"),
    [
        (torch.optim.AdamW, "step", lambda self: None, r"lora_B.*has not moved"),
        (torch, "randn", lambda *shape, **_: torch.full(shape, torch.nan), "the loss is nan"),
    ],
)
def test_lora_step_sees_what_is_broken(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, broken: object, said: str
) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(ArithmeticError, match=said):
        doctor.lora_step(CPU)


def test_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").touch()
    assert main(["doctor"]) == 1
    assert "self-test  FAILED: a file written and read (FileExistsError" in capsys.readouterr().out


def test_packages_that_differ_are_named(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# comment\ntorch==0.1  # old\nnot-there-at-all[x]==1.0\n"
        'numpy==9.9; python_version < "3.0"\n'
        f"jinja2=={importlib.metadata.version('jinja2')}\n"
    )
    packages = list(doctor.installed_packages(file))
    assert [(package.name, package.fits) for package in packages] == [
        ("torch", False),
        ("not-there-at-all", False),
        ("jinja2", True),
    ]
    assert packages[1].installed == ""
    assert doctor.Package("torch", "2.13.0", "2.13.0+cu130").fits


def test_words_for_another_machine() -> None:
    machine = doctor.look()
    gpu = doctor.Accelerator("Fast 9", 24.0, 20.5)
    packages = (doctor.Package("torch", "1", "2"), doctor.Package("peft", "1", ""))
    check = doctor.Check("one LoRA step", False, "broken", 0.1)
    ill = replace(machine, accelerators=(gpu,), free_disk_gib=1.0)
    diagnosis = doctor.Diagnosis(ill, "cuda:0", "bf16", packages, (check,), ("advice",))
    text = "\n".join(diagnosis.lines())
    assert diagnosis.exit_status == 1
    for part in (
        *("Fast 9, 20.5 of 24.0 GiB free", "cuda:0 in bf16", "0 of 2 as pinned"),
        *("torch: 2, not 1", "peft: missing, not 1", "FAILED: one LoRA step (broken"),
    ):
        assert part in text


def test_this_environment_is_the_pinned_one() -> None:
    packages = list(doctor.installed_packages(PROJECT / "requirements.txt"))
    assert [package.name for package in packages if not package.fits] == []
