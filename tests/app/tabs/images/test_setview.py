"""What the page shows of a set, and that nothing in it is markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from app.tabs.images.edits import Change
from app.tabs.images.imagesets import find_set, read_notes, write_notes
from app.tabs.images.layout import html
from app.tabs.images.setview import base_facts, look_at
from app.tabs.train import outlook
from tests.app.sets_for_tests import stored
from tests.corpus.names import NAUGHTY
from tests.trainer.data.folders_for_tests import picture, put

BASE = "tiny-emoji"  # 64 pixels, in steps of 32


class Tags(HTMLParser):
    """Which tags and attributes there are, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(text: str) -> Tags:
    found = Tags(text)
    assert not found.tags & {"script", "img", "a", "svg", "iframe", "i"}
    assert not any(name.startswith("on") or name in ("href", "src") for name in found.attributes)
    assert not any(character in text for character in "\u202e\u2066\x1b\x07")
    return found


def test_a_set_picture_by_picture(tmp_path: Path) -> None:
    files = {
        "wide.png": picture(1, width=300, height=100),
        "wide.txt": "a wide one",
        "square.png": picture(2, width=64, height=64),
        "small.png": picture(3, width=20, height=20),
        "broken.png": b"no picture",
        "again.png": picture(2, width=64, height=64),
    }
    view = look_at(stored(tmp_path, files).image_set, BASE)
    found = {one.original: one for one in view.pictures}
    assert [*found] == ["again.png", "broken.png", "small.png", "square.png", "wide.png"]
    assert found["wide.png"].caption == "a wide one"
    assert found["wide.png"].cut_off == pytest.approx(2 / 3)
    assert any("is cut off" in one.message for one in found["wide.png"].findings)
    assert found["broken.png"].severity == "error" and found["broken.png"].entry is None
    assert found["small.png"].severity == "error" and found["small.png"].crop is None
    assert found["square.png"].severity == "warning" or found["again.png"].severity == "warning"
    words = harmless(html("findings", view)).text
    for name in ("broken", "small", "wide"):
        assert name in words
    assert "3 pictures" in html("summary", view) and "2 left out" in html("summary", view)
    assert "64 × 64" in html("buckets", view)


def test_what_holds_for_many_is_said_of_each(tmp_path: Path) -> None:
    files = {f"{number}.png": picture(number) for number in range(6)}
    view = look_at(stored(tmp_path, {**files, "0.txt": "a caption"}).image_set, BASE)
    said = [html("facts", one) for one in view.pictures]
    assert ["No caption" in text for text in said] == [False] + [True] * 5
    assert not any("more" in harmless(text).text for text in said), "only of itself"


def test_the_same_of_several_pictures_is_one_line_with_a_count(tmp_path: Path) -> None:
    """Twelve photos of a phone are cut alike; a wide one, which is warned of, is not said twice."""
    files = {f"{n}.png": picture(n, width=128, height=96 - n) for n in range(4)}
    view = look_at(
        stored(tmp_path, {**files, "w.png": picture(9, width=300, height=100)}).image_set, BASE
    )
    cut = [str(one) for one in view.findings() if "is cut off" in one.message]
    assert [text.partition(" % is cut off")[0] for text in cut] == [
        "0005-w.png: 67",
        "0001-0.png, 0002-1.png, 0003-2.png and 1 more: 25 to 27",
    ]
    words = " ".join(harmless(html("findings", view)).text.split())
    assert "4 pictures 25 to 27 % is cut off, shown pale." in words
    assert "Which?0001-0.png, 0002-1.png, 0003-2.png, 0004-3.png" in words
    first = html("facts", view.pictures[0])
    assert "25 % is cut off, shown pale." in first and "27" not in first
    assert harmless(html("summary", view)).text.count("below") == 1


def test_the_outlook_counts_what_can_be_used(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "broken.png": b"no picture"}
    folder = stored(tmp_path, files).image_set
    assert outlook.picture_count(folder.path) == (3, 3), "nobody has looked into the files yet"
    look_at(folder, BASE)
    assert outlook.picture_count(folder.path) == (2, 2)


def test_nothing_usable(tmp_path: Path) -> None:
    put(tmp_path / "sets" / "bad", {"a.png": b"x", "b.png": b"y"})
    view = look_at(find_set(tmp_path / "sets", "bad"), BASE)
    assert view.report is None and len(view.pictures) == 2
    said = html("summary", view)
    assert "bad holds no picture that can be used" in said and str(tmp_path) not in said


@pytest.mark.parametrize("name", [*NAUGHTY, "<img src=x onerror=alert(1)>", "a" * 100_000])
def test_names_and_captions_are_text(name: str, tmp_path: Path) -> None:
    """Fault 13 and 21: shown as text, cut, nothing reordered."""
    image_set = stored(tmp_path, {f"{name[:200]}.png": picture(1)}, title=name).image_set
    (only,) = [file for file in image_set.path.iterdir() if file.suffix == ".png"]
    safe = name.encode("utf-8", "replace")
    only.with_suffix(".txt").write_bytes(safe)
    notes = read_notes(image_set)
    write_notes(image_set, type(notes)(**{**notes.__dict__, "trigger": name[:60]}))
    view = look_at(image_set, BASE)
    word, many = name[:60], [name]
    judged = {"word": word, "verdict": "good", "reads_like": many, "reasons": many}
    judged["pieces"] = [{"text": name, "id": 7}]
    for text in (
        html("summary", view),
        html("findings", view),
        html("buckets", view),
        html("facts", view.pictures[0]),
        html("conflict", name),
        html("changes", [Change(name, name, name)], 1),
        html("verdict", judged),
    ):
        harmless(text)
        assert len(text) < 20_000 or len(name) > 1000


def test_long_captions_are_cut() -> None:
    assert len(html("changes", [Change("a", "x" * 10_000, "y" * 10_000)], 1)) < 2000
    assert "and 960 more" in html("changes", [Change("a", "b", "c")] * 1000, 1000)


@pytest.mark.parametrize(
    ("base", "resolution", "step"),
    [
        ("tiny-emoji", 64, 32),
        ("stabilityai/stable-diffusion-xl-base-1.0", 1024, 64),
        ("stabilityai/stable-diffusion-2-1", 768, 64),
        ("/nowhere/ponyDiffusionV6.safetensors", 1024, 64),
        ("../../etc", 512, 64),
    ],
)
def test_what_a_base_model_trains_at(base: str, resolution: int, step: int) -> None:
    """As `fit` has it: both read the same table."""
    facts = base_facts(base)
    assert (facts.resolution, facts.resolution_step) == (resolution, step)


@pytest.mark.parametrize("masks", [0, 1, 2])
def test_masks_are_counted(masks: int, tmp_path: Path) -> None:
    files = {f"{n}.png": picture(n) for n in range(3)}
    files |= {f"{n}.mask.png": picture(9) for n in range(masks)}
    view = look_at(stored(tmp_path, files).image_set, "sd15")
    assert view.masks == masks
    assert (f"masks {masks} of 3" in html("summary", view)) == bool(masks)
