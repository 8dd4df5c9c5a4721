"""``caption``: what it prints, what it writes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.captioning.fake_server import Fake, serving
from tests.trainer.commands.asking import asked
from tests.trainer.data.folders_for_tests import picture, put
from trainer.captioning.server import Server, ServerCaptioner
from trainer.captioning.sets import CANCELLED, caption_set
from trainer.captioning.wording import Wording
from trainer.commands.caption import propose
from trainer.commands.cli import main
from trainer.errors import Code, UserError

SEEN = "a dog on a sofa"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures: a caption file, one in a table, and none."""
    files = {f"{name}.png": picture(number) for number, name in enumerate("abc")}
    table = {"metadata.csv": "file_name,text\nb.png,in a table\n"}
    return put(tmp_path / "set", files | {"a.txt": "by hand"} | table)


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in sorted(folder.glob("*.txt"))}


@pytest.mark.parametrize(
    ("options", "written", "texts"),
    [
        ([], [], {"a.txt": "by hand"}),
        (["--all"], [], {"a.txt": "by hand"}),
        (["--write"], ["c.png"], {"a.txt": "by hand", "c.txt": SEEN}),
        (["--write", "--all"], ["a.png", "c.png"], dict.fromkeys(("a.txt", "c.txt"), SEEN)),
        (["--write", "--picture", "a.png"], ["a.png"], {"a.txt": SEEN}),
    ],
)
def test_only_what_was_asked_for_is_written(
    options: list[str],
    written: list[str],
    texts: dict[str, str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(Fake()) as fake:
        answer = asked(capsys, "caption", folder, "--server", fake.address, *options)
    assert answer["written"] == written and files_of(folder) == texts
    if options == ["--write", "--all"]:
        assert "another name" in answer["problems"]["b.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "does not exist"),
        (["set", "--picture", "x.png"], "no such picture"),
        (["set", "--server", "ftp://a"], "not a server's address"),
        (["set", "--server", "http://127.0.0.1:9", "--parallel", "0"], "--parallel 0"),
        (["set", "--words", "0"], "limited to 0 words"),
        (["set", "--model", "/no/model"], "no model"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["caption", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


@pytest.mark.parametrize("code", [CANCELLED, "device_busy"])
def test_what_was_done_before_the_end_is_kept(code: Code, folder: Path) -> None:
    def progress(done: int, total: int, what: str) -> None:
        if done:
            raise UserError("ended", code=code)

    with serving(Fake()) as fake:
        server = Server(address=fake.address, parallel=1)
        found = caption_set(
            folder, lambda: ServerCaptioner(server), Wording(), everything=True, progress=progress
        )
    assert found.stopped and found.exit_status == 130 and len(found.proposals) == 1
    assert len(found.problems) == (0 if code == CANCELLED else 2)


def test_a_caption_that_came_meanwhile_stays(folder: Path) -> None:
    def progress(*_: object) -> None:
        (folder / "c.txt").write_text("typed meanwhile")

    from trainer.captioning.sets import write_captions

    with serving(Fake()) as fake:
        server = Server(address=fake.address)
        found = caption_set(folder, lambda: ServerCaptioner(server), Wording(), progress=progress)
    written = write_captions(found)
    assert not written.written and "changed in the meantime" in written.problems["c.png"]
    assert files_of(folder)["c.txt"] == "typed meanwhile"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"server": "http://127.0.0.1:9"}, "There is no server"),
        ({"model": "../../x"}, "There is no model"),
        ({"purpose": "cat"}, "purpose"),
        ({"other": 1}, "other"),
    ],
)
def test_what_the_page_may_not_ask_for(values: dict, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        propose({"folder": str(folder), **values}, lambda *_: None)


def test_a_model_is_not_loaded_beside_a_training(folder: Path) -> None:
    def check() -> None:
        raise UserError("The device is busy: the run x.", code="device_busy")

    for values in ({}, {"model": "x"}):
        with pytest.raises(UserError, match="busy"):
            propose({"folder": str(folder), **values}, lambda *_: None, check)
