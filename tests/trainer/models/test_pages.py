"""Weights that stay in their file: read where they are used, and the same as ever."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from tests.trainer.runs_for_tests import assert_offload_changes_nothing
from trainer.config.file import with_values
from trainer.config.schema import AdapterConfig, TrainingConfig
from trainer.lora.attach import attach
from trainer.memory import kept
from trainer.memory.devices import choose_device
from trainer.memory.modes import set_mode
from trainer.memory.quantized import quantize_base
from trainer.models import pages, resting
from trainer.models.load import BaseModel, load_base
from trainer.models.pages import let_go, stay_in_file, stays_in_file
from trainer.models.resting import rest, wake
from trainer.places import PROJECT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are Linux's")

BUILT_IN = PROJECT / "models" / "tiny-emoji"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model in float32, as training computes with it."""
    folder = tmp_path_factory.mktemp("base") / "full"
    for part in BUILT_IN.iterdir():
        if part.name != "unet":
            (folder / part.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / part.name).symlink_to(part)
    unet = UNet2DConditionModel.from_pretrained(
        BUILT_IN, subfolder="unet", torch_dtype=torch.float32
    )
    unet.save_pretrained(folder / "unet")
    return folder


def resident(file: Path) -> int:
    """KiB of a file that this process holds in memory."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first, *others = line.split()
        if not first.endswith(":"):
            ours = bool(others) and line.endswith(str(file.resolve()))
        elif ours and first == "Rss:":
            found += int(others[0])
    return found


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights leave when they have been used."""
    monkeypatch.setattr(pages, "_SHARE", 0)


@pytest.mark.usefixtures("no_room")
def test_pages_leave_and_come_back(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    written = torch.randn(512, 1024)
    save_file({"first": torch.zeros(3), "weight": written, "last": torch.ones(5)}, file)
    layer = nn.Linear(1024, 512, bias=False).requires_grad_(False)
    layer.weight = nn.Parameter(load_file(file)["weight"], requires_grad=False)
    assert torch.equal(layer.weight, written)
    assert resident(file) >= 2000
    stay_in_file(layer)
    assert stays_in_file(layer) and resident(file) <= 16
    assert torch.equal(layer.weight, written)
    assert resident(file) >= 2000
    let_go(layer)
    assert resident(file) <= 16


def test_pages_stay_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"weight": torch.randn(512, 1024)}, file)
    layer = nn.Linear(1024, 512, bias=False).requires_grad_(False)
    layer.weight = nn.Parameter(load_file(file)["weight"], requires_grad=False)
    taken = 2**30
    monkeypatch.setattr(pages, "_resident", lambda: taken)
    stay_in_file(layer)
    layer.weight.sum()
    for more, stays in ((2**20, True), (2**21, False)):
        taken = 2**30 + more
        let_go(layer)
        assert (resident(file) >= 2000) == stays


@pytest.mark.usefixtures("no_room")
def test_what_is_in_no_file_or_was_replaced_stays(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"weight": torch.randn(512, 1024)}, file)
    made, read = nn.Linear(1024, 512), nn.Linear(1024, 512)
    read.weight = nn.Parameter(load_file(file)["weight"], requires_grad=False)
    for layer in (made, read):
        stay_in_file(layer)
    assert not stays_in_file(made) and stays_in_file(read)
    read.weight.data = read.weight.data * 2
    before = [layer.weight.detach().clone() for layer in (made, read)]
    for layer in (made, read):
        let_go(layer)
    assert all(map(torch.equal, before, (made.weight, read.weight)))


@pytest.mark.usefixtures("no_room")
def test_after_a_step_nearly_all_of_a_unet_is_out_of_memory(full: Path) -> None:
    base = load_base(str(full))
    file = full / "unet" / "diffusion_pytorch_model.safetensors"
    size = file.stat().st_size // 1024
    assert resident(file) < size / 4, "looking for NaN has let go of what it has seen"
    attach(base, AdapterConfig(rank=2), seed=0)
    base.text_encoders = []
    found = []
    for stays in (False, True):
        if stays:
            stay_in_file(base.unet)
        set_mode(base, "lean", False, trains_text=False)
        step(base)
        found.append(resident(file))
    kept_in_memory, let_go_of = found
    assert kept_in_memory > size * 0.9
    assert let_go_of < size / 4


@pytest.mark.parametrize("offload", [True, False])
def test_training_keeps_large_models_in_their_file(
    offload: bool, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_values(TrainingConfig(), {"base.name": str(full)})
    device = choose_device("fp32", offload=offload)

    def found() -> bool:
        base = kept.load_kept(config, device)
        return any(map(stays_in_file, base.unet.modules()))

    assert not found(), "small ones are worth nothing"
    monkeypatch.setattr(kept, "LARGE_BYTES", 0)
    assert found() == offload


def step(base: BaseModel) -> None:
    """Forward and backward pass of the UNet."""
    base.unet.train()
    text = torch.randn(1, 77, base.unet.config["cross_attention_dim"])
    base.unet(
        torch.randn(1, 4, 16, 16), torch.tensor([500]), text
    ).sample.square().mean().backward()


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("bits", ["full", "half"])
def test_one_that_has_rested_stays_in_its_file_again(
    bits: str, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resting, "WORTH_BYTES", 0)
    base = load_base(
        str(BUILT_IN if bits == "half" else full),
        dtype=torch.float16 if bits == "half" else torch.float32,
    )
    quantize_base(base, bits, torch.device("cpu"))  # type: ignore[arg-type]
    stay_in_file(base.unet)
    places = [path for path, layer in base.unet.named_modules() if stays_in_file(layer)]
    assert len(places) > 50
    rest(base.unet)
    for layer in base.unet.modules():
        let_go(layer)  # there is nothing to let go
    wake(base.unet)
    assert [path for path, layer in base.unet.named_modules() if stays_in_file(layer)] == places


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize(
    ("bits", "mode"),
    [("full", "plain"), ("full", "lean"), ("full", "feed_forward"), ("half", "lean")],
)
def test_a_run_is_the_same(
    bits: str, mode: str, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, with what is held still and with previews."""
    monkeypatch.setattr(kept, "LARGE_BYTES", 0)
    assert_offload_changes_nothing(
        BUILT_IN if bits == "half" else full,
        tmp_path,
        memory__base_weights=bits,
        memory__mode=mode,
        training__steps=3,
        previews__every=2,
    )
