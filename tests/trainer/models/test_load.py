"""Loading: every family from every source, whole or not at all; FAULTS 19 and 22."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES, TinyName
from tests.trainer.models.conftest import CopyOf, edit
from tests.trainer.models.original_layout import write_original
from trainer.errors import UserError
from trainer.models import load
from trainer.models.load import BaseModel, load_base, load_text_part

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
REPOSITORY = Path(__file__).resolve().parents[3]


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two have the same tensors by the same names."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def same_weights(one: BaseModel, other: BaseModel) -> bool:
    parts, others = one.modules(), other.modules()
    return list(parts) == list(others) and all(
        same_state(module.state_dict(), others[part].state_dict()) for part, module in parts.items()
    )


def change_tensors(path: Path, change: Any) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def refusal(name: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_base(str(name), **options)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("name", TINY_NAMES)
def test_folders_load_whole_and_frozen(name: TinyName, tiny_base: TinyBase) -> None:
    base = load_base(str(tiny_base(name)))
    assert base.family.name == name.removesuffix("-v")
    assert base.prediction_type == ("v_prediction" if name == "sd2-v" else "epsilon")
    assert (base.vae_scale_factor, base.resolution_step, base.default_resolution) == (2, 16, 32)
    assert len(base.text_encoders) == len(base.tokenizers) == (2 if name == "sdxl" else 1)
    for part, module in base.modules().items():
        saved = load_file(next((tiny_base(name) / part).glob("*.safetensors")))
        assert same_state(saved, module.state_dict())
        assert not any(inner.training for inner in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("name", TINY_NAMES)
def test_single_file_equals_its_folder(
    name: TinyName, tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    folder = tiny_base(name)
    path = write_original(folder, tmp_path / "model.safetensors")
    prediction = "v_prediction" if name == "sd2-v" else "epsilon"
    from_folder, from_file = load_base(str(folder)), load_base(str(path), prediction=prediction)
    assert same_weights(from_folder, from_file)
    assert from_file.family is from_folder.family
    assert from_file.scheduler_config == from_folder.scheduler_config
    assert from_file.default_resolution == 32
    for one, other in zip(from_folder.tokenizers, from_file.tokenizers, strict=True):
        options: dict[str, Any] = {"padding": "max_length"}
        assert one("a dog", **options)["input_ids"] == other("a dog", **options)["input_ids"]


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_the_text_part_alone_is_that_of_the_whole(
    name: TinyName, tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    folder = tiny_base(name)
    whole = load_base(str(folder))
    path = write_original(folder, tmp_path / "model.safetensors")
    for source in (folder, path):
        part = load_text_part(str(source))
        assert part.family is whole.family
        assert len(part.tokenizers) == len(whole.tokenizers)
        for one, other in zip(part.text_encoders, whole.text_encoders, strict=True):
            assert same_state(one.state_dict(), other.state_dict())
            assert not any(parameter.requires_grad for parameter in one.parameters())
    assert load_text_part(str(folder)).fingerprint != load_text_part(str(path)).fingerprint


def test_marks_of_a_single_file_reach_the_noise_schedule(
    tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    path = write_original(
        tiny_base("sdxl"), tmp_path / "model.safetensors", marks=("v_pred", "ztsnr")
    )
    base = load_base(str(path))
    assert base.prediction_type == "v_prediction"
    assert base.noise_scheduler().config["prediction_type"] == "v_prediction"
    assert float(base.noise_scheduler().alphas_cumprod[-1]) == pytest.approx(0, abs=1e-7)
    assert base.pipeline().scheduler.config["timestep_spacing"] == "trailing"


def test_single_file_with_missing_foreign_or_misshapen_tensors_is_refused(
    tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    path = write_original(tiny_base("sd1"), tmp_path / "model.safetensors")
    whole = load_file(path)
    unet, text = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
    cases: list[tuple[dict[str, torch.Tensor | None], str]] = [
        ({unet + "out.2.bias": None}, "tensors for the unet"),
        ({unet + "out.2.bias": None, unet + "out.3.bias": torch.zeros(4)}, "missing or have other"),
        ({text + "final_layer_norm.bias": None}, "1 missing (final_layer_norm.bias)"),
        ({unet + "control_extra.weight": torch.zeros(1)}, "tensors for the unet"),
        ({"first_stage_model.extra.weight": torch.zeros(1)}, "tensors for the vae"),
        ({unet + "out.2.bias": torch.zeros(7)}, "cannot be loaded"),
    ]
    for changes, reason in cases:
        changed: dict[str, Any] = whole | changes
        save_file({key: value for key, value in changed.items() if value is not None}, path)
        assert reason in refusal(path)
        refusal(path, dtype=torch.bfloat16)


def test_a_folder_with_the_names_of_older_libraries_loads(
    tiny_base: TinyBase, copy_of: CopyOf
) -> None:
    """With one more level in the text encoder, and attention by its former names in the VAE."""
    folder = copy_of("sd1")
    text, vae = load_file(folder / TEXT), load_file(folder / VAE)
    text = {f"text_model.{key.removeprefix('text_model.')}": text[key] for key in text}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    for new, old in (("q", "query"), ("k", "key"), ("v", "value"), ("out.0", "proj_attn")):
        vae = {key.replace(f".to_{new}.", f".{old}."): value for key, value in vae.items()}
    assert any(".query." in key for key in vae)
    save_file(text, folder / TEXT, {"format": "pt"})
    save_file(vae, folder / VAE, {"format": "pt"})
    assert same_weights(load_base(str(folder)), load_base(str(tiny_base("sd1"))))


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_missing_unexpected_and_misshapen_tensors_of_a_folder(file: str, copy_of: CopyOf) -> None:
    folder = copy_of("sd1")

    key = min(key for key in load_file(folder / file) if key.endswith("norm1.bias"))
    change_tensors(folder / file, lambda tensors: tensors.update({"strange": tensors.pop(key)}))
    message = refusal(folder)
    assert "1 missing" in message
    assert key in message
    assert "1 unexpected (strange)" in message
    change_tensors(folder / file, lambda tensors: tensors.update({key: tensors.pop("strange")[1:]}))
    assert str(folder / Path(file).parent) in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("file", "name"),
    [(UNET, "unet.conv_in.bias"), (VAE, "vae.quant_conv.bias"), (TEXT, "text_encoder.encoder")],
)
def test_nan_and_inf_are_refused_by_name(
    value: float, file: str, name: str, copy_of: CopyOf
) -> None:
    folder = copy_of("sd1")
    key = name.split(".", 1)[1] if "text" not in name else "encoder.layers.1.mlp.fc1.bias"
    change_tensors(folder / file, lambda tensors: tensors[key].view(-1)[-1].fill_(value))
    message = refusal(folder)
    assert name in message
    assert key in message
    assert "NaN or Inf" in message


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_number_formats(
    dtype: torch.dtype, is_file: bool, tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    source = tiny_base("sdxl")
    if is_file:
        source = write_original(source, tmp_path / "model.safetensors")
    base = load_base(str(source), dtype=dtype)
    for part, module in base.modules().items():
        expected = torch.float32 if part == "vae" else dtype
        assert {parameter.dtype for parameter in module.parameters()} == {expected}
    base = load_base(str(source), dtype=dtype, vae_dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in base.vae.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("variant", ["fp16", "bf16", "fp32", "non_ema", "pruned"])
def test_variants_are_found(variant: str, tiny_base: TinyBase, copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    for file in (UNET, VAE, TEXT):
        (folder / file).rename((folder / file).with_suffix(f".{variant}.safetensors"))
    assert same_weights(load_base(str(folder)), load_base(str(tiny_base("sd1"))))


def test_a_variant_beside_the_plain_weights_is_left(tiny_base: TinyBase, copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    other = (folder / UNET).with_suffix(".non_ema.safetensors")
    shutil.copy(folder / UNET, other)
    change_tensors(other, lambda tensors: tensors["conv_in.bias"].add_(1))
    assert same_weights(load_base(str(folder)), load_base(str(tiny_base("sd1"))))


@pytest.mark.parametrize("middle", ["", ".fp16"])
def test_shards_are_found_and_missing_ones_named(
    middle: str, tiny_base: TinyBase, copy_of: CopyOf
) -> None:
    folder = copy_of("sd1")
    tensors = load_file(folder / TEXT)
    names = sorted(tensors)
    shards = {
        f"model{middle}-00001-of-00002.safetensors": names[::2],
        f"model{middle}-00002-of-00002.safetensors": names[1::2],
    }
    place = folder / "text_encoder"
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, place / shard, {"format": "pt"})
    (folder / TEXT).unlink()
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    index: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    listed = place / f"model.safetensors.index{middle}.json"
    listed.write_text(json.dumps(index))
    assert same_weights(load_base(str(folder)), load_base(str(tiny_base("sd1"))))
    last = place / next(reversed(shards))
    last.rename(folder / "elsewhere")
    message = refusal(folder)
    assert last.name in message
    assert "lacks 1 of its 2" in message
    index["weight_map"][names[0]] = "../../elsewhere.safetensors"
    listed.write_text(json.dumps(index))
    assert "beside it" in refusal(folder)


def test_code_in_a_model_folder_is_never_run(copy_of: CopyOf) -> None:
    folder = copy_of("sdxl")
    canary = folder / "canary"
    code = f"open({str(canary)!r}, 'w').close()\nclass Evil: pass\n"
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for name in ("pipeline.py", "modeling.py", "__init__.py", f"{place.name}.py"):
            (place / name).write_text(code)
        for config in ("config.json", "tokenizer_config.json", "scheduler_config.json"):
            if (place / config).is_file():
                names = {f"Auto{kind}": "modeling.Evil" for kind in ("Model", "Config")}
                edit(place / config, auto_map=names | {"AutoTokenizer": ["modeling.Evil", None]})
    before = set(sys.modules)
    load_base(str(folder)).pipeline()
    assert not canary.exists()
    files = [getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - before]
    assert not [file for file in files if file and file.startswith(str(folder))]


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_folder_without_a_vocabulary_is_refused(file: str, copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    (folder / "tokenizer" / file).unlink()
    assert "vocabulary" in refusal(folder)


def test_tokenizer_larger_than_the_text_encoder_is_refused(copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    edit(folder / "tokenizer/vocab.json", **{f"extra{n}</w>": 49408 + n for n in range(3)})
    assert "49411 entries" in refusal(folder)


def test_old_configurations_mean_512_pixels(copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    edit(folder / "unet/config.json", sample_size=32, _diffusers_version="0.6.0")
    assert load_base(str(folder)).default_resolution == 64 * 2


def test_fingerprints_follow_what_changes_the_output(tiny_base: TinyBase, copy_of: CopyOf) -> None:
    original = load_base(str(tiny_base("sd1")))
    folder = copy_of("sd1")
    copied = load_base(str(folder))
    assert copied.fingerprint == original.fingerprint
    assert copied.vae_fingerprint == original.vae_fingerprint
    set_otherwise = load_base(str(folder), prediction="v_prediction")
    assert set_otherwise.fingerprint != original.fingerprint
    assert set_otherwise.vae_fingerprint == original.vae_fingerprint
    change_tensors(folder / UNET, lambda tensors: tensors["conv_in.bias"].add_(1))
    changed = load_base(str(folder))
    assert changed.fingerprint != original.fingerprint
    assert changed.vae_fingerprint == original.vae_fingerprint
    change_tensors(folder / VAE, lambda tensors: tensors["quant_conv.bias"].add_(1))
    assert load_base(str(folder)).vae_fingerprint != original.vae_fingerprint


def test_digests_are_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "REMEMBER_FROM_BYTES", 0)
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = load.file_digest(path)
    with monkeypatch.context() as without_hashing:
        without_hashing.setattr(load, "_hash", None)
        assert load.file_digest(path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert load.file_digest(path) != first
    memory = next((tmp_path / "cache").rglob("*.json"))
    memory.write_text("[broken")
    assert load.file_digest(path) != first


def test_loading_says_nothing(tiny_base: TinyBase, tmp_path: Path) -> None:
    path = write_original(tiny_base("sd1"), tmp_path / "model.safetensors")
    shutil.copytree(
        tiny_base("sd1"), tmp_path / "sd1", ignore=shutil.ignore_patterns("*.safetensors")
    )
    script = (
        "import diffusers\n"  # imported before, as other rooms may
        "from pathlib import Path\n"
        "from trainer.models import families\n"
        "from trainer.models.load import load_base\n"
        f"load_base({str(tiny_base('sdxl'))!r}).pipeline()\n"
        f"families.CONFIGS_FOLDER = Path({str(tmp_path)!r})\n"
        f"load_base({str(path)!r}).pipeline()('a', height=32, width=32, num_inference_steps=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
