"""What Generate asks of the worker, and which files it takes for pictures of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app import jobs
from app.files import to_show
from app.tabs.adapters import words as adapter_words
from app.tabs.generate import drawing, tab
from app.tabs.generate.drawing import AdapterSetting, Settings, parse_adapter, read_settings
from tests.app.drawing_for_tests import Machine
from trainer import places
from trainer.config.sections import BaseModelConfig
from trainer.data.captions import literal_marks
from trainer.errors import UserError
from trainer.generation.sampling import Drawing, save_picture
from trainer.generation.stack import AdapterUse


def test_ids_become_files_for_the_worker_alone(machine: Machine) -> None:
    run = jobs.run_folder("cat")
    file = machine.file("style.safetensors")
    adapters = (
        AdapterSetting("cat", 0.5, 0.25),
        AdapterSetting("cat@50"),
        AdapterSetting("file/style.safetensors", -1),
    )
    files = drawing.draw(Settings("ohwx cat", adapters=adapters, count=2))
    verb, arguments = machine.asked[0]
    assert verb == "generate"
    assert arguments["adapters"] == [
        {"file": str(run.adapter), "strength": 0.5, "text_encoder_strength": 0.25},
        {"file": str(run.checkpoint(50)), "strength": 1.0, "text_encoder_strength": None},
        {"file": str(file), "strength": -1, "text_encoder_strength": None},
    ]
    assert (arguments["width"], arguments["height"]) == (None, None)
    assert [path.parent.parent for path in files] == [places.PICTURES] * 2


@pytest.mark.parametrize(
    "adapter_id",
    ["", "dog", "../cat", "/etc/passwd", "cat@51", "dog@50", "../runs/cat@50", "cat@9999999999"],
)
def test_an_id_is_never_a_path(machine: Machine, adapter_id: str) -> None:
    with pytest.raises(UserError):
        drawing.draw(Settings("a", adapters=(AdapterSetting(adapter_id),)))
    assert machine.asked == []


def test_choices_name_every_checkpoint_beside_its_run(machine: Machine) -> None:
    run = machine.run("cat", steps=(50, 100))
    run.adapters.mkdir()
    for step in (25, 100):
        run.adapter_at(step).write_bytes(b"an adapter")
    machine.file("style.safetensors")
    assert drawing.adapter_choices() == [("cat", "cat"), ("style", "file/style.safetensors")]
    assert drawing.checkpoint_choices() == [
        ("cat", "cat"),
        ("cat at step 25", "cat@25"),
        ("cat at step 50", "cat@50"),
        ("cat at step 100", "cat@100"),
        ("style", "file/style.safetensors"),
    ]
    assert drawing.adapter_names() == {
        "cat": "cat",
        "cat at step 25": "cat@25",
        "cat at step 50": "cat@50",
        "cat at step 100": "cat@100",
        "style": "file/style.safetensors",
    }
    assert drawing.adapter_path("cat@50") == run.checkpoint(50)
    assert drawing.adapter_path("cat@100") == run.adapter_at(100)


def test_nothing_is_asked_without_a_prompt(machine: Machine) -> None:
    with pytest.raises(UserError, match="prompt is empty"):
        drawing.draw(Settings(" \n"))
    assert machine.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "../runs/cat/adapter.safetensors", "2026-01-02/../../a.png", "2026-01-02/.a.png",
        "2026-01-02/link.png", "2026-01-02/gone.png", "/etc/passwd", "", None, 7,
        ["2026-01-02/000001.png"],
    ],
)  # fmt: skip
def test_a_browser_gets_back_only_what_was_drawn(machine: Machine, name: object) -> None:
    folder = places.PICTURES / "2026-01-02"
    folder.mkdir(parents=True)
    for file in ("000001.png", ".a.png"):
        (folder / file).write_bytes(b"x")
    (folder / "link.png").symlink_to(folder / "000001.png")
    assert drawing.picture_of(name) is None
    assert drawing.names_of([name, "2026-01-02/000001.png"]) == ["2026-01-02/000001.png"]
    assert drawing.names_of(name if not isinstance(name, list) else None) == []


def test_a_favourite_stands_first_and_stays_however_much_is_drawn(machine: Machine) -> None:
    folder = places.PICTURES / "2026-01-02"
    folder.mkdir(parents=True)
    names = [f"2026-01-02/{number:06}.png" for number in range(drawing.REMEMBERED + 5)]
    for name in names:
        (places.PICTURES / name).write_bytes(b"x")
    oldest = names[drawing.REMEMBERED - 1]
    kept, *_ = tab._toggle(oldest, names)
    assert kept[0] == f"*{oldest}"
    assert drawing.names_of([*names[-5:], *kept])[0] == f"*{oldest}"
    assert len(drawing.names_of([*names[-5:], *kept])) == drawing.REMEMBERED + 1
    assert drawing.picture_of(kept[0]) == places.PICTURES / oldest
    assert tab._toggle(kept[0], kept)[0][0] == oldest


def test_a_copy_is_shown_and_follows_its_picture(machine: Machine) -> None:
    path = drawing.draw(Settings("a"))[0]
    shown = Path(to_show(path))
    assert shown != path
    assert shown.read_bytes() == path.read_bytes()
    machine.forget_pictures()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another")
    assert Path(to_show(path)).read_bytes() == b"another"


def test_the_prompt_begins_with_one_that_the_run_has_drawn(machine: Machine) -> None:
    run = jobs.run_folder("cat")
    machine.file("style.safetensors")
    known = adapter_words.of_all(["cat"])
    assert adapter_words.suggested_prompt(known) == "ohwx car"
    run.preview(4).mkdir()
    (run.preview(4) / "prompts.json").write_text(
        '[{"file": "0.png", "prompt": "ohwx, a car in snow"}]'
    )
    known = adapter_words.of_all(["cat", None, "file/style.safetensors", "cat"])
    assert adapter_words.suggested_prompt(known) == "style ohwx, a car in snow"
    assert len(machine.asked) == 1
    adapter_words.of_all(["file/style.safetensors"])
    assert len(machine.asked) == 1


@pytest.mark.parametrize(
    ("prompt", "missing"),
    [
        ("an ohwx car", []),
        ("OHWX, a car", []),
        ("a zwx", ["ohwx"]),
        ("ohwxx car", ["ohwx"]),
        ("", ["ohwx"]),
    ],
)
def test_missing_trigger_words_are_found(prompt: str, missing: list[str]) -> None:
    known = [adapter_words.Words(("ohwx", "bnha")), adapter_words.Words(())]
    assert adapter_words.missing(prompt, known) == missing
    assert adapter_words.missing(f"{prompt} bnha", known) == []


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
    save_picture(Image.new("RGB", (8, 8)), path, DRAWING, BaseModelConfig(), adapters)
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


LONG = (
    "A" * 200_000, "\n" + "A" * 199_000, "a\n" + "Ab " * 60_000, "<lora:" * 33_000 + "\nSteps: 1",
    " " * 190_000 + "<lora:\nSteps: 1", "<lora:a:" + "1" * 190_000, "a\n" + "A: b, " * 33_000,
)  # fmt: skip
"""Texts that are made to take long."""


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
        *({"parameters": text} for text in LONG),
    ],
    ids=lambda texts: str(texts)[:40],
)
def test_a_picture_without_settings_is_refused(tmp_path: Path, texts: dict[str, str]) -> None:
    """At once: 28 KB took 2 s, and 200 KB are allowed (tests/test_patterns.py)."""
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
        *((text, AdapterSetting(text)) for text in ("cat:1e999", "cat:0.5:1e999", "cat:nan",
            "cat:inf", "cat:0.5.1", "cat:1_0", "cat: 1")),
    ],
)  # fmt: skip
def test_adapters_are_named_with_their_strengths(text: str, expected: AdapterSetting) -> None:
    assert parse_adapter(text) == expected


def test_an_infinite_strength_is_not_restored(tmp_path: Path) -> None:
    text = "a <lora:cat:1e999> <lora:style:1>\nSteps: 20, CFG scale: 7, Seed: 42, Size: 64x64"
    restored = read_settings(carrying(tmp_path / "a.png", parameters=text), KNOWN, BASES)
    assert restored.settings.prompt == "a"
    assert restored.settings.adapters == (AdapterSetting("file/style.safetensors", 1.0),)
    assert restored.missing == ("the adapter cat:1e999",)


@pytest.mark.parametrize(
    ("prompt", "marked"),
    [
        ("an ohwx car, (red:1.2)", True),
        ("((smile)), car", True),
        (r"mario \(nintendo\)", True),
        ("a car <lora:mine:0.8>", True),
        ("a {red|blue} car", True),
        ("a __colour__ car", True),
        ("a car --n lowres", True),
        ("a car BREAK red sofa", True),
        ("a car (1990), ratio 16:9 :) [2] <3", False),
    ],
)
def test_marks_that_mean_nothing_here_are_said(prompt: str, marked: bool) -> None:
    said, _ = tab._words_shown(prompt, [adapter_words.Words(("ohwx",))])
    assert ("is drawn as it stands" in said) == marked == bool(literal_marks(prompt))
    assert "Trigger word" in said


def test_a_browser_may_send_no_prompt() -> None:
    said, _ = tab._check_words(None)
    assert "is drawn as it stands" not in said
