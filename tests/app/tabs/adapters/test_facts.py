"""Adapters in words: what strangers wrote is text, and cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.tabs.adapters import facts
from app.tabs.adapters.files import ListedAdapter
from tests.app.tabs.images.test_setview import harmless

HOSTILE = "<script>alert(1)</script>\u202e" + "x" * 1_000_000
FACTS: dict[str, Any] = {
    "family": "sd1",
    "layers": {
        "unet.down_blocks.0.q": {"rank": 4, "alpha": 4.0},
        "unet.up_blocks.1.q": {"rank": 8, "alpha": 4.0},
        "te.layers.0.q_proj": {"rank": 4, "alpha": 4.0},
    },
    "layouts": ["kohya"],
    "trigger_words": ["ohwx"],
    "enough_rank": 2,
    "energy_by_block": {"unet.up_blocks.1": 2.0, "te": 1.0, "unet.down_blocks.0": 0.5},
    "metadata": {},
}
NOTHING: dict[str, Any] = {
    "family": None, "layers": {}, "layouts": [], "trigger_words": [], "enough_rank": None,
    "energy_by_block": {}, "metadata": {},
}  # fmt: skip
RESULT = {"layers": 3, "ranks": [4, 8], "layout": "kohya", "precision": "fp16"}


@pytest.fixture
def choice(tmp_path: Path) -> ListedAdapter:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x" * 2_000_000)
    return ListedAdapter("file/a.safetensors", path, "a")


def test_a_file_in_words(choice: ListedAdapter) -> None:
    words = harmless(facts.what_it_is(choice, FACTS)).text
    for part in ("Stable Diffusion 1", "ohwx", "4 to 8", "2 in UNet", "1 in text encoder",
                 "2.0 MB", "Rank 2 would keep"):  # fmt: skip
        assert part in words
    bars = harmless(facts.chart(FACTS)).text
    assert bars.index("text encoder") < bars.index("UNet, down 0") < bars.index("UNet, up 1")
    none = facts.what_it_is(choice, NOTHING)
    assert "an unknown base model" in none and "none in the file" in none
    assert facts.chart(NOTHING) == ""
    assert "nothing about itself" in facts.metadata(NOTHING)


def test_metadata_is_shown_as_text_and_cut(choice: ListedAdapter) -> None:
    """Fault 21."""
    found = FACTS | {
        "family": HOSTILE,
        "layers": {HOSTILE: {"rank": 4, "alpha": 4.0}},
        "trigger_words": [HOSTILE] * 3,
        "energy_by_block": {HOSTILE: 1.0},
        "metadata": {f"{HOSTILE}{n}": HOSTILE for n in range(100)} | {"ss_sd_model_name": HOSTILE},
    }
    verdict = {"works": True, "matched": {"x": 1}, "total": {"x": 1}, "strength_exact": True}
    texts = (
        facts.what_it_is(choice, found),
        facts.chart(found),
        facts.metadata(found),
        facts.proof({"tools": {HOSTILE[:100]: verdict | {"notes": [HOSTILE] * 3}}}),
        facts.result(RESULT | {"difference": 0.1, "works": HOSTILE}),
    )
    for text in texts:
        harmless(text)
        assert len(text) < 60_000


@pytest.mark.parametrize(
    ("matched", "works", "said"),
    [(4, True, "Works"), (2, False, "In part"), (0, False, "Does not work")],
)
def test_a_tools_verdict(matched: int, works: bool, said: str) -> None:
    verdict = {"works": works, "matched": {"unet": matched}, "total": {"unet": 4}}
    text = facts.proof({"tools": {"ComfyUI": verdict | {"strength_exact": works, "notes": []}}})
    words = harmless(text).text
    assert said in words and f"{matched} of 4 parts read" in words
    assert ("strength exact" in words) == works


@pytest.mark.parametrize(
    ("difference", "said"), [(0.0, "does exactly the same"), (0.0123, "differs by 1.2 %")]
)
def test_what_became_of_it(difference: float, said: str) -> None:
    text = facts.result(RESULT | {"difference": difference, "works": "works in ComfyUI"})
    assert said in text and "3 layers of rank 4 to 8" in text and "It works in ComfyUI." in text


def test_what_a_repair_measured() -> None:
    made = RESULT | {"difference": 0.0, "works": "works"}
    meters = {"likeness": 0.5, "class_drift": 0.1, "neighbour_drift": None}
    tuned = made | {"before": meters, "after": meters | {"class_drift": 0.04}, "drawn_kept": 0.98}
    words = harmless(facts.result(tuned)).text
    assert "0.500 → 0.500" in words and "0.100 → 0.040" in words and "like it" not in words
    assert "98% kept" in words
    joined = made | {"shares": {"addition": 0.5, "by block": 0.9}, "best": "by block"}
    joined["drawn"] = {"addition": 0.4, "by block": 0.8}
    words = harmless(facts.result(joined)).text
    assert "by block, as it is written" in words and "90% kept, of drawings 80%" in words
