"""Settings come back from pictures as they went in, and from nobody else's file in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.tabs.generate.drawing import AdapterSetting, Settings
from app.tabs.generate.settings import parse_adapter, read_settings
from trainer.errors import UserError
from trainer.generation.sampling import Drawing, save_picture
from trainer.generation.stack import AdapterUse

KNOWN = {"cat": "cat", "cat at step 50": "cat@50", "style": "file/style.safetensors"}
BASES = ["tiny-emoji"]
DRAWING = Drawing("ohwx <b>кот</b>,\nin two lines", "blurry\nbad", 7, 64, 96, 12, 4.5)


def carrying(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_what_is_drawn_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    adapters = [
        AdapterUse(Path("runs/cat/adapter.safetensors"), 0.5, 0.25),
        AdapterUse(Path("runs/cat/checkpoints/step-000050"), -1.0),
        AdapterUse(Path("gone.safetensors"), 1e-05),
    ]
    save_picture(Image.new("RGB", (8, 8)), path, DRAWING, model="tiny-emoji", adapters=adapters)
    restored = read_settings(path, KNOWN, BASES)
    here = (AdapterSetting("cat", 0.5, 0.25), AdapterSetting("cat@50", -1.0))
    texts = (DRAWING.prompt, DRAWING.negative)
    assert restored.settings == Settings(*texts, here, "tiny-emoji", 1, 7, 12, 4.5, 64, 96)
    assert restored.missing == ("the adapter gone",)


def test_another_tools_picture_is_read_too(tmp_path: Path) -> None:
    text = (
        "a cat <lora:style:0.8>, snow\nNegative prompt: dog\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model: v1-5-pruned"
    )
    restored = read_settings(carrying(tmp_path / "a.png", parameters=text), KNOWN, BASES)
    settings = restored.settings
    assert (settings.prompt, settings.negative) == ("a cat, snow", "dog")
    assert (settings.seed, settings.inference_steps, settings.guidance) == (42, 20, 7.0)
    assert (settings.width, settings.height, settings.base) == (512, 768, "")
    assert settings.adapters == (AdapterSetting("file/style.safetensors", 0.8),)
    assert restored.missing == ("the base model v1-5-pruned",)


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"rarebit": "{"},
        {"rarebit": "[]"},
        {"rarebit": "[" * 5000},
        {"rarebit": '{"prompt": "a"}'},
        {"rarebit": '{"prompt": "a", "seed": -1, "inference_steps": 5, "guidance": 5}'},
        {"rarebit": '{"prompt": "a", "seed": 1, "inference_steps": 5, "guidance": NaN}'},
        {"parameters": "just words"},
        {"parameters": "a\nSteps: 20, Seed: many, CFG scale: 7, Size: 1x1"},
        {"Comment": "made elsewhere"},
    ],
)
def test_a_picture_without_settings_is_refused(tmp_path: Path, texts: dict[str, str]) -> None:
    with pytest.raises(UserError, match="no settings"):
        read_settings(carrying(tmp_path / "a.png", **texts), KNOWN, BASES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", AdapterSetting("cat")),
        ("cat:0.5", AdapterSetting("cat", 0.5)),
        ("cat:-1:0.25", AdapterSetting("cat", -1.0, 0.25)),
        ("cat:1e-05", AdapterSetting("cat", 1e-05)),
        ("cat at step 50:1", AdapterSetting("cat at step 50")),
        ("a:b:0.5", AdapterSetting("a:b", 0.5)),
        ("", AdapterSetting("")),
        # No strength that can be drawn with: the whole is a name, and said to be missing.
        *(
            (text, AdapterSetting(text))
            for text in (
                "cat:1e999",
                "cat:0.5:1e999",
                "cat:nan",
                "cat:inf",
                "cat:0.5.1",
                "cat:1_0",
                "cat: 1",
            )
        ),
    ],
)
def test_adapters_are_named_with_their_strengths(text: str, expected: AdapterSetting) -> None:
    assert parse_adapter(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "A" * 200_000,
        "\n" + "A" * 199_000,
        "a\n" + "Ab " * 60_000,
        "<lora:" * 33_000 + "\nSteps: 1",
        " " * 190_000 + "<lora:\nSteps: 1",
        "<lora:a:" + "1" * 190_000,
        "a\n" + "A: b, " * 33_000,
    ],
    ids=["letters", "a line of letters", "words", "open", "spaces", "figures", "pairs"],
)
def test_a_text_made_to_take_long_is_read_in_one_pass(tmp_path: Path, text: str) -> None:
    """28 KB took 2 s, and 200 KB are allowed; `tests/test_patterns.py` holds the patterns to it."""
    with pytest.raises(UserError, match="no settings"):
        read_settings(carrying(tmp_path / "a.png", parameters=text), KNOWN, BASES)


def test_an_infinite_strength_is_not_restored(tmp_path: Path) -> None:
    text = "a <lora:cat:1e999> <lora:style:1>\nSteps: 20, CFG scale: 7, Seed: 42, Size: 64x64"
    restored = read_settings(carrying(tmp_path / "a.png", parameters=text), KNOWN, BASES)
    assert restored.settings.prompt == "a"
    assert restored.settings.adapters == (AdapterSetting("file/style.safetensors", 1.0),)
    assert restored.missing == ("the adapter cat:1e999",)
