"""What scripts rely on stays: options, shapes of JSON, fields, names of the page's functions.

`surface.json` was written from the state before the modules moved into their rooms. Something may
be added to it; nothing in it may go or change its type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.runs_for_tests import measure_quickly
from trainer.commands.cli import main
from trainer.config.fields import all_fields
from trainer.places import PROJECT

# The run that several of these look at is trained first.
pytestmark = pytest.mark.slow

NEW_DEFAULTS = {
    # Attention alone learned colours without shapes: docs/notes/subjects.md.
    "adapter.targets": "feed-forward",
    # At every step instead of every second with 4: more pull in all, and less chance in it.
    "preservation.weight": 3.0,
    "preservation.every": 1,
}
"""Defaults that were changed since, on purpose. Runs keep theirs: config.toml has it."""
SURFACE: dict[str, Any] = json.loads((PROJECT / "tests" / "surface.json").read_text())


def said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """What a command prints; its exit status is 0."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as end:  # of --help
        status = end.code
    assert not status, arguments
    return capsys.readouterr().out


def shape(value: Any) -> Any:
    """The types of a JSON value: of a list its first item's, of numbers that they are numbers."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else "str"


def missing(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Where a shape has lost something of what it was."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key, value in before.items():
            if key not in now:
                yield f"{place}.{key} is gone"
            else:
                yield from missing(value, now[key], f"{place}.{key}")
    elif isinstance(before, list) and isinstance(now, list):
        if before and now:
            yield from missing(before[0], now[0], f"{place}[]")
    elif before != now and "NoneType" not in (before, now):
        yield f"{place} was {before} and is {now}"


def options(text: str) -> set[str]:
    """The options that a help text names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


@pytest.mark.parametrize("command", SURFACE["options"])
def test_options(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    now = options(said(capsys, [*command.split(), "--help"]))
    assert set(SURFACE["options"][command]) - now == set()


def test_fields() -> None:
    """Every field is there, with the default that it had."""
    now = {name: json.loads(json.dumps(field.default, default=str))
           for name, field in all_fields().items()}  # fmt: skip
    before = SURFACE["fields"] | NEW_DEFAULTS
    assert {name: now.get(name, "gone") for name in before} == before


def test_names_of_the_page() -> None:
    from app.page import build_page

    functions = build_page().get_config_file().get("dependencies", [])
    now = {str(one["api_name"]) for one in functions if one["api_visibility"] == "public"}
    assert set(SURFACE["page"]) - now == set()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps of the built-in model."""
    path = tmp_path_factory.mktemp("surface") / "run"
    options = ["--steps", "2", "--set", "evaluation.enabled=false", "--set", "previews.every=2"]
    options += ["--set", "previews.inference_steps=2", "--set", "preservation.pictures=2"]
    pictures = str(PROJECT / "datasets" / "police-car")
    named = ["--images", pictures, "--trigger", "ohwx", "--class-word", "car", "--run", str(path)]
    assert main(["train", *named, *options]) == 0
    return path


@pytest.mark.parametrize("line", SURFACE["json"])
def test_json(
    line: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure_quickly(monkeypatch)
    arguments = arguments_of(line, run, tmp_path)
    now = shape(json.loads(said(capsys, arguments)))
    assert list(missing(SURFACE["json"][line], now)) == []


def arguments_of(line: str, run: Path, folder: Path) -> list[str]:
    """A line of the surface as arguments: with an adapter, a set and new files in their places."""
    places = {
        "ADAPTER": run / "adapter.safetensors",
        "FILE": folder / "out.safetensors",
        "ZIP": folder / "out.zip",
        "SET": PROJECT / "datasets" / "police-car",
    }
    return [str(places.get(word, word)) for word in line.split()]


def test_run_folder(run: Path) -> None:
    """The files of a run, the fields of each event, and those of the status."""
    events: dict[str, Any] = {}
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        events.setdefault(event["event"], shape(event))
    now = {
        "files": {path.name: "here" for path in run.iterdir()},
        "events": events,
        "status": shape(json.loads((run / "status.json").read_text())),
        "adapter": metadata(run / "adapter.safetensors"),
    }
    assert list(missing(SURFACE["run"], now)) == []


def metadata(file: Path) -> dict[str, str]:
    """The names of an adapter file's metadata."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return dict.fromkeys(opened.metadata(), "str")
