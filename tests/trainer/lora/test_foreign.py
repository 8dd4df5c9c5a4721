"""What is said of files that other programs made, word for word, and what becomes of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainer.lora.helpers import change_of, random_tensor, sized_files
from tests.trainer.lora.test_tools import EVERYWHERE, SGM, TEXT, UNET, text, unet
from trainer.commands.cli import main
from trainer.config.schema import AdapterConfig
from trainer.errors import UserError
from trainer.lora.adapter import form_change
from trainer.lora.changes import change_on, compare, full_change, singular_values
from trainer.lora.editing import resize
from trainer.lora.loading import read_start
from trainer.lora.names import family_layers
from trainer.lora.reading import read_adapter
from trainer.lora.verify import verify_file

Tensors = dict[str, Tensor]
SD1 = sized_files({**unet(), **text("lora_te")})
BLOCK = "mid_block.attentions.0.transformer_blocks.0"
DOTTED = [f"{BLOCK}.attn2.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
SHAPES = family_layers("sd1")


def lora(*layers: str, style: str = "lora_down lora_up") -> Tensors:
    """Pairs of matrices for layers of any model, in kohya's words or in PEFT's."""
    down, up = style.split()
    both = {f"{layer}.{down}.weight": torch.ones(2, 8) for layer in layers}
    return both | {f"{layer}.{up}.weight": torch.ones(8, 2) for layer in layers}


def peft(*layers: str) -> Tensors:
    return lora(*layers, style="lora_A lora_B")


def renamed(old: str, new: str, tensors: Tensors = SD1) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def dotted(prefix: str, style: str = "lora_A lora_B") -> Tensors:
    """The UNet's half of `SD1` by dotted paths."""
    down, up = style.split()
    tensors: Tensors = {}
    for path, name in zip(DOTTED, ("q", "k", "v", "out_0"), strict=True):
        for old, new in (("lora_down", down), ("lora_up", up)):
            tensor = SD1[f"{UNET}_attn2_to_{name}.{old}.weight"]
            tensors[f"{prefix}{path}.{new}.weight"] = tensor
    return tensors


def lycoris(**kinds: Tensor) -> Tensors:
    return {f"{UNET}_attn1_to_q.{kind.replace('__', '.')}": t for kind, t in kinds.items()}


def small(*shape: int, seed: int = 1) -> Tensor:
    return 0.05 * random_tensor(seed, *shape)


LOHA = lycoris(
    hada_w1_a=small(1280, 3), hada_w1_b=small(3, 1280, seed=2), hada_w2_a=small(1280, 3, seed=3),
    hada_w2_b=small(3, 1280, seed=4), alpha=torch.tensor(1.5),
)  # fmt: skip
LOKR = lycoris(
    lokr_w1=small(4, 4), lokr_w2_a=small(320, 5, seed=2), lokr_w2_b=small(5, 320, seed=3),
    alpha=torch.tensor(10.0),
)  # fmt: skip
LOKR_WHOLE = lycoris(lokr_w1=small(4, 4), lokr_w2=small(320, 320, seed=2), alpha=torch.tensor(7.0))
OFT = lycoris(oft_blocks=small(4, 320, 320), alpha=torch.tensor(0.001))
GLORA = lycoris(
    a1__weight=small(1280, 4), a2__weight=small(4, 1280, seed=2), b1__weight=small(1280, 4, seed=3),
    b2__weight=small(4, 1280, seed=4), alpha=torch.tensor(2.0),
)  # fmt: skip
DIFFERENCE = lycoris(diff=small(1280, 1280))
EMBEDDING = {"bundle_emb.tok<1>.string_to_param.*": torch.ones(2, 768)}
ALPHAS = {f"{UNET}_attn1_to_q.alpha": torch.tensor(1.0)}
LOST = "(names that were tried nowhere: convert)"
NOT_TRIED = "(only LoRA was tried: resize makes a plain adapter of it)"
NONE = "works in none of the usual tools; not in A1111, Forge, ComfyUI, InvokeAI, sd-scripts, "
NONE += "diffusers "
FLUX = "an adapter for Flux, or HunyuanVideo or Chroma, whose blocks have the same names"
PIXART = "an adapter for PixArt, or a transformer with its names (Sana, LTX, CogVideoX)"
STRANGERS = "names layers that Stable Diffusion 1, 2 and XL don't have"

# Of other models, and other things: refused, and called what they are.
REFUSED: dict[str, tuple[Tensors, str]] = {
    "Wan, kohya": (lora("lora_unet_blocks_0_self_attn_q"), "is an adapter for Wan"),
    "Wan, ComfyUI": (peft("diffusion_model.blocks.0.cross_attn.k"), "is an adapter for Wan"),
    "Lumina": (lora("lora_unet_layers_0_attention_qkv"), "is an adapter for Lumina or Z-Image"),
    "Z-Image": (peft("diffusion_model.layers.3.feed_forward.w1"), "for Lumina or Z-Image"),
    "Qwen, kohya": (lora("lora_unet_transformer_blocks_0_attn_to_q"), "an adapter for Qwen-Image"),
    "Qwen": (peft("transformer.transformer_blocks.0.img_mlp.net.2"), "an adapter for Qwen-Image"),
    "Flux, kohya": (lora("lora_unet_double_blocks_0_img_attn_qkv"), f"is {FLUX}"),
    "Flux": (peft("transformer.single_transformer_blocks.1.attn.to_q"), f"is {FLUX}"),
    "Flux and CLIP": (SD1 | lora("lora_unet_single_blocks_0_linear1"), f"is {FLUX}"),
    "SD 3, kohya": (lora("lora_unet_joint_blocks_0_x_block_attn_qkv"), "for Stable Diffusion 3"),
    "SD 3": (peft("transformer.transformer_blocks.0.attn.add_q_proj"), "Diffusion 3, Qwen"),
    "Hunyuan-DiT": (lora("lora_unet_blocks_0_attn1_Wqkv"), "is an adapter for Hunyuan-DiT"),
    "HiDream": (peft("diffusion_model.double_stream_blocks.0.q"), "for a diffusion transformer"),
    "PixArt": (peft("base_model.model.transformer_blocks.0.attn1.to_q"), f"is {PIXART}"),
    "PixArt by OneTrainer": (lora("lora_transformer_transformer_blocks_0_attn2_to_k"), PIXART),
    "Cascade": (lora("lora_prior_unet_down_blocks_0_2_attention_q"), "Stable Cascade"),
    "Kandinsky": (
        lora("lora_unet_down_blocks_1_attentions_0_attn_add_k_proj"), "Kandinsky or DeepFloyd IF",
    ),
    "Llama": (peft("base_model.model.model.layers.0.self_attn.q_proj"), "a language model"),
    "T5": (peft("base_model.model.encoder.block.0.layer.0.SelfAttention.q"), "a language model"),
    "AnimateDiff": (
        peft(f"unet.{BLOCK.replace('attentions', 'motion_modules')}.attn1.to_q"),
        "is an AnimateDiff motion module",
    ),
    "video": (peft("unet.mid_block.attentions.0.temporal_transformer_blocks.0.q"), "Stable Video"),
    "ControlNet": ({"control_model.input_blocks.1.1.norm.bias": torch.ones(2)}, "is a ControlNet"),
    "Control-LoRA": ({**SD1, "lora_controlnet": torch.ones(())}, "is a ControlNet"),
    "ControlNet-LLLite": ({"lllite_unet_input_blocks_4_1.down.0.weight": torch.ones(2)}, "a Con"),
    "IP-Adapter": ({"image_proj.proj.weight": torch.ones(2)}, "is an IP-Adapter"),
    "T2I-Adapter": ({"body.0.block1.weight": torch.ones(2)}, "is a T2I-Adapter"),
    "a checkpoint's part": ({"unet/mid.to_k.lora_A": torch.ones(2, 2)}, "of a run's checkpoint"),
    "a hypernetwork": ({"768.0.linear.0.weight": torch.ones(2, 2)}, "is a hypernetwork"),
    "an embedding": ({"emb_params": torch.ones(2, 768)}, "is a textual-inversion embedding"),
    "an embedding of SDXL": ({"clip_l": torch.ones(2, 768)}, "is a textual-inversion embedding"),
    "an embedding of diffusers": ({"<cat>": torch.ones(768)}, "is a textual-inversion embedding"),
    "IA3": (
        lycoris(weight=torch.ones(1280), on_input=torch.ones(())),
        "is an IA3 adapter, which scales layers and adds nothing to them",
    ),
    "PEFT's OFT": ({f"base_model.model.{BLOCK}.attn1.to_q.oft_R.x": torch.ones(2)}, "is OFT"),
    "a VAE": ({"decoder.up.0.block.0.conv1.weight": torch.ones(2)}, "is a VAE"),
    "all of a base model": (
        {"first_stage_model.encoder.conv_in.weight": torch.ones(2)}
        | {"model.diffusion_model.out.2.weight": torch.ones(2)},
        "a whole base model",
    ),
    "a model's VAE": ({"first_stage_model.decoder.conv_in.weight": torch.ones(2)}, "is a VAE"),
    "a UNet": ({f"{BLOCK}.attn1.to_q.weight": torch.ones(2)}, "is a part of a base model"),
    "only embeddings": (EMBEDDING, "holds embeddings (tok<1>) alone"),
    "a nonsense layer": (lora("lora_unet_attic_0_to_q"), f"{STRANGERS}: lora_unet_attic_0_to_q."),
    "a layer too many": (lora(f"{UNET.replace('mid', 'middle')}_attn1_to_q"), STRANGERS),
    "nonsense among real layers": (SD1 | lora("lora_unet_attic"), f"{STRANGERS}: lora_"),
    "biases": ({**SD1, f"{UNET}_attn1_to_q.diff_b": torch.ones(2)}, "that are not read here"),
    "BOFT": (lycoris(oft_blocks=torch.ones(2, 2, 2, 2)), "OFT with oft_blocks 2 x 2 x 2 x 2"),
    "an unfit LoHa": (
        {**LOHA, f"{UNET}_attn1_to_q.hada_w1_b": torch.ones(3, 7)}, "which don't go together",
    ),
}  # fmt: skip

# Read: what `verify` says of it, and the greatest difference of what `convert` makes of it.
READ: dict[str, tuple[Tensors, str]] = {
    "kohya": (SD1, EVERYWHERE),
    "SD 2": (sized_files({**unet(), **text("lora_te")}, "sd2"), EVERYWHERE),
    "SDXL": (sized_files({**unet(SGM), **text("lora_te2")}, "sdxl"), EVERYWHERE),
    "diffusers": (dotted("unet."), "works in diffusers; not in A1111, ComfyUI, "),
    "PEFT": (dotted("base_model.model."), "works in none of the usual tools; not in A1111, "),
    "unet.unet.": (dotted("unet.unet."), NONE + LOST),
    "unet.base_model.model.": (dotted("unet.base_model.model."), NONE + LOST),
    "PEFT in unet.": (dotted("base_model.model.unet."), NONE + LOST),
    "of several GPUs": (dotted("module.unet."), NONE + LOST),
    "of a compiled model": (dotted("unet._orig_mod."), NONE + LOST),
    "ComfyUI": (dotted("diffusion_model.", "lora_down lora_up"), NONE + LOST),
    "lycoris_": (renamed("lora_unet_", "lycoris_", sized_files(unet())), NONE + LOST),
    "diffusion_model_": (
        renamed("lora_unet_", "diffusion_model_", sized_files(unet(SGM))), NONE + LOST,
    ),
    "OMI": (
        renamed("mid_block.attentions.0", "middle_block.1", dotted("unet.", "lora_down lora_up")),
        NONE + LOST,
    ),
    "OMI, text": (renamed(f"lora_te_{TEXT}_", "clip_l.text_model.encoder.layers.0.self_attn."),
        "in part in"),
    "a leftover alpha": (SD1 | ALPHAS, f"{EVERYWHERE}; not read: {UNET}_attn1_to_q.alpha"),
    "bundled embeddings": (
        SD1 | EMBEDDING,
        "works in A1111, Forge, ComfyUI, sd-scripts; not in InvokeAI, diffusers (refuses bundled "
        "embeddings); bundled embeddings: tok<1>",
    ),
    ".scalar": (
        {**SD1, f"{UNET}_attn2_to_q.scalar": torch.tensor(0.5)},
        "works in none of the usual tools; only in part in A1111, Forge, ComfyUI, InvokeAI, "
        "sd-scripts (only LyCORIS reads .scalar: convert)",
    ),
    "sizes of no model": (
        {**SD1, **lora(f"{UNET}_attn1_to_q")},
        "layers of unet have the shapes of no such model",
    ),
    "sizes of a small model": (
        lora(f"{UNET}_attn1_to_q"),
        "works in diffusers; not in A1111, Forge, ComfyUI, InvokeAI, sd-scripts (it is for the "
        "built-in base model or another small one: train on Stable Diffusion for these)",
    ),
}  # fmt: skip

# Of other kinds: LoHa and LoKr are written too; of the rest `verify` says that no tool was tried.
# `resize` makes plain adapters of all.
FORMS: dict[str, Tensors] = {
    "LoHa": LOHA,
    "LoKr": LOKR,
    "LoKr, whole": LOKR_WHOLE,
    "full difference": DIFFERENCE,
    "OFT": OFT,
    "GLoRA": GLORA,
}


def saved(tmp_path: Path, tensors: Tensors) -> Path:
    path = tmp_path / "file.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def converted(path: Path, *options: str) -> int:
    out = str(path.with_name("out.safetensors"))
    return main(["adapter", "convert", str(path), "--out", out, "--precision", "fp32", *options])


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, words = REFUSED[case]
    path = saved(tmp_path, tensors)
    with pytest.raises(UserError) as caught:
        verify_file(path)
    assert f"{path} {words}" in caught.value.message or words in caught.value.message
    for arguments in (["convert"], ["resize", "--rank", "1"], ["merge"]):
        out = ["--out", str(tmp_path / "out.safetensors")]
        assert main(["adapter", *arguments[:1], str(path), *arguments[1:], *out]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("case", READ)
def test_read_and_converted(tmp_path: Path, case: str) -> None:
    tensors, words = READ[case]
    path = saved(tmp_path, tensors)
    proof = verify_file(path)
    assert words in proof.summary
    assert (proof.summary == words) or words != EVERYWHERE
    assert converted(path) == 0
    before, after = read_adapter(path), read_adapter(tmp_path / "out.safetensors")
    assert compare(before, after).worst < 1e-6
    assert before.layers.keys() == after.layers.keys()
    assert before.embeddings.keys() == after.embeddings.keys()
    if "sizes" not in case:
        said = verify_file(tmp_path / "out.safetensors").summary
        mixed = "works in A1111, Forge, ComfyUI, InvokeAI, sd-scripts; "  # by then several alphas
        expected = {"bundled embeddings": words, ".scalar": mixed}.get(case, EVERYWHERE)
        assert said.startswith(expected)


@pytest.mark.parametrize("drop", [False, True])
def test_embeddings_go_along_or_not(tmp_path: Path, drop: bool) -> None:
    path = saved(tmp_path, SD1 | EMBEDDING)
    assert converted(path, *(["--embeddings", "drop"] if drop else [])) == 0
    out = load_file(tmp_path / "out.safetensors")
    assert [name for name in out if "bundle" in name] == ([] if drop else [*EMBEDDING])
    assert drop or torch.equal(out[next(iter(EMBEDDING))], torch.ones(2, 768))


def test_what_is_not_known_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"lora_unet_attic.lora_down.weight": torch.ones(1), f"{UNET}_attn1_to_q.diff_b": SD1[
        f"{UNET}_attn2_to_q.alpha"]}  # fmt: skip
    path = saved(tmp_path, SD1 | odd)
    assert converted(path) == 2
    assert "--leave-out-unknown" in capsys.readouterr().err
    assert converted(path, "--leave-out-unknown") == 0
    said = capsys.readouterr().out
    assert "Lost, since not understood: " in said
    assert all(name in said for name in odd)
    assert compare(
        read_adapter(saved(tmp_path, SD1)), read_adapter(tmp_path / "out.safetensors")
    ).exact


# -- LyCORIS's kinds


@pytest.mark.parametrize("case", FORMS)
def test_forms_are_read_and_made_plain(tmp_path: Path, case: str) -> None:
    path = saved(tmp_path, FORMS[case])
    proof = verify_file(path)
    name = case.split(",")[0]
    assert proof.kinds == (name,)
    out = tmp_path / "out.safetensors"
    if name in ("LoHa", "LoKr"):
        assert proof.summary.startswith("works in A1111, Forge, ComfyUI, InvokeAI; not in")
        assert converted(path) == 0
        assert compare(read_adapter(path), read_adapter(out)).exact
        out.unlink()
    else:
        assert proof.summary.startswith(NONE + NOT_TRIED)
        assert converted(path) == 2
        assert not out.exists()
    with pytest.raises(UserError, match=f"is {name}, which a training cannot go on from"):
        read_start(path, AdapterConfig())
    if name in ("OFT", "GLoRA"):  # on a base model: test_kinds
        return
    arguments = ["--rank", "1280", "--precision", "fp32", "--out", str(out)]
    assert main(["adapter", "resize", str(path), *arguments]) == 0
    before, after = read_adapter(path), read_adapter(out)
    assert compare(before, after).worst < 1e-5
    (layer,) = before.layers.values()
    values = torch.linalg.svdvals(full_change(layer))
    found = singular_values(layer)
    torch.testing.assert_close(found, values[: len(found)], atol=1e-9, rtol=1e-6)
    assert resize(before, energy=0.9).ranks[0] < len(values)
    assert verify_file(out).summary.startswith("works in A1111, Forge, ComfyUI")
    merged = tmp_path / "merged.safetensors"
    arguments[-1] = str(merged)
    assert main(["adapter", "merge", f"{path}:0.5", f"{path}:0.5", *arguments]) == 0
    assert compare(before, read_adapter(merged)).worst < 1e-5
    assert main(["adapter", "merge", str(path), "--out", str(tmp_path / "no.safetensors")]) == 2


def test_the_formulas(tmp_path: Path) -> None:
    """Each against plain arithmetic on its tensors."""
    weight = random_tensor(9, 1280, 1280).double()

    def change(tensors: Tensors) -> Tensor:
        (layer,) = read_adapter(saved(tmp_path, tensors)).layers.values()
        assert layer.form is not None
        free = layer if layer.needs_base else None
        found = change_on(layer, weight)
        if free is None:
            assert torch.equal(found, layer.alpha / layer.rank * form_change(layer.form))
        return found

    def own(tensors: Tensors) -> dict[str, Tensor]:
        return {n.rpartition("_q.")[2]: t.double() for n, t in tensors.items()}

    t = own(LOHA)
    expected = 0.5 * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
    torch.testing.assert_close(change(LOHA), expected)
    t = own(LOKR)
    second = t["lokr_w2_a"] @ t["lokr_w2_b"]
    rows = [torch.cat([2.0 * w * second for w in row], 1) for row in t["lokr_w1"]]
    torch.testing.assert_close(change(LOKR), torch.cat(rows, 0))
    t = own(LOKR_WHOLE)
    assert change(LOKR_WHOLE)[320 * 2 + 5, 320 + 7] == t["lokr_w1"][2, 1] * t["lokr_w2"][5, 7]
    torch.testing.assert_close(change(DIFFERENCE), own(DIFFERENCE)["diff"])
    t = own(GLORA)
    expected = 0.5 * (weight @ t["a1.weight"] @ t["a2.weight"] + t["b1.weight"] @ t["b2.weight"])
    torch.testing.assert_close(change(GLORA), expected)
    old = {name.replace("1.w", "x.w").replace("2.w", "1.w").replace("x.w", "2.w"): tensor
           for name, tensor in GLORA.items()}  # fmt: skip
    torch.testing.assert_close(change(old), expected)
    t = own(OFT)
    skew = t["oft_blocks"] - t["oft_blocks"].mT
    skew = skew * min(1.0, 0.001 * 1280 / float(skew.norm()))
    found = (change(OFT) + weight).reshape(4, 320, 1280)
    for block, turned, rows in zip(skew, found, weight.reshape(4, 320, 1280), strict=True):
        eye = torch.eye(320, dtype=torch.float64)
        torch.testing.assert_close(turned, torch.linalg.solve(eye + block, (eye - block) @ rows))
    torch.testing.assert_close(found.flatten(0, 1).norm(dim=0), weight.norm(dim=0))


def test_a_convolution_of_loha_gets_its_kernel(tmp_path: Path) -> None:
    name = "lora_unet_mid_block_resnets_0_conv1"
    tensors = {f"{name}.hada_w{half}_a": small(1280, 2, seed=int(half)) for half in "12"}
    tensors |= {f"{name}.hada_w{half}_b": small(2, 1280 * 9, seed=4) for half in "12"}
    path = saved(tmp_path, tensors)
    (layer,) = read_adapter(path).layers.values()
    assert layer.shape == (1280, 1280, 3, 3)
    out = tmp_path / "out.safetensors"
    arguments = ["--rank", "4", "--precision", "fp32", "--out", str(out)]
    assert main(["adapter", "resize", str(path), *arguments]) == 0
    (plain,) = read_adapter(out).layers.values()
    torch.testing.assert_close(
        change_of(plain).flatten(1), change_on(layer, torch.empty(0)), atol=1e-6, rtol=1e-4
    )


def test_a_rank_beyond_all_needs_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = saved(tmp_path, SD1), tmp_path / "out.safetensors"
    assert main(["adapter", "resize", str(path), "--rank", "2000000", "--out", str(out)]) == 0
    assert "No layer needs more than rank 2." in capsys.readouterr().out
    assert read_adapter(out).ranks == [2]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_files_without_metadata_get_what_modelspec_asks_for(tmp_path: Path, family: str) -> None:
    names = unet() if family != "sdxl" else {**unet(), **text("lora_te1")}
    path = saved(tmp_path, sized_files(names, family))  # pyright: ignore
    out = tmp_path / "both.safetensors"
    assert main(["adapter", "merge", f"{path}:0.5", str(path), "--out", str(out)]) == 0
    metadata = read_adapter(out).metadata
    for name in ("sai_model_spec", "architecture", "implementation", "title", "hash_sha256"):
        assert metadata[f"modelspec.{name}"]
    assert metadata["ss_base_model_version"].startswith(("sd_v", "sdxl"))
    assert metadata["ss_v2"] == str(family == "sd2")
    assert math.isclose(float(metadata["ss_network_alpha"]), 4)
