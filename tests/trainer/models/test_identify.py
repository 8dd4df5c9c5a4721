"""Recognition of base models from their content; FAULTS 16, 17 and 22 for base models."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import TinyBase
from tests.trainer.models.conftest import CopyOf, edit
from tests.trainer.models.original_layout import write_original
from trainer.errors import UserError
from trainer.models import families, hub
from trainer.models.identify import NAMES, BaseIdentity, find, identify, read_facts, short_name_of
from trainer.models.noise import Prediction

UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
VAE, INDEX = "vae/config.json", "model_index.json"
ANCESTRAL = {"_class_name": "EulerAncestralDiscreteScheduler"}
FLOW, DPM = "FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"
WEIGHTS = "unet/diffusion_pytorch_model"
BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def refusal(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        identify(str(path))
    assert caught.value.hint
    return caught.value.message


# what the folder says, base.prediction -> prediction, zero terminal SNR; None: refused
SETTINGS: list[tuple[tuple[str | None, bool], Prediction, tuple[str, bool] | None]] = [
    ((None, False), "auto", ("epsilon", False)),
    (("epsilon", False), "auto", ("epsilon", False)),
    (("epsilon", False), "v_prediction", ("v_prediction", False)),
    (("epsilon", False), "v_prediction_zero_snr", ("v_prediction", True)),
    (("v_prediction", True), "auto", ("v_prediction", True)),
    (("v_prediction", True), "v_prediction", ("v_prediction", True)),
    (("v_prediction", True), "epsilon", ("epsilon", False)),
    (("epsilon", True), "auto", None),
    (("epsilon", True), "epsilon", ("epsilon", False)),
    (("epsilon", True), "v_prediction_zero_snr", ("v_prediction", True)),
]


@pytest.mark.parametrize(("stated", "setting", "expected"), SETTINGS)
def test_prediction_can_be_set(
    stated: tuple[str | None, bool],
    setting: Prediction,
    expected: tuple[str, bool] | None,
    copy_of: CopyOf,
) -> None:
    folder = copy_of("sd1")
    prediction, zero_snr = stated
    edit(folder / SCHEDULER, prediction_type=prediction, rescale_betas_zero_snr=zero_snr)
    if expected is None:
        with pytest.raises(UserError) as caught:
            identify(str(folder), prediction=setting)
        assert "v_prediction_zero_snr" in caught.value.hint
        return
    found = identify(str(folder), prediction=setting)
    assert (found.prediction_type, found.zero_terminal_snr) == expected
    assert setting == "auto" or "base.prediction" in found.detail


def test_a_file_with_half_the_marks_is_refused(tiny_base: TinyBase, tmp_path: Path) -> None:
    path = write_original(tiny_base("sdxl"), tmp_path / "model.safetensors", marks=("ztsnr",))
    assert "zero terminal SNR" in refusal(path)


@pytest.mark.parametrize("stated", ["sample", "rectified_flow"])
def test_a_file_whose_metadata_names_another_prediction_is_refused(
    stated: str, tmp_path: Path
) -> None:
    metadata = {"modelspec.prediction_type": stated}
    save_file(skeleton(CLIP), tmp_path / "model.safetensors", metadata)
    assert stated in refusal(tmp_path / "model.safetensors")


SD2_512, SD2_768 = (
    {"modelspec.architecture": f"stable-diffusion-v2-{size}"} for size in ("512", "768-v")
)
# name, marks, metadata, text of a .yaml beside it -> family, prediction, zero terminal SNR
FILES: list[tuple[str, tuple[str, ...], dict[str, str], str, tuple[str, str, bool]]] = [
    ("sd1", (), {}, "", ("sd1", "epsilon", False)),
    ("sdxl", (), {}, "", ("sdxl", "epsilon", False)),
    ("sdxl", ("v_pred",), {}, "", ("sdxl", "v_prediction", False)),
    ("sdxl", ("v_pred", "ztsnr"), {}, "", ("sdxl", "v_prediction", True)),
    ("sdxl", (), {"modelspec.prediction_type": "v"}, "", ("sdxl", "v_prediction", False)),
    ("sd1", (), {}, 'parameterization: "v"', ("sd1", "v_prediction", False)),
    ("sd2", (), {}, "", ("sd2", "v_prediction", False)),
    ("sd2", (), {}, 'parameterization: "v"', ("sd2", "v_prediction", False)),
    ("sd2", (), {}, "model: {}", ("sd2", "epsilon", False)),
    ("sd2", (), {"modelspec.prediction_type": "epsilon"}, "", ("sd2", "epsilon", False)),
    ("sd2", (), SD2_512, 'parameterization: "v"', ("sd2", "epsilon", False)),
    ("sd2", (), SD2_768, "", ("sd2", "v_prediction", False)),
]


@pytest.mark.parametrize(("name", "marks", "metadata", "beside", "expected"), FILES)
def test_single_files_are_recognised(
    name: str,
    marks: tuple[str, ...],
    metadata: dict[str, str],
    beside: str,
    expected: tuple[str, str, bool],
    tiny_base: TinyBase,
    tmp_path: Path,
) -> None:
    path = write_original(
        tiny_base(name), tmp_path / "model.safetensors", marks=marks, metadata=metadata
    )
    if beside:
        path.with_suffix(".yaml").write_text(beside)
    found = identify(str(path))
    assert found.is_single_file
    assert (found.family.name, found.prediction_type, found.zero_terminal_snr) == expected
    assert found.detail


@pytest.mark.parametrize(("spread", "prediction"), [(0.2, "v_prediction"), (0.01, "epsilon")])
def test_sd2_files_without_a_word_are_judged_by_one_bias(
    spread: float, prediction: str, tmp_path: Path
) -> None:
    tensors = skeleton("cond_stage_model.model.token_embedding.weight")
    tensors[BIAS] = torch.tensor([-spread, spread] * 160).half()
    save_file(tensors, tmp_path / "model.safetensors")
    found = identify(str(tmp_path / "model.safetensors"))
    assert (found.family.name, found.prediction_type) == ("sd2", prediction)
    assert "base.prediction" in found.detail


def skeleton(*names: str, channels: int = 4) -> dict[str, torch.Tensor]:
    """The fewest tensors that make a checkpoint of the original layout, and more."""
    return {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1, channels, 1, 1),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(1),
        **{name: torch.zeros(1) for name in names},
    }


LABELS = "model.diffusion_model.label_emb.0.0.weight"
REFINER = ("conditioner.embedders.0.model.ln_final.bias", LABELS)
CLIP = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
OTHER_FILES: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "inpainting": (skeleton(CLIP, channels=9), "9 input channels, not 4, as for inpainting"),
    "refiner": (skeleton(*REFINER), "refiner"),
    "playground": (skeleton(CLIP, "edm_mean"), "EDM"),
    "no text encoder": (skeleton(), "without a text encoder"),
    "no VAE": ({k: v for k, v in skeleton(CLIP).items() if "first_stage" not in k}, "no VAE"),
    "flux": ({"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)}, "Flux"),
    "sd3": ({"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)}, "Stable Diffusion 3"),
    "pixart": ({"adaln_single.linear.weight": torch.zeros(1)}, "PixArt"),
    "adapter": ({"lora_unet_mid_block.lora_down.weight": torch.zeros(1)}, "adapter"),
    "flux adapter": ({"lora_unet_double_blocks_0.lora_up.weight": torch.zeros(1)}, "adapter"),
    "vae": ({"encoder.conv_in.weight": torch.zeros(1)}, "VAE alone"),
    "one part": ({"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, "one part"),
    "anything": ({"weight": torch.zeros(1)}, "no Stable Diffusion model"),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_files_of_other_kinds_are_named_and_refused(case: str, tmp_path: Path) -> None:
    tensors, kind = OTHER_FILES[case]
    save_file(tensors, tmp_path / "model.safetensors")
    assert kind in refusal(tmp_path / "model.safetensors")


def test_distilled_single_file_is_refused_by_name_and_title(tmp_path: Path) -> None:
    save_file(skeleton(CLIP), tmp_path / "dream_Turbo.safetensors")
    assert "distilled" in refusal(tmp_path / "dream_Turbo.safetensors")
    save_file(skeleton(CLIP), tmp_path / "a.safetensors", {"modelspec.title": "X Lightning 4 step"})
    assert "distilled" in refusal(tmp_path / "a.safetensors")
    save_file(skeleton(CLIP), tmp_path / "turbofan.safetensors")
    assert identify(str(tmp_path / "turbofan.safetensors")).family.name == "sd1"


STATISTICS = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
# a configuration, what is changed in it, what is said
OTHER_FOLDERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "inpainting": (UNET, {"in_channels": 9}, "inpainting"),
    "latent consistency": (UNET, {"time_cond_proj_dim": 256}, "distilled"),
    "unclip": (UNET, {"class_embed_type": "projection"}, "more than a text"),
    "another UNet": (UNET, {"_class_name": "UNet3DConditionModel"}, "UNet3D"),
    "quantized": (UNET, {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized"),
    "learned variances": (UNET, {"out_channels": 8}, "learned variances"),
    "turbo": (SCHEDULER, {**ANCESTRAL, "timestep_spacing": "trailing"}, "distilled"),
    "predicts the sample": (SCHEDULER, {"prediction_type": "sample"}, "'sample'"),
    "EDM": (SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "EDM"),
    "EDM by its timesteps": (SCHEDULER, {"timestep_type": "continuous"}, "EDM"),
    "flow matching": (SCHEDULER, {"_class_name": FLOW}, "flow-matching"),
    "flow sigmas": (SCHEDULER, {"_class_name": DPM, "use_flow_sigmas": True}, "flow-matching"),
    "a scheduler of other betas": (SCHEDULER, {"_class_name": "IPNDMScheduler"}, "IPNDMScheduler"),
    "a scheduler of its own code": (SCHEDULER, {"_class_name": ["mine", "Mine"]}, "not known"),
    "noise that ends in noise": (SCHEDULER, {"rescale_betas_zero_snr": True}, "zero terminal SNR"),
    "yes in words": (SCHEDULER, {"rescale_betas_zero_snr": "false"}, "rescale_betas_zero_snr"),
    "a sigmoid schedule": (SCHEDULER, {"beta_schedule": "sigmoid"}, "beta_schedule"),
    "a shifted VAE": (VAE, {"shift_factor": 0.1}, "shift_factor"),
    "a VAE of 16 channels": (VAE, {"latent_channels": 16}, "16 latent channels"),
    "statistics that SD 1 tools ignore": (VAE, STATISTICS, "latents_mean"),
    "tiny VAE": (VAE, {"_class_name": "AutoencoderTiny"}, "VAE"),
    "flux": (INDEX, {"_class_name": "FluxPipeline"}, "Flux"),
    "sd3": (INDEX, {"_class_name": "StableDiffusion3Pipeline"}, "StableDiffusion3"),
    "custom pipeline": (INDEX, {"_class_name": ["pipeline", "Mine"]}, "['pipeline', 'Mine']"),
}


@pytest.mark.parametrize("case", OTHER_FOLDERS)
def test_folders_of_other_kinds_are_named_and_refused(case: str, copy_of: CopyOf) -> None:
    file, changes, kind = OTHER_FOLDERS[case]
    folder = copy_of("sd1")
    edit(folder / file, **changes)
    assert kind in refusal(folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
# a file, its content (None: it is not there), what is said
OTHER_CONTENT: dict[str, tuple[str, str | None, str]] = {
    "adapter beside the weights": ("text_encoder/adapter_config.json", "{}", "adapter_config.json"),
    "no weights": ("vae/diffusion_pytorch_model.safetensors", None, "has no weights"),
    "no configuration": (UNET, None, "is missing"),
    "broken configuration": (UNET, "{", "not valid JSON"),
    "pointer for weights": (f"{WEIGHTS}.safetensors", POINTER, "git-lfs pointer"),
}


@pytest.mark.parametrize("case", OTHER_CONTENT)
def test_folders_with_a_file_too_few_or_many_are_refused(case: str, copy_of: CopyOf) -> None:
    name, content, said = OTHER_CONTENT[case]
    file = copy_of("sd1") / name
    file.unlink() if content is None else file.write_text(content)
    assert said in refusal(file.parent.parent)


def test_folders_without_a_part_are_refused(copy_of: CopyOf, tmp_path: Path) -> None:
    folder = copy_of("sdxl")
    shutil.rmtree(folder / "text_encoder")
    assert "refiner" in refusal(folder)
    (models := tmp_path / "models").mkdir()
    (models / "anime.safetensors").touch()
    # A part of a model, and a folder of models.
    for place, meant in ((folder / "unet", folder), (models, models / "anime.safetensors")):
        with pytest.raises(UserError, match="no unet folder") as caught:
            identify(str(place))
        assert caught.value.hint == f"Give {meant}."


def hostile_pickle(canary: Path) -> bytes:
    """Unpickling it runs `touch canary`; written by hand, since nothing here imports pickle."""
    command = f"touch {canary}".encode()
    return b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".safetensors"])
def test_pickled_checkpoints_are_refused_unopened(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(hostile_pickle(tmp_path / "canary"))
    message = refusal(path)
    assert "can run code" in message or "pickle" in message
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_folder_with_pickled_weights_is_refused_unopened(part: str, copy_of: CopyOf) -> None:
    folder = copy_of("sd1")
    for weights in (folder / part).glob("*.safetensors"):
        weights.unlink()
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        weights.with_name(f"{stem}.bin").write_bytes(hostile_pickle(folder / "canary"))
    assert "not safetensors" in refusal(folder)
    assert not (folder / "canary").exists()


def test_names_in_models_come_first_and_mistakes_are_answered(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base("sd1"), tmp_path / "tiny-one")
    (tmp_path / "user").mkdir()
    write_original(tiny_base("sdxl"), tmp_path / "user" / "my-own.safetensors")
    monkeypatch.setattr(families, "MODELS_FOLDER", tmp_path)
    assert identify("tiny-one").path == tmp_path / "tiny-one"
    assert identify("my-own").family.name == "sdxl"
    assert find("my-own.safetensors") == tmp_path / "user" / "my-own.safetensors"
    for name, hint in (("tiny-on", "tiny-one"), ("nothing like it", "my-own, tiny-one")):
        with pytest.raises(UserError) as caught:
            identify(name)
        assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-of-this-name", "../../x y"])
def test_names_that_no_path_can_have_are_answered(name: str) -> None:
    assert "no base model" in refusal(name)


HUB_IDS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("sd1", "epsilon", 512),
    "Lykon/dreamshaper-8": ("sd1", "epsilon", 512),
    "stabilityai/stable-diffusion-2-base": ("sd2", "epsilon", 512),
    "stabilityai/stable-diffusion-2-1-base": ("sd2", "epsilon", 512),
    "stabilityai/stable-diffusion-2": ("sd2", "v_prediction", 768),
    "stabilityai/stable-diffusion-2-1": ("sd2", "v_prediction", 768),
    "stabilityai/stable-diffusion-xl-base-1.0": ("sdxl", "epsilon", 1024),
    "someone/ponyDiffusionV6": ("sdxl", "epsilon", 1024),
    "OnomaAIResearch/Illustrious-v2.0": ("sdxl", "epsilon", 1024),
}


@pytest.mark.parametrize("name", HUB_IDS)
def test_hub_ids_are_judged_by_their_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "download", None)
    monkeypatch.setattr(hub, "cached_snapshot", lambda _: None)
    found = read_facts(name)
    assert (found.family.name, found.prediction_type, found.resolution) == HUB_IDS[name]
    assert found.resolution_step == 64
    assert not isinstance(found, BaseIdentity)


@pytest.mark.parametrize(("short", "side"), [("sd15", 512), ("sd2", 512), ("sd2-v", 768)])
def test_short_names_stand_for_families(short: str, side: int) -> None:
    found = read_facts(short)
    assert (found.resolution, found.latent_factor) == (side, 8)
    assert (found.family.name, found.prediction_type) == NAMES[short]
    assert "only `fit` takes" in refusal(short)


def test_what_is_here_is_asked_whatever_its_name(
    tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    path = write_original(tiny_base("sd1"), tmp_path / "pony-xl.safetensors")
    for name in (str(path), str(tiny_base("sd1"))):
        found = read_facts(name)
        assert isinstance(found, BaseIdentity)
        assert (found.family.name, found.resolution, found.resolution_step) == ("sd1", 32, 16)
    assert read_facts("tiny-emoji").resolution == 64


def test_names_of_files_tell_as_well() -> None:
    assert short_name_of("/models/xl/some-sd15.safetensors") == "sd15"
    assert short_name_of("C:\\models\\ponyDiffusionV6.safetensors") == "sdxl"
    assert short_name_of("my-model.safetensors") is None


def test_what_says_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached_snapshot", lambda _: None)
    cases = {"someone/something": "has not been downloaded", "pony-xl": "no base model"}
    for name, says in {**cases, "": "no base model"}.items():
        with pytest.raises(UserError, match=says) as caught:
            read_facts(name)
        assert caught.value.hint
