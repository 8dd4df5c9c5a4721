"""Fixtures for tests of base models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyBase
from trainer.models import families

CopyOf = Callable[[str], Path]


def edit(path: Path, **changes: Any) -> None:
    """Changes fields of a JSON file; None removes."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def copy_of(tiny_base: TinyBase, tmp_path: Path) -> CopyOf:
    """Gives a copy of a tiny base model that the test may damage."""
    return lambda name: Path(shutil.copytree(tiny_base(name), tmp_path / name))


@pytest.fixture
def tiny_configs(tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the tiny models' configurations in place of the full-size ones of single files."""
    from tests.tiny_models import TINY_NAMES

    for name in TINY_NAMES:
        shutil.copytree(
            tiny_base(name),
            tmp_path / "configs" / name,
            ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*"),
        )
    monkeypatch.setattr(families, "CONFIGS_FOLDER", tmp_path / "configs")
    return tmp_path / "configs"
