"""Hub ids: the local cache first, safetensors and texts only, and a sentence without a network."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import pytest

from tests.conftest import TinyBase
from trainer.errors import UserError
from trainer.models import hub
from trainer.models.identify import identify
from trainer.models.load import load_base

NAME = "somebody/some-model"
UNET, VAE = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"
CHOSEN = [
    *("model_index.json", "scheduler/scheduler_config.json"),
    *("text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/merges.txt"),
    *("tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json"),
    *("tokenizer/vocab.json", "unet/config.json", f"{UNET}.safetensors"),
    *("vae/config.json", f"{VAE}.fp16.safetensors"),
]
STABLE_DIFFUSION = [
    *(".gitattributes", "README.md", "pipeline.py", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors"),
    *("feature_extractor/preprocessor_config.json", "safety_checker/model.safetensors"),
    *("text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin", "unet/custom.py"),
    *(f"{UNET}.bin", f"{UNET}.non_ema.safetensors", *CHOSEN),
]


def test_only_safetensors_and_texts_are_chosen_once() -> None:
    assert hub.choose_files(STABLE_DIFFUSION) == CHOSEN


def test_shards_belong_together() -> None:
    plain = [f"{UNET}-00001-of-00002.safetensors", f"{UNET}-00002-of-00002.safetensors"]
    plain.append(f"{UNET}.safetensors.index.json")
    half = [f"{UNET}.fp16-00001-of-00001.safetensors", f"{UNET}.safetensors.index.fp16.json"]
    assert hub.choose_files(plain + half) == sorted(plain)
    assert hub.choose_files(half) == sorted(half)


def test_repository_of_pickles_is_refused() -> None:
    with pytest.raises(UserError, match="no safetensors weights"):
        hub.choose_files([name for name in STABLE_DIFFUSION if "safetensors" not in name])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *_: object) -> None:
        pass


@contextmanager
def hub_of(handler: type[Quiet], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block the hub is on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    pattern = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A hub on this machine that answers with the status in the list it gives."""
    status = [404]

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send_response(status[0])
            codes = {404: "RepoNotFound", 403: "GatedRepo"}
            if status[0] in codes:
                self.send_header("X-Error-Code", codes[status[0]])
            self.send_header("Content-Length", "0")
            self.end_headers()

    with hub_of(Handler, monkeypatch):
        yield status


@pytest.fixture
def serving(
    tiny_base: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """A hub on this machine that offers a tiny model, pickles and code; gives what was fetched."""
    folder = Path(shutil.copytree(tiny_base("sd1"), tmp_path / "served"))
    for name in ("unet/diffusion_pytorch_model.bin", "pipeline.py", "whole.safetensors"):
        (folder / name).write_bytes(b"not wanted")
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    fetched: list[str] = []
    commit = "a" * 40

    class Handler(Quiet):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            place = self.path.split("?")[0]
            if "/tree/" in place:
                body = json.dumps([self.described(name) for name in names]).encode()
            elif place.startswith("/api/models/"):
                siblings = [{"rfilename": name} for name in names]
                body = json.dumps({"id": NAME, "sha": commit, "siblings": siblings}).encode()
            else:
                name = place.split(f"/resolve/{commit}/")[1]
                fetched.extend([name] if with_body else [])
                body = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def described(self, name: str) -> dict[str, object]:
            size = (folder / name).stat().st_size
            digest = hashlib.sha1((folder / name).read_bytes()).hexdigest()
            return {"type": "file", "path": name, "size": size, "oid": digest}

    with hub_of(Handler, monkeypatch):
        yield fetched


def test_download_takes_what_is_needed_once(cache: Path, serving: list[str]) -> None:
    assert load_base(NAME).family.name == "sd1"
    assert sorted(set(serving)) == sorted(serving)
    assert f"{UNET}.safetensors" in serving
    assert not {f"{UNET}.bin", "pipeline.py", "whole.safetensors"} & set(serving)
    serving.clear()
    assert load_base(NAME).family.name == "sd1"
    assert serving == []


def refusal() -> UserError:
    with pytest.raises(UserError) as caught:
        identify(NAME)
    assert NAME in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.fixture
def snapshot(cache: Path, tiny_base: TinyBase) -> Path:
    """An earlier download of SDXL."""
    place = cache / "models--somebody--some-model"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    return Path(shutil.copytree(tiny_base("sdxl"), place / "snapshots" / ("0" * 40)))


def test_cached_model_needs_no_network(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "download", None)
    assert identify(NAME).path == snapshot
    assert load_base(NAME).family.name == "sdxl"


def test_half_a_download_is_not_taken_for_the_model(
    snapshot: Path, tiny_base: TinyBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snapshot / "text_encoder_2" / "model.safetensors").unlink()
    monkeypatch.setattr(hub, "download", lambda name: tiny_base("sd1"))
    assert identify(NAME).family.name == "sd1"


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    assert "cannot be reached" in refusal().message


def test_network_that_never_answers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        assert "cannot be reached" in refusal().message


def test_offline_mode_is_respected(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal().message


def test_full_disk_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub.HfApi, "model_info", fail)
    assert "disk is full" in refusal().message


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "no such model"), (403, "accept its conditions"), (400, "refused")],
)
def test_answers_of_the_hub_become_sentences(
    status: int, reason: str, cache: Path, answering: list[int]
) -> None:
    answering[0] = status
    assert reason in refusal().message
