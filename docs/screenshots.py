"""Makes the pictures of the page and of the README from one run: ``python docs/screenshots.py``.

The page is served on folders of its own, an adapter is trained on the bundled police car, and a
browser visits the five screens, light and dark. ``--run FOLDER`` takes a run that is there already
instead of training one. It needs what the tests need: playwright and Chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gradio_client import Client
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.preview_board import board
from tests.browser.conftest import CHROMIUM
from tests.browser.serving import Server
from tests.browser.visiting import Visit

IMAGES = Path(__file__).resolve().parent / "images"
NAME, TRIGGER, CLASS_WORD = "police-car", "ohwx", "car"
PATIENCE = 900_000  # milliseconds
WIDTH, TALLEST = 1280, 1300  # pixels: what is farther down, nobody looks at in a picture


def main() -> None:
    """Trains, visits and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="Steps of the run (400).")
    parser.add_argument("--run", type=Path, help="Take this finished run; its trigger is ohwx.")
    parser.add_argument("--out", type=Path, default=IMAGES, help="Where the pictures go.")
    options = parser.parse_args()
    expect.set_options(timeout=PATIENCE)
    with tempfile.TemporaryDirectory(prefix="rarebit-screens-") as folder:
        server = Server(Path(folder))
        if options.run:
            shutil.copytree(options.run, server.runs / TRIGGER)
        with server:
            if not options.run:
                train(server, options.steps)
            show_run(server.runs / TRIGGER, options.out)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=CHROMIUM, args=["--no-sandbox"]
                )
                for dark in (False, True):
                    take_all(browser, server, options.out, dark)
                browser.close()


def train(server: Server, steps: int) -> None:
    """A real run, to its end."""
    client = Client(server.url, verbose=False)
    settings = (
        f"training.steps={steps}\npreviews.every={steps // 4}\ncheckpoints.every={steps // 4}"
    )
    client.predict(
        NAME, TRIGGER, CLASS_WORD, settings=f"{settings}\ncheckpoints.keep=4",
        api_name="/start_training",
    )  # fmt: skip
    while (status := server.status(TRIGGER)).phase not in ("finished", "stopped", "failed"):
        print(f"\r{status.phase} {status.step}/{status.total_steps}   ", end="", flush=True)
        time.sleep(2)
    print()
    if status.phase != "finished":
        raise SystemExit(f"the run {status.phase}: {status.message}")


def show_run(run: Path, out: Path) -> None:
    """The previews with the trigger word and without it, and the board drawn at the end."""
    board(run, prompts=2).save(out / "first-run.png", optimize=True)
    shutil.copy(run / "evaluation" / "board.png", out / "bleed-board.png")


def take_all(browser: Browser, server: Server, out: Path, dark: bool) -> None:
    """The five screens in one colour scheme."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": 800},
        device_scale_factor=1,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    visit = Visit(page, server.url)
    page.set_default_timeout(PATIENCE)
    visit.open()
    for tab, prepare in SCREENS.items():
        visit.go(tab)
        prepare(page)
        settle(page)
        path = out / f"ui-{tab.lower()}-{'dark' if dark else 'light'}.png"
        height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
        page.screenshot(
            path=path, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height}
        )
        print(path)
    context.close()
    if visit.faults:
        raise SystemExit("\n".join(visit.faults))


def show_images(page: Page) -> None:
    """The set with a picture chosen, and the verdict on its trigger word."""
    page.locator("#images-set").get_by_role("combobox").click()
    page.get_by_role("option", name=re.compile("police.car")).click()
    gallery = page.locator("#images-gallery")
    expect(gallery.get_by_role("img").first).to_be_visible()
    gallery.get_by_role("button").nth(1).click()
    expect(page.locator("#images-caption").get_by_role("textbox")).to_be_editable()
    page.locator("#images-trigger").get_by_role("textbox").fill(TRIGGER)
    page.locator("#images-class-word").get_by_role("textbox").fill(CLASS_WORD)
    page.keyboard.press("Tab")
    page.wait_for_timeout(2500)  # each of the two words asks for the verdict anew
    expect(page.locator("#images-verdict")).to_contain_text(re.compile("Good|Weak|Taken"))


def show_train(page: Page) -> None:
    """The three choices made, and what will be trained in one sentence."""
    page.locator("#train-images-path").get_by_role("combobox").click()
    page.get_by_role("option", name=NAME, exact=True).click()
    page.locator("#train-captions-trigger").get_by_role("textbox").fill(TRIGGER)
    page.locator("#train-captions-class-word").get_by_role("textbox").fill(CLASS_WORD)
    page.keyboard.press("Tab")
    expect(page.locator("#train-summary")).to_contain_text("What will be trained")
    expect(page.locator("#train-memory")).not_to_contain_text("not predicted yet")


def show_runs(page: Page) -> None:
    """The run with its board of previews."""
    expect(page.locator("#runs-head")).to_contain_text("inished")
    expect(page.locator("#runs-board").get_by_role("img").first).to_be_visible()
    # The folder of this run is gone tomorrow.
    page.evaluate(
        "document.querySelectorAll('code').forEach((code) => {"
        " code.textContent = code.textContent.replace(/\\/\\S*\\/(?=runs\\/)/, ''); })"
    )


def show_generate(page: Page) -> None:
    """Pictures beside those of the base model."""
    page.locator("#generate-adapter-1").get_by_role("combobox").click()
    page.get_by_role("option", name=TRIGGER, exact=True).click()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_have_value(re.compile(TRIGGER))
    prompt.fill(f"{TRIGGER}, 3d emoji of a car, blue background")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#generate-status")).to_contain_text("Done")
    expect(page.locator("#generate-pictures").get_by_role("img")).to_have_count(8)


def show_adapters(page: Page) -> None:
    """What the run's adapter is."""
    page.locator("#adapters-chosen").get_by_role("combobox").click()
    page.get_by_role("option", name=re.compile(TRIGGER)).first.click()
    expect(page.locator("#adapters-facts")).to_contain_text("rank")


SCREENS: dict[str, Callable[[Page], None]] = {
    "Images": show_images,
    "Train": show_train,
    "Runs": show_runs,
    "Generate": show_generate,
    "Adapters": show_adapters,
}


def settle(page: Page) -> None:
    """Every picture is there, nothing is in focus, and nothing moves."""
    page.evaluate("document.activeElement?.blur()")
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.mouse.move(2, 2)
    page.wait_for_function(  # those of the other tabs are not fetched before they are seen
        "[...document.images].every(image => image.complete || !image.offsetParent)"
    )
    page.wait_for_timeout(1500)


if __name__ == "__main__":
    main()
