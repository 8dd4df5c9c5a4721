"""A doubtful trigger word is warned of when a training starts, and never stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.events import Warned


@pytest.mark.parametrize(("word", "reason"), [("ohwx", ""), ("dog", "taken"), ("sks", "rifle")])
def test_one_line_where_it_is_not_good(
    tiny_base: TinyBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    reason: str,
) -> None:
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path / "cache"))
    images = make_images(tmp_path / "images")
    config = small_config(tiny_base("sd1"), images, captions__trigger=word, training__steps=1)
    result, collected = train_small(config, tmp_path / "run")
    assert result.finished
    warnings = [event.message for event in collected.of(Warned)]
    about = [text for text in warnings if "The trigger word" in text]
    assert len(about) == (1 if reason else 0)
    assert all(reason in text and "\n" not in text for text in about)
