"""Local models that write captions: recognised from their config, tiny and random here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import (
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tests.trainer.data.folders_for_tests import picture, put
from trainer.captioning.finding import KNOWN_MODELS, find_model
from trainer.captioning.models import LocalCaptioner
from trainer.captioning.sets import caption_set
from trainer.captioning.wording import Wording
from trainer.errors import UserError
from trainer.places import PROJECT

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VISION = {**SMALL, "image_size": 28, "patch_size": 14}
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %} caption:"
)


def tokenizer(*more: str) -> Any:
    found: Any = AutoTokenizer.from_pretrained(PROJECT / "models" / "clip-tokenizer")
    found.add_tokens(list(more), special_tokens=True)
    return found


def make_blip(folder: Path) -> Path:
    words = tokenizer()
    text = {**SMALL, "vocab_size": len(words), "bos_token_id": 49406, "eos_token_id": 49407}
    text |= {"sep_token_id": 49407, "pad_token_id": 49407, "encoder_hidden_size": 16}
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=8)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 28, "width": 28}), words).save_pretrained(
        folder
    )
    return folder


def make_llava(folder: Path) -> Path:
    words = tokenizer("<image>")
    image = words.convert_tokens_to_ids("<image>")
    small: dict[str, Any] = SMALL
    vision: dict[str, Any] = VISION
    text = LlamaConfig(**small, vocab_size=len(words), num_key_value_heads=2)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision), text_config=text, image_token_index=image
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size),
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random model of each kind."""
    root = tmp_path_factory.mktemp("models")
    return {"plain": make_blip(root / "blip"), "chat": make_llava(root / "llava")}


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_a_model_writes_captions(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    put(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    made = LocalCaptioner(folders[kind])
    assert made.kind == kind and "GiB" in made.title
    found = caption_set(tmp_path, lambda: made, Wording(class_word="dog"))
    assert len(found.proposals) + len(found.problems) == 2
    assert all(one.after and "caption:" not in one.after for one in found.proposals)
    assert made.model is None


def test_a_model_is_ended_between_two_words(folders: dict[str, Path]) -> None:
    def check() -> None:
        raise UserError("busy")

    with pytest.raises(UserError, match="busy"):
        LocalCaptioner(folders["plain"], check).caption("a", Image.new("RGB", (9, 9)), Wording())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, "not a model that captions pictures"),
        (
            {"model_type": "florence2_x", "auto_map": {"AutoModel": "evil.E"}},
            "not a model that captions",
        ),
        ({}, "not a model that captions pictures"),
        ({"model_type": "blip"}, "cannot be loaded"),
    ],
)
def test_what_is_no_such_model(config: dict, message: str, tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "config.json": json.dumps(config),
            "evil.py": "raise SystemExit",
            "pytorch_model.bin": "x",
        },
    )
    with pytest.raises(UserError, match=message):
        LocalCaptioner(tmp_path)


def test_nothing_is_fetched_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.captioning.finding.cached_snapshot", lambda _: None)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("fetched")
    )
    known = KNOWN_MODELS["captions"][0]
    with pytest.raises(
        UserError, match=f"about {known.gigabytes} GB to download, licence"
    ) as missing:
        find_model(known.repository)
    assert missing.value.code == "model_missing" and "--download" in missing.value.hint
    with pytest.raises(UserError, match="no model"):
        find_model("/nowhere/at/all")


def test_the_notes_list_the_known_models() -> None:
    text = (PROJECT / "docs" / "notes" / "captioning.md").read_text("utf-8")
    told = re.findall(
        r"^\| `([^`]+)` \| ([\d.]+) GB \| ([^|]+) \| ([\d.]+) GiB \|", text, re.MULTILINE
    )
    assert told == [
        (one.repository, str(one.gigabytes), one.licence, str(one.card))
        for group in KNOWN_MODELS.values()
        for one in group
    ]
