"""Pictures: seeds decide them, and each carries its settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.runs_for_tests import AVERAGING, make_images, small_config, train_small
from trainer.commands.cli import main
from trainer.config.sections import BaseModelConfig
from trainer.errors import UserError
from trainer.generation import sampling
from trainer.generation.sampling import BATCH, Drawing, Painter, draw, draw_latents, save_picture
from trainer.generation.stack import AdapterUse
from trainer.lora.loading import load_into
from trainer.lora.reading import read_adapter
from trainer.memory.devices import choose_device
from trainer.models.load import load_base

DRAWING = Drawing("a red thing", "", 3, 32, 32, 3, 4.0)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_seed_is_a_picture_whatever_is_drawn_beside_it(tiny_base: TinyBase, name: str) -> None:
    base, device = load_base(str(tiny_base(name))), choose_device("fp32")
    others = [replace(DRAWING, seed=seed) for seed in (4, 5, 6, 7)]
    alone = draw(base, [DRAWING], device)[0]
    among = draw(base, [*others, DRAWING], device)
    assert alone.size == (32, 32)
    assert np.abs(pixels(alone) - pixels(among[-1])).max() <= 1  # batches round differently
    assert np.abs(pixels(alone) - pixels(among[0])).max() > 1


@pytest.mark.parametrize(("guidance", "heeds"), [(4.0, True), (1.0, False), (0.5, False)])
def test_a_negative_prompt_is_heeded_with_guidance_alone(
    tiny_base: TinyBase, guidance: float, heeds: bool
) -> None:
    base, device = load_base(str(tiny_base("sd1"))), choose_device("fp32")
    plain = replace(DRAWING, guidance=guidance, inference_steps=2)
    one, other = (
        draw_latents(base, [replace(plain, negative=words)], device) for words in ("", "a house")
    )
    assert len(one) == len(other) == 1
    assert torch.equal(one, other) is not heeds


def test_drawing_leaves_no_trace(tiny_base: TinyBase) -> None:
    base, device = load_base(str(tiny_base("sdxl"))), choose_device("fp32")
    base.unet.train()
    before = {key: value.clone() for key, value in base.unet.state_dict().items()}
    torch.manual_seed(0)
    random = torch.get_rng_state()
    draw(base, [DRAWING], device)
    assert torch.equal(torch.get_rng_state(), random)
    assert base.unet.training
    assert not base.text_encoders[0].training
    assert all(torch.equal(value, before[key]) for key, value in base.unet.state_dict().items())


def test_a_picture_carries_its_settings(tmp_path: Path) -> None:
    drawing = replace(DRAWING, prompt="ein rötlicher <Ding>", negative="blurry")
    path = tmp_path / "a.png"
    base = BaseModelConfig(name="m", vae="some/v.safetensors", clip_skip=2)
    adapters = [AdapterUse(Path("a/x.safetensors"), 0.5), AdapterUse(Path("y"), 1.0, 0.25)]
    save_picture(Image.new("RGB", (32, 32)), path, drawing, base, adapters)
    with Image.open(path) as picture:
        text = picture.text  # type: ignore[attr-defined]
    facts = json.loads(text["rarebit"])
    assert facts["prompt"] == drawing.prompt
    assert (facts["seed"], facts["adapters"], facts["model"]) == (3, ["x:0.5", "y:1:0.25"], "m")
    assert text["parameters"].splitlines() == [
        # A1111 names the text encoder's strength first.
        "ein rötlicher <Ding> <lora:x:0.5> <lora:y:0.25:1>",
        "Negative prompt: blurry",
        "Steps: 3, Sampler: DDIM, CFG scale: 4, Seed: 3, Size: 32x32, Model: m, "
        "VAE: v.safetensors, Clip skip: 2",
    ]


@pytest.mark.parametrize(("name", "averaging"), zip(TINY_NAMES, AVERAGING * 2, strict=True))
def test_the_file_draws_what_the_last_previews_showed(
    tiny_base: TinyBase, tmp_path: Path, name: str, averaging: dict[str, Any]
) -> None:
    config = small_config(
        tiny_base(name),
        make_images(tmp_path / "images"),
        **averaging,
        previews__guidance=4.0,
        previews__inference_steps=3,
    )
    result, _ = train_small(config, tmp_path / "run")
    folder = result.run.preview(4)
    record = json.loads((folder / "prompts.json").read_text())[0]
    base, device = load_base(str(tiny_base(name))), choose_device("fp32")
    load_into(base, read_adapter(result.run.adapter), "result")
    drawing = replace(DRAWING, prompt=record["prompt"], seed=record["seed"])
    drawn = pixels(draw(base, [drawing], device)[0])
    with Image.open(folder / record["file"]) as preview:
        assert np.abs(drawn - pixels(preview)).max() <= 1


def test_generate_writes_and_never_overwrites(tiny_base: TinyBase, tmp_path: Path) -> None:
    base = str(tiny_base("sd1"))
    arguments = ["generate", "--base", base, "--prompt", "a thing", "--count", "2"]
    arguments += ["--inference-steps", "2", "--seed", "9", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert main(arguments) == 0
    names = [f"0000{name}.png" for name in ("09-2", "09", "10-2", "10")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "000009.png").read_bytes() == (tmp_path / "000009-2.png").read_bytes()


@pytest.mark.parametrize("fits", range(4))
def test_a_painter_finds_out_what_fits(
    tiny_base: TinyBase, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    """It steps down once, keeps to what fitted, and says in the end that nothing does."""
    base, device = load_base(str(tiny_base("sd1"))), choose_device("fp32")
    tried: list[tuple[bool, bool, int]] = []

    def drawing(_base: object, _what: object, on: Any, _step: object, at_once: int) -> list[str]:
        tried.append((on.offload, base.tiling, at_once))
        if tried[-1] not in ways[fits : fits + 1]:
            raise torch.OutOfMemoryError("injected")
        return ["picture"]

    ways = [(False, False, BATCH), (True, True, BATCH), (True, True, 1)]
    monkeypatch.setattr(sampling, "draw", drawing)
    painter, wanted = Painter(base, device), [Drawing("a", "", 1, 64, 32, 1, 1.0)]
    if fits == 3:
        with pytest.raises(UserError, match="not enough to draw 64 x 32 pixels"):
            painter.draw(wanted)
        assert tried == ways
        return
    assert painter.draw(wanted) == ["picture"]
    assert tried == ways[: fits + 1]
    painter.draw(wanted)
    assert tried[fits + 1 :] == [ways[fits]]
