"""Where a file works: the table of what was measured, one case a fact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import adapter_for, all_equal, outputs, sized_files
from trainer.lora.attach import attached
from trainer.lora.layers import find_targets
from trainer.lora.tools import TOOLS
from trainer.lora.verify import Proof, verify_file
from trainer.lora.writing import write_adapter
from trainer.models.families import FamilyName

ALL: set[str] = set(TOOLS)
EVERYWHERE = "works in A1111, Forge, ComfyUI, InvokeAI, sd-scripts, diffusers"
UNET = "lora_unet_mid_block_attentions_0_transformer_blocks_0"
SGM = "lora_unet_middle_block_1_transformer_blocks_0"
TEXT = "text_model_encoder_layers_0_self_attn"
FOUR = ("q_proj", "k_proj", "v_proj", "out_proj")


def text(prefix: str, projections: tuple[str, ...] = FOUR, level: str = TEXT) -> dict[str, float]:
    return {f"{prefix}_{level}_{name}": 1.0 for name in projections}


def unet(prefix: str = UNET, alpha: float | None = 1.0) -> dict[str, float | None]:
    return {f"{prefix}_attn2_to_{name}": alpha for name in ("q", "k", "v", "out_0")}


def proof_of(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> Proof:
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata)
    return verify_file(path)


def working(proof: Proof) -> set[str]:
    return {tool for tool, verdict in proof.tools.items() if verdict.works}


THREE = ("q_proj", "v_proj", "out_proj")
Q = f"{UNET}_attn1_to_q"
# The family, the layers with their alphas, where the file works, and what is said of it.
FACTS: dict[str, tuple[FamilyName, dict[str, float | None], set[str], str]] = {
    "SD 1": ("sd1", {**unet(), **text("lora_te")}, ALL, ""),
    "SD 2": ("sd2", {**unet(), **text("lora_te")}, ALL, ""),
    "SDXL": ("sdxl", {**unet(), **text("lora_te1"), **text("lora_te2")}, ALL, ""),
    "SDXL by block names": ("sdxl", {**unet(SGM), **text("lora_te1")}, ALL, ""),
    "without alpha": ("sd1", unet(alpha=None), ALL, ""),
    "SDXL's prefix on SD 1": ("sd1", {**unet(), **text("lora_te1")},
        ALL - {"sd-scripts", "InvokeAI"},
        "only in part in InvokeAI, sd-scripts (lora_te1_ is SDXL's prefix)"),
    "no text_model": ("sd1", {**unet(), **text("lora_te", level="encoder_layers_0_self_attn")},
        {"diffusers"}, "not in Forge (drops files without text_model. whole)"),
    "q and v only, SD 1": ("sd1", {**unet(), **text("lora_te", ("q_proj", "v_proj"))},
        ALL - {"diffusers"}, "not in diffusers (refuses text encoders without out_proj)"),
    "three of four, SD 2": ("sd2", {**unet(), **text("lora_te", THREE)},
        ALL - {"A1111"}, "only in part in A1111 (needs q, k, v and out_proj together)"),
    "three of four, SDXL's first": ("sdxl", {**unet(), **text("lora_te1", THREE)}, ALL, ""),
    "three of four, SDXL's second": ("sdxl", {**unet(), **text("lora_te2", THREE)},
        ALL - {"A1111"}, "only in part in A1111"),
    "mixed alphas": ("sd1", {**unet(), Q: 2.0},
        ALL - {"diffusers"}, "gives all layers one alpha: unet has several"),
    "alpha differs by part": ("sd1", {**unet(alpha=2.0), **text("lora_te")}, ALL, ""),
    "some without alpha": ("sd1", {**unet(alpha=2.0), Q: None},
        ALL - {"diffusers"}, "unet has several, or some have none"),
    "SGM names on SD 1": ("sd1", unet(SGM), {"A1111", "Forge", "ComfyUI"},
        "not in InvokeAI, sd-scripts, diffusers (SGM block names are SDXL's)"),
    "SGM names on SD 2": ("sd2", unet(SGM), set(), "works in none"),
    "alpha 0": ("sd1", {**unet(), Q: 0.0}, ALL - {"sd-scripts", "diffusers"},
        "sd-scripts (takes an alpha of 0 for the rank)"),
    "both names": ("sdxl", {**unet(SGM), Q: 1.0}, set(), "two kinds"),
}  # fmt: skip


@pytest.mark.parametrize("case", FACTS)
def test_facts(tmp_path: Path, case: str) -> None:
    family, names, tools, words = FACTS[case]
    proof = proof_of(tmp_path, sized_files(names, family))
    assert proof.family == family
    assert working(proof) == tools
    assert words in proof.summary
    if tools == ALL and len(names) % 4 == 0:
        assert proof.summary == EVERYWHERE


def test_keys_are_counted_by_part(tmp_path: Path) -> None:
    names = {**unet(), **text("lora_te1")}
    verdicts = proof_of(tmp_path, sized_files(names)).tools
    assert verdicts["sd-scripts"].total == {"unet": 12, "text_encoder": 12}
    assert verdicts["sd-scripts"].matched == {"unet": 12, "text_encoder": 0}
    assert verdicts["ComfyUI"].matched == verdicts["ComfyUI"].total


UPSAMPLERS = {
    "lora_unet_up_blocks_0_upsamplers_0_conv": ALL - {"A1111"},
    "lora_unet_up_blocks_1_upsamplers_0_conv": ALL,
    "lora_unet_output_blocks_2_2_conv": ALL,
}


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_sdxl_convolutions(tmp_path: Path, name: str) -> None:
    others = unet(SGM if "output_blocks" in name else UNET)
    proof = proof_of(tmp_path, sized_files({**others, name: 1.0}, "sdxl"))
    assert working(proof) == UPSAMPLERS[name]
    lost = {
        tool: sum(v.total.values()) - sum(v.matched.values()) for tool, v in proof.tools.items()
    }
    assert lost == {tool: 0 if tool in UPSAMPLERS[name] else 3 for tool in ALL}


def test_diffusers_layout(base_of: BaseOf, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(adapter_for(base_of("sd1")), path, "diffusers")
    proof = verify_file(path)
    assert working(proof) == {"diffusers"}
    assert "not in Forge (drops files in this layout whole" in proof.summary
    renamed = {name.replace("lora_A.", "lora_A.default."): t for name, t in load_file(path).items()}
    assert working(proof_of(tmp_path, renamed)) == set()


@pytest.mark.parametrize(("metadata", "noted"), [({"a": "b"}, True), ({}, False)])
def test_a1111_lists_files_without_a_version_as_sd1(
    tmp_path: Path, metadata: dict[str, str], noted: bool
) -> None:
    proof = proof_of(tmp_path, sized_files(unet(), "sdxl"), metadata)
    assert working(proof) == ALL
    assert any("listed as for SD 1" in line for line in proof.lines()) is noted


def test_dead_and_half_empty_are_named(tmp_path: Path) -> None:
    tensors = sized_files({**unet(), Q: 1.0})
    tensors[f"{UNET}_attn2_to_v.lora_up.weight"].zero_()
    summary = proof_of(tmp_path, tensors).summary
    assert "without effect (B = 0): unet.mid_block.attentions.0" in summary
    assert "half-empty: it lacks unet.mid_block.attentions.0.transformer_blocks.0.attn1." in summary
    for tensor in tensors.values():
        tensor.zero_()
    assert "(B = 0): all layers" in proof_of(tmp_path, tensors).summary


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_on_a_base_model(base_of: BaseOf, tmp_path: Path, family: str) -> None:
    base, path = base_of(family), tmp_path / "a.safetensors"
    before = outputs(base)
    adapter = adapter_for(base)
    write_adapter(adapter, path)
    proof = verify_file(path, base)
    assert proof.base is not None
    assert (proof.base.layers, proof.base.missing) == (len(adapter.layers), ())
    assert proof.base.worst_difference <= 1e-6
    assert proof.base.strongest_change > 0
    assert working(proof) == {"diffusers"}
    assert "train on Stable Diffusion for these)" in proof.summary
    assert attached(base) == []
    assert all_equal(outputs(base), before)


def test_half_of_a_base_model(base_of: BaseOf, tmp_path: Path) -> None:
    base, path = base_of("sd1"), tmp_path / "a.safetensors"
    keys = [key for key in find_targets(base) if key.part == "unet"]
    whole = adapter_for(base)
    write_adapter(replace(whole, layers={key: whole.layers[key] for key in keys[:4]}), path)
    assert verify_file(path).incomplete == ()
    proof = verify_file(path, base)
    assert proof.base is not None
    assert set(proof.base.missing) == set(keys[4:])
    assert f"({len(keys) - 4} in all)" in proof.summary
