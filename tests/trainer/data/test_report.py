"""What ``check-images`` says about a set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.data.folders_for_tests import Files, described, picture, put
from trainer.config.schema import CaptionsConfig, ImagesConfig, TrainingConfig
from trainer.data.fitted import sticking_words
from trainer.data.gather import read_sets
from trainer.data.report import describe_set
from trainer.data.sets import scan_image_set
from trainer.errors import UserError

AT_96 = {"resolution": 96}
MIXED: Files = {
    "3_dog/a.png": picture(1, width=96, height=96),
    "3_dog/a.txt": "sks dog on a red sofa, " + "word " * 100,
    "b.png": picture(2, width=64, height=128),
    "b.txt": "on a red chair",
    "c.png": picture(3, "JPEG", width=40, height=70),
    "narrow.png": picture(4, width=33, height=400),
    "small.png": picture(5, width=20, height=20),
    "broken.png": b"",
}


def test_a_set_is_described(tmp_path: Path) -> None:
    report = described(tmp_path, MIXED, AT_96, trigger="sks", class_word="dog", max_tokens=75)
    assert (report.pictures, report.left_out) == (3, 3)
    assert report.shown_per_epoch == 5
    assert report.captions == 2
    assert report.formats == {"PNG": 2, "JPEG": 1}
    assert report.buckets == {"96 × 96": 1, "64 × 128": 1, "32 × 64": 1}
    assert report.lacking_trigger == ["b.png"]
    assert report.cut_captions == ["3_dog/a.png"]
    messages = {finding.name: finding.message for finding in report.findings}
    assert "too narrow" in messages["narrow.png"] and "too small" in messages["small.png"]
    assert "empty" in messages["broken.png"]
    assert "smaller bucket" in messages["c.png"]
    assert "more than the 75 tokens" in messages["3_dog/a.png"]
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    text = "\n".join(report.lines())
    for finding in report.findings:
        assert f"{finding.severity}: {finding.name}: {finding.message}" in text
    assert "3 pictures can be trained on, 3 left out" in text
    assert "64 × 128: 1" in text
    assert "captions that are cut: 1" in text
    assert "put in front: b.png" in text
    read = json.loads(json.dumps(report.as_dict()))
    assert read["pictures"] == 3
    assert read["findings"][0].keys() == {"name", "severity", "message", "pictures"}


def test_captions_are_counted_by_chunks(tmp_path: Path) -> None:
    report = described(tmp_path, MIXED, AT_96, trigger="sks")
    assert (report.caption_chunks, report.cut_captions) == ({"1": 2, "2": 1}, [])
    assert "75 tokens, read in chunks: 1 (in 2 chunks: 1)" in "\n".join(report.lines())
    assert not any("captions.max_tokens" in finding.message for finding in report.findings)
    image_set = scan_image_set(tmp_path)  # without a counter they are not measured
    report = describe_set(image_set, ImagesConfig(resolution=96), CaptionsConfig(), step=32)
    assert (report.cut_captions, report.lacking_trigger) == (None, [])
    assert "tokens" not in "".join(report.lines())


def test_each_resolution_has_its_buckets(tmp_path: Path) -> None:
    report = described(tmp_path, MIXED, {"resolutions": [64, 96], **AT_96})
    assert sum(report.buckets.values()) == 2 * report.pictures
    assert (report.buckets["96 × 96"], report.buckets["64 × 64"]) == (1, 2)
    assert report.shown_per_epoch == 10
    said = [one for one in report.findings if "Smaller than resolution 96" in one.message]
    assert [one.severity for one in said] == ["note"]


def test_a_resolution_above_all_pictures_is_a_warning(tmp_path: Path) -> None:
    files: Files = {f"{n}.png": picture(n) for n in range(2)}
    report = described(tmp_path, files, {"resolution": 512})
    said = [one for one in report.findings if "Smaller than" in one.message]
    assert [one.severity for one in said] == ["warning"]


def test_tags_are_counted(tmp_path: Path) -> None:
    texts = ["red, big dog", "(red:1.2),green, red", "a sentence without any", "red, green"]
    files: Files = {f"{n}.png": picture(n) for n in range(4)}
    files |= {f"{n}.txt": text for n, text in enumerate(texts)}
    report = described(tmp_path, files, tag_dropout=0.5, protected_tags=["Green", "rd"])
    tags = [("red", 3), ("green", 2), ("a sentence without any", 1)]
    assert list(report.tags.items())[:3] == tags
    assert "commonest tags: red: 3, green: 2" in "\n".join(report.lines())
    said = {finding.name: finding.severity for finding in report.findings}
    assert (said["2.png"], said["rd"]) == ("note", "warning")


def test_a_random_crop_of_a_small_picture_shows_all_of_it(tmp_path: Path) -> None:
    files = {"a.png": picture(1, width=96, height=96), "b.png": picture(2, width=300, height=300)}
    report = described(tmp_path, files, {"random_crop": 0.2, **AT_96})
    (said,) = [one for one in report.findings if "images.random_crop" in one.message]
    assert said.name == "a.png"


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["a red car"] * 3, {}),
        (["a red car", "Red sofa", "the red dog", "in red"], {"red": 4}),
        (["red x", "red y", "red z", "red v", "w"], {"red": 4}),
        (["red x", "red y", "red z", "v"], {}),
        (["sks dog, blue"] * 5, {"blue": 5}),
        (["red red red", "x", "y", "z"], {}),
    ],
)
def test_words_in_nearly_every_caption_stick(captions: list[str], expected: dict[str, int]) -> None:
    assert sticking_words(captions, ("sks", "dog")) == expected


def test_words_that_would_stick_are_noted(tmp_path: Path) -> None:
    files = {f"{n}.png": picture(n) for n in range(5)}
    files |= {f"{n}.txt": f"sks dog on a sofa, {word}" for n, word in enumerate("abcde")}
    report = described(tmp_path, files, trigger="sks", class_word="dog")
    assert report.sticking_words == {"sofa": 5}
    (finding,) = [f for f in report.findings if "can't tell" in f.message]
    assert (finding.name, finding.severity) == ("sofa", "note")
    files |= {f"{n}.txt": f"red sofa {n}\nsofa, blue {{x|y}}" for n in range(5)}
    assert described(tmp_path, files, wildcards=True).sticking_words == {"sofa": 15}


def test_pictures_without_the_mask_that_is_asked_for_are_named(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "a.mask.png": picture(3)}
    for masks, expected in (("none", []), ("files", ["b.png"]), ("alpha", ["images.masks"])):
        said = described(tmp_path, files, {"masks": masks}).findings
        assert expected == [
            one.name for one in said if "No mask" in one.message or one.name == "images.masks"
        ]


@pytest.mark.parametrize(
    ("caption", "images", "captions", "idle"),
    [
        ("a cat", {"masks": "files"}, {}, {"images.masks"}),
        ("a cat", {"background": "#000000"}, {}, {"images.background"}),
        ("a cat", {"masks": "alpha", "background": "#ffffff"}, {}, {"images.masks"}),
        ("a cat", {}, {"shuffle_tags": True}, {"captions.shuffle_tags"}),
        ("a cat, red", {}, {"shuffle_tags": True}, set()),
        ("a {red|blue} cat", {}, {"wildcards": True}, set()),
        ("a {red,blue} cat", {}, {"wildcards": True}, {"captions.wildcards"}),
    ],
)
def test_settings_that_the_pictures_give_nothing_to_do_are_named(
    caption: str, images: Any, captions: Any, idle: set[str], tmp_path: Path
) -> None:
    report = described(tmp_path, {"a.png": picture(1), "a.txt": caption}, images, **captions)
    said = {one.name: one.severity for one in report.findings if "no effect" in one.message}
    assert said == dict.fromkeys(idle, "warning")


def test_equal_findings_are_said_once_and_keep_every_name(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"{n}.png": picture(n) for n in range(6)}
    files |= {f"cut{n:02}.png": picture(n)[:200] for n in range(20)}
    report = described(tmp_path, files, AT_96)
    (cut,) = [one for one in report.findings if "cut off" in one.message]
    assert len(cut.pictures) == 20
    assert str(cut).startswith("cut00.png, cut01.png, cut02.png and 17 more: Left out.")
    assert report.as_dict()["findings"][0]["pictures"][-1] == "cut19.png"  # pyright: ignore
    assert "cut11.png and 8 more" in "\n".join(report.lines())


SUMMARIES: dict[str, tuple[Files, dict[str, object], str]] = {
    # more files; of images; the line that opens a training
    "as it should be": ({}, {}, "3 pictures, 3 captions"),
    "one left out": ({"bad.png": b""}, {}, "3 pictures, 1 left out, 3 captions"),
    "one long": ({"a.txt": "word " * 80}, {}, "3 pictures, 3 captions, 1 over 75 tokens"),
    "no mask": ({}, {"masks": "files"}, "3 pictures, 3 captions, masks 0 of 3"),
    "a mask": (
        {"a.mask.png": picture(9)},
        {"masks": "files"},
        "3 pictures, 3 captions, masks 1 of 3",
    ),
}


@pytest.mark.parametrize("case", SUMMARIES)
def test_the_line_that_opens_a_training(case: str, tmp_path: Path) -> None:
    more, images, expected = SUMMARIES[case]
    files: Files = {f"{name}.png": picture(ord(name)) for name in "abc"}
    files |= {f"{name}.txt": f"of {name}" for name in "abc"}
    assert described(tmp_path, files | more, images).summary == expected


LINES = {"a.txt": "sks dog\nred\nsks, {old|new}", "b.txt": "sks {a|b}", "c.txt": "sks"}


@pytest.mark.parametrize("wildcards", [False, True])
def test_every_line_of_a_caption_file_counts(tmp_path: Path, wildcards: bool) -> None:
    files = {f"{name}.png": picture(seed, width=96, height=96) for seed, name in enumerate("abc")}
    report = described(tmp_path, files | LINES, trigger="sks", wildcards=wildcards)
    assert (report.captions, report.caption_lines) == (3, 5)
    assert "captions: 3 of 3 (5 captions in all)" in "\n".join(report.lines())
    assert report.summary.startswith("3 pictures, 5 captions")
    assert report.lacking_trigger == ["a.png"]
    found = {finding.message: finding for finding in report.findings}
    (several,) = [found[message] for message in found if "a line each (3 in all)" in message]
    assert several.pictures == ("a.png",)
    (choices,) = [found[message] for message in found if "Choices" in message]
    assert choices.severity == ("note" if wildcards else "warning")
    assert choices.pictures == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("files", "masks", "said"),
    [
        (["a.mask.png", "b_mask.png"], "none", ("a.png", "b.png")),
        (["mask/c.jpg"], "alpha", ("c.png",)),
        (["a.mask.png"], "files", ()),
        ([], "none", ()),
    ],
)
def test_masks_that_the_settings_leave_out_open_the_training(
    files: list[str], masks: str, said: tuple[str, ...], tmp_path: Path
) -> None:
    pictures = {f"{name}.png": picture(n) for n, name in enumerate("abc")}
    folder = put(tmp_path, pictures | {name: picture(9) for name in files})
    images = {"path": folder, "masks": masks, "resolution": 64}
    config = TrainingConfig.model_validate({"images": images})
    report = read_sets(config, 32)
    assert [one.pictures for one in report.shared if "There is a mask" in one.message] == (
        [said] if said else []
    )
    assert any("There is a mask" in warning for warning in report.warnings()) == bool(said)


@pytest.mark.parametrize(
    ("pictures", "validation", "batch_size", "said"),
    [
        (2, 0.5, 1, ["evaluation.validation"]),
        (2, 0.125, 1, []),
        (2, 0, 4, []),
        (9, 0.5, 1, []),
        (2, 0, 5, ["training.batch_size"]),
        (9, 0.25, 17, ["training.batch_size"]),  # two of nine are kept out
    ],
)
def test_what_so_few_pictures_do_not_allow_is_said(
    pictures: int, validation: float, batch_size: int, said: list[str], tmp_path: Path
) -> None:
    folder = put(tmp_path, {f"2_x/{n}.png": picture(n) for n in range(pictures)})
    settings = {"images": {"path": folder, "resolution": 64}}
    settings |= {"evaluation": {"validation": validation}, "training": {"batch_size": batch_size}}
    report = read_sets(TrainingConfig.model_validate(settings), 32)
    assert [one.name for one in report.shared] == said


@pytest.mark.parametrize(
    ("side", "upscale", "says"),
    [
        (16, False, "images.upscale"),
        (16, True, ""),
        (7, False, "images.upscale"),
        (7, True, "8 × 8"),
    ],
)
def test_nothing_usable_gives_a_way_out_that_helps(
    side: int, upscale: bool, says: str, tmp_path: Path
) -> None:
    files = {"icon.png": picture(1, width=side, height=side)}
    report = described(tmp_path, files, {"upscale": upscale})
    if not says:
        report.check_usable()
        assert report.buckets == {"64 × 64": 1}
        return
    with pytest.raises(UserError, match="Use a larger version") as refused:
        report.check_usable()
    assert says in str(refused.value)
    assert ("upscale" in str(refused.value)) != upscale


def test_pictures_that_are_too_small_are_one_finding(tmp_path: Path) -> None:
    sizes = {"a": (31, 90), "b": (16, 16), "c": (200, 20), "d": (300, 40), "e": (64, 64)}
    files = {f"{n}.png": picture(1, width=w, height=h) for n, (w, h) in sizes.items()}
    report = described(tmp_path, files)
    assert report.pictures == 1 and report.left_out == 4
    said = {one.pictures: one.message for one in report.findings if one.severity == "error"}
    assert list(said) == [("a.png", "b.png"), ("c.png", "d.png")]
    assert "The first is 31 × 90 pixels: too small" in said["a.png", "b.png"]
    assert "The first is 200 × 20 pixels: too narrow" in said["c.png", "d.png"]
