"""``publish``: what goes out is what was said; the hub here is a server on this machine."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from trainer.commands.cli import main
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.runs.layout import RunFolder

TOKEN, SECRET = "hf_secretsecret", "a caption that nobody shall see"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "private-folder" / "cat")
    run.path.mkdir(parents=True)
    settings = {
        "captions.trigger": "zkrv", "captions.class_word": "cat", "adapter.rank": 4,
        "images.path": str(tmp_path / "private-folder" / "photos"), "output.name": "my cat",
        "base.name": "some-owner/some-model",
    }  # fmt: skip
    write_config(run.config, with_values(TrainingConfig(), settings))
    metadata = {"ss_tag_frequency": json.dumps({"photos": {SECRET: 3}}), "ss_steps": "9"}
    save_file({"weight": np.arange(12.0, dtype=np.float32)}, run.adapter, metadata)
    folder = run.preview(9)
    folder.mkdir(parents=True)
    prompts = ("a cat", 'zkrv "cat": <b>\n---\nlicense: evil')
    for at, _ in enumerate(prompts):
        Image.new("RGB", (8, 8)).save(folder / f"0{at}.png")
    records = [{"file": f"0{at}.png", "prompt": text} for at, text in enumerate(prompts)]
    (folder / "prompts.json").write_text(json.dumps(records))
    evaluation = {"verdict": {"code": "works", "says": "It works.", "next_step": {
        "says": "Use adapter.safetensors.", "command": f"generate {run.adapter}"}}}  # fmt: skip
    run.evaluation.write_text(json.dumps(evaluation))
    return run


class Hub(ThreadingHTTPServer):
    """What was asked of it, and what was committed, by name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, str] = {}
        self.is_private = True
        self.made: dict[str, Any] = {}
        super().__init__(("127.0.0.1", 0), _Answer)


class _Answer(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def do_GET(self) -> None:
        self._answer({"id": "me/cat", "private": self.hub.is_private, "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/create"):
            self.hub.made = json.loads(body)
            self._answer({"url": f"http://127.0.0.1:{self.hub.server_port}/me/cat"})
        elif "/preupload/" in self.path:
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False}
                     for one in json.loads(body)["files"]]  # fmt: skip
            self._answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.hub.files[part["value"]["path"]] = part["value"]["content"]
            address = f"http://127.0.0.1:{self.hub.server_port}/me/cat/commit/{'0' * 40}"
            self._answer({"commitUrl": address, "commitOid": "0" * 40})
        else:
            self._answer({"errors": [], "warnings": []})

    def _answer(self, value: object) -> None:
        self.hub.asked.append(self.path)
        self.hub.tokens.add(self.headers.get("Authorization"))
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


def test_nothing_is_uploaded_unasked(
    run: RunFolder, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "Nothing was uploaded" in said
    assert "my-cat.safetensors" in said
    assert "zkrv" in said  # the prompts that the card shows
    assert hub.asked == []


@pytest.mark.parametrize("public", [False, True], ids=["private", "public"])
def test_the_hub_gets_what_was_said(
    run: RunFolder, hub: Hub, capsys: pytest.CaptureFixture[str], public: bool
) -> None:
    hub.is_private = not public
    options = ["--public"] if public else []
    assert main(["publish", str(run.path), "--to", "me/cat", *options, "--json"]) == 0
    said = capsys.readouterr()
    assert set(hub.files) == {"README.md", "my-cat.safetensors", "images/1.png", "images/2.png"}
    assert ("private" in hub.made.values() or hub.made.get("private") is True) is not public
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in said.out + said.err
    assert json.loads(said.out)["address"].endswith("/me/cat")


def test_one_that_is_public_already_gets_nothing_private(
    run: RunFolder, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.is_private = False
    assert main(["publish", str(run.path), "--to", "me/cat"]) == 2
    assert "is public: nothing was uploaded" in capsys.readouterr().err
    assert hub.files == {}


@pytest.mark.parametrize("keep", [False, True], ids=["without-tags", "with-tags"])
def test_the_zip_holds_no_caption_and_no_path(run: RunFolder, tmp_path: Path, keep: bool) -> None:
    target = tmp_path / "cat.zip"
    options = ["--keep-tags"] if keep else []
    assert main(["publish", str(run.path), "--zip", str(target), *options]) == 0
    with zipfile.ZipFile(target) as archive:
        archive.extractall(tmp_path / "out")
        everything = b"".join(archive.read(name) for name in archive.namelist())
    assert (SECRET.encode() in everything) is keep
    assert b"private-folder" not in everything
    with safe_open(tmp_path / "out" / "my-cat.safetensors", "np") as adapter:
        assert adapter.get_tensor("weight").tolist() == list(range(12))
        assert adapter.metadata()["ss_steps"] == "9"
    assert main(["publish", str(run.path), "--zip", str(target)]) == 2  # is there already


def test_the_card_says_what_it_is_and_a_prompt_writes_none_of_it(
    run: RunFolder, tmp_path: Path
) -> None:
    assert main(["publish", str(run.path), "--zip", str(tmp_path / "cat.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "cat.zip") as archive:
        card = archive.read("README.md").decode()
    front, _, rest = card.removeprefix("---\n").partition("\n---\n")
    assert 'base_model: "some-owner/some-model"' in front
    assert 'instance_prompt: "zkrv"' in front
    assert "\nlicense:" not in front
    assert "It works. Use my-cat.safetensors." in rest
    assert "- Rank: 4" in rest
    assert "images/1.png" in rest
    assert "<b>" not in rest


@pytest.mark.parametrize("to", ["cat", "me/cat/x", "../cat", "me/ca t"])
def test_what_is_no_name_on_the_hub_is_refused(run: RunFolder, hub: Hub, to: str) -> None:
    assert main(["publish", str(run.path), "--to", to]) == 2
    assert hub.asked == []
