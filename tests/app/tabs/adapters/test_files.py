"""The list of adapters, and files that are dropped in."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import client
from app.files import Upload
from app.tabs.adapters.files import (
    find_adapter,
    list_adapters,
    resize,
    settings_to_train_on,
    take_in,
    together,
    tune,
)
from tests.corpus.names import NAUGHTY
from trainer import places
from trainer.config.file import parse_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(places, "ADAPTERS", tmp_path / "adapters")
    monkeypatch.setattr(client, "call", lambda *_: {})


def brought(tmp_path: Path, name: str) -> str:
    (tmp_path / "sent").write_bytes(b"data")
    return take_in(Upload(tmp_path / "sent", name)).id


def trained(name: str, settings: str = "") -> None:
    """A run of a set called my-cats, and its adapter."""
    run = places.RUNS / name
    run.mkdir(parents=True)
    (run / "config.toml").write_text(f'[images]\npath = "my-cats"\n{settings}')
    (run / "adapter.safetensors").write_bytes(b"x")


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


def test_settings_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that are given count before the run's, and these before the file's."""
    monkeypatch.setattr(places, "DATASETS", tmp_path / "datasets")
    (tmp_path / "datasets" / "cats").mkdir(parents=True)
    trained("own", '[captions]\ntrigger = "zwx"\n[adapter]\nrank = 4\n')
    monkeypatch.setattr(client, "call", lambda *_: {"trigger_words": ["ohwx"]})
    own = find_adapter("own")
    other = find_adapter(brought(tmp_path, "cat.safetensors"))
    rows = {
        (own, "", "", ""): ("my-cats", "zwx", "", "tiny-emoji"),
        (own, "cats", "bnha", "cat"): ("cats", "bnha", "cat", "tiny-emoji"),
        (other, "cats", "", "cat"): ("cats", "ohwx", "cat", "sd15"),
    }
    for (choice, images, trigger, word), expected in rows.items():
        text = settings_to_train_on(choice, images, trigger, word, "sd15")
        config = parse_config(text, "")
        words = config.captions
        assert (config.images.path.name, words.trigger, words.class_word, config.base.name) == (
            expected
        )
        assert config.adapter.start_from == choice.path.resolve()
        assert config.preservation.method == TrainingConfig().preservation.method
    monkeypatch.setattr(client, "call", lambda *_: {"trigger_words": []})
    silent = find_adapter(brought(tmp_path, "dog.safetensors"))
    for choice, images, message in (
        (other, "", "No pictures are chosen"),
        (silent, "cats", "trigger word is not known"),
    ):
        with pytest.raises(UserError, match=message):
            settings_to_train_on(choice, images, "", "", "")


def test_what_a_repair_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are those that were chosen, or those of the run that made the adapter."""
    monkeypatch.setattr(places, "DATASETS", tmp_path / "datasets")
    (tmp_path / "datasets" / "cats").mkdir(parents=True)
    trained("own")
    asked: list[tuple[str, dict[str, object]]] = []

    def call(verb: str, arguments: dict[str, object], timeout: float) -> dict[str, object]:
        asked.append((verb, arguments))
        Path(str(arguments["out"])).write_bytes(b"x")
        return {}

    own, cats = find_adapter("own"), str(tmp_path / "datasets" / "cats")
    monkeypatch.setattr(client, "call", lambda *_: {})
    other = find_adapter(brought(tmp_path, "cat.safetensors"))
    monkeypatch.setattr(client, "call", call)
    made, _ = tune(own, "", " zwx ", "", "style")
    assert made.id == "file/own-style.safetensors"
    tune(other, "cats", "", "", "")
    resize(own, None, 0.9, "", 0.95)
    together(own, "own", "")
    (_, first), (_, second), (_, third), (_, fourth) = asked
    assert (first["trigger"], first["only"]) == ("zwx", "style")
    assert [Path(str(one["images"])).name for one in (first, third)] == ["my-cats", "my-cats"]
    assert (second["images"], second["trigger"], third["keep_likeness"]) == (cats, None, 0.95)
    assert [verb for verb, _ in asked] == [f"adapter.{v}" for v in
        ("tune", "tune", "resize", "together")]  # fmt: skip
    assert len(fourth["images"]) == len(fourth["files"]) == 2  # pyright: ignore
    with pytest.raises(UserError, match="not known here which pictures cat was"):
        together(own, other.id)
