"""The studio: adapters switched on one loaded base, always exactly as if each were alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import trainer.generation.stack
import trainer.generation.studio
from tests.conftest import TinyBase
from tests.tiny_models import make_tiny
from tests.trainer.lora.helpers import adapter_for
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.config.file import read_config, with_values, write_config
from trainer.errors import UserError
from trainer.generation.studio import GenerateRequest, Studio
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter
from trainer.models.load import load_base
from trainer.training.checkpoints import adapter_label, read_checkpoint_adapter


@pytest.fixture(scope="module")
def runs(tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with text encoder, one of them with running averages."""
    root = tmp_path_factory.mktemp("runs")
    images = make_images(root / "images")
    for name, decay in (("one", 0.0), ("two", 0.5)):
        of_training = {"training__seed": len(name + str(decay)), "training__ema_decay": decay}
        config = small_config(tiny_base("sd1"), images, **of_training, checkpoints__every=2)
        train_small(config, root / name)
    return root


class Painter:
    """Draws on one studio; gives pixels."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.studio, self.base, self.folder = Studio(), base, folder

    def __call__(self, *adapters: dict[str, Any], **changes: Any) -> np.ndarray:
        values = {
            "prompt": "ohwx thing",
            "base": str(self.base),
            "count": 1,
            "inference_steps": 2,
            "out": self.folder,
            "adapters": list(adapters),
            **changes,
        }
        files = self.studio.generate(GenerateRequest.of(values), lambda *_: None)
        with Image.open(files[0]) as picture:
            return np.asarray(picture.convert("RGB"))


@pytest.fixture
def paint(tiny_base: TinyBase, tmp_path: Path) -> Painter:
    return Painter(tiny_base("sd1"), tmp_path)


def use(path: Path, **more: float) -> dict[str, Any]:
    return {"file": str(path), **more}


def test_adapters_come_and_go_and_leave_the_others_exact(
    paint: Painter, runs: Path, tiny_base: TinyBase, tmp_path: Path
) -> None:
    one, two = runs / "one/adapter.safetensors", runs / "two/adapter.safetensors"
    cases: dict[str, tuple[dict[str, Any], ...]] = {
        "base": (),
        "one": (use(one),),
        "both": (use(one), use(two, strength=0.5)),
        "two": (use(two, strength=0.5),),
        "unet only": (use(one, strength=1, text_encoder_strength=0),),
        "text only": (use(one, strength=0, text_encoder_strength=1),),
    }
    alone = {
        name: Painter(tiny_base("sd1"), tmp_path)(*adapters) for name, adapters in cases.items()
    }
    different = {picture.tobytes() for picture in alone.values()}
    assert len(different) == len(cases)
    for name in ("both", "two", "base", "one", "text only", "unet only", "both", "base"):
        assert (paint(*cases[name]) == alone[name]).all(), name
    assert (paint(use(one, strength=0), use(two, strength=0)) == alone["base"]).all()


def test_nothing_is_loaded_twice(
    paint: Painter, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def counted_base(name: str, **options: Any) -> Any:
        loads.append("base")
        return load_base(name, **options)

    def counted_adapter(path: Path) -> Any:
        loads.append(path.name)
        return read_adapter(path)

    monkeypatch.setattr(trainer.generation.studio, "load_base", counted_base)
    monkeypatch.setattr(trainer.generation.stack, "read_any_adapter", counted_adapter)
    for strength in (1.0, 0.5, 0.0):
        paint(use(runs / "one/adapter.safetensors", strength=strength))
    assert loads == ["base", "adapter.safetensors"]
    paint.studio.forget()
    assert not paint.studio.loaded
    paint()
    assert loads[2:] == ["base"]


def test_the_base_model_is_taken_as_the_adapters_run_took_it(
    paint: Painter, runs: Path, tiny_base: TinyBase, tmp_path: Path
) -> None:
    """A run may have set what its base predicts, and its VAE; a file elsewhere knows neither."""
    other = make_tiny("sd1", tmp_path / "other", seed=1)
    shutil.copytree(runs / "one", tmp_path / "run")
    adapters = [tmp_path / "run/adapter.safetensors", tmp_path / "run/checkpoints/step-000004"]
    config = read_config(tmp_path / "run/config.toml")
    changes = {"base.prediction": "v_prediction_zero_snr", "base.clip_skip": 2}
    changed = with_values(config, {**changes, "base.vae": str(other)})
    write_config(tmp_path / "run/config.toml", changed)
    plain = paint(use(runs / "one/adapter.safetensors"))
    for adapter in adapters:
        assert (paint(use(adapter)) != plain).any()
        loaded = paint.studio._loaded[0]  # type: ignore[index]
        assert (loaded.prediction_type, loaded.clip_skip) == ("v_prediction", 2)
        assert loaded.scheduler_config["rescale_betas_zero_snr"]
        expected = load_base(str(other)).vae.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in loaded.vae.state_dict().items())
    assert (paint(use(runs / "one/adapter.safetensors")) == plain).all()
    # However the base is written, whatever else is asked for, and after an adapter at rest.
    first = paint(use(adapters[0]))
    assert (paint(use(adapters[0]), base=f"{paint.base}/") == first).all()
    assert (paint(use(adapters[0]), vae=str(other)) == first).all()
    at_rest = use(runs / "one/adapter.safetensors", strength=0)
    assert (paint(at_rest, use(adapters[0])) == first).all()
    asked = paint(use(adapters[0]), prediction="v_prediction")
    assert not paint.studio._loaded[0].scheduler_config["rescale_betas_zero_snr"]  # type: ignore[index]
    assert (asked != plain).any()


@pytest.mark.parametrize(
    ("name", "noted", "asked", "skip"),
    [("sd1", "2", None, 2), ("sd1", "2", 1, 1), ("sd1", "None", None, 1), ("sdxl", "2", None, 1)],
)
def test_clip_skip_is_that_of_the_file(
    tiny_base: TinyBase, tmp_path: Path, name: str, noted: str, asked: int | None, skip: int
) -> None:
    """As sd-scripts notes it: also for SDXL, where it means nothing."""
    file, paint = tmp_path / "a.safetensors", Painter(tiny_base(name), tmp_path)
    adapter = adapter_for(load_base(str(tiny_base(name))))
    write_adapter(replace(adapter, metadata={"ss_clip_skip": noted}), file, precision="fp32")
    paint(use(file), clip_skip=asked)
    assert paint.studio._loaded[0].clip_skip == skip  # type: ignore[index]


def test_a_file_that_has_changed_is_read_again(paint: Painter, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    write_adapter(read_adapter(runs / "one/adapter.safetensors"), file, precision="fp32")
    first = paint(use(file))
    write_adapter(read_adapter(runs / "two/adapter.safetensors"), file, precision="fp32")
    os.utime(file, (1, 1))
    second = paint(use(file))
    assert (second == paint(use(runs / "two/adapter.safetensors"))).all()
    assert (second != first).any()


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_checkpoint_is_the_adapter_that_it_became(paint: Painter, runs: Path, name: str) -> None:
    last, earlier = (runs / name / f"checkpoints/step-00000{step}" for step in (4, 2))
    result = read_adapter(runs / name / "adapter.safetensors")
    found = read_checkpoint_adapter(last)
    assert found.layers.keys() == result.layers.keys()
    for key, layer in found.layers.items():
        assert (layer.up == result.layers[key].up).all()
        assert (layer.down == result.layers[key].down).all()
        assert layer.alpha == result.layers[key].alpha
    assert (paint(use(last)) == paint(use(runs / name / "adapter.safetensors"))).all()
    assert (paint(use(last)) == paint(use(runs / name))).all()
    assert (paint(use(last)) != paint(use(earlier))).any()


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("runs/cat/adapter.safetensors", "cat"),
        ("runs/cat/checkpoints/step-000120", "cat at step 120"),
        ("runs/cat/adapters/step-000120.safetensors", "cat at step 120"),
        ("elsewhere/style v2.safetensors", "style v2"),
    ],
)
def test_adapters_are_called_by_what_tells_them_apart(path: str, label: str) -> None:
    assert adapter_label(Path(path)) == label


def test_the_picture_names_its_adapters(paint: Painter, runs: Path, tmp_path: Path) -> None:
    paint(
        use(runs / "one/adapter.safetensors", strength=0.5, text_encoder_strength=0.25),
        use(runs / "two/checkpoints/step-000002"),
        seed=9,
    )
    with Image.open(tmp_path / "000009.png") as picture:
        text = picture.text  # type: ignore[attr-defined]
    assert '"adapters": ["one:0.5:0.25", "two at step 2:1"]' in text["rarebit"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0, "guidance": -1}, "count 0: .*; guidance -1: "),
        ({"inference_steps": "many"}, 'inference_steps "many": '),
        ({"strange": 1}, "strange 1: "),
        ({"adapters": [{"file": "a", "strength": float("nan")}]}, r"adapters\.0\.strength nan"),
        ({"width": 40, "height": 32}, "40 × 32 pixels do not suit .*: 40 is not a multiple of 16"),
        ({"adapters": [{"file": "gone.safetensors"}]}, "gone.safetensors is not a file"),
        ({"out": Path(__file__)}, r"test_studio\.py is a file"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    paint: Painter, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        paint(**changes)


def test_a_size_is_width_and_height(paint: Painter) -> None:
    assert paint(width=48, height=32).shape == (32, 48, 3)
