"""Pipes, sockets and devices in the place of files: one sentence, and no waiting."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images
from trainer.commands.cli import main
from trainer.data.sets import scan_image_set
from trainer.errors import UserError
from trainer.evaluation.pictorial import find_scorers
from trainer.models.identify import identify
from trainer.plain_files import MOST_FILES, check_model_folder, open_file


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # its whole path may be too long for a socket
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


ODD: dict[str, Callable[[Path], None]] = {
    "pipe": fifo,
    "socket": unix_socket,
    "endless": link_to("/dev/zero"),
    "terminal": link_to("/dev/tty"),
    "random": link_to("/dev/urandom"),
}


@pytest.mark.parametrize("kind", ODD)
def test_only_ordinary_files_are_opened(tmp_path: Path, kind: str) -> None:
    odd, file, link = tmp_path / "odd", tmp_path / "file", tmp_path / "link"
    ODD[kind](odd)
    file.write_bytes(b"text")
    link.symlink_to(file)
    with pytest.raises(OSError, match="pipe, socket or device"):
        open_file(odd)
    with pytest.raises(IsADirectoryError):
        open_file(tmp_path)
    with open_file(link) as opened:
        assert opened.read() == b"text"


@pytest.mark.parametrize("kind", ODD)
def test_a_configuration(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    ODD[kind](tmp_path / "a.toml")
    assert main(["train", "--config", str(tmp_path / "a.toml")]) == 2
    said = capsys.readouterr().err
    assert "pipe, socket or device" in said and said.count("error: ") == 1


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    "place",
    [
        *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
        *("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json"),
        *("scheduler/scheduler_config.json", "vae/config.json", "text_encoder/config.json"),
    ],
)
def test_a_file_of_a_base_model(tiny_base: TinyBase, tmp_path: Path, kind: str, place: str) -> None:
    folder = Path(shutil.copytree(tiny_base("sd1"), tmp_path / "base"))
    (folder / place).unlink(missing_ok=True)
    ODD[kind](folder / place)
    with pytest.raises(UserError, match="pipe, socket or device") as refused:
        identify(str(folder))
    assert str(folder / place) in refused.value.message


@pytest.mark.parametrize("kind", ODD)
def test_an_adapter_or_a_base_model_in_one_file(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    ODD[kind](path)
    for arguments in (["adapter", "inspect", str(path)], ["trigger", "x", "--base", str(path)]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.parametrize("kind", ODD)
def test_captions_masks_and_tables_of_a_set(tmp_path: Path, kind: str) -> None:
    images = make_images(tmp_path / "images", count=3)
    names = ("0.txt", "metadata.jsonl", "metadata.csv", "a.parquet", "odd.png", "0-masklabel.png")
    for name in names:
        (images / name).unlink(missing_ok=True)
        ODD[kind](images / name)
    found = scan_image_set(images)
    assert len(found.entries) == 3
    said = " ".join(map(str, found.findings))
    assert all(name in said for name in names) or "pipe, socket or device" in said


def test_a_scorer(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    os.mkfifo(tmp_path / "clip" / "preprocessor_config.json")
    with pytest.raises(UserError, match="pipe, socket or device"):
        find_scorers(tmp_path)


def test_a_whole_disk_or_an_endless_vocabulary_is_no_model(tmp_path: Path) -> None:
    with (tmp_path / "vocab.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match="no part of a model"):
        check_model_folder(tmp_path)
    (tmp_path / "vocab.json").rename(tmp_path / "model.safetensors")
    check_model_folder(tmp_path)
    for number in range(MOST_FILES):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(UserError, match="no model's folder"):
        check_model_folder(tmp_path)
