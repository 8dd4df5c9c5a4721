"""Closed by default: who may ask, for what, and where it listens."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.__main__ import main
from app.gate import SlowLoginMiddleware
from app.server import Address, check_address, middleware, sweep_leftovers
from app.tabs.runs.pictures import find_picture, own_pictures, routes, run_files
from tests.app.sets_for_tests import stored
from tests.browser.serving import Server
from tests.trainer.data.folders_for_tests import picture
from trainer import places
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.places import PROJECT
from trainer.runs.atomic import temporary_name
from trainer.runs.layout import create_run


def page_of(address: Address) -> TestClient:
    """Something that changes on POST, behind what every request passes first."""

    def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("done")

    routes = [Route("/", answer, methods=["GET", "POST"])]
    app = Starlette(routes=routes, middleware=middleware(address))
    return TestClient(app, base_url=f"http://127.0.0.1:{address.port}")


def test_the_page_comes_packed_and_scripts_are_kept() -> None:
    """A script's name changes with its content; a refusal is kept by nobody."""

    def answer(request: Request) -> PlainTextResponse:
        missing = request.url.path.endswith("gone.js")
        return PlainTextResponse("word " * 2000, 404 if missing else 200)

    routes = [Route("/", answer), Route("/{path:path}", answer)]
    app = Starlette(routes=routes, middleware=middleware(Address()))
    client = TestClient(app, base_url="http://127.0.0.1:7860")
    assert client.get("/").headers["content-encoding"] == "br"
    kept = {path: client.get(path).headers.get("cache-control", "") for path in
            ("/", "/assets/a-1f.js", "/assets/gone.js", "/pictures/a.png")}  # fmt: skip
    assert {path for path, said in kept.items() if "immutable" in said} == {"/assets/a-1f.js"}


HERE = "http://127.0.0.1:7860"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("POST", {}, 200),  # a script, which sends no origin
        ("POST", {"origin": HERE}, 200),
        ("POST", {"origin": "http://localhost:7860", "host": "localhost:7860"}, 200),
        ("POST", {"origin": "https://evil.example"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": "http://127.0.0.1:8000"}, 403),  # another program on this machine
        ("POST", {"origin": "http://localhost:7860"}, 403),  # and the host another one
        ("GET", {"origin": HERE}, 200),
        ("GET", {"origin": "https://evil.example"}, 403),
        ("GET", {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-site"}, 403),
        ("OPTIONS", {"origin": "https://evil.example"}, 403),
        ("GET", {"host": "evil.example"}, 400),  # DNS rebinding
        ("POST", {"host": "evil.example", "origin": "http://evil.example"}, 400),
        ("GET", {"host": "127.0.0.1.evil.example:7860"}, 400),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ("GET", {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, 403),  # other port
        ("GET", {"sec-fetch-site": "what", "sec-fetch-mode": "cors"}, 403),
        ("HEAD", {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ("GET", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, 200),
        ("GET", {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, 200),
        (
            "GET",
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
             "sec-fetch-dest": "document"},
            200,  # someone followed a link
        ),
        (
            "GET",
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
             "sec-fetch-dest": "iframe"},
            403,
        ),
    ],
)  # fmt: skip
def test_only_our_own_page_may_ask(method: str, headers: dict[str, str], status: int) -> None:
    assert page_of(Address()).request(method, "/", headers=headers).status_code == status


@pytest.mark.parametrize("status", [200, 400, 403, 404])
def test_no_page_may_frame_or_load_an_answer(status: int) -> None:
    headers = {400: {"host": "evil.example"}, 403: {"origin": "null"}}.get(status, {})
    answer = page_of(Address()).get("/" if status != 404 else "/nothing", headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_link_leads_to_the_page_and_to_nothing_in_it() -> None:
    followed = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    assert page_of(Address()).get("/pictures/a/b/c.png", headers=followed).status_code == 403
    assert page_of(Address()).post("/", headers=followed).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.168.1.7:7860", 200),
        ("[fe80::1]:7860", 200),
        ("localhost:7860", 200),
        (f"{socket.gethostname()}:7860", 200),
        (f"{socket.gethostname().partition('.')[0]}.local", 200),
        ("rarebit.example", 200),  # given
        ("RAREBIT.example:443", 200),
        ("evil.example:7860", 400),
        ("192.168.1.7.evil.example", 400),
        ("rarebit.example.evil.example", 400),
        ("rarebit.example@evil.example", 400),
        ("evil.example/192.168.1.7", 400),
        ("[::1].evil.example", 400),
        ("[::1]evil.example:7860", 400),
        ("", 400),
    ],
)
@pytest.mark.parametrize("listening", ["0.0.0.0", "::"])
def test_open_to_the_network_it_answers_to_names_that_are_known(
    listening: str, host: str, status: int
) -> None:
    address = Address(listening, login=("someone", "secret"), names=("rarebit.example",))
    assert page_of(address).get("/", headers={"host": host}).status_code == status


def test_a_forwarded_name_reaches_the_page_only_where_it_is_known() -> None:
    seen: list[str | None] = []

    def answer(request: Request) -> PlainTextResponse:
        seen.append(request.headers.get("x-forwarded-host"))
        assert "x-gradio-server" not in request.headers
        return PlainTextResponse("done")

    ours = middleware(Address(names=("rarebit.example",)))
    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST"])], middleware=ours)
    client = TestClient(app, base_url=HERE)
    for name in ("rarebit.example", "evil.example", 'x"><script>'):
        client.get(
            "/", headers={"x-forwarded-host": name, "x-gradio-server": "http://evil.example"}
        )
    assert seen == ["rarebit.example", None, None]
    proxied = {"x-forwarded-host": "rarebit.example", "origin": "https://rarebit.example"}
    assert client.post("/", headers=proxied).status_code == 200
    assert (
        client.post("/", headers={**proxied, "origin": "https://evil.example"}).status_code == 403
    )


def test_wrong_logins_wait_longer_and_longer() -> None:
    """Whoever knows the password gets in at once; the clock is the test's."""
    now = [0.0]

    async def judge(request: Request) -> PlainTextResponse:
        return PlainTextResponse("", 200 if await request.body() == b"right" else 400)

    slow = Middleware(SlowLoginMiddleware, clock=lambda: now[0])
    app = Starlette(routes=[Route("/login", judge, methods=["POST"])], middleware=[slow])
    stranger, owner = (TestClient(app, client=(host, 1)) for host in ("10.0.0.1", "10.0.0.2"))
    judged = []
    for _ in range(600):  # most of an hour of guesses, every few seconds
        now[0] += 4.32
        answer = stranger.post("/login/"[: 6 + len(judged) % 2], content=b"wrong")
        judged += [now[0]] * (answer.status_code == 400)
        assert answer.status_code == 400 or int(answer.headers["retry-after"]) <= 60
    assert len(judged) < 600 * 4.32 / 60 + 20
    assert stranger.post("/login", content=b"right").status_code == 429
    assert owner.post("/login", content=b"right").status_code == 200
    now[0] += 60
    assert stranger.post("/login", content=b"right").status_code == 200
    assert stranger.post("/login", content=b"wrong").status_code == 400  # counted anew


def test_another_host_needs_a_login_and_then_answers_to_its_name() -> None:
    for host in ("0.0.0.0", "192.168.1.7", "::"):
        with pytest.raises(UserError, match="everyone in the network"):
            check_address(Address(host))
    with pytest.raises(UserError, match="none of this machine's"):
        check_address(Address("203.0.113.9", 7860, ("someone", "secret")))
    named = page_of(Address("box.example", 7860, ("someone", "secret")))
    assert named.get("/", headers={"host": "box.example:7860"}).status_code == 200
    assert named.get("/", headers={"host": "evil.example"}).status_code == 400


def test_an_ipv6_address_stands_in_brackets() -> None:
    page = page_of(Address("::1"))
    for host, status in (("[::1]:7860", 200), ("[::1]", 200), ("[::2]:7860", 400), ("::1", 400)):
        assert page.get("/", headers={"host": host}).status_code == status
    asked = {"host": "[::1]:7860", "origin": "http://[::1]:7860"}
    assert page.post("/", headers=asked).status_code == 200
    assert page.post("/", headers={**asked, "origin": HERE}).status_code == 403


def test_a_taken_port_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: Port {port} is taken") and f"--port {port + 1}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("auth", ["someone", "someone:", ":secret"])
def test_half_a_login_is_refused(auth: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--auth", auth]) == 2
    assert "USER:PASSWORD" in capsys.readouterr().err


# ------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    ("run", "folder", "file", "found"),
    [
        ("ohwx", "step-000010", "00.png", True),
        ("ohwx", "evaluation", "board.png", True),
        ("ohwx", "own", "0.png", True),
        ("ohwx", "own", "4.png", False),
        ("ohwx", "own", "x.png", False),
        ("ohwx", "step-000010", "link.png", False),
        ("ohwx", "step-000010", "../00.png", False),
        ("ohwx", "step-000010", "prompts.json", False),
        ("ohwx", "step-000010", ".png", False),
        ("ohwx", "..", "config.toml", False),
        ("ohwx", ".", "secret.png", False),
        ("ohwx", "step-000020", "00.png", False),
        ("..", "step-000010", "00.png", False),
        ("ohwx\0", "step-000010", "00.png", False),
    ],
)
def test_only_pictures_of_runs_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, folder: str, file: str, found: bool
) -> None:
    monkeypatch.setattr(places, "RUNS", tmp_path)
    made = create_run(tmp_path, "ohwx")
    write_config(made.config, with_values(TrainingConfig(), {"images.path": "datasets/police-car"}))
    previews, evaluation = made.preview(10), made.path / "evaluation"
    for place in (previews, evaluation):
        place.mkdir()
    for path in (previews / "00.png", evaluation / "board.png", made.path / "secret.png"):
        path.write_bytes(b"PNG")
    (previews / "prompts.json").write_text("[]")
    (previews / "link.png").symlink_to(made.path / "config.toml")
    assert (find_picture(run, folder, file) is not None) is found


def test_the_files_of_a_run_are_served_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "RUNS", tmp_path)
    run = create_run(tmp_path, "ohwx")
    write_config(run.config, with_values(TrainingConfig(), {"images.path": "datasets/police-car"}))
    run.report.write_text("<p>a report")
    client = TestClient(Starlette(routes=routes()))
    assert run_files(run) == [("Report", "files/ohwx/report.html")]
    report = client.get("files/ohwx/report.html")
    assert report.text == "<p>a report" and "sandbox" in report.headers["content-security-policy"]
    assert client.get("files/ohwx/adapter.safetensors").status_code == 404
    run.adapter.write_bytes(b"tensors")
    adapter = client.get("files/ohwx/adapter.safetensors")
    assert adapter.content == b"tensors"
    assert 'filename="ohwx.safetensors"' in adapter.headers["content-disposition"]
    for path in ("ohwx/config.toml", "ohwx/..%2Fohwx%2Fconfig.toml", "other/report.html"):
        assert client.get(f"files/{path}").status_code == 404
    assert len(own_pictures(run)) == 4
    picture = client.get(own_pictures(run)[0])
    assert picture.status_code == 200 and picture.content.startswith(b"\x89PNG")


def test_leftovers_of_a_killed_server_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads that were being sorted, sets that were being made, runs that were being deleted."""
    runs, sets, old = tmp_path / "runs", tmp_path / "datasets", time.time() - 4000
    monkeypatch.setattr(places, "RUNS", runs)
    monkeypatch.setattr(places, "DATASETS", sets)
    hidden = stored(tmp_path, {"a.png": picture(1)}).image_set.hidden
    left = [
        temporary_name(runs / "ohwx"),
        temporary_name(sets / "upload"),
        temporary_name(hidden / "added"),
    ]
    kept = [
        runs / "ohwx",
        sets / "mine.tmp",
        hidden / "removed" / "x.0123abcd.tmp",  # for undo
    ]
    for path in [*left, *kept]:
        path.mkdir(parents=True)
        (path / "0001.png").write_bytes(b"x")
        os.utime(path, (old, old))
    young = temporary_name(sets / "upload")
    young.mkdir()
    sweep_leftovers()
    assert not any(path.exists() for path in left)
    assert all((path / "0001.png").exists() for path in kept)
    assert young.is_dir()


# ------------------------------------------------------------------------------ the real one


FORGED = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


def test_the_served_page_gives_nothing_away(tmp_path: Path) -> None:
    """FAULTS 40, against the page as it is started, with a network that answers nothing."""
    secret = PROJECT / "trainer" / "config.py"
    with Server(tmp_path) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        page = client.get("/")
        assert page.status_code == 200 and "fonts.googleapis" not in page.text
        assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
        forwarded = client.get("/", headers={"x-forwarded-host": "evil.example"})
        assert "evil.example" not in forwarded.text
        assert client.get("/config").json()["analytics_enabled"] is False
        refused = [
            client.get(f"/gradio_api/file={secret}"),
            client.get("/gradio_api/file=../../../etc/passwd"),
            client.get("/gradio_api/file=/etc/passwd"),
            client.get("/gradio_api/file=app/server.py"),
            client.get("/pictures/../../etc/passwd"),
            client.get("/pictures/nothing/step-000001/00.png"),
            client.get("/", headers={"host": "evil.example"}),
            client.get("/", headers={"sec-fetch-site": "same-site", "sec-fetch-dest": "iframe"}),
            client.post("/gradio_api/upload", headers={"origin": "https://evil.example"}),
            client.post("/gradio_api/queue/join", headers={"origin": "http://127.0.0.1:1"}),
            client.post("/gradio_api/call/start_training", headers={"origin": "null"}),
            client.get("/gradio_api/file=runs/.queue.json"),
            client.get("/openapi.json"),
            client.get("/docs"),
            client.get("/monitoring"),
        ]
        assert [answer.status_code // 100 for answer in refused] == [4] * len(refused)
        # A private verb is not there for scripts, and forged file data opens nothing.
        info = client.get("/gradio_api/info").json()
        assert {"/start_training", "/stop_training", "/run_status"} <= set(info["named_endpoints"])
        assert info["unnamed_endpoints"] == {}
        forged = client.post("/gradio_api/call/run_status", json={"data": [FORGED]})
        assert "root:" not in forged.text


def test_with_a_login_nothing_is_told_without_it(tmp_path: Path) -> None:
    with (
        Server(tmp_path, "--auth", "someone:secret") as server,
        httpx.Client(base_url=server.url, trust_env=False) as client,
    ):
        for path in ("/config", "/gradio_api/info", "/pictures/a/step-000001/00.png"):
            assert client.get(path).status_code == 401, path
        call = client.post("/gradio_api/call/run_status", json={"data": [""]})
        assert call.status_code == 401
        login = {"username": "someone", "password": "wrong"}
        assert client.post("/login", data=login).status_code == 400
        assert client.post("/login", data=login | {"password": "secret"}).status_code == 200
        assert client.get("/config").status_code == 200
        assert client.get("/pictures/a/step-000001/00.png").status_code == 404
