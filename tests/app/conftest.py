"""For all tests of the page: what it remembers of pictures goes into a folder of the tests' own."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sets the folder for the whole session."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAREBIT_CACHE", str(tmp_path_factory.mktemp("cache")))
