"""Adapters merged into base models, in both layouts; and adapters extracted from models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.lora.helpers import outputs, random_adapter
from tests.trainer.models.conftest import tiny_configs  # noqa: F401
from tests.trainer.models.original_layout import write_original
from trainer.errors import UserError
from trainer.lora.adapter import Adapter
from trainer.lora.baking import bake, digests, precision_of, save_base
from trainer.lora.editing import extract
from trainer.lora.layers import find_layers, find_targets
from trainer.lora.loading import load_into
from trainer.models.base import BaseModel
from trainer.models.identify import identify
from trainer.models.load import load_base


def locon(base: BaseModel, seed: int = 0) -> Adapter:
    keys = find_targets(base, "convolution")
    scales = {key: (1 + index % 4, 2.0) for index, key in enumerate(keys)}
    return random_adapter(base, scales, seed)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_merged_model_is_the_adapted_one_in_both_layouts(
    tiny_base: TinyBase,
    tiny_configs: Path,  # noqa: F811
    tmp_path: Path,
    name: str,
) -> None:
    source = identify(str(tiny_base(name)))
    assert precision_of(source) == "fp32"
    base = load_base(str(tiny_base(name)))
    adapter = locon(base)
    load_into(base, adapter, "a", 0.5)
    adapted = outputs(base)
    base = load_base(str(tiny_base(name)))
    assert set(bake(base, [(adapter, 0.5)])) == set(adapter.layers)
    expected = digests(base, "fp32")
    for layout, path in (("single-file", "m.safetensors"), ("folder", "m")):
        target = tmp_path / path
        save_base(base, target, "folder" if layout == "folder" else "single-file", "fp32", source)
        again = load_base(str(target))
        assert again.prediction_type == base.prediction_type
        assert digests(again, "fp32") == expected
        for part, result in outputs(again).items():
            torch.testing.assert_close(result, adapted[part], atol=1e-3, rtol=1e-3)
        with pytest.raises(UserError, match="exists already"):
            save_base(base, target, "folder", "fp32", source)


def test_a_single_file_keeps_what_it_had(
    tiny_base: TinyBase,
    tiny_configs: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = write_original(
        tiny_base("sd1"), tmp_path / "old.safetensors", marks=("ztsnr",), metadata={"a": "b"}
    )
    tensors = {
        name: tensor.half() if name.startswith("model.") else tensor
        for name, tensor in load_file(path).items()
    }
    tensors["model_ema.decay"] = torch.tensor([0.5])
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)
    save_file(tensors, path, {"a": "b"})
    source = identify(str(path))
    assert precision_of(source) in ("fp16", "fp32")
    base = load_base(str(path))
    adapter = random_adapter(base, dict.fromkeys(find_targets(base), (2, 2.0)))
    bake(base, [(adapter, 1.0)])
    save_base(base, tmp_path / "new.safetensors", "single-file", "fp16", source)
    new = load_file(tmp_path / "new.safetensors")
    assert new.keys() == tensors.keys()
    changed = {
        name for name in new if not torch.equal(new[name].float(), tensors[name].half().float())
    }
    assert len(changed) == len(adapter.layers)
    assert identify(str(tmp_path / "new.safetensors")).zero_terminal_snr


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_extraction_finds_the_change(tiny_base: TinyBase, family: str) -> None:
    base, tuned = (load_base(str(tiny_base(family))) for _ in range(2))
    adapter = locon(base)
    bake(tuned, [(adapter, 1.0)])
    with torch.no_grad():
        bias = tuned.unet.conv_in.bias
        assert bias is not None
        bias.add_(1)
    found = extract(base, tuned, "tuned", rank=4)
    assert set(found.adapter.layers) == set(adapter.layers)
    assert found.adapter.family == family
    assert found.difference.worst < 1e-3
    assert found.left_out == ("unet.conv_in.bias",)
    assert 0 < found.left_out_share < 0.5
    load_into(base, found.adapter, "found")
    for part, expected in outputs(tuned).items():
        # What is left out acts on the UNet alone.
        if part != "unet":
            torch.testing.assert_close(outputs(base)[part], expected, atol=1e-3, rtol=1e-3)
    rough = extract(load_base(str(tiny_base(family))), tuned, "tuned", energy=0.8)
    assert 0.1 < rough.difference.worst <= 0.2**0.5 + 1e-6


def test_what_can_not_be_extracted(tiny_base: TinyBase) -> None:
    one, other = load_base(str(tiny_base("sd1"))), load_base(str(tiny_base("sdxl")))
    with pytest.raises(UserError, match="is for Stable Diffusion"):
        extract(one, other, "x", rank=2)
    with pytest.raises(UserError, match="the same weights"):
        extract(one, load_base(str(tiny_base("sd1"))), "x", rank=2)
    with pytest.raises(UserError, match="can't be 0"):
        tuned = load_base(str(tiny_base("sd1")))
        with torch.no_grad():
            next(iter(find_layers(tuned).values())).weight.mul_(2)
            dict(tuned.unet.named_parameters())["mid_block.attentions.0.proj_in.weight"].mul_(2)
        extract(one, tuned, "x", rank=0)
