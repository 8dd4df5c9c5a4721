"""A browser's window on the page, with an eye on what must never happen."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, Request, expect

PATIENCE = 240_000  # milliseconds: the machine that runs the tests may be busy
expect.set_options(timeout=PATIENCE)

# What Gradio says of a connection that a reload or the end of the server has cut, and needlessly.
_LEAVING = (
    "No draw texture found for layer",  # of its editor, which loads a layer twice and keeps one
    "Failed to load resource",
    "AbortError: signal is aborted",
    "Connection errored out",
    "TypeError: network error",
    "Unexpected error 404: Not Found",  # of an answer to a page that was reloaded meanwhile
)


class Visit:
    """An open page.

    Attributes:
        faults: errors of the page, and requests to any other host.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.faults.append(f"error in the page: {error}"))
        page.on("console", self._hear)
        page.on("request", self._look)

    def open(self, tab: str = "Images") -> Page:
        """Loads the page and goes to a tab."""
        self.page.goto(self.url)
        self.go(tab)
        return self.page

    def go(self, tab: str) -> None:
        """Goes to a tab."""
        self.page.get_by_role("tab", name=tab, exact=True).click()
        expect(self.page.locator(f"#tab-{tab.lower()}")).to_be_visible()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(text in message.text for text in _LEAVING):
            self.faults.append(f"on the console: {message.text}")

    def _look(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if (
            parts.scheme in ("http", "https", "ws", "wss")
            and parts.netloc != urlsplit(self.url).netloc
        ):
            self.faults.append(f"foreign request: {request.url}")
