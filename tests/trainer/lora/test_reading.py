"""Files from anywhere: all of a file is read, or nothing and the reason is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    NAMES,
    adapter_for,
    all_equal,
    change_of,
    layer_files,
    outputs,
    random_tensor,
)
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.attach import detach
from trainer.lora.changes import change_on
from trainer.lora.layers import find_layers, find_targets
from trainer.lora.loading import collect, load_into
from trainer.lora.names import ModuleKey, kohya_name
from trainer.lora.reading import PEFT_METADATA, read_adapter
from trainer.models.base import BaseModel

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
PEFT_Q, PEFT_K = (f"base_model.model.{ATTENTION}.{name}" for name in ("to_q", "to_k"))
TEXT_2 = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
SELF_ATTENTION = "text_model.encoder.layers.0.self_attn"


def read(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Adapter:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata)
    return read_adapter(path)


def pair(**more: Tensor) -> dict[str, Tensor]:
    """A layer of rank 2 with 8 inputs and 6 outputs, and further tensors of it."""
    own = {f"{Q}.{kind.replace('__', '.')}": tensor for kind, tensor in more.items()}
    return layer_files({Q: None}, outputs=6) | own


def ones(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(2, 2) for name in names}


TERABYTES = {"a": torch.ones(1 << 20, 1), "b": torch.ones(1, 1 << 20)}
UNREADABLE: dict[str, tuple[dict[str, Tensor], str]] = {
    "nothing": ({}, "empty"),
    "up is missing": (ones(f"{Q}.lora_down.weight"), r"no up of .*to_q"),
    "down is missing": ({f"{Q}.alpha": torch.ones(())}, r"no down of .*to_q"),
    "ranks differ": (pair(lora_up__weight=torch.ones(6, 3)), r"2 x 8.*6 x 3"),
    "rank 0": (layer_files({Q: None}, rank=0), "0 x 8"),
    "one-dimensional": (pair(**dict.fromkeys(("lora_down__weight", "lora_up__weight"),
        torch.ones(2))), "no pair"),
    "alpha is a vector": (pair(alpha=torch.ones(2)), "alpha"),
    "NaN": (pair(alpha=torch.tensor(float("nan"))), r"to_q\.alpha"),
    "Inf": (pair(lora_up__weight=torch.full((6, 2), torch.inf)), r"to_q\.lora_up"),
    "8-bit": (pair(lora_up__weight=torch.ones(6, 2).to(torch.float8_e4m3fn)), r"format.*lora_up"),
    "one layer twice": (
        layer_files({TEXT_2.replace("te2", "te"): 1.0, TEXT_2.replace("te2", "te1"): 1.0}), "twice",
    ),
    "one layer in two layouts": (
        layer_files({"lora_unet_conv_in": None, "lora_unet_input_blocks_0_0": None}),
        r"twice: .*unet\.conv_in",
    ),
    "unknown tensor": (pair(surprise=torch.ones(1)), r"to_q\.surprise"),
    "DoRA of another shape": (pair(dora_scale=torch.ones(1, 9)), "dora_scale.*1 x 9"),
    "DoRA in a vector": (pair(dora_scale=torch.ones(6)), "dora_scale has the shape 6"),
    "DoRA without matrices": ({f"{Q}.dora_scale": torch.ones(1, 8)}, r"no down of .*to_q"),
    "a quarter of LoHa": (ones(f"{Q}.hada_w1_a"), r"no hada_w1_b of .*to_q, hada_w2_a of"),
    "LoHa that claims terabytes": (
        {f"{Q}.hada_w{half}_{side}": TERABYTES[side] for half in "12" for side in "ab"},
        "a change that no such layer has",
    ),
    "half of an SGM layer": (
        ones("lora_unet_input_blocks_4_1_proj_in.lora_down.weight"),
        r"no up of unet\.down_blocks\.1\.attentions\.0\.proj_in",
    ),
    "PEFT for something else": (
        ones("base_model.model.a.lora_A.weight"),
        r"Diffusion 1, 2 and XL don't have: base_model\.model\.a",
    ),
    "LoCon with an unfit third matrix": (
        pair(lora_mid__weight=torch.ones(2, 3, 3, 3)),
        r"lora_mid\.weight has the shape 2 x 3 x 3 x 3",
    ),
    "half of PEFT's DoRA": (ones(f"{PEFT_Q}.lora_magnitude_vector"), "no down of .*to_q"),
    "biases": (ones("unet.mid_block.a.lora_B.bias"), "are not read here: .*bias"),
    "strange names": (ones("\u202e\x1b[31m" + "x" * 400), r"\\u202e\\u001b\[31mxxx"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_files_are_named(tmp_path: Path, case: str) -> None:
    tensors, reason = UNREADABLE[case]
    path = tmp_path / "adapter.safetensors"
    with pytest.raises(UserError, match=reason) as caught:
        read(path, tensors)
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_cut_files_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file(pair(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"adapter\.safetensors"):
        read_adapter(path)


@pytest.mark.parametrize("alpha", [None, torch.tensor(3.0), torch.tensor([3.0]), torch.tensor(3)])
def test_alpha_in_every_shape(tmp_path: Path, alpha: Tensor | None) -> None:
    tensors = pair() if alpha is None else pair(alpha=alpha)
    (layer,) = read(tmp_path / "a.safetensors", tensors).layers.values()
    assert layer.alpha == (2.0 if alpha is None else 3.0)


@pytest.mark.parametrize(
    ("name", "width", "metadata", "family"),
    [
        (Q.replace("attn1_to_q", "attn2_to_k"), 768, {}, "sd1"),
        (Q.replace("attn1_to_q", "attn2_to_k"), 1024, {"ss_base_model_version": "sd_v1"}, "sd2"),
        (Q.replace("attn1_to_q", "attn2_to_k"), 2048, {}, "sdxl"),
        (Q, 40, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        (Q, 40, {"modelspec.architecture": "stable-diffusion-v2-512/lora"}, "sd2"),
        (Q, 40, {}, None),
        (TEXT_2, 40, {}, "sdxl"),
        (TEXT_2.replace("te2", "te1"), 40, {}, "sdxl"),
    ],
)
def test_family_of_a_file(
    tmp_path: Path, name: str, width: int, metadata: dict[str, str], family: str | None
) -> None:
    tensors = layer_files({name: None}, width=width)
    assert read(tmp_path / "a.safetensors", tensors, metadata).family == family


# -- alpha and DoRA in PEFT's configurations


def peft_tensors(rank: int = 4) -> dict[str, Tensor]:
    shapes = {"lora_A": (rank, 8), "lora_B": (8, rank)}
    return {
        f"{name}.{matrix}.weight": torch.ones(shape)
        for name in (PEFT_Q, PEFT_K)
        for matrix, shape in shapes.items()
    }


CONFIGS: dict[str, tuple[dict[str, Any], float, float]] = {
    "nothing": ({}, 4.0, 4.0),
    "alpha": ({"r": 4, "lora_alpha": 8}, 8.0, 8.0),
    "by layer": ({"lora_alpha": 8, "alpha_pattern": {"attn1.to_k": 2}}, 8.0, 2.0),
    "not from a dot on": ({"lora_alpha": 8, "alpha_pattern": {"ttn1.to_k": 2}}, 8.0, 8.0),
    "by path": ({"lora_alpha": 8, "alpha_pattern": {f"^{ATTENTION}.to_k": 2.5}}, 8.0, 2.5),
    "of another part": ({"text_encoder.lora_alpha": 8}, 4.0, 4.0),
    "of this part": ({"unet.lora_alpha": 8, "lora_alpha": 2}, 8.0, 8.0),
}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("place", ["metadata", "beside"])
def test_alpha_from_the_configuration(tmp_path: Path, case: str, place: str) -> None:
    config, for_q, for_k = CONFIGS[case]
    text = json.dumps(config)
    if place == "beside":
        (tmp_path / "adapter_config.json").write_text(text)
    metadata = {PEFT_METADATA: text} if place == "metadata" else None
    adapter = read(tmp_path / "adapter_model.safetensors", peft_tensors(), metadata)
    alphas = {key.path[-4:]: layer.alpha for key, layer in adapter.layers.items()}
    assert alphas == {"to_q": for_q, "to_k": for_k}


@pytest.mark.parametrize(("rank", "factor"), [(1, 1.0), (9, 3.0), (25, 5.0)])
def test_rslora_of_peft_is_alpha_times_the_root_of_the_rank(
    tmp_path: Path, rank: int, factor: float
) -> None:
    """alpha / rank is the scale here, alpha / √rank there."""
    config = json.dumps({"lora_alpha": 8, "use_rslora": True, "alpha_pattern": {"attn1.to_k": 2}})
    adapter = read(tmp_path / "a.safetensors", peft_tensors(rank), {PEFT_METADATA: config})
    assert [layer.alpha for layer in adapter.layers.values()] == [2 * factor, 8 * factor]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"lora_alpha": "8"}', "no number"),
        ('{"lora_alpha": true}', "no number"),
        ('{"lora_alpha": NaN}', "alpha is nan"),
        ('{"lora_alpha": 1' + "0" * 4000 + "}", "alpha is 1000"),
        ('{"alpha_pattern": {"(a+)+$": 1}}', "not a path"),
        ('{"alpha_pattern": [1]}', "no table"),
        ('{"use_dora": true}', "no magnitude of unet"),
    ],
)
def test_configurations_that_are_not_understood(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        read(tmp_path / "a.safetensors", peft_tensors(), {PEFT_METADATA: text})
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("ending", ["", ".weight", ".default.weight"])
def test_magnitudes_of_peft(tmp_path: Path, ending: str) -> None:
    (tmp_path / "adapter_config.json").write_text('{"use_dora": true, "lora_alpha": 3}')
    lengths = {
        f"{name}.lora_magnitude_vector{ending}": torch.arange(8.0) for name in (PEFT_Q, PEFT_K)
    }
    for layer in read(tmp_path / "a.safetensors", peft_tensors() | lengths).layers.values():
        assert layer.alpha == 3
        assert layer.magnitude is not None
        assert (layer.magnitude.by, layer.magnitude.values.tolist()) == ("rows", list(range(8)))


# -- what others save, on a base model


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_diffusers_saves_is_read(base_of: BaseOf, tmp_path: Path, family: str) -> None:
    """Its text encoders lack the level text_model. with today's transformers."""
    base = base_of(family)
    pipeline = base.pipeline()
    config = LoraConfig(r=3, lora_alpha=7.5, target_modules=["to_q", "q_proj"])  # type: ignore[arg-type]
    parts: dict[str, Any] = {"unet": base.unet, "text_encoder": base.text_encoders[0]}
    for module in parts.values():
        module.add_adapter(config)
    try:
        for module in parts.values():
            for name, parameter in module.named_parameters():
                if "lora_B" in name:
                    parameter.data.copy_(random_tensor(len(name), *parameter.shape))
        expected = outputs(base)
        saved: dict[str, Any] = {
            part: get_peft_model_state_dict(module) for part, module in parts.items()
        }
        type(pipeline).save_lora_weights(
            tmp_path,
            unet_lora_layers=saved["unet"],
            text_encoder_lora_layers=saved["text_encoder"],
            unet_lora_adapter_metadata=config.to_dict(),
            text_encoder_lora_adapter_metadata=config.to_dict(),
        )
    finally:
        pipeline.unload_lora_weights()
        base.text_encoders[0].requires_grad_(False)
        base.unet.requires_grad_(False)
    adapter = read_adapter(tmp_path / "pytorch_lora_weights.safetensors")
    assert {layer.alpha for layer in adapter.layers.values()} == {7.5}
    load_into(base, adapter, "read")
    loaded = outputs(base)
    for part, output in expected.items():
        assert torch.allclose(loaded[part], output, atol=1e-5), part


def test_dora_as_peft_saves_it_is_read(base_of: BaseOf, tmp_path: Path) -> None:
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


def lycoris_dora(base: BaseModel, adapter: Adapter, by: str) -> dict[str, Tensor]:
    """A file as LyCORIS writes DoRA, lengths by column (older) or by row."""
    tensors: dict[str, Tensor] = {}
    for index, (key, layer) in enumerate(adapter.layers.items()):
        name = kohya_name(base.family.name, key)
        count, ones = layer.shape[0 if by == "rows" else 1], [1] * (len(layer.shape) - 2)
        lengths = 0.5 + random_tensor(index, count).abs()
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
        shape = (count, 1, *ones) if by == "rows" else (1, count, *ones)
        tensors[f"{name}.dora_scale"] = lengths.reshape(shape)
    return tensors


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("by", ["rows", "columns"])
def test_dora_as_lycoris_saves_it_is_exact_on_a_base(
    base_of: BaseOf, tmp_path: Path, family: str, by: str
) -> None:
    """`change_on` is compared with the formula in test_kinds."""
    base = base_of(family)
    plain = adapter_for(base, None, targets="convolution")
    adapter = read(tmp_path / "dora.safetensors", lycoris_dora(base, plain, by))
    assert adapter.needs_base
    before = outputs(base)
    load_into(base, adapter, "dora")
    live, layers = collect(base, "dora"), find_layers(base)
    for key, layer in adapter.layers.items():
        assert layer.magnitude is not None
        assert layer.magnitude.by == by
        expected = change_on(layer, layers[key].weight)
        change = change_of(live.layers[key]).flatten(1)
        assert (change - expected).norm() <= 1e-6 * expected.norm(), key
    assert not all_equal(outputs(base), before)
    detach(base)
    assert all_equal(outputs(base), before)


def test_a_third_matrix_becomes_part_of_the_second(base_of: BaseOf, tmp_path: Path) -> None:
    name, inputs, outputs_, rank = "lora_unet_down_blocks_0_resnets_0_conv1", 16, 16, 3
    up, mid = random_tensor(0, outputs_, rank, 1, 1), random_tensor(1, rank, rank, 3, 3)
    down = random_tensor(2, rank, inputs, 1, 1)
    matrices = {"lora_up": up, "lora_mid": mid, "lora_down": down}
    tensors = {f"{name}.{kind}.weight": matrix for kind, matrix in matrices.items()}
    adapter = read(tmp_path / "locon.safetensors", tensors)
    load_into(base_of("sd1"), adapter, "a")
    expected = torch.einsum("orxy,rshw,sixy->oihw", up, mid, down)
    layer: LoraLayer = adapter.layers[ModuleKey("unet", "down_blocks.0.resnets.0.conv1")]
    torch.testing.assert_close(change_of(layer).float(), expected)
