"""Local models that write captions: recognised from their config, tiny and random here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from tests.trainer.data.folders_for_tests import picture, put
from trainer import places
from trainer.captioning.finding import KNOWN_MODELS, find_model
from trainer.captioning.memory import BYTES_PER_PIXEL, loading, memory_of, plugs
from trainer.captioning.models import LocalCaptioner
from trainer.captioning.sets import caption_set
from trainer.captioning.wording import Wording
from trainer.commands.cli import main
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


def make_blip2(folder: Path) -> Path:
    words = tokenizer("<image>")
    text = {
        **{"model_type": "opt", "vocab_size": len(words), "hidden_size": 16, "ffn_dim": 16},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16},
        **{"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407},
        "max_position_embeddings": 256,
    }
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**SMALL, "vocab_size": len(words), "encoder_hidden_size": 16},
        text_config=text,
        num_query_tokens=4,
        image_text_hidden_size=8,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 28, "width": 28})
    Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)
    return folder


def make_florence2(folder: Path) -> Path:
    words: Any = AutoTokenizer.from_pretrained(
        PROJECT / "models" / "clip-tokenizer", extra_special_tokens={"image_token": "<image>"}
    )
    text = {
        **{"model_type": "bart", "vocab_size": len(words), "d_model": 16},
        **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")},
        **{"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407},
        **{"decoder_start_token_id": 49407, "forced_eos_token_id": 49407},
    }
    vision = {
        **{"depths": [1, 1, 1, 1], "embed_dim": [8, 8, 16, 16], "num_heads": [1, 1, 2, 2]},
        **{"num_groups": [1, 1, 2, 2], "window_size": 2, "projection_dim": 16},
    }
    config = Florence2Config(
        text_config=text, vision_config=vision, image_token_id=words.image_token_id
    )
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    images: Any = CLIPImageProcessorPil(size=size, crop_size=size)
    images.image_seq_length = 5  # 2 × 2 patches, and their mean
    Florence2Processor(images, words).save_pretrained(folder)
    return folder


def make_qwen(folder: Path) -> Path:
    """As on the hub: its processor sees videos too, for which transformers wants torchvision."""
    names = {key: f"<|{key}|>" for key in ("image_pad", "video_pad", "vision_start", "vision_end")}
    words = tokenizer(*names.values())
    ids = {key: words.convert_tokens_to_ids(name) for key, name in names.items()}
    small: dict[str, Any] = SMALL
    config = Qwen2_5_VLConfig(
        text_config={
            **small,
            **{"vocab_size": len(words), "num_key_value_heads": 2, "bos_token_id": 49406},
            **{"eos_token_id": 49407, "pad_token_id": 49407},
            "rope_parameters": {
                **{"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
            },
        },
        vision_config={
            **{"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2},
            **{"out_hidden_size": 16, "fullatt_block_indexes": [0], "window_size": 28},
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    words.chat_template = TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    words.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56).save_pretrained(folder)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        said = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**said, "processor_class": "Qwen2_5_VLProcessor"}))
    return folder


MADE: dict[str, Callable[[Path], Path]] = {
    "blip": make_blip,
    "blip2": make_blip2,
    "florence2": make_florence2,
    "llava": make_llava,
    "qwen2_5_vl": make_qwen,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random model of each kind."""
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in MADE.items()}


@pytest.mark.parametrize("kind", list(MADE))
def test_a_model_writes_captions(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    put(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    made = LocalCaptioner(folders[kind])
    kinds = {"florence2": "task", "llava": "chat", "qwen2_5_vl": "chat"}
    assert made.kind == kinds.get(kind, "plain")
    found = caption_set(tmp_path, lambda: made, Wording(class_word="dog"))
    assert len(found.proposals) + len(found.problems) == 2
    assert all(one.after and "caption:" not in one.after for one in found.proposals)
    assert made.model is None


def test_a_model_is_ended_between_two_words(folders: dict[str, Path]) -> None:
    def check() -> None:
        raise UserError("busy")

    with pytest.raises(UserError, match="busy"):
        LocalCaptioner(folders["blip"], check).caption("a", Image.new("RGB", (9, 9)), Wording())


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


def test_memory_is_told_before_a_model_is_loaded(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the number of weights and their bytes as they are loaded; and who else is at work."""
    folder = folders["blip"]
    count = sum(one.numel() for one in load_file(folder / "model.safetensors").values())
    assert memory_of(folder, 2) == pytest.approx(2 * count * 1.25 / 2**30)
    assert memory_of(folder, 4) == 2 * memory_of(folder, 2)
    said = f"Loading blip: about {memory_of(folder, 4):.1f} GiB of memory"
    assert loading("blip", memory_of(folder)) == said
    run = type("Run", (), {"name": "my-cat"})
    monkeypatch.setattr("trainer.captioning.memory.list_runs", lambda _: [run])
    monkeypatch.setattr("trainer.captioning.memory.at_work", lambda _: True)
    assert "beside the run my-cat" in loading("the base model x")


def test_fit_states_what_each_model_takes(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of this machine by name, masks with the pixels that they see; and the base model."""
    (tmp_path / "maskers" / "sam").mkdir(parents=True)
    (tmp_path / "maskers" / "sam" / "config.json").write_text("{}")
    (tmp_path / "maskers" / "sam" / "preprocessor_config.json").write_text(
        json.dumps({"size": {"longest_edge": 512}})
    )
    (tmp_path / "maskers" / "u2net.onnx").write_bytes(b"x" * 2**20)
    put(tmp_path / "maskers" / "torn", {"config.json": "{}", "a.safetensors": b"torn"})
    monkeypatch.setattr(places, "CAPTIONERS", folders["blip"].parent)
    monkeypatch.setattr(places, "MASKERS", tmp_path / "maskers")
    found = plugs(2)
    assert found["captions by blip"] == memory_of(folders["blip"], 2)
    assert found["masks by sam"] == BYTES_PER_PIXEL * 512**2 / 2**30
    assert found["masks by u2net.onnx"] * 2**30 == 1.25 * 2**20 + BYTES_PER_PIXEL * 1024**2
    assert main(["fit", "--base", "tiny-emoji", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["plugs"]
    assert set(told) == {"captions by the base model itself", *found}
    assert told["captions by the base model itself"] > 0.7
    assert main(["fit", "--base", "tiny-emoji"]) == 0
    assert "masks by u2net.onnx" in capsys.readouterr().out
