"""``publish``: what goes out is what was said; the hub here is a server on this machine."""

from __future__ import annotations

import hashlib
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
from trainer.config.file import read_config, with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.events import Ended, to_line
from trainer.runs.layout import RunFolder
from trainer.runs.publishing import publication

TOKEN, SECRET = "hf_secretsecret", "a caption that nobody shall see"
LARGE = 10_000_000  # bytes from which the hub takes a file by LFS


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
    """What was asked of it, and what was committed, by name.

    Args:
        token: the one that may write; "" for any.
    """

    def __init__(self, port: int = 0, token: str = "") -> None:
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, str] = {}
        self.stored: dict[str, bytes] = {}  # large files by their SHA-256
        self.is_private = True
        self.made: dict[str, Any] = {}
        self.token = token
        super().__init__(("127.0.0.1", port), _Answer)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def do_GET(self) -> None:
        self._answer({"id": "me/cat", "private": self.hub.is_private, "tags": []})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.stored[hashlib.sha256(body).hexdigest()] = body
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/create"):
            self.hub.made = json.loads(body)
            self._answer({"url": f"{self.hub.address}/me/cat"})
        elif "/preupload/" in self.path:
            files = [{**one, "uploadMode": "lfs" if one["size"] > LARGE else "regular",
                      "shouldIgnore": False} for one in json.loads(body)["files"]]  # fmt: skip
            self._answer({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [{**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs"}}}
                       for one in json.loads(body)["objects"]]  # fmt: skip
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] in ("file", "lfsFile"):
                    value = part["value"]
                    self.hub.files[value["path"]] = value.get("content") or value["oid"]
            address = f"{self.hub.address}/me/cat/commit/{'0' * 40}"
            self._answer({"commitUrl": address, "commitOid": "0" * 40})
        else:
            self._answer({"errors": [], "warnings": []})

    def _answer(self, value: object) -> None:
        self.hub.asked.append(self.path)
        if self.path != "/lfs":  # whose address is the permission
            self.hub.tokens.add(self.headers.get("Authorization"))
        said, sent = self.headers.get("Authorization"), self.path == "/lfs"
        wrong = bool(self.hub.token) and not sent and said != f"Bearer {self.hub.token}"
        data = json.dumps({"error": "Invalid username or password."} if wrong else value).encode()
        self.send_response(401 if wrong else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # Its other way for large files needs a second server, which is not the hub's.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
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


def test_a_large_adapter_arrives_whole(run: RunFolder, hub: Hub) -> None:
    """The hub takes large files by another way, git LFS, and the commit names them by their sum."""
    save_file({"weight": np.arange(LARGE // 4 + 1, dtype=np.float32)}, run.adapter)
    assert main(["publish", str(run.path), "--to", "me/cat", "--keep-tags"]) == 0
    data = hub.stored[hub.files["my-cat.safetensors"]]
    assert data == run.adapter.read_bytes()
    assert set(hub.stored) == {hub.files["my-cat.safetensors"]}


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


@pytest.mark.parametrize(
    ("tools", "said", "unsaid"),
    [
        (None, "A1111, Forge, ComfyUI or InvokeAI", "Other tools"),
        (
            ("A1111", "Forge", "ComfyUI", "InvokeAI", "sd-scripts", "diffusers"),
            "InvokeAI, and w",
            "Other",
        ),
        (("A1111", "Forge"), "LoRAs of A1111 or Forge, and", "diffusers"),
        (("diffusers",), "In diffusers", "Put my-cat"),
        ((), "Other tools do not load all of it", "LoRAs of"),
    ],
)
def test_the_card_names_tools_that_load_it(
    run: RunFolder, tools: tuple[str, ...] | None, said: str, unsaid: str
) -> None:
    run.events.write_text(to_line(Ended(reason="finished", works_in=tools)) + "\n")
    config = with_values(read_config(run.config), {"base.clip_skip": 2})
    write_config(run.config, with_values(config, {"base.prediction": "v_prediction"}))
    run.embeddings.mkdir()
    (run.embeddings / "zkrv.safetensors").write_bytes(b"vectors")
    one = publication(run)
    card = one.files["README.md"].decode()
    assert said in card and unsaid not in card
    assert "- **Clip skip**: 2" in card and "- **Prediction type**: v_prediction" in card
    assert one.files["embeddings/zkrv.safetensors"] == b"vectors"
    assert any(line.startswith("2 of the pictures") for line in one.says())
    assert any("as embeddings" in line for line in one.says())


@pytest.mark.parametrize("to", ["cat", "me/cat/x", "../cat", "me/ca t"])
def test_what_is_no_name_on_the_hub_is_refused(run: RunFolder, hub: Hub, to: str) -> None:
    assert main(["publish", str(run.path), "--to", to]) == 2
    assert hub.asked == []
