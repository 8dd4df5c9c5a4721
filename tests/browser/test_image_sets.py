"""Image sets in the browser: two people at one caption, and names that want to be programs."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.browser.conftest import NewVisit
from tests.browser.serving import Server

SCRIPT = "<script>window.hacked = 1</script>"
NAME = '<img src=x onerror="window.hacked = 1">.png'


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def payload(name: str, data: bytes) -> FilePayload:
    kind = "image/png" if name.endswith(".png") else "text/plain"
    return {"name": name, "mimeType": kind, "buffer": data}


def upload(page: Page, title: str, files: list[FilePayload]) -> None:
    page.get_by_label("Name of the new image set").fill(title)
    page.locator("#images-upload input[type=file]").set_input_files(files)
    expect(page.locator("#images-remarks")).to_contain_text("Stored")
    expect(page.locator("#images-gallery").get_by_role("img").first).to_be_visible()


def choose(page: Page, number: int) -> None:
    page.locator("#images-gallery").get_by_role("button").nth(number).click()
    expect(caption(page)).to_be_editable()


def caption(page: Page) -> Locator:
    return page.locator("#images-caption").get_by_role("textbox")


def captions_there(server: Server) -> set[str]:
    return {path.read_text().strip() for path in server.datasets.rglob("*.txt")}


def test_a_caption_edited_in_two_tabs(server: Server, visit: NewVisit) -> None:
    """Whoever comes second is told, and chooses; nothing is lost unseen."""
    one, two = visit(), visit()
    page = one.open("Images")
    files = [payload("a.png", picture(1)), payload("a.txt", b"as it was")]
    upload(page, "two tabs", [*files, payload("b.png", picture(2))])
    other = two.open("Images")
    other.locator("#images-set").get_by_role("combobox").click()
    other.get_by_role("option", name="two tabs").click()
    for each in (page, other):
        choose(each, 0)
        expect(caption(each)).to_have_value("as it was")
    caption(page).fill("first")
    expect(page.locator("#images-status")).to_contain_text("Saved")
    caption(other).fill("second")
    expect(other.locator("#images-status")).to_contain_text("Not saved")
    expect(other.locator("#images-theirs")).to_contain_text("first")
    assert {"first", "second"} & captions_there(server) == {"first"}
    other.get_by_role("button", name="Keep mine").click()
    expect(other.locator("#images-status")).to_contain_text("Saved")
    assert {"first", "second"} & captions_there(server) == {"second"}


def test_a_set_is_renamed_and_deleted(server: Server, visit: NewVisit) -> None:
    page = visit().open("Images")
    upload(page, "to be deleted", [payload("a.png", picture(4))])
    manage = page.locator("#images-manage")
    manage.get_by_role("button", name="Rename or delete").click()
    manage.get_by_label("Name").fill("renamed")
    manage.get_by_role("button", name="Rename", exact=True).click()
    expect(page.locator("#images-set").get_by_role("combobox")).to_have_value("renamed")
    manage.get_by_role("button", name="Delete this set …", exact=True).click()
    expect(page.locator("#images-asked")).to_contain_text("Delete renamed")
    page.get_by_role("button", name="Delete it", exact=True).click()
    expect(page.locator("#images-desk")).to_be_hidden()
    expect(page.locator("#images-summary")).to_contain_text("Teach an image model")
    assert not (server.datasets / "to-be-deleted").exists()


def test_the_example_leads_to_train(visit: NewVisit) -> None:
    page = visit().open("Images")
    page.get_by_role("button", name="Try it with the police car").click()
    expect(page.locator("#tab-train")).to_be_visible()
    expect(page.locator("#train-summary")).to_contain_text("learns ohwx car")


def test_names_and_captions_are_text(server: Server, visit: NewVisit) -> None:
    """A file name and a caption with markup are shown as what they are; nothing of them runs."""
    page = visit().open("Images")
    stem = NAME.removesuffix(".png")
    upload(
        page, SCRIPT, [payload(NAME, picture(3)), payload(f"{stem}.txt", f"{SCRIPT} car".encode())]
    )
    choose(page, 0)
    expect(caption(page)).to_have_value(f"{SCRIPT} car")
    page.locator("#images-trigger").get_by_role("textbox").fill("<b>ohwx</b>")
    expect(page.locator("#tab-images")).to_contain_text("onerror")
    for tab in ("Train", "Runs", "Generate", "Adapters"):
        page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.locator(f"#tab-{tab.lower()}")).to_be_visible()
    page.get_by_role("tab", name="Generate", exact=True).click()
    page.get_by_label("Prompt", exact=True).fill(f"{SCRIPT} a car")
    page.reload()
    page.get_by_role("tab", name="Images", exact=True).click()
    expect(page.locator("#images-gallery").get_by_role("img").first).to_be_visible()
    assert page.evaluate("window.hacked") is None
    stored = [path.name for path in server.datasets.rglob("*.png")]
    assert not [name for name in stored if "<" in name or "script" in name]
