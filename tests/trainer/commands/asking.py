"""Asking the command line for JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainer.commands.cli import main


def asked(capsys: pytest.CaptureFixture[str], *line: object) -> Any:
    """What a command prints with ``--json``, once it has succeeded."""
    capsys.readouterr()
    assert main([*map(str, line), "--json"]) == 0
    return json.loads(capsys.readouterr().out)
