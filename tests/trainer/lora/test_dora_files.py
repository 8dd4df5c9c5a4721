"""DoRA and LoCon as others write them: read whole, and exact on a base model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    all_equal,
    change_of,
    outputs,
    random_adapter,
    random_tensor,
)
from tests.trainer.lora.test_kinds import by_hand, full_change
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer, Magnitude
from trainer.lora.attach import detach
from trainer.lora.changes import energy_of
from trainer.lora.editing import merge, resize
from trainer.lora.inspection import inspect_file
from trainer.lora.layers import find_layers, find_targets
from trainer.lora.loading import check_fit, collect, load_into
from trainer.lora.names import kohya_name
from trainer.lora.reading import read_adapter
from trainer.lora.verify import verify_file
from trainer.lora.writing import write_adapter
from trainer.models.base import BaseModel

FAMILIES = ("sd1", "sd2", "sdxl")


def kohya_tensors(base: BaseModel, adapter: Adapter, by: str) -> dict[str, Tensor]:
    """A file as LyCORIS writes DoRA, lengths by column (older) or by row."""
    tensors: dict[str, Tensor] = {}
    for index, (key, layer) in enumerate(adapter.layers.items()):
        name = kohya_name(base.family.name, key)
        sizes = (layer.up.shape[0], *layer.down.shape[1:])
        count = sizes[0 if by == "rows" else 1]
        ones = [1] * (len(sizes) - 2)
        lengths = 0.5 + random_tensor(index, count).abs()
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
        shape = (count, 1, *ones) if by == "rows" else (1, count, *ones)
        tensors[f"{name}.dora_scale"] = lengths.reshape(shape)
    return tensors


def locon(base: BaseModel) -> Adapter:
    keys = find_targets(base, "convolution")
    return random_adapter(base, {key: (2 + index % 3, 1.5) for index, key in enumerate(keys)})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("by", ["rows", "columns"])
def test_kohya_dora_is_exact_on_a_base(
    base_of: BaseOf, tmp_path: Path, family: str, by: str
) -> None:
    base, path = base_of(family), tmp_path / "dora.safetensors"
    tensors = kohya_tensors(base, locon(base), by)
    save_file(tensors, path)
    read = read_adapter(path)
    assert read.is_dora
    before = outputs(base)
    load_into(base, read, "dora")
    live = collect(base, "dora")
    spots = find_layers(base)
    for key, layer in read.layers.items():
        weight = spots[key].weight
        lengths = tensors[f"{kohya_name(base.family.name, key)}.dora_scale"].flatten()
        expected = by_hand(weight, change_of(layer), lengths, by) - weight.double()
        change = change_of(live.layers[key])
        assert (change - expected).norm() <= 1e-6 * expected.norm(), key
    assert not all_equal(outputs(base), before)
    detach(base)
    assert all_equal(outputs(base), before)


def test_what_peft_saves_is_read(base_of: BaseOf, tmp_path: Path) -> None:
    base = base_of("sd1")
    plain = outputs(base)
    keys = [key for key in find_targets(base, "convolution") if key.part == "unet"]
    config = LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=[key.path for key in keys])
    with torch.random.fork_rng():
        model = get_peft_model(base.unet, config)
    try:
        with torch.no_grad():
            for index, (name, parameter) in enumerate(model.named_parameters()):
                if "lora_B" in name:
                    parameter.copy_(0.3 * random_tensor(index, *parameter.shape))
                if "magnitude" in name:
                    parameter.mul_(1 + 0.3 * random_tensor(index, *parameter.shape))
        expected = outputs(base)["unet"]
        save_file(get_peft_model_state_dict(model), tmp_path / "adapter_model.safetensors")
        config.save_pretrained(str(tmp_path))
    finally:
        model.unload()
        base.unet.requires_grad_(False)
    assert all_equal(outputs(base), plain)
    adapter = read_adapter(tmp_path / "adapter_model.safetensors")
    assert set(adapter.layers) == set(keys)
    load_into(base, adapter, "peft")
    found = outputs(base)["unet"]
    assert (found - expected).norm() <= 1e-5 * (expected - plain["unet"]).norm()


def test_dora_is_never_half_used(base_of: BaseOf, tmp_path: Path) -> None:
    base, path = base_of("sd1"), tmp_path / "dora.safetensors"
    save_file(kohya_tensors(base, locon(base), "columns"), path)
    adapter = read_adapter(path)
    with pytest.raises(UserError, match="DoRA"):
        write_adapter(adapter, tmp_path / "out.safetensors")
    for use in (
        lambda: resize(adapter, rank=2),
        lambda: merge([(adapter, 1.0)], ["a"]),
        lambda: energy_of(next(iter(adapter.layers.values()))),
    ):
        with pytest.raises(UserError, match="DoRA") as caught:
            use()
        assert "--base" in caught.value.hint
    assert inspect_file(path).is_dora
    assert "without its magnitudes" in "\n".join(inspect_file(path).lines())
    proof = verify_file(path, base)
    assert proof.base is not None
    assert proof.base.worst < 1e-6
    assert not any(verdict.works for verdict in proof.verdicts)


def test_a_configuration_that_promises_magnitudes(tmp_path: Path) -> None:
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 8), f"{name}.lora_B.weight": torch.ones(8, 2)}
    (tmp_path / "adapter_config.json").write_text('{"use_dora": true, "lora_alpha": 3}')
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="no magnitude of unet"):
        read_adapter(tmp_path / "a.safetensors")
    for ending in ("", ".weight", ".default.weight"):
        whole = tensors | {f"{name}.lora_magnitude_vector{ending}": torch.arange(8.0)}
        save_file(whole, tmp_path / "a.safetensors")
        (layer,) = read_adapter(tmp_path / "a.safetensors").layers.values()
        assert layer.alpha == 3
        assert layer.magnitude is not None
        assert (layer.magnitude.by, layer.magnitude.values.tolist()) == ("rows", list(range(8)))


def test_a_magnitude_of_another_length_does_not_fit(base_of: BaseOf) -> None:
    base = base_of("sd1")
    adapter = locon(base)
    key, layer = next(iter(adapter.layers.items()))
    wrong = replace(layer, magnitude=Magnitude(torch.ones(3), "rows"))
    with pytest.raises(UserError, match="Of another shape"):
        check_fit(base, replace(adapter, layers={key: wrong}))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_by_one_convolutions_and_linear_layers_stand_for_each_other(
    base_of: BaseOf, tmp_path: Path, family: str
) -> None:
    base = base_of(family)
    adapter = locon(base)
    flipped: dict[bool, int] = {True: 0, False: 0}
    layers: dict[object, LoraLayer] = {}
    for key, layer in adapter.layers.items():
        is_linear = layer.down.dim() == 2
        if is_linear or layer.down.shape[2:] == (1, 1):
            flipped[is_linear] += 1
            ones = [1, 1] if is_linear else []
            down = layer.down.reshape(*layer.down.shape[:2], *ones)
            layer = replace(layer, down=down, up=layer.up.reshape(*layer.up.shape[:2], *ones))
        layers[key] = layer
    assert min(flipped.values()) > 0
    load_into(base, adapter, "a")
    expected = outputs(base)
    detach(base)
    path = tmp_path / "flipped.safetensors"
    write_adapter(replace(adapter, layers=layers), path, precision="fp32")
    assert {layer.down.dim() for layer in read_adapter(path).layers.values()} == {2, 4}
    load_into(base, read_adapter(path), "b")
    assert all_equal(outputs(base), expected)
    assert full_change(base, adapter).keys() == adapter.layers.keys()


def test_a_third_matrix_becomes_part_of_the_second(base_of: BaseOf, tmp_path: Path) -> None:
    base, path = base_of("sd1"), tmp_path / "locon.safetensors"
    name, inputs, outputs_, rank = "lora_unet_down_blocks_0_resnets_0_conv1", 16, 16, 3
    up, mid = random_tensor(0, outputs_, rank, 1, 1), random_tensor(1, rank, rank, 3, 3)
    down = random_tensor(2, rank, inputs, 1, 1)
    tensors = {"lora_up": up, "lora_mid": mid, "lora_down": down}
    save_file({f"{name}.{kind}.weight": tensor for kind, tensor in tensors.items()}, path)
    adapter = read_adapter(path)
    load_into(base, adapter, "a")
    (layer,) = adapter.layers.values()
    expected = torch.zeros(outputs_, inputs, 3, 3)
    for row in range(3):
        for column in range(3):
            expected[:, :, row, column] = up[..., 0, 0] @ mid[:, :, row, column] @ down[..., 0, 0]
    torch.testing.assert_close(change_of(layer).float(), expected)
