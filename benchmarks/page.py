"""How quick and how heavy the page is: idle, and beside a training on the same processor.

    python -m benchmarks.page

Drives the page in Chromium: the first load, a click on every tab, a choice of an image set and of a
run, each until what it is about stands there; first with nothing at work, then while a run trains
on the built-in base model with the defaults. Says what the page's worker takes as well. What is
printed is written to ``benchmarks/results/page.json``; Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from gradio_client import Client
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.first_command import machine
from tests.browser.conftest import CHROMIUM
from tests.browser.serving import Server
from tests.browser.visiting import PATIENCE
from trainer.places import PROJECT
from trainer.runs.atomic import write_text

RESULT = PROJECT / "benchmarks/results/page.json"
SHORT = "training.steps=2\npreviews.every=0\npreviews.count=1\nevaluation.enabled=false"
LONG = "training.steps=100000\npreviews.every=0\npreviews.count=1\nevaluation.enabled=false"

# What is clicked, and what its content is: an expression that is true once it stands there.
SHOWN = "document.querySelector('{}')?.checkVisibility()"
ACTIONS = {
    "Train": ("#tab-train-button", SHOWN.format("#train-summary h2")),
    "Runs": ("#tab-runs-button", SHOWN.format("#runs-head h2")),
    "run": (
        "#runs-list label:not(:has(:checked)) input",
        "document.querySelector('#runs-head h2').innerText !== window.before",
    ),
    "Generate": ("#tab-generate-button", SHOWN.format("#generate-draw")),
    "Adapters": ("#tab-adapters-button", SHOWN.format("#adapters-chosen input")),
    "Images": ("#tab-images-button", SHOWN.format("#images-gallery img")),
}
# Seconds from a click until its content is drawn; after 60 it counts as lost.
CLICK = """([click, ready]) => new Promise(done => {
    window.before = document.querySelector('#runs-head h2')?.innerText;
    const looks = new Function('return ' + ready);
    const from = performance.now();
    document.querySelector(click).click();
    const seconds = () => (performance.now() - from) / 1000;
    const look = () => looks() || seconds() > 60 ? done(seconds()) : requestAnimationFrame(look);
    requestAnimationFrame(look);
})"""


def main() -> None:
    """Prints and writes what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder)) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        client = Client(server.url, verbose=False)
        for trigger in ("ohwx", "zqvx"):
            _start(server, client, trigger, SHORT, lambda status: status.phase == "finished")
        found: dict[str, Any] = {"machine": machine(), "cores": os.cpu_count()}
        found["first load"] = first_load(browser, server.url)
        found["seconds idle"] = rounds(browser, server.url, options.rounds)
        run = _start(server, client, "vbnm", LONG, lambda status: status.step >= 3)
        found["load while training"] = os.getloadavg()[0]
        found["seconds while training"] = rounds(browser, server.url, options.rounds)
        found["MB of the training"] = megabytes(psutil.Process(server.status(run).pid))
        client.predict(run, api_name="/stop_training")
        _wait(lambda: server.status(run).phase != "training")
        idle, busy = found["seconds idle"], found["seconds while training"]
        found["ratio"] = {name: round(busy[name] / idle[name], 1) for name in idle}
        found["worker"] = worker(server, client)
        browser.close()
    write_text(options.out, f"{json.dumps(found, indent=1)}\n")
    print(json.dumps(found, indent=1))


def first_load(browser: Browser, url: str) -> dict[str, float]:
    """Requests and compressed kB until the page is at rest, and seconds until the first button."""
    page = browser.new_context().new_page()
    network, sizes = page.context.new_cdp_session(page), list[float]()
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    network.send("Network.enable")
    started = time.perf_counter()
    page.goto(url)
    page.locator("#images-try").wait_for(timeout=PATIENCE)
    seconds = time.perf_counter() - started
    page.wait_for_timeout(4000)  # from then on it asks every two seconds what has changed
    page.context.close()
    requests = sum(size > 0 for size in sizes)  # pictures in the page itself are none
    return {"requests": requests, "kB": round(sum(sizes) / 1000), "seconds": round(seconds, 2)}


def rounds(browser: Browser, url: str, count: int) -> dict[str, float]:
    """Median seconds of each action, and of each tab's first visit, which builds it."""
    times: dict[str, list[float]] = {}
    for at in range(count):
        page = browser.new_context(locale="en-US").new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        times.setdefault("choosing a set", []).append(_choose_set(page))
        for turn in range(3):
            for name, (click, ready) in ACTIONS.items():
                page.wait_for_timeout(300)
                key = f"{name}, first visit" if not turn else name
                times.setdefault(key, []).append(page.evaluate(CLICK, [click, ready]))
        page.context.close()
        print(f"round {at + 1}", flush=True)
    return {name: round(median(all_), 3) for name, all_ in times.items()}


def _choose_set(page: Page) -> float:
    page.locator("#images-try").wait_for()
    page.wait_for_timeout(1500)
    page.locator("#images-set").get_by_role("combobox").click()
    page.get_by_role("option", name="police-car").wait_for()
    started = time.perf_counter()
    page.get_by_role("option", name="police-car").click()
    page.locator("#images-gallery img").first.wait_for()
    return time.perf_counter() - started


def worker(server: Server, client: Client) -> dict[str, float]:
    """MB of the process that works for the page, until it is gone."""
    client.predict("police-car", class_word="car", api_name="/suggest_triggers")
    process = _worker_of(server)
    assert process is not None
    found = {"MB after judging words": megabytes(process)}
    client.predict("a car", count=1, steps=4, api_name="/generate")
    found["MB after drawing"] = megabytes(process)
    time.sleep(20)
    found["MB idle"] = megabytes(process)
    started = time.perf_counter()
    _wait(lambda: _worker_of(server) is None)
    found["seconds until it gives all back"] = round(20 + time.perf_counter() - started)
    found["MB of the page"] = megabytes(_page_of(server))
    return found


def _page_of(server: Server) -> psutil.Process:
    return next(one for one in psutil.Process().children() if "app" in one.cmdline()[1:4])


def _worker_of(server: Server) -> psutil.Process | None:
    children = _page_of(server).children()
    alive = [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
    return next((one for one in alive if "service" in one.cmdline()), None)


def megabytes(process: psutil.Process) -> int:
    """Memory that a process would give back if it ended."""
    return round(process.memory_full_info().uss / 1e6)


def _start(server: Server, client: Client, trigger: str, settings: str, is_there: Any) -> str:
    name = client.predict(
        "police-car", trigger, "car", settings=settings, api_name="/start_training"
    )
    _wait(lambda: is_there(server.status(name)))
    return name


def _wait(done: Any, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
