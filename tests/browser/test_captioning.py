"""Captions by a server in the browser: proposed, looked at, written, undone, and stopped."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import NewVisit
from tests.browser.serving import Server
from tests.browser.test_image_sets import captions_there, payload, picture, upload
from tests.trainer.captioning.fake_server import Fake, serving

WORKER = 240_000.0
"""Milliseconds until the worker has started."""


def open_form(page: Page) -> None:
    page.get_by_role("button", name="Captions by a model").click()
    page.locator("#images-captioner").get_by_role("combobox").click()
    page.get_by_role("option", name="Server home").click()


def test_captions_from_a_server(server: Server, visit: NewVisit) -> None:
    """Markup in an answer is gone, that of others is text; nothing is written unseen."""
    with serving(Fake("markup")) as fake:
        (server.root / "servers").write_text(
            f"[home]\naddress = '{fake.address}'\ntimeout = 600.0\n"
        )
        page = visit().open("Images")
        files = [payload(f"{n}.png", picture(n)) for n in range(3)]
        upload(page, "by a server", [*files, payload("0.txt", b"mine")])
        open_form(page)
        page.get_by_role("button", name="Propose captions").click()
        proposals = page.locator("#images-proposals")
        expect(proposals).to_contain_text("A dog, on a sofa", timeout=WORKER)
        expect(page.locator("#images-caption-progress")).to_contain_text("Nothing is written yet")
        assert "A dog, on a sofa" not in captions_there(server)
        page.get_by_role("button", name="Write 2 captions").click()
        expect(page.locator("#images-undo")).to_contain_text("captions by")
        assert {"mine", "A dog, on a sofa"} <= captions_there(server)
        page.locator("#images-undo").click()
        expect(page.locator("#images-undo")).to_be_hidden()
        assert "A dog, on a sofa" not in captions_there(server)
        fake.mode = "hang"
        page.get_by_role("button", name="Propose captions").click()
        stop = page.get_by_role("button", name="Stop", exact=True)
        expect(stop).to_be_visible()
        page.wait_for_timeout(2000)
        stop.click()
        expect(page.locator("#images-caption-progress")).to_contain_text("Stopped", timeout=60_000)
        fake.mode = "error401"
        page.get_by_role("button", name="Propose captions").click()
        expect(page.locator("#images-caption-progress")).to_contain_text(
            "wants a key", timeout=60_000
        )
