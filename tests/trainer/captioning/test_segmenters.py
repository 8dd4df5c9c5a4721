"""Local models that make masks, tiny and random here; what they are asked is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    Sam2Config,
    Sam2Model,
    SamConfig,
    SamModel,
)

from tests.trainer.captioning.test_models import SMALL
from trainer.captioning.masks import Prompt
from trainer.captioning.segmenters import Segmenter
from trainer.data.findings import ImageProblem
from trainer.errors import UserError
from trainer.places import PROJECT

DECODER = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16},
    "iou_head_hidden_dim": 8,
}
IMAGE = Image.effect_noise((60, 40), 50).convert("RGB")


def make_clipseg(folder: Path) -> Any:
    words: Any = AutoTokenizer.from_pretrained(PROJECT / "models" / "clip-tokenizer")
    words.save_pretrained(folder)
    return CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config={**SMALL, "vocab_size": len(words)},
            vision_config={**SMALL, "image_size": 32, "patch_size": 8},
            projection_dim=8,
            reduce_dim=8,
            extract_layers=[0],
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
        )
    )


def make_sam(_: Path) -> Any:
    vision = {
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16},
        **{"image_size": 64, "patch_size": 16, "output_channels": 16, "window_size": 2},
        **{"global_attn_indexes": [0], "num_pos_feats": 8},
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16}
    return SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=DECODER)
    )


def make_sam2(_: Path) -> Any:
    backbone = {
        **{"model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1},
        **{"image_size": [128, 128], "blocks_per_stage": [1, 1, 2, 1]},
        **{"embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 1, 1]},
        **{"window_size_per_stage": [8, 4, 4, 2], "global_attention_blocks": [3]},
        "window_positional_embedding_background_size": [2, 2],
    }
    vision = {
        **{"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8]},
        **{"backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]], "fpn_hidden_size": 16},
    }
    prompt = {"hidden_size": 16, "image_size": 128, "patch_size": 16}
    return Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=DECODER)
    )


MADE: dict[str, tuple[Callable[[Path], Any], dict[str, int]]] = {
    "clipseg": (make_clipseg, {"height": 32, "width": 32}),
    "sam": (make_sam, {"longest_edge": 64}),
    "sam2": (make_sam2, {"height": 128, "width": 128}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Segmenter]:
    """A tiny random model of each kind, from its folder."""
    root = tmp_path_factory.mktemp("models")
    for name, (make, size) in MADE.items():
        make(root / name).save_pretrained(root / name)
        (root / name / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    return {name: Segmenter(root / name) for name in MADE}


@pytest.mark.parametrize("name", MADE)
def test_a_model_makes_masks(name: str, models: dict[str, Segmenter]) -> None:
    made = models[name]
    for box in (None, (0.2, 0.2, 0.8, 0.8), (0.5, 0.5, 0.5, 0.5)):
        mask = made.mask(IMAGE, Prompt("dog", box))
        assert mask.size == IMAGE.size and set(np.unique(np.asarray(mask))) <= {0, 255}


@pytest.mark.parametrize(
    ("name", "box", "asked"),
    [
        ("sam", (0.25, 0.5, 0.75, 1.0), {"input_boxes": [16, 21.5, 48, 43]}),
        ("sam2", (0.25, 0.5, 0.75, 1.0), {"input_boxes": [32, 64, 96, 128]}),
        ("sam", (0.25, 0.5, 0.25, 0.5), {"input_points": [16, 21.5]}),
        ("sam2", None, {"input_points": [64, 64]}),
    ],
)
def test_where_a_model_looks_and_what_comes_back(
    name: str,
    box: Any,
    asked: dict[str, list[float]],
    models: dict[str, Segmenter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Places are in the model's pixels; an answer white at the left is white at the left."""
    given: dict[str, Any] = {}

    def forward(**inputs: Any) -> Any:
        given.update(inputs)
        answer = torch.full((1, 1, 1, 16, 16), -5.0)
        answer[..., :8] = 5
        return type("Answer", (), {"pred_masks": answer})

    monkeypatch.setattr(models[name], "model", forward)
    mask = np.asarray(models[name].mask(IMAGE, Prompt(box=box)))
    assert (mask[:, :28] == 255).all() and (mask[:, 33:] == 0).all()
    for key, values in asked.items():
        assert given[key].flatten().tolist() == values
    pixels = given["pixel_values"]
    assert pixels.shape[-1] == pixels.shape[-2] == models[name].side
    assert (pixels[..., 43:, :] == 0).all() == (name == "sam")


def test_a_text_is_needed_and_may_fit_nothing(
    models: dict[str, Segmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = models["clipseg"]
    with pytest.raises(UserError, match="needs a text"):
        made.mask(IMAGE, Prompt(" "))
    logits = torch.full((32, 32), -9.0)
    answer = type("Answer", (), {"logits": logits})
    monkeypatch.setattr(made, "model", lambda **_: answer)
    with pytest.raises(ImageProblem, match="sees no “dog”"):
        made.mask(IMAGE, Prompt("dog"))
    logits[:16] = 9
    found = np.asarray(made.mask(IMAGE, Prompt("dog")))
    assert (found[:18] == 255).all() and (found[23:] == 0).all()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": {"model_type": "bert"}}, "not a model that makes masks"),
        ({"config.json": {"model_type": "sam"}}, "cannot be loaded"),
        (
            {"config.json": {"model_type": "sam"}, "preprocessor_config.json": {"size": 10**9}},
            "pixels a side",
        ),
    ],
)
def test_what_is_no_such_model(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        Segmenter(tmp_path)
