"""Clients that watch a run as the page in a browser does: by the timer's own request."""

from __future__ import annotations

import json
import secrets
import threading
import urllib.request
from dataclasses import dataclass, field
from typing import Any

TICK_SECONDS = 1.0


@dataclass
class Watcher(threading.Thread):
    """One open page with the tab Runs, without the browser.

    Attributes:
        rounds: how often it asks; it ends sooner when `leave` is called.
        answers: what it was told, each as one text.
        fault: why it ended early; "" if it did not.
    """

    url: str
    rounds: int
    pause: float = TICK_SECONDS
    answers: list[str] = field(default_factory=list)
    fault: str = ""

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._leave = threading.Event()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        """Asks, as often as was wanted."""
        session = secrets.token_hex(8)
        try:
            timer = timer_event(self.url)
            for _ in range(self.rounds):
                self.answers.append(_ask(self.url, timer, session))
                if self._leave.wait(self.pause):
                    return
        except (OSError, ValueError, KeyError) as error:
            self.fault = f"{type(error).__name__}: {error}"

    def leave(self) -> None:
        """Closes the page."""
        self._leave.set()


def timer_event(url: str) -> int:
    """The number of the event that keeps the tab Runs true: the one that draws most at a tick."""
    with urllib.request.urlopen(f"{url}/config", timeout=120) as answer:
        config: dict[str, Any] = json.load(answer)
    ticking = [
        event
        for event in config["dependencies"]
        if any(trigger == "tick" for _, trigger in event["targets"])
    ]
    return max(ticking, key=lambda event: len(event["outputs"]))["id"]


def _ask(url: str, event: int, session: str) -> str:
    body = {"data": [None, None, None], "fn_index": event, "session_hash": session}
    request = urllib.request.Request(
        f"{url}/gradio_api/run/predict",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Origin": url},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.dumps(json.load(answer)["data"])
