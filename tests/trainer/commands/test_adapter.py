"""``adapter``: every command of the documentation, and what must not happen to files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import TinyBase
from tests.trainer.commands.asking import asked
from tests.trainer.lora.helpers import adapter_for, random_adapter
from trainer.commands.cli import main
from trainer.config.schema import TrainingConfig
from trainer.lora.adapter import Adapter
from trainer.lora.baking import bake, save_base
from trainer.lora.changes import compare
from trainer.lora.layers import find_targets
from trainer.lora.metadata import CONFIG_KEY, START_KEY, shareable_config
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter
from trainer.models.identify import identify
from trainer.models.load import load_base
from trainer.places import PROJECT

ALL_DOCUMENTED = [
    line.removeprefix("python launch.py ").split()
    for line in (PROJECT / "docs" / "adapter-files.md").read_text("utf-8").splitlines()
    if line.startswith("python launch.py adapter")
]
# What needs pictures is tried in test_adapter_repair.py.
DOCUMENTED = [line for line in ALL_DOCUMENTED if "--images" not in line]


@pytest.fixture(scope="module")
def made(tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two adapters of rank 4 and 2, a picture, and their base model."""
    folder = tmp_path_factory.mktemp("adapters")
    shutil.copytree(tiny_base("sd1"), folder / "my-base")
    base = load_base(str(folder / "my-base"))
    adapters = []
    for seed, (name, rank, alpha) in enumerate((("cat", 4, 2.0), ("style", 2, 2.0))):
        adapter = random_adapter(base, dict.fromkeys(find_targets(base), (rank, alpha)), 99 * seed)
        metadata = {"modelspec.trigger_phrase": name, "ss_base_model_version": "sd_v1"}
        metadata |= {CONFIG_KEY: json.dumps(shareable_config(TrainingConfig()))}
        metadata |= {START_KEY: "first.safetensors 01ab"}
        adapter = Adapter(adapter.layers, "sd1", metadata)
        write_adapter(adapter, folder / f"{name}.safetensors")
        adapters.append(adapter)
    bake(base, [(adapters[-1], 1.0)])
    save_base(base, folder / "my-tuned", "folder", "fp32", identify(str(folder / "my-base")))
    Image.new("RGB", (2000, 1000), "red").save(folder / "cat.preview.png")
    width = base.text_encoders[0].config.hidden_size
    bundle = replace(adapters[0], embeddings={"zkrv": {"clip_l": torch.zeros(1, width)}})
    write_adapter(bundle, folder / "bundle.safetensors")
    write_adapter(adapter_for(load_base(str(tiny_base("sdxl")))), folder / "xl.safetensors")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in made.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    for base in ("my-base", "my-tuned"):
        (tmp_path / base).symlink_to(made / base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_documentation_of_every_action() -> None:
    assert {line[1] for line in ALL_DOCUMENTED} == {
        *("inspect", "verify", "convert", "resize", "merge", "extract", "recipe", "download"),
        *("tune", "together"),
    }
    assert len(DOCUMENTED) > 8


@pytest.mark.parametrize("line", DOCUMENTED, ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True])
def test_documented_commands(
    folder: Path, capsys: pytest.CaptureFixture[str], line: list[str], as_json: bool
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert main([*line, *(["--json"] if as_json else [])]) == 0
    output = capsys.readouterr().out
    assert json.loads(output) if as_json else len(output) > 30
    assert all(path.read_bytes() == content for path, content in before.items())
    if "--out" in line:
        assert (folder / line[line.index("--out") + 1]).exists()
        assert main(line) == 2  # what is there now is not replaced
        assert "exists already" in capsys.readouterr().err


def run(line: str) -> int:
    return main(["adapter", *line.split()])


def run_json(capsys: pytest.CaptureFixture[str], line: str) -> dict[str, Any]:
    return asked(capsys, "adapter", *line.split())


def test_verify_and_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verified = run_json(capsys, "verify cat.safetensors --base my-base")
    assert verified["summary"].startswith("works in diffusers; not in A1111, Forge, ComfyUI")
    assert "train on Stable Diffusion for these)" in verified["summary"]
    inspected = run_json(capsys, "inspect cat.safetensors")
    assert (inspected["family"], inspected["trigger_words"]) == ("sd1", ["cat"])
    assert inspected["enough_rank"] == 4


def test_convert_keeps_the_precision_and_the_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, out, layout in (("cat", "0", "diffusers"), ("0", "1", "kohya")):
        files = f"{source}.safetensors --out {out}.safetensors"
        converted = run_json(capsys, f"convert {files} --layout {layout}")
        assert converted["precision"] == "fp16"
        assert converted["difference"] == pytest.approx(0, abs=1e-12)
    original, back = load_file(folder / "cat.safetensors"), load_file(folder / "1.safetensors")
    assert original.keys() == back.keys()
    assert all(torch.equal(original[name], back[name]) for name in original)
    assert read_adapter(folder / "1.safetensors").metadata["modelspec.trigger_phrase"] == "cat"


def test_merge_with_strength(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = "cat.safetensors style.safetensors:0.5"
    merged = run_json(capsys, f"merge {files} --out a.safetensors --precision fp32")
    assert (merged["ranks"], merged["precision"]) == ([6], "fp32")
    assert merged["worst_difference"] == pytest.approx(0, abs=1e-6)
    assert "works in diffusers" in merged["works"]
    metadata = read_adapter(Path("a.safetensors")).metadata
    assert metadata["modelspec.trigger_phrase"] == "cat, style"
    assert "/" not in metadata["rarebit.merged"]


@pytest.mark.parametrize(("strength", "nothing"), [("0", True), ("0.5", False)])
def test_a_result_that_changes_nothing_is_said(
    strength: str, nothing: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"merge cat.safetensors:{strength} --out a.safetensors") == 0
    assert ("It changes nothing at all" in capsys.readouterr().out) == nothing


@pytest.mark.parametrize("layout", ["", " --layout single-file"])
def test_a_base_of_its_own_shape_is_no_single_file(
    layout: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "merge cat.safetensors --base my-base --out whole.safetensors"
    assert run(line + layout) == 2
    said = capsys.readouterr().err
    assert "can't be one file" in said and "leave out --layout" in said
    assert not Path("whole.safetensors").exists()


def test_what_a_base_model_can_not_hold_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "merge bundle.safetensors --base my-base --out whole"
    assert "zkrv" in run_json(capsys, line)["left_out"][0]
    assert run("merge bundle.safetensors --base my-base --out again") == 0
    assert "Embeddings can't be part of a base model" in capsys.readouterr().out


def test_recipe_says_what_it_needs_besides(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("recipe cat.safetensors --out a.toml") == 0
    said = capsys.readouterr().out
    assert "--images DIR --start-from FILE --base BASE" in said
    assert "first.safetensors 01ab" in said and "base model, tiny-emoji" in said


def test_extract_finds_what_was_merged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "extract --base my-base --tuned my-tuned --out a.safetensors"
    found = run_json(capsys, f"{line} --rank=2 --precision=fp32 --sidecars")
    assert Path("a.json").is_file()
    assert found["difference"] == pytest.approx(0, abs=1e-5)
    assert found["left_out"] == []
    report = compare(read_adapter(Path("style.safetensors")), read_adapter(Path("a.safetensors")))
    assert report.missing == report.unexpected == ()
    assert report.worst < 1e-3  # the tuned weights are rounded to fp32


def test_resize_says_the_difference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the weights, and of predictions on a base model."""
    shares = []
    for rank in (1, 3, 4):
        line = f"resize cat.safetensors --out {rank}.safetensors --rank {rank} --precision fp32"
        resized = run_json(capsys, f"{line} --base my-base")
        found = compare(read_adapter("cat.safetensors"), read_adapter(f"{rank}.safetensors"))
        assert resized["ranks"] == [rank] and (found.worst > 0.1) == (rank < 4)
        assert resized["worst_difference"] == pytest.approx(found.worst)
        shares.append(resized["prediction_difference"])
    assert 1.5 > shares[0] > shares[1] > 1e-3 > 1e-5 > shares[2]
    unmeasured = run_json(capsys, "resize cat.safetensors --out x.safetensors --rank 1")
    assert unmeasured["prediction_difference"] is None


def write_dora(tensors: dict[str, torch.Tensor]) -> None:
    """dora.safetensors: an adapter with DoRA's scales."""
    scales = {
        name.replace("lora_down.weight", "dora_scale"): torch.ones(1, one.shape[1])
        for name, one in tensors.items()
        if ".lora_down." in name
    }
    save_file(tensors | scales, "dora.safetensors")


def test_dora_becomes_a_plain_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dora(load_file("cat.safetensors"))
    line = "resize dora.safetensors --base my-base --precision fp32"
    plain = run_json(capsys, f"{line} --rank 1000 --out plain.safetensors")
    assert plain["difference"] < 1e-5 and plain["prediction_difference"] < 1e-4
    assert "diffusers" in plain["works"]
    rough = run_json(capsys, f"{line} --rank 2 --out rough.safetensors")
    assert rough["difference"] > 0.01


def test_sidecars(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert cat.safetensors --out a.safetensors --sidecars") == 0
    assert json.loads(Path("a.json").read_text())["activation text"] == "cat"
    assert json.loads(Path("a.json").read_text())["sd version"] == "SD1"
    with Image.open("a.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (512, 256))
    # The next one finds a sidecar of someone else's, and leaves it.
    Path("b.json").write_text("mine")
    assert run("convert cat.safetensors --out b.safetensors --sidecars") == 2
    assert Path("b.json").read_text() == "mine"
    assert not Path("b.safetensors").exists()


def test_force_replaces_but_never_what_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old.safetensors").write_text("old")
    assert run("convert cat.safetensors --out old.safetensors --force") == 0
    assert len(read_adapter(Path("old.safetensors")).layers) > 10
    Path("link.safetensors").symlink_to("cat.safetensors")
    before = Path("cat.safetensors").read_bytes()
    for out in ("cat.safetensors", "link.safetensors", "./cat.safetensors"):
        assert run(f"convert cat.safetensors --out {out} --force") == 2
        assert "never replaced" in capsys.readouterr().err
    assert Path("cat.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("inspect nowhere.safetensors", "is not a file"),
        ("convert cat.safetensors --out a.ckpt", "does not end in .safetensors"),
        ("resize cat.safetensors --out a.safetensors --rank 0", "can't be 0"),
        ("resize cat.safetensors --out a.safetensors", "--rank, --energy and --keep-likeness"),
        ("merge cat.safetensors:nan --out a.safetensors", "can't be nan"),
        ("merge cat.safetensors --base my-base --out my-base", "exists already"),
        ("merge cat.safetensors --base my-base --out new --rank 2", "--rank has no meaning"),
        ("verify xl.safetensors --base my-base", "It is for Stable Diffusion XL"),
        ("verify broken.safetensors", r"NaN or infinite numbers in lora_unet_"),
        ("convert dora.safetensors --out a.safetensors", "is DoRA"),
        ("resize dora.safetensors --out a.safetensors --rank 2", "--base"),
        ("merge cat.safetensors dora.safetensors --out a.safetensors", "DoRA"),
        ("recipe dora.safetensors --out a.toml", "records no recipe"),
        ("recipe cat.safetensors --out cat.preview.png", "exists already"),
        ("download cat.safetensors --out a.tar", "does not end in .zip"),
        ("extract --base=my-base --tuned=my-base --rank=2 --out=a.safetensors", "the same weights"),
        ("merge cat.safetensors:1:2 --out a.safetensors", "one strength for each"),
        ("merge cat.safetensors --layout folder --out a.safetensors", "no meaning without --base"),
    ],
)
def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], line: str, reason: str) -> None:
    tensors = load_file("cat.safetensors")
    name = next(name for name in tensors if "lora_unet" in name and ".lora_up." in name)
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, "broken.safetensors")
    write_dora(tensors)
    before = sorted(folder.iterdir())
    assert run(line) == 2
    assert reason in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
