"""The adapter in a checkpoint is the live one, of whatever kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.lora.changes import relative_difference
from trainer.lora.editing import approximate
from trainer.lora.reading import read_adapter
from trainer.models.load import load_base
from trainer.training.checkpoint_adapter import read_checkpoint_adapter
from trainer.training.checkpoints import list_checkpoints

KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"adapter__alpha": 3.0},
    "dora": {"adapter__targets": "convolution", "output__dora_rank": 1000},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_what_the_file_says(
    tiny_base: TinyBase, tmp_path: Path, kind: str
) -> None:
    images = make_images(tmp_path / "images")
    config = small_config(
        tiny_base("sd1"), images, adapter__kind=kind, training__steps=2, **KINDS[kind]
    )
    result, _ = train_small(config, tmp_path / "run")
    found = read_checkpoint_adapter(list_checkpoints(result.run)[-1])
    if found.needs_base:
        base = load_base(str(tiny_base("sd1")))
        found = approximate(base, found, rank=1000).adapter
        assert result.adapter is not None
        assert "DoRA, written as a plain adapter of rank 1000: is exact" in result.adapter.summary
    saved = read_adapter(result.run.adapter)
    assert found.layers.keys() == saved.layers.keys()
    worst = max(relative_difference(found.layers[key], saved.layers[key]) for key in saved.layers)
    assert worst <= 1e-5
