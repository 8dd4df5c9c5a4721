"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# As trainer/__main__.py has it: threads that wait on a busy machine do not spin.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# The same examples every time, and no complaint about a machine that is busy with other things.
settings.register_profile(
    "gate", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gate")

# A shell's background job is deaf to Ctrl-C, and so is all that it starts: tests that send one to a
# process of theirs would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TinyBase = Callable[[Any], Path]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """Gives the folder of a tiny base model, "sd1", "sd2", "sd2-v" or "sdxl", made once.

    Tests that change a folder must copy it first.
    """
    root = tmp_path_factory.mktemp("bases")

    def folder_of(name: Any) -> Path:
        from tests.tiny_models import make_tiny  # imports torch: only when it is needed

        return root / name if (root / name).is_dir() else make_tiny(name, root / name)

    return folder_of
