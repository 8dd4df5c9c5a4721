"""Chromium, and a server; files of tests share both, as they all run in one process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.serving import Server
from tests.browser.visiting import Visit

NewVisit = Callable[..., Visit]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs them all, one after the other, beside the processes of other tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's browser; nothing is downloaded."""
    assert CHROMIUM, "install Chromium; python launch.py test does so on Debian"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one image set and no run.

    Files whose tests kill it, or count what is in it, have one of their own:
    ``server = pytest.fixture(scope="module")(new_server)``.
    """
    with Server(tmp_path_factory.mktemp("page")) as server:
        yield server


server = pytest.fixture(scope="session")(new_server)


@contextmanager
def visiting(chromium: Browser, server: Server) -> Iterator[NewVisit]:
    """Opens windows; afterwards none may have met an error, or asked another host for anything."""
    visits: list[Visit] = []

    def new(
        width: int = 1280, height: int = 800, language: str = "en-US", touch: bool = False
    ) -> Visit:
        context = chromium.new_context(
            locale=language, viewport={"width": width, "height": height}, accept_downloads=True,
            has_touch=touch, is_mobile=touch,
        )  # fmt: skip
        visits.append(Visit(context.new_page(), server.url))
        return visits[-1]

    yield new
    for one in visits:
        one.page.context.close()
    assert [one.faults for one in visits] == [[] for _ in visits], server.log()[-2000:]


@pytest.fixture
def visit(chromium: Browser, server: Server) -> Iterator[NewVisit]:
    """Opens windows, each as another person's: ``visit()`` or ``visit(width=400)``."""
    with visiting(chromium, server) as new:
        yield new


@pytest.fixture(scope="module")
def window(chromium: Browser, server: Server) -> Iterator[Visit]:
    """An open page that the tests of a file share: to load it takes longest of all."""
    with visiting(chromium, server) as new:
        one = new()
        one.open()
        yield one
