"""docs/faults.md names a test for each of the forty cases, and all of them exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from trainer.places import PROJECT

PAGE = (PROJECT / "docs" / "faults.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`([\w/.]+\.py)::(\w+)`")


@cache
def functions_of(path: Path) -> set[str]:
    nodes = ast.parse(path.read_bytes()).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_case_has_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 41))
    assert all(NAMED.search(row) for _, row in rows)


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 80
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (PROJECT / "tests" / file).is_file()
        or name not in functions_of(PROJECT / "tests" / file)
    ]
    assert missing == []
