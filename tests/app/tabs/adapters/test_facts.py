"""Adapters in words: what strangers wrote is text, and cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import client as service
from app.files import Upload
from app.tabs.adapters import facts as adapterfacts
from app.tabs.adapters import work as adapterwork
from app.tabs.adapters.files import AdapterChoice, list_adapters
from tests.app.tabs.images.test_setview import harmless
from trainer import places
from trainer.errors import UserError

HOSTILE = "<script>alert(1)</script>\u202e" + "x" * 1_000_000


def choice(tmp_path: Path) -> AdapterChoice:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x" * 2_000_000)
    return AdapterChoice("file/a.safetensors", path, "a")


def test_a_file_in_words(tmp_path: Path) -> None:
    layers = {
        "unet.down_blocks.0.q": {"rank": 4, "alpha": 4.0},
        "unet.up_blocks.1.q": {"rank": 8, "alpha": 4.0},
        "te.layers.0.q_proj": {"rank": 4, "alpha": 4.0},
    }
    facts = {
        "family": "sd1",
        "layers": layers,
        "layouts": ["kohya"],
        "trigger_words": ["ohwx"],
        "enough_rank": 2,
        "energy_by_block": {"unet.up_blocks.1": 2.0, "te": 1.0, "unet.down_blocks.0": 0.5},
    }
    words = harmless(adapterfacts.what_it_is(choice(tmp_path), facts)).text
    for part in (
        "Stable Diffusion 1",
        "ohwx",
        "4 to 8",
        "2 in UNet",
        "1 in text encoder",
        "2.0 MB",
    ):
        assert part in words
    bars = harmless(adapterfacts.chart(facts)).text
    assert bars.index("text encoder") < bars.index("UNet, down 0") < bars.index("UNet, up 1")


def test_metadata_is_shown_as_text_and_cut(tmp_path: Path) -> None:
    """Fault 21."""
    facts = {
        "family": HOSTILE,
        "layers": {HOSTILE: {"rank": 4, "alpha": HOSTILE}},
        "layouts": [HOSTILE[:100]],
        "trigger_words": [HOSTILE],
        "energy_by_block": {HOSTILE: 1.0, "x": HOSTILE},
        "metadata": {f"{HOSTILE}{n}": HOSTILE for n in range(100)},
        "tools": {HOSTILE[:100]: {"works": True, "matched": {"x": 1}, "notes": [HOSTILE] * 3}},
    }
    texts = (
        adapterfacts.what_it_is(choice(tmp_path), facts),
        adapterfacts.chart(facts),
        adapterfacts.metadata(facts),
        adapterfacts.proof(facts),
        adapterfacts.result({"works": HOSTILE, "layout": "kohya", "ranks": [4]}),
    )
    for text in texts:
        harmless(text)
        assert len(text) < 60_000


@pytest.mark.parametrize("facts", [{}, {"layers": 3, "tools": [], "metadata": None, "ranks": "x"}])
def test_an_odd_answer_is_no_defect(facts: dict[str, object], tmp_path: Path) -> None:
    adapterfacts.what_it_is(choice(tmp_path), facts)
    assert adapterfacts.chart(facts) == adapterfacts.proof(facts) == ""
    assert "nothing about itself" in adapterfacts.metadata(facts)


def test_a_dropped_file_that_is_no_adapter_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "ADAPTERS", tmp_path / "adapters")
    monkeypatch.setattr(places, "RUNS", tmp_path / "runs")

    def refuse(verb: str, arguments: dict[str, object], timeout: float) -> object:
        raise UserError(f"{arguments['file']} is a pickle.", "Convert it.")

    monkeypatch.setattr(service, "call", refuse)
    (tmp_path / "sent").write_bytes(b"x")
    with pytest.raises(UserError, match=r"^cat\.safetensors is a pickle"):
        adapterwork.bring_in(Upload(tmp_path / "sent", "Cat.safetensors"))
    assert list_adapters() == []
