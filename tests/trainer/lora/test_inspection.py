"""What is in a file: energies and ranks against plain arithmetic; strangers' texts are harmless."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.inspection import inspect_file
from trainer.lora.names import ModuleKey
from trainer.lora.writing import write_adapter


def diagonal(values: list[float], alpha: float = 1.0) -> LoraLayer:
    """A layer with these singular values, alpha / rank undone."""
    count = len(values)
    up = torch.zeros(8, count)
    up[:count] = torch.diag(torch.tensor(values)) * count / alpha
    return LoraLayer(torch.eye(count, 6), up, alpha)


def test_what_is_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    layers = {
        ModuleKey("unet", "down_blocks.1.attentions.0.proj_in"): diagonal([4.0, 0.0], 3.0),
        ModuleKey("unet", "mid_block.attentions.0.proj_in"): diagonal([3.0, 0.1]),
        ModuleKey("unet", "conv_in"): diagonal([0.0, 0.0]),
        ModuleKey("text_encoder", "text_model.encoder.layers.0.mlp.fc1"): diagonal([0.0, 0.0]),
    }
    tags = {"10_x": {"a sky": 3, "tree": 5}, "broken": 7}
    metadata = {
        "modelspec.trigger_phrase": "ohwx",
        "rarebit.config": json.dumps({"captions": {"trigger": "ohwx"}}),
        "ss_tag_frequency": json.dumps(tags),
    }
    write_adapter(Adapter(layers, "sd1", metadata), path, precision="fp32")
    found = inspect_file(path)
    expected = {"unet.down_blocks.1": 4.0, "unet.mid_block": math.sqrt(9.01)}
    expected |= {"text_encoder": 0.0, "unet.conv_in": 0.0}
    assert found.energy_by_block == pytest.approx(expected)
    assert found.energy_kept_by_rank == pytest.approx({1: 25 / 25.01, 2: 1.0})
    assert found.enough_rank == 1
    assert {key: layer.enough_rank for key, layer in found.layers.items()} == dict.fromkeys(
        layers, 1
    )
    assert found.trigger_words == ("ohwx",)
    assert found.tags == ("tree", "a sky")
    text = "\n".join(found.lines())
    for words in ("2 / 3 (1 layers)", "Trigger words: ohwx", "unet.down_blocks.1", "Rank 1 would"):
        assert words in text
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "value",
    [
        "<script>alert(1)</script>",
        "\u202egnp.exe",
        "\x1b]0;title\x07\x1b[2J",
        "a\nerror: forged line",
        "x" * 1_000_000,
        "[" * 50_000,
        '{"a": NaN}',
    ],
)
def test_strangers_texts_are_cut_and_escaped(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.safetensors"
    layers = {ModuleKey("unet", "conv_in"): diagonal([1.0])}
    names = ("modelspec.trigger_phrase", "ss_tag_frequency", "rarebit.config", value[:300])
    metadata = dict.fromkeys(names, value[:200_000])
    write_adapter(Adapter(layers, "sd1", metadata), path)
    found = inspect_file(path)
    text = "".join(found.lines()) + json.dumps(found.as_dict(), ensure_ascii=False)
    assert len(text) < 10_000
    for character in "\u202e\x1b\x07":
        assert character not in text
    assert not any(line.startswith("error") for line in "\n".join(found.lines()).split("\n"))
