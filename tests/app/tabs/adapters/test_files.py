"""The list of adapters, and files that are dropped in."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import client
from app.files import Upload
from app.tabs.adapters.files import find_adapter, list_adapters, take_in
from tests.corpus.names import NAUGHTY
from trainer import places
from trainer.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(places, "ADAPTERS", tmp_path / "adapters")
    monkeypatch.setattr(client, "call", lambda *_: {})


def brought(tmp_path: Path, name: str) -> str:
    (tmp_path / "sent").write_bytes(b"data")
    return take_in(Upload(tmp_path / "sent", name)).id


def test_runs_and_files(tmp_path: Path) -> None:
    assert list_adapters() == []
    for name in ("with", "without"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.toml").write_text("")
    (tmp_path / "runs" / "with" / "adapter.safetensors").write_bytes(b"x")
    assert brought(tmp_path, "My Cat.safetensors") == "file/my-cat.safetensors"
    assert brought(tmp_path, "my_cat.SAFETENSORS") == "file/my-cat-2.safetensors"
    (tmp_path / "adapters" / ".hidden.safetensors").write_bytes(b"x")
    (tmp_path / "adapters" / "notes.txt").write_bytes(b"x")
    ids = ["with", "file/my-cat-2.safetensors", "file/my-cat.safetensors"]
    assert [choice.id for choice in list_adapters()] == ids
    assert find_adapter("with").path.name == "adapter.safetensors"


@pytest.mark.parametrize("name", NAUGHTY)
def test_hostile_names(name: str, tmp_path: Path) -> None:
    choice = find_adapter(brought(tmp_path, f"{name}.safetensors"))
    assert choice.path.parent == tmp_path / "adapters" and choice.path.read_bytes() == b"data"
    assert choice.path.stem.replace("-", "").isalnum() and choice.path.stem.isascii()


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.safetensors.zip", "safetensors", ""])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        brought(tmp_path, name)
    assert list_adapters() == []


def test_a_file_that_is_no_adapter_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(verb: str, arguments: dict[str, object], timeout: float) -> object:
        raise UserError(f"{arguments['file']} is a pickle.", "Convert it.")

    monkeypatch.setattr(client, "call", refuse)
    with pytest.raises(UserError, match=r"^cat\.safetensors is a pickle"):
        brought(tmp_path, "Cat.safetensors")
    assert list_adapters() == []


@pytest.mark.parametrize("adapter_id", ["", "..", "file/../sent", "../sent", "/etc/passwd", "a\0"])
def test_an_id_is_never_a_path(adapter_id: str, tmp_path: Path) -> None:
    brought(tmp_path, "a.safetensors")
    with pytest.raises(UserError):
        find_adapter(adapter_id)
