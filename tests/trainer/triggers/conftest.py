"""Labs for tests: the built-in base, and tiny random ones, each loaded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from trainer.models.load import load_text_part
from trainer.triggers.lab import TriggerLab
from trainer.triggers.words import WordLists


@pytest.fixture(scope="session")
def lists(tmp_path_factory: pytest.TempPathFactory) -> WordLists:
    """The word lists, from a cache folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAREBIT_CACHE", str(tmp_path_factory.mktemp("words")))
        return WordLists.open()


@pytest.fixture(scope="session")
def lab(lists: WordLists, tmp_path_factory: pytest.TempPathFactory) -> TriggerLab:
    """The built-in base model's lab."""
    return opened("tiny-emoji", lists, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def random_lab(
    lists: WordLists, tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TriggerLab]:
    """Gives the lab of a tiny base model with random weights."""
    known: dict[str, TriggerLab] = {}

    def lab_of(name: str) -> TriggerLab:
        if name not in known:
            folder = tmp_path_factory.mktemp("lab")
            known[name] = opened(str(tiny_base(name)), lists, folder)
        return known[name]

    return lab_of


def opened(base: str, lists: WordLists, cache: Path) -> TriggerLab:
    """A lab that keeps what it measures in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAREBIT_CACHE", str(cache))
        return TriggerLab(load_text_part(base), lists)
