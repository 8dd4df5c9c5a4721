"""A run belongs to nobody's browser: reloads, other windows and a killed server leave it alone."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from gradio_client import Client
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import NewVisit, new_server
from tests.browser.serving import Server
from tests.browser.watchers import watch
from trainer.config.file import write_config
from trainer.config.schema import TrainingConfig

STEPS = 5000  # far more than any test waits for
SETTINGS = "previews.every=0\npreviews.count=1\npreviews.inference_steps=2\ncheckpoints.every=0"
SETTINGS += f"\ntraining.steps={STEPS}\nadapter.rank=2\ntraining.batch_size=1\nevaluation.every=0"
SETTINGS += "\npreservation.pictures=2"


server = pytest.fixture(scope="module")(new_server)


@pytest.fixture(scope="module")
def run(server: Server) -> Iterator[str]:
    """A long run at work, started by a script."""
    client = Client(server.url, verbose=False)
    name = client.predict(
        "police-car", "ohwx", "car", settings=SETTINGS, api_name="/start_training"
    )
    wait_until(lambda: server.status(name).step >= 2)
    psutil.Process(server.status(name).pid).nice(10)  # all else goes before its thousands of steps
    yield name
    client.predict(name, api_name="/stop_training")
    wait_until(lambda: server.status(name).phase == "stopped")


def wait_until(done: Callable[[], bool], seconds: float = 180.0) -> None:
    """For what happens in run folders; the page's own changes are expected with `expect`."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def shown_step(page: Page) -> int:
    text = page.locator("#runs-head").inner_text()
    match = re.search(r"step ([\d,]+)", text, re.IGNORECASE)
    assert match, text
    return int(match.group(1).replace(",", ""))


def expect_progress(page: Page) -> None:
    """The page shows a step of the run, and then a later one."""
    head = page.locator("#runs-head")
    expect(head).to_contain_text(re.compile(r"step [\d,]+ of 5,000", re.IGNORECASE))
    before = shown_step(page)
    wait_for_later_step = """([before]) => {
        const head = document.querySelector('#runs-head');  // not there while the page reloads
        const found = /step ([0-9,]+)/i.exec(head ? head.innerText : '');
        return found && Number(found[1].replaceAll(',', '')) > before;
    }"""
    page.wait_for_function(wait_for_later_step, arg=[before])


def test_a_reload_in_mid_run_finds_it_again(server: Server, visit: NewVisit, run: str) -> None:
    pid = server.status(run).pid
    window = visit()
    page = window.open("Runs")
    expect_progress(page)
    page.reload()
    window.go("Runs")
    expect_progress(page)
    second = visit().open("Runs")  # and anybody else sees the same
    expect_progress(second)
    assert server.status(run).pid == pid


def test_a_click_is_not_lost_to_an_answer_under_way(
    server: Server, visit: NewVisit, run: str
) -> None:
    """While a run trains, the list is told anew at every tick, for what was chosen before."""
    other = server.run("another run")
    other.path.mkdir()
    write_config(other.config, TrainingConfig())
    page = visit().open("Runs")
    expect(page.locator("#runs-head")).to_contain_text(run)

    def late(route: Route) -> None:
        answer = route.fetch()
        page.wait_for_timeout(1500)
        route.fulfill(response=answer)

    with page.expect_request("**/run/predict"):
        page.route("**/run/predict", late)
    page.get_by_role("radio", name="another run").check()
    expect(page.locator("#runs-head h2")).to_have_text("another run")
    page.wait_for_timeout(3000)
    expect(page.locator("#runs-head h2")).to_have_text("another run")
    page.unroute_all(behavior="ignoreErrors")
    shutil.rmtree(other.path)


def test_of_two_starts_one_is_told(server: Server, visit: NewVisit, run: str) -> None:
    """Two people press Start while another run is at work: nothing starts, and both are told."""
    windows = [visit(), visit()]
    for window in windows:
        page = window.open("Train")
        page.locator("#train-images-path").get_by_role("combobox").click()
        page.get_by_role("option", name="police-car", exact=True).click()
        page.locator("#train-captions-trigger").get_by_role("textbox").fill("ohwx")
    for window in windows:
        window.page.get_by_role("button", name="Start training").click()
    for window in windows:
        expect(window.page.get_by_text("one training at a time")).to_be_visible()
    assert [path.name for path in server.runs.iterdir() if (path / "config.toml").exists()] == [run]


def test_a_drawing_is_done_between_two_steps(server: Server, visit: NewVisit, run: str) -> None:
    page = visit().open("Generate")
    expect(page.locator("#generate-busy")).to_contain_text(f"{run} is training")
    page.get_by_label("Prompt", exact=True).fill("a car")
    before = server.status(run).step
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#generate-status")).to_contain_text("Done")
    wait_until(lambda: server.status(run).step > before)


def test_twenty_watch(server: Server, run: str) -> None:
    """Twenty open pages: each is told the run's steps every time, and the run goes on."""
    pid, before = server.status(run).pid, server.status(run).step
    with ThreadPoolExecutor(20) as pool:
        told = [*pool.map(lambda _: watch(server.url, rounds=5), range(20))]
    assert all(len(answers) == 5 and run in answers[0] for answers in told)
    wait_until(lambda: server.status(run).step > before)
    assert server.status(run).pid == pid
    assert server.status(run).phase == "training"


def test_a_killed_server_finds_its_run_again(server: Server, visit: NewVisit, run: str) -> None:
    pid, before = server.status(run).pid, server.status(run).step
    page = visit().open("Runs")
    expect_progress(page)
    server.kill()
    wait_until(lambda: server.status(run).step > before + 2)  # training does not even notice
    server.start()
    expect_progress(page)  # the page that was open all the time
    expect_progress(visit().open("Runs"))
    assert server.status(run).pid == pid
    assert server.status(run).phase == "training"
