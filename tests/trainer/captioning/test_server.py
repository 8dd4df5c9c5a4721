"""Captions from a server: what is sent, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.captioning.fake_server import Fake, serving
from tests.trainer.data.folders_for_tests import picture, put
from trainer.captioning.server import (
    Server,
    ServerCaptioner,
    answer_in,
    owner_servers,
    server_of,
)
from trainer.captioning.sets import caption_set
from trainer.captioning.wording import Wording
from trainer.data.findings import ImageProblem
from trainer.errors import UserError

pytestmark = pytest.mark.fast
PICTURE = Image.new("RGB", (3000, 1000), "red")


def ask(fake: Fake, **options: object) -> str:
    server = Server(address=fake.address, timeout=options.pop("timeout", 5.0), **options)  # type: ignore[arg-type]
    return ServerCaptioner(server).caption("a.png", PICTURE, Wording(class_word="dog"))


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which is not used
    with serving(Fake()) as fake:
        answer = ask(fake, model="llava", key="secret", side=300)
    assert answer == "a dog on a sofa"
    (request,) = fake.requests
    assert request["path"] == "/v1/chat/completions" and request["model"] == "llava"
    assert "“dog”" in request["messages"][0]["content"][0]["text"]
    assert fake.sizes == [(300, 100)] and fake.keys == ["Bearer secret"]


@pytest.mark.parametrize("address", ["HOST", "HOST/", "HOST/v1", "HOST/v1/chat/completions"])
def test_addresses_as_people_write_them(address: str) -> None:
    server = Server(address=address.replace("HOST", "http://127.0.0.1:1234"))
    assert server.url == "http://127.0.0.1:1234/v1/chat/completions"


@pytest.mark.parametrize(
    "address",
    ["ftp://a", "file:///etc/passwd", "http://", "http://a:b@c", "http://a?x=1", "http://a:99999"],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UserError, match="not a server's address"):
        _ = Server(address=address).url


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("empty", ImageProblem, "without a caption"),
        ("html", ImageProblem, "a web page"),
        ("error400", ImageProblem, "refused this picture \\(400: no <b>vision</b> here\\)"),
        ("error500", ImageProblem, "refused this picture"),
        ("error401", UserError, "wants a key"),
        ("error404", UserError, "has no llava"),
        ("redirect", UserError, "another address"),
        ("hang", ImageProblem, "no answer within"),
        ("trickle", ImageProblem, "no answer within"),
        ("cut", ImageProblem, "broke off"),
        ("huge", ImageProblem, "no JSON"),
    ],
)
def test_what_goes_wrong_is_said(mode: str, kind: type[Exception], words: str) -> None:
    with serving(Fake(mode)) as fake, pytest.raises(kind, match=words):
        ask(fake, model="llava", timeout=0.3 if mode in ("hang", "trickle") else 5.0)


def test_nobody_there() -> None:
    with serving(Fake()) as fake:
        pass
    with pytest.raises(UserError, match="There is no server at"):
        ask(fake)


@pytest.mark.parametrize("mode", ["markup", "list", "good"])
def test_a_set(mode: str, tmp_path: Path) -> None:
    """Several at a time; what has a caption is left alone; markup is gone."""
    put(tmp_path, {f"{n}.png": picture(n) for n in range(6)} | {"0.txt": "mine"})
    with serving(Fake(mode)) as fake:
        server = Server(address=fake.address, parallel=3)
        found = caption_set(tmp_path, lambda: ServerCaptioner(server), Wording())
    assert found.kept == 1 and len(fake.requests) == 5
    said = {one.picture: one.after.lower().replace(", on", " on") for one in found.proposals}
    assert said == {f"{n}.png": "a dog on a sofa" for n in range(1, 6)}
    assert found.report.common == {"dog": 5, "sofa": 5}


@pytest.mark.parametrize(
    "answer",
    ["I'm sorry, but I can't assist with that.", "I cannot see the image.", '{"error": "x"}'],
)
def test_a_refusal_is_no_caption(answer: str, tmp_path: Path) -> None:
    put(tmp_path, {"a.png": picture(1)})
    with serving(Fake(text=answer)) as fake:
        server = Server(address=fake.address)
        found = caption_set(tmp_path, lambda: ServerCaptioner(server), Wording())
    assert not found.proposals and "That is no caption" in found.problems["a.png"]


@pytest.mark.parametrize(
    ("text", "caption"), [("a car, on a wet road. It", "a car, on a wet road"), ("a car on a", "")]
)
def test_half_a_sentence_is_no_caption(text: str, caption: str) -> None:
    choice = {"message": {"content": text}, "finish_reason": "length"}
    answer = json.dumps({"choices": [choice]}).encode()
    if caption:
        assert answer_in(answer, "here") == caption
    else:
        with pytest.raises(ImageProblem, match="broke off its caption"):
            answer_in(answer, "here")


def test_requests_run_at_the_same_time(tmp_path: Path) -> None:
    put(tmp_path, {f"{n}.png": picture(n) for n in range(6)})
    with serving(Fake("slow")) as fake:

        def progress(*_: object) -> None:
            if fake.now == 3:
                fake.gate.set()

        server = Server(address=fake.address, parallel=3)
        found = caption_set(tmp_path, lambda: ServerCaptioner(server), Wording(), progress=progress)
    assert fake.at_once == 3 and len(found.proposals) == 6


def test_the_same_fault_again_and_again_ends_the_work(tmp_path: Path) -> None:
    put(tmp_path, {f"{n}.png": picture(n) for n in range(9)})
    with serving(Fake("error500")) as fake:
        server = Server(address=fake.address, parallel=1)
        with pytest.raises(UserError, match="refused this picture"):
            caption_set(tmp_path, lambda: ServerCaptioner(server), Wording())
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nmodel = 'x'", "does not describe a server"),
        ("[a]\naddress = 'file:///x'", "not a server's address"),
        ("[a]\naddress = 'http://b'\ntimeout = 'soon'", "does not describe a server"),
        ("[a]\naddress = 'http://b'\nport = 3", "does not describe a server"),
        ("a = 3", "does not describe a server"),
        ("[a", "cannot be read"),
    ],
)
def test_a_wrong_list_of_servers(text: str, message: str, tmp_path: Path) -> None:
    file = put(tmp_path, {"servers.toml": text}) / "servers.toml"
    with pytest.raises(UserError, match=message):
        owner_servers(file)


def test_the_owners_list(tmp_path: Path) -> None:
    text = "[home]\naddress = 'http://127.0.0.1:11434/v1'\nmodel = 'llava'\nkey = 'secret'\n"
    servers = owner_servers(put(tmp_path, {"servers.toml": text}) / "servers.toml")
    assert servers["home"].model == "llava" and "secret" not in repr(servers)
    assert owner_servers(tmp_path / "none.toml") == {}


def test_options_out_of_range() -> None:
    with pytest.raises(UserError, match="--parallel 99"):
        server_of("http://a", "", 99, 1.0)
