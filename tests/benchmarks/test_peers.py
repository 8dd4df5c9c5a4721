"""Other trainers' scripts beside this one: what they are told, and what is kept of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from benchmarks import peers
from benchmarks.contestants import Clock
from benchmarks.peer_scripts import (
    BASE,
    DREAMBOOTH,
    TOKENIZER,
    Task,
    diffusers_dreambooth,
    sd_scripts,
    unet_constants,
)
from benchmarks.peers import ARMS, SETS, Subject, lay_out, own_values, subject_in, table
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.models.configs import read_json

SCRIPT = """
import json, sys
from pathlib import Path
options = dict(zip(sys.argv, sys.argv[1:] + [""]))
Path(options["--output_dir"], "told.json").write_text(json.dumps(options))
"""
TRAIN_NETWORK = """
import argparse, json
from pathlib import Path
from types import SimpleNamespace
from library import original_unet, strategy_sd

train_util = SimpleNamespace(verify_command_line_training_args=lambda options: None)

def setup_parser():
    names = NAMES
    parser = argparse.ArgumentParser()
    for name in names:
        parser.add_argument("--" + name)
    for name in ("cache_latents", "sdpa"):
        parser.add_argument("--" + name, action="store_true")
    return parser

class NetworkTrainer:
    vae_scale_factor = 0.18215

    def train(self, options):
        told = {**vars(options), **vars(original_unet), **vars(strategy_sd)}
        told = {name: value for name, value in told.items() if not name.startswith("__")}
        told["scale"] = self.vae_scale_factor
        Path(options.output_dir, "told.json").write_text(json.dumps(told))
"""
NAMES = (
    *("pretrained_model_name_or_path", "train_data_dir", "reg_data_dir", "caption_extension"),
    *("resolution", "train_batch_size", "max_train_steps", "network_module", "network_dim"),
    *("network_alpha", "unet_lr", "text_encoder_lr", "lr_scheduler", "optimizer_type"),
    *("mixed_precision", "max_data_loader_n_workers", "seed", "output_dir", "output_name"),
)
CONSTANTS = unet_constants(read_json(BASE / "unet" / "config.json"))


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., None]]:
    """Scripts run in this process leave nothing behind; the hooks on optimizers."""
    hooks: list[Callable[..., None]] = []
    monkeypatch.setattr("benchmarks.contestants.register_optimizer_step_post_hook", hooks.append)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("library", "library.original_unet", "library.strategy_sd", "train_network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return hooks


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    laid = subject_in(tmp_path / "set", "teddy")
    lay_out(laid)
    return laid


def task(subject: Subject, tmp_path: Path, *, classes: bool) -> Task:
    (tmp_path / "out").mkdir()
    return Task(
        checkout=str(tmp_path / "checkout"),
        out=str(tmp_path / "out"),
        pictures=str(subject.pictures),
        captioned=str(subject.captioned),
        class_pictures=str(subject.class_pictures),
        prompt=subject.prompt,
        class_prompt=subject.class_prompt,
        with_class_pictures=classes,
        unet_rate=3e-3,
        text_rate=1e-3,
        rank=16,
        batch_size=4,
        steps=7,
        side=64,
        seed=0,
    )


def told(work: Task) -> dict[str, Any]:
    return json.loads(Path(work.out, "told.json").read_text())


@pytest.mark.parametrize("classes", [False, True])
def test_diffusers_script_is_told(
    subject: Subject, tmp_path: Path, classes: bool, one_process: list[Callable[..., None]]
) -> None:
    place = tmp_path / "checkout" / DREAMBOOTH
    place.parent.mkdir(parents=True)
    place.write_text(SCRIPT)
    work, clock = task(subject, tmp_path, classes=classes), Clock()
    diffusers_dreambooth(work, clock)
    found = told(work)
    assert found["--instance_prompt"] == "ohwx, 3d emoji of a bear"
    assert found["--instance_data_dir"] == str(subject.pictures)
    assert (found["--max_train_steps"], found["--train_batch_size"]) == ("7", "4")
    assert found.get("--class_prompt") == ("3d emoji of a bear" if classes else None)
    assert ("--with_prior_preservation" in found) == classes
    assert clock.adapter == str(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    one_process[0]()
    assert len(clock.cpu) == 1  # a step of any optimizer is a step


@pytest.mark.parametrize("classes", [False, True])
def test_sd_scripts_is_told(subject: Subject, tmp_path: Path, classes: bool) -> None:
    fake_sd_scripts(tmp_path / "checkout", CONSTANTS)
    work, clock = task(subject, tmp_path, classes=classes), Clock()
    sd_scripts(work, clock)
    found = told(work)
    assert found["BLOCK_OUT_CHANNELS"] == [64, 128, 192] and found["LAYERS_PER_BLOCK"] == 1
    assert found["TOKENIZER_ID"] == str(TOKENIZER)
    assert found["scale"] == read_json(BASE / "vae" / "config.json")["scaling_factor"]
    assert found["train_data_dir"] == str(subject.captioned)
    assert found["reg_data_dir"] == (str(subject.class_pictures) if classes else None)
    # With class pictures half of a batch is theirs.
    assert found["train_batch_size"] == ("8" if classes else "4")
    assert clock.adapter == str(tmp_path / "out" / "peer.safetensors")


def test_other_constants_are_an_error(subject: Subject, tmp_path: Path) -> None:
    """A version that has them no more would train another UNet than the base model's."""
    fewer = {name: value for name, value in CONSTANTS.items() if name != "NORM_GROUPS"}
    fake_sd_scripts(tmp_path / "checkout", fewer)
    with pytest.raises(AttributeError, match="NORM_GROUPS"):
        sd_scripts(task(subject, tmp_path, classes=False), Clock())


def fake_sd_scripts(checkout: Path, constants: dict[str, Any]) -> None:
    library = checkout / "library"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    lines = "\n".join(f"{name} = None" for name in constants)
    (library / "original_unet.py").write_text(lines)
    (library / "strategy_sd.py").write_text('TOKENIZER_ID = "of the hub"')
    script = TRAIN_NETWORK.replace("NAMES", repr(NAMES))
    (checkout / "train_network.py").write_text(script)


def test_the_constants_are_the_base_models() -> None:
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(read_json(BASE / "unet" / "config.json"))
    attention = unet.down_blocks[0].attentions[0]
    assert {
        "BLOCK_OUT_CHANNELS": tuple(block.resnets[0].out_channels for block in unet.down_blocks),
        "TIMESTEP_INPUT_DIM": unet.time_embedding.linear_1.in_features,
        "TIME_EMBED_DIM": unet.time_embedding.linear_1.out_features,
        "LAYERS_PER_BLOCK": len(unet.down_blocks[0].resnets),
        "LAYERS_PER_BLOCK_UP": len(unet.up_blocks[0].resnets),
        "NORM_GROUPS": unet.conv_norm_out.num_groups,
        "TRANSFORMER_NORM_NUM_GROUPS": attention.norm.num_groups,
        "DOWN_BLOCK_TYPES": [type(block).__name__ for block in unet.down_blocks],
        "UP_BLOCK_TYPES": [type(block).__name__ for block in unet.up_blocks],
    } == CONSTANTS


@pytest.mark.parametrize("name", SETS)
def test_all_train_on_the_same_pictures(name: str, tmp_path: Path) -> None:
    """And the judge's are among none of them."""
    laid = subject_in(tmp_path, name)
    lay_out(laid)
    trained = {one.stem for one in laid.trained.glob("*.png")}
    held_out = {one.stem for one in laid.held_out.glob("*.png")}
    assert len(held_out) == (len(trained) + len(held_out)) // 4
    copies = [one.name for one in laid.pictures.iterdir()]
    assert sorted(copies) == sorted(f"{stem}-{n}.png" for stem in trained for n in range(4))
    assert not trained & held_out
    for one in (laid.trained, laid.held_out):
        texts = [caption.read_text(encoding="utf-8") for caption in one.glob("*.txt")]
        assert texts and all(text.startswith(laid.prompt + ", ") for text in texts)


def test_own_settings(subject: Subject) -> None:
    default, plain = (
        with_values(TrainingConfig(), own_values(subject, 7, 5, ARMS[arm]))
        for arm in ("rarebit", "rarebit plain")
    )
    assert default.preservation == TrainingConfig().preservation
    assert default.optimizer == TrainingConfig().optimizer
    assert plain.preservation.method == "none" and plain.training.seed == 5
    assert plain.optimizer.learning_rate == ARMS["sd-scripts"].rates[0]


def row(arm: str, **more: Any) -> dict[str, Any]:
    meters = {"likeness": 0.5, "leak": 0.1, "collateral": None}
    drifts = dict.fromkeys(("class_drift", "neighbour_drift", "unrelated_drift"), 0.0123)
    found = {"set": "teddy", "arm": arm, "steps": 3, "seed": 0}
    judged = {"drawn": 0.81, "taken": 0.2, "meters": meters | drifts}
    return found | judged | {"step_seconds": 0.1234, "rates": list(ARMS[arm].rates)} | more


def test_only_what_is_missing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that is there stays, one without a checkout is left out, a failure ends nothing."""
    asked: list[str] = []

    def child(_: str, *arguments: str, **__: str) -> dict[str, Any]:
        asked.append(json.loads(arguments[1])["arm"])
        if asked[-1] == "diffusers":
            raise subprocess.CalledProcessError(1, "python")
        return {"adapter": "file", "step_seconds": 0.1}

    monkeypatch.setattr(peers, "in_a_process", child)
    monkeypatch.setattr(peers, "judge", lambda *_: {"verdict": "works"})
    out = tmp_path / "peers.json"
    out.write_text(json.dumps([row("rarebit")]))
    options = argparse.Namespace(
        diffusers_dir=tmp_path, sd_scripts_dir=None, sets=["teddy"], steps=3, seeds=[0], out=out,
        arms=["rarebit", "diffusers", "sd-scripts", "rarebit plain"],
    )  # fmt: skip
    peers.run_all(options, tmp_path)
    assert asked == ["diffusers", "rarebit plain"]
    kept, new = json.loads(out.read_text())
    assert kept == row("rarebit")
    assert new == {
        **{"set": "teddy", "arm": "rarebit plain", "steps": 3, "seed": 0},
        **{"verdict": "works", "step_seconds": 0.1, "rates": list(ARMS["rarebit plain"].rates)},
    }
    assert "diffusers on teddy failed" in capsys.readouterr().err


def test_the_judge_sees_the_pictures_that_were_kept_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def evaluate(place: Path, **options: Any) -> Any:
        asked.update(options, place=place)
        meters = SimpleNamespace(as_dict=lambda: {"likeness": 0.5})
        return SimpleNamespace(
            pictures=SimpleNamespace(learned=0.81234, taken=0.1),
            verdict=SimpleNamespace(code="leaks"),
            checkpoints=[SimpleNamespace(meters=meters)],
        )

    monkeypatch.setattr("trainer.commands.evaluate.evaluate", evaluate)
    found = peers.judge(Path("file"), subject)
    meters = {"likeness": 0.5}
    assert found == {"verdict": "leaks", "drawn": 0.8123, "taken": 0.1, "meters": meters}
    assert asked["images"] == subject.held_out and asked["class_word"] == "bear"


def test_tables(tmp_path: Path) -> None:
    twice = [row("sd-scripts usual"), row("sd-scripts usual", seed=1, drawn=0.61)]
    lines = table([*twice, row("rarebit")]).splitlines()
    rest = "0.10 | – | 0.0123 | 0.0123 | 0.0123 | 0.20 | 0.12 |"
    assert lines[2:] == [
        f"| Rarebit, default | 1 | 0.50 | 0.81 | {rest}",
        "| sd-scripts, its guide's rates (0.0001, 1e-05) | 2 | 0.50 | 0.71 (0.61 to 0.81) | "
        + rest,
    ]
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nAfter\n")
    peers.write_docs([row("rarebit"), row("rarebit", set="peacock")], page)
    text = page.read_text()
    assert "**teddy**, 3 steps" in text and "**peacock**, 3 steps" in text and "old" not in text
