"""The shipped base model: loads like any Stable Diffusion folder, and draws what it is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from models.build.captions import BACKGROUNDS
from models.build.grid import generate

FOLDER = Path(__file__).resolve().parents[2] / "models" / "tiny-emoji"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(FOLDER)


def test_is_small_and_half_precision() -> None:
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    assert size <= 40e6
    for file in FOLDER.rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            assert {tensors.get_slice(name).get_dtype() for name in names} == {"F16"}


def test_text_encoder_names_are_those_that_other_tools_read() -> None:
    with safe_open(FOLDER / "text_encoder" / "model.safetensors", "pt") as tensors:
        assert all(name.startswith("text_model.") for name in tensors.keys())  # noqa: SIM118


def test_rare_tokens_have_the_size_of_known_ones(pipeline: StableDiffusionPipeline) -> None:
    table = pipeline.text_encoder.get_input_embeddings().weight.detach()
    ids = pipeline.tokenizer.convert_tokens_to_ids(["sks</w>", "ohwx</w>", "fox</w>", "apple</w>"])
    rare, known = table[ids[:2]].norm(dim=1).mean(), table[ids[2:]].norm(dim=1).mean()
    assert 0.2 < rare / known < 5


@pytest.mark.parametrize("colour", ["red", "blue", "green", "white"])
def test_background_obeys(pipeline: StableDiffusionPipeline, colour: str) -> None:
    image = generate(pipeline, [f"3d emoji of an owl on a {colour} background"], seed=5)[0]
    pixels = np.asarray(image).astype(float)
    corner = np.median(pixels[:3].reshape(-1, 3), axis=0)
    gaps = {name: np.abs(corner - np.array(value)).sum() for name, value in BACKGROUNDS.items()}
    assert min(gaps, key=gaps.__getitem__) == colour


def test_same_seed_same_picture(pipeline: StableDiffusionPipeline) -> None:
    first, again = (np.asarray(generate(pipeline, ["a fox"], seed=1)[0]) for _ in range(2))
    other = np.asarray(generate(pipeline, ["a fox"], seed=2)[0])
    assert (first == again).all() and (first != other).any()
    assert torch.isfinite(torch.from_numpy(first.astype(np.float32))).all()
