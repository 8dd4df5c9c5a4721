"""The commands of README and guide are run, and the main job shows what it promises."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.runs_for_tests import measure_quickly
from trainer.commands import command, train
from trainer.commands.cli import main
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder

# The main job is run first, for all that come after it.
pytestmark = pytest.mark.slow

# Pages whose commands are tried; those of adapter files are in tests/trainer/commands.
GUIDE = ("command-line", "first-adapter", "images", "trigger-words", "generating", "measuring",
         "speed-and-memory", "coming-from-kohya", "captioning")  # fmt: skip
PAGES = ("README.md", *(f"docs/{name}.md" for name in GUIDE))
RUN = {"generate", "resume", "check-images", "trigger"}  # the others have tests of their own


QUICKER = ("--set", "previews.inference_steps=6", "--set", "preservation.pictures=6")


def commands() -> list[list[str]]:
    """The arguments of every ``python launch.py …`` in shell blocks, the main job's first."""
    found: list[list[str]] = []
    for page in PAGES:
        text = (PROJECT / page).read_text(encoding="utf-8")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("python launch.py "):
                    found.append(shlex.split(line, comments=True)[2:])
    return [list(one) for one in dict.fromkeys(map(tuple, found))]


def can_run(arguments: list[str]) -> bool:
    """Whether all that a command names is there once the main job has been done."""
    absent = ("my-", "sd_xl_base", ".toml")
    there = not any(word.startswith(absent) or word.endswith(absent) for word in arguments)
    return arguments[0] in RUN and there


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_is_one(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(command, "perform", lambda *_: 0)  # only the arguments are looked at
    if arguments[0] not in ("test", "ui"):  # launch.py's own, and the page's
        assert main(arguments) == 0


def test_the_verbs_are_shown() -> None:
    shown = {arguments[0] for arguments in commands()}
    assert {"train", "fit", "evaluate", "import", *RUN} <= shown
    assert {arguments[0] for arguments in commands() if can_run(arguments)} == RUN


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder like a fresh copy of the source, where commands are given."""
    copy, back = tmp_path_factory.mktemp("project"), Path.cwd()
    (copy / "datasets").symlink_to(PROJECT / "datasets")
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        patch.setattr(train, "RUNS", copy / "runs")
        os.chdir(copy)
        yield copy
        os.chdir(back)


@pytest.fixture(scope="module")
def main_job(project: Path) -> Path:
    """The README's first command, which everybody does first; in 30 steps instead of 400."""
    said = StringIO()
    with redirect_stdout(said):
        assert main([*commands()[0], "--steps", "30", *QUICKER]) == 0
    for part in ("step 30/30", "loss", "left", "Adapter:", "Previews:", "Report:", "Try it:"):
        assert part in said.getvalue()
    # The guide draws with the adapter of a later step.
    run = RunFolder(project / "runs" / "ohwx")
    shutil.copy(run.adapter, run.adapter_at(300))
    return run.path


def test_the_main_job_shows_the_concept_and_keeps_the_rest(main_job: Path) -> None:
    """The pictures with the trigger come near the image set; those without it move far less."""
    base, last = (pick((main_job / "previews").iterdir()) for pick in (min, max))
    moved: dict[bool, list[float]] = {True: [], False: []}
    for record in json.loads((last / "prompts.json").read_text()):
        before, after = (np.asarray(Image.open(f / record["file"]), float) for f in (base, last))
        moved["ohwx" in record["prompt"]].append(float(np.abs(before - after).mean()))
    assert len(moved[True]) == 2 * len(moved[False]) >= 4  # and a scene for each
    assert np.mean(moved[True]) > 10  # of 255: something new is drawn
    assert np.mean(moved[False]) < 0.6 * np.mean(moved[True])


@pytest.mark.usefixtures("main_job")
@pytest.mark.parametrize("arguments", filter(can_run, commands()), ids=" ".join)
def test_the_commands_after_it(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip()
