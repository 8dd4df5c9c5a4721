"""What an adapter file says of itself: what the tools read, and nothing private."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.lora.conftest import BaseOf
from trainer import __version__
from trainer.config.schema import TrainingConfig
from trainer.lora.metadata import (
    CONFIG_KEY,
    MAX_LENGTH,
    TrainingFacts,
    build_metadata,
    shareable_config,
    shareable_name,
)

FACTS = TrainingFacts(
    title="fluffy",
    steps=300,
    epochs=12,
    folders={"5_fluffy": (5, 10), "more": (1, 4)},
    tags={"5_fluffy": {"ohwx dog": 10, "grass": 3}},
    buckets={(512, 512): 40, (448, 576): 14},
)


def config(**sections: dict[str, Any]) -> TrainingConfig:
    values: dict[str, dict[str, Any]] = {
        "captions": {"trigger": "ohwx", "class_word": "dog"},
        "adapter": {"rank": 8, "alpha": 4.0},
        "output": {"author": "Ada", "license": "CC0-1.0", "description": "A dog."},
        "images": {"path": "/home/alice/secret/photos", "resolution": 512},
        "previews": {"prompts": ["alice at home"], "negative": "alice"},
    }
    for section, changes in sections.items():
        values[section] = values.get(section, {}) | changes
    return TrainingConfig.model_validate(values)


STABILITY = "https://github.com/Stability-AI/generative-models"
# ss_base_model_version, ss_v2, and of ModelSpec the architecture, prediction and implementation.
READ = {
    "sd1": ("sd_v1", "False", "stable-diffusion-v1/lora", "epsilon", "diffusers"),
    "sd2": ("sd_v2", "True", "stable-diffusion-v2-512/lora", "epsilon", "diffusers"),
    "sd2-v": ("sd_v2", "True", "stable-diffusion-v2-768-v/lora", "v", "diffusers"),
    "sdxl": ("sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora", "epsilon", STABILITY),
}


@pytest.mark.parametrize("family", READ)
def test_what_tools_read(base_of: BaseOf, family: str) -> None:
    metadata = build_metadata(config(), base_of(family), FACTS)
    names = ("architecture", "prediction_type", "implementation")
    keys = ("ss_base_model_version", "ss_v2", *(f"modelspec.{name}" for name in names))
    expected = dict(zip(keys, READ[family], strict=True)) | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "4.0",
        "ss_network_args": "{}",
        "ss_output_name": "fluffy",
        "ss_steps": "300",
        "ss_seed": "0",
        "ss_num_train_images": "54",
        "ss_resolution": "(512, 512)",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": "fluffy",
        "modelspec.author": "Ada",
        "modelspec.license": "CC0-1.0",
        "modelspec.description": "A dog.",
        "modelspec.resolution": "512x512",
        "modelspec.trigger_phrase": "ohwx",
    }
    assert {key: metadata.get(key) for key in expected} == expected
    assert all(isinstance(value, str) and value for value in metadata.values())


def test_tables_have_the_shapes_that_a1111_reads(base_of: BaseOf) -> None:
    metadata = build_metadata(config(), base_of("sd1"), FACTS)
    assert json.loads(metadata["ss_tag_frequency"]) == FACTS.tags
    assert json.loads(metadata["ss_dataset_dirs"]) == {
        "5_fluffy": {"n_repeats": 5, "img_count": 10},
        "more": {"n_repeats": 1, "img_count": 4},
    }
    assert json.loads(metadata["ss_bucket_info"]) == {
        "buckets": {
            "0": {"resolution": [448, 576], "count": 14},
            "1": {"resolution": [512, 512], "count": 40},
        }
    }


def test_nothing_tells_the_time(base_of: BaseOf) -> None:
    metadata = build_metadata(config(), base_of("sd1"), FACTS)
    assert not [key for key in metadata if "date" in key.split(".") or "started" in key]
    assert metadata["rarebit.version"] == __version__


def test_alpha_is_the_rank_where_it_is_not_set(base_of: BaseOf) -> None:
    metadata = build_metadata(config(adapter={"alpha": None}), base_of("sd1"), FACTS)
    assert metadata["ss_network_alpha"] == "8.0"


def test_the_recipe_is_read_back(base_of: BaseOf) -> None:
    ours = config(training={"steps": 77}, preservation={"prompts": ["a cat"]})
    metadata = build_metadata(ours, base_of("sd1"), FACTS)
    again = TrainingConfig.model_validate(json.loads(metadata[CONFIG_KEY]))
    for section in ("captions", "adapter", "optimizer", "training", "objective", "preservation"):
        assert getattr(again, section) == getattr(ours, section)


@pytest.mark.parametrize("base", ["/home/alice/models/x.safetensors", r"C:\Users\alice\x"])
def test_nothing_private(base_of: BaseOf, base: str) -> None:
    facts = TrainingFacts(
        title="fluffy",
        steps=1,
        epochs=1,
        folders={"photos": (1, 1), "a/5_x": (5, 1)},
        tags={"photos": {"dog": 1}},
    )
    metadata = build_metadata(config(base={"name": base}), base_of("sd1"), facts)
    text = json.dumps(metadata)
    assert json.loads(metadata["ss_dataset_dirs"]).keys() == {"photos", "a/5_x"}
    assert "alice" not in text
    assert "secret" not in text
    assert "/home" not in text
    assert str(Path.cwd()) not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("tiny-emoji", "tiny-emoji"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", None),
        ("/home/alice/model", "model"),
        ("~/models/x.safetensors", "x.safetensors"),
        ("../models/x", "x"),
        ("models/x.safetensors", "x.safetensors"),
        ("alice/models/anime", "anime"),
        (r"C:\Users\alice\anime.safetensors", "anime.safetensors"),
        ("C:/Users/alice/anime", "anime"),
        (r"\\server\alice\anime", "anime"),
        ("models/configs", "configs"),  # a folder here, not a hub id
        ("/", "model"),
    ],
)
def test_names_of_base_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, shown: str | None
) -> None:
    (tmp_path / "models" / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert shareable_name(name) == (shown or name)


def test_preview_prompts_stay_at_home() -> None:
    shared = shareable_config(config())
    images = shared["images"]
    assert isinstance(images, dict)
    assert "previews" not in shared
    assert "path" not in images


def test_a_flood_of_tags_is_cut(base_of: BaseOf) -> None:
    tags = {f"{folder}": {f"{i:03d}" + "t" * 5000: i for i in range(2000)} for folder in range(20)}
    facts = TrainingFacts(title="a", steps=1, epochs=1, tags=tags)
    text = build_metadata(config(), base_of("sd1"), facts)["ss_tag_frequency"]
    assert len(text) <= MAX_LENGTH
    shown = json.loads(text)["7"]
    assert max(shown.values()) == 1999
    assert all(len(tag) <= 100 for tag in shown)


def test_a_flood_of_folders_is_left_out(base_of: BaseOf) -> None:
    folders = {f"folder {i}": (1, 1) for i in range(10_000)}
    tags = {folder: {"dog": 1} for folder in folders}
    facts = TrainingFacts(title="a", steps=1, epochs=1, folders=folders, tags=tags)
    metadata = build_metadata(config(), base_of("sd1"), facts)
    assert {"ss_dataset_dirs", "ss_tag_frequency"}.isdisjoint(metadata)
    assert metadata["ss_num_train_images"] == "10000"
