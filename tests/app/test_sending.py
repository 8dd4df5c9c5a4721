"""What gradio sends: packed, kept, and quick to find a component in."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from app import sending
from app.page import build_page


@pytest.fixture(scope="module")
def client() -> TestClient:
    light = [Middleware(sending.LightMiddleware)]
    return TestClient(Starlette(routes=sending.routes(), middleware=light))


def test_gradios_script_looks_components_up(client: TestClient) -> None:
    """Gradio 6.31 searches all of them for each: most of what a browser did at a choice."""
    (core,) = sending._assets().glob("core-*.js")
    answer = client.get(f"/assets/{core.name}")
    assert sending._SEARCH.search(core.read_text("utf-8"))
    assert not sending._SEARCH.search(answer.text)
    assert "new WeakMap;function" in answer.text
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize("packing", ["br", "gzip", ""])
def test_a_script_is_packed_once_as_the_browser_wants_it(client: TestClient, packing: str) -> None:
    (core,) = sending._assets().glob("core-*.js")
    answer = client.get(f"/assets/{core.name}", headers={"accept-encoding": packing})
    assert answer.headers.get("content-encoding", "") == packing
    assert answer.text == sending.quick_core()


def test_no_event_tells_components_that_it_shows_no_progress() -> None:
    """Each output would be told three times an event: of a form of 115 fields, at every tick."""
    config: dict[str, Any] = {**build_page().get_config_file()}
    told = [
        one["id"]
        for one in config["dependencies"]
        if one["show_progress"] == "hidden" and one["targets"] and one["show_progress_on"] != []
    ]
    assert told == []
