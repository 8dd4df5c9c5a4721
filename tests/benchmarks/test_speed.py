"""The speed benchmark: all trainers do the same work, and its tables say what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from benchmarks.contestants import DiffusersLike, KohyaLike, Work, rarebit_config
from benchmarks.random_base import make_base, make_pictures
from benchmarks.speed import plot, read_results, run_all, scale_table, seconds, table
from trainer.memory.devices import choose_device
from trainer.runs.layout import RunFolder
from trainer.training.session import Session, prepare
from trainer.training.step import training_step

STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed")
    make_base(folder / "base-tiny", "tiny")
    make_pictures(folder / "pictures-128", 2, 192)
    return folder


@pytest.fixture
def no_accelerator() -> Iterator[None]:
    """accelerate keeps one state for a process."""
    yield
    AcceleratorState._reset_state()


def work_in(folder: Path) -> Work:
    return Work(
        base=str(folder / "base-tiny"),
        images=str(folder / "pictures-128"),
        out=str(folder),
        resolution=128,
        batch_size=2,
        steps=STEPS,
        precision="fp32",
        rank=4,
    )


def down_weights(session: Session) -> list[Tensor]:
    named = session.attachment.parameters["unet"]
    return [weight.detach() for name, weight in named if name.endswith("lora_A")]


def peft_downs(peer: DiffusersLike) -> dict[str, Tensor]:
    return {name: p for name, p in peer.unet.named_parameters() if ".lora_A." in name}


def kohya_downs(peer: Any) -> dict[str, Tensor]:
    # In the network's names an underscore stands for each dot, which sorts otherwise.
    paths = {f"lora_unet_{n}".replace(".", "_"): n for n, _ in peer.unet.named_modules()}
    return {paths[name]: layer.lora_down.weight for name, layer in peer.network.items()}


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize(
    ("kind", "downs"),
    [(DiffusersLike, peft_downs), (KohyaLike, kohya_downs)],
    ids=["diffusers-like", "kohya-like"],
)
def test_all_train_alike(
    folder: Path,
    kind: type[DiffusersLike],
    downs: Callable[[DiffusersLike], dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the same weights and on the same noise, the losses of several steps are the same."""
    monkeypatch.setenv("RAREBIT_CACHE", str(folder / "cache"))
    work = work_in(folder)
    run = RunFolder(folder / "run")
    device = choose_device("fp32")
    session = prepare(rarebit_config(work), run, device, lambda _: None, lambda *_: None)
    peer = kind(work)
    theirs = [weight for _, weight in sorted(downs(peer).items())]
    with torch.no_grad():
        for weight, ours in zip(theirs, down_weights(session), strict=True):
            weight.copy_(ours)
    for step in range(STEPS):
        (batch,) = session.batches.step(step)
        hidden = session.text.student(batch.captions).hidden
        found = peer.step(batch.latents, hidden, batch.noise, batch.timesteps)
        loss = training_step(session, lambda: False)[0].loss
        assert found == pytest.approx(loss, rel=2e-5)


def test_a_round(folder: Path) -> None:
    options = argparse.Namespace(
        size="tiny",
        resolution=128,
        batch_size=1,
        precision=["fp32"],
        steps=2,
        warm_up=1,
        rounds=1,
        pictures=2,
        contestants=["kohya-like"],
        preserving=False,
        peer_dir="",
        through="nice -n 1",
        out=folder / "speed.json",
    )
    run_all(options, folder)
    (row,) = read_results(options.out)
    assert len(row["cpu"]) == len(row["losses"]) == 2
    assert 0 < row["cpu"][0] < row["cpu"][1] and 0 < row["wall"][0] < row["wall"][1]
    assert row["peak"] > 100e6 and row["file"] > 10_000
    options.through = "false"  # what is there is not measured again
    run_all(options, folder)
    assert len(read_results(options.out)) == 1


def row(contestant: str, turn: int, seconds_a_step: float, peak: float) -> Any:
    moments = [10.0 + turn + seconds_a_step * step for step in range(4)]
    return {
        "contestant": contestant,
        "size": "small",
        "resolution": 256,
        "batch_size": 1,
        "precision": "fp32",
        "round": turn,
        "warm_up": 2,
        "cpu": moments,
        "wall": [2 * moment for moment in moments],
        "losses": [],
        "peak": int(peak * 2**30),
        "file": 2**20,
    }


def test_tables_say_medians_and_ratios() -> None:
    rows = [row("diffusers-like", turn, 2.0, 4.0) for turn in range(3)]
    rows += [row("rarebit", turn, speed, 1.0) for turn, speed in enumerate((1.0, 1.5, 9.0))]
    assert seconds(rows[3:], "cpu") == pytest.approx(1.5)
    lines = table(rows).splitlines()
    assert lines[2] == "| diffusers-like, fp32 | 2 | 1.00 | 4 | 10.0 | 11.5 | 4.00 | 1.00 | 1.0 |"
    assert lines[3] == "| rarebit, fp32 | 1.5 | 0.75 | 3 | 10.0 | 11.5 | 1.00 | 0.25 | 1.0 |"
    assert plot(rows).count("<rect") == 2 + 2  # bars and legend


def test_scale_table() -> None:
    row = {"pictures": 1000, "reading": 0.24, "caching": 7.33, "least": 6.76, "grown": 29.7}
    lines = scale_table([row | {"start": start, "step": 0.0891} for start in ("first", "second")])
    assert lines.splitlines()[2:] == [
        "| 1,000 | first | 7.6 s | 6.8 s | 30 MiB | 0.089 s |",
        "| 1,000 | second | 7.6 s |  | 30 MiB | 0.089 s |",
    ]
