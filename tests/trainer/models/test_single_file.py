"""Single files by the names that tools have written, and VAEs given apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TinyBase
from tests.tiny_models import TinyName, make_tiny
from tests.trainer.models.conftest import CopyOf, edit
from tests.trainer.models.original_layout import write_original
from tests.trainer.models.test_load import same_state, same_weights
from trainer.errors import UserError
from trainer.models.base import BaseModel
from trainer.models.load import load_base, load_text_part
from trainer.models.original_names import averaged_name

Tensors = dict[str, torch.Tensor]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"


def renamed(tensors: Tensors, *pairs: tuple[str, str]) -> Tensors:
    for old, new in pairs:
        assert any(old in name for name in tensors)
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return tensors


def averages_only(tensors: Tensors) -> Tensors:
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return counters | {
        averaged_name(name) if name.startswith(UNET) else name: value
        for name, value in tensors.items()
    }


def with_averages(tensors: Tensors) -> Tensors:
    return tensors | {
        averaged_name(name): value + 1 for name, value in tensors.items() if name.startswith(UNET)
    }


ATTENTION = [
    (".attn_1.norm.", ".attn_1.group_norm."),
    (".attn_1.q.", ".attn_1.to_q."),
    (".attn_1.k.", ".attn_1.to_k."),
    (".attn_1.v.", ".attn_1.to_v."),
    (".attn_1.proj_out.", ".attn_1.to_out.0."),
]


def without_level(tensors: Tensors) -> Tensors:
    return renamed(tensors, ("transformer.text_model.", "transformer."))


def with_positions(tensors: Tensors) -> Tensors:
    name = "cond_stage_model.transformer.embeddings.position_ids"
    return tensors | {name: torch.arange(77)[None]}


def flat_attention(tensors: Tensors) -> Tensors:
    return {
        name: value[:, :, 0, 0] if ".attn_1." in name and value.ndim == 4 else value
        for name, value in tensors.items()
    }


SPELLINGS: dict[str, tuple[TinyName, Callable[[Tensors], Tensors]]] = {
    "no level text_model": ("sd1", lambda tensors: with_positions(without_level(tensors))),
    "no level text_model in SDXL": ("sdxl", without_level),
    "only the running average": ("sd1", averages_only),
    "only SDXL's running average": ("sdxl", averages_only),
    "only SD 2's running average": ("sd2-v", averages_only),
    "the running average beside it": ("sd1", with_averages),
    "VAE attention by new names": ("sd1", lambda tensors: renamed(tensors, *ATTENTION)),
    "VAE attention without convolutions": ("sd1", flat_attention),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_every_spelling_loads_the_same_weights(
    case: str, tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    name, change = SPELLINGS[case]
    path = write_original(tiny_base(name), tmp_path / "plain.safetensors")
    spelt = tmp_path / "SPELT.SAFETENSORS"
    save_file({key: value.contiguous() for key, value in change(load_file(path)).items()}, spelt)
    base = load_base(str(spelt))
    assert same_weights(base, load_base(str(tiny_base(name))))


def without_vae(path: Path) -> Path:
    tensors = {key: value for key, value in load_file(path).items() if not key.startswith(VAE)}
    save_file(tensors, path)
    return path


def old_attention(tensors: Tensors) -> Tensors:
    pairs = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]
    return renamed(tensors, *((f".{new}.", f".{old}.") for new, old in pairs))


def given_vae(case: str, folder: Path, tmp_path: Path) -> Path:
    """The VAE of a model's folder in one of the shapes in which people have it."""
    path = tmp_path / "vae.safetensors"
    match case:
        case "a whole checkpoint":
            return write_original(folder, path)
        case "a file of the original layout":
            tensors = load_file(write_original(folder, path))
            save_file({k.removeprefix(VAE): v for k, v in tensors.items() if VAE in k}, path)
        case "a file of diffusers' layout":
            shutil.copy(folder / VAE_FILE, path)
        case "a file with old names of attention":
            save_file(old_attention(load_file(folder / VAE_FILE)), path)
        case "a model's folder":
            return folder
        case _:
            return folder / "vae"
    return path


@pytest.mark.parametrize("for_a_file", [True, False], ids=["for a file", "for a folder"])
@pytest.mark.parametrize(
    "case",
    [
        "a whole checkpoint",
        "a file of the original layout",
        "a file of diffusers' layout",
        "a file with old names of attention",
        "a model's folder",
        "a folder",
    ],
)
def test_a_vae_given_apart_takes_the_place_of_its_own(
    case: str, for_a_file: bool, tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    folder = tiny_base("sd1")
    other = make_tiny("sd1", tmp_path / "other", seed=1)
    own = folder
    if for_a_file:
        own = without_vae(write_original(folder, tmp_path / "model.safetensors"))
    vae = str(given_vae(case, other, tmp_path))
    base, plain = load_base(str(own), vae=vae), load_base(str(folder))
    assert_same(base, vae=load_base(str(other)), rest=plain)
    assert base.vae_fingerprint != plain.vae_fingerprint
    assert base.fingerprint != plain.fingerprint
    assert base.vae_scale_factor == plain.vae_scale_factor


def assert_same(base: BaseModel, *, vae: BaseModel, rest: BaseModel) -> None:
    for part, module in base.modules().items():
        expected = (vae if part == "vae" else rest).modules()[part]
        assert same_state(module.state_dict(), expected.state_dict())


def test_a_file_without_a_vae_says_how_to_give_one(tiny_base: TinyBase, tmp_path: Path) -> None:
    path = without_vae(write_original(tiny_base("sd1"), tmp_path / "model.safetensors"))
    with pytest.raises(UserError) as caught:
        load_base(str(path))
    assert "no VAE" in caught.value.message
    assert "base.vae" in caught.value.hint


def test_words_are_judged_on_files_that_lack_a_vae_or_a_mark(
    tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    path = write_original(tiny_base("sdxl"), tmp_path / "model.safetensors", marks=("ztsnr",))
    part, whole = load_text_part(str(without_vae(path))), load_base(str(tiny_base("sdxl")))
    for one, other in zip(part.text_encoders, whole.text_encoders, strict=True):
        assert same_state(one.state_dict(), other.state_dict())


def test_what_is_no_vae_for_the_base_model_is_refused_by_name(
    tiny_base: TinyBase, copy_of: CopyOf, tmp_path: Path
) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "no.safetensors")
    (tmp_path / "vae.ckpt").write_bytes(b"\x80\x02")
    scaled = copy_of("sd2") / "vae"
    edit(scaled / "config.json", scaling_factor=0.13025)
    for vae, said in (
        (tmp_path / "no.safetensors", "holds no VAE"),
        (tmp_path / "vae.ckpt", "can run code"),
        (tmp_path / "nowhere", "There is no VAE"),
        (scaled, "scaling_factor is 0.13025"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            load_base(str(tiny_base("sd1")), vae=str(vae))
        assert caught.value.hint
