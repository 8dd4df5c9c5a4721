"""Image sets in the browser: two people at one caption, and names that want to be programs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.browser.conftest import NewVisit
from tests.browser.serving import Server
from trainer.config.schema import ImagesConfig
from trainer.data.images import load_rgb
from trainer.data.report import fit_pictures
from trainer.data.sets import scan_image_set

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
    caption(page).fill("")
    expect(page.locator("#images-facts")).to_contain_text("No caption")
    caption(page).fill("first")
    expect(page.locator("#images-status")).to_contain_text("Saved")
    expect(page.locator("#images-facts")).not_to_contain_text("No caption")
    caption(other).fill("second")
    expect(other.locator("#images-status")).to_contain_text("Not saved")
    expect(other.locator("#images-theirs")).to_contain_text("first")
    assert {"first", "second"} & captions_there(server) == {"first"}
    other.get_by_role("button", name="Keep mine").click()
    expect(other.locator("#images-status")).to_contain_text("Saved")
    assert {"first", "second"} & captions_there(server) == {"second"}


def halves() -> bytes:
    """Red on the left, blue on the right, twice as wide as high."""
    image = Image.new("RGB", (192, 96), (200, 0, 0))
    image.paste((0, 0, 200), (96, 0, 192, 96))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("place", [0.95, 0.05])
def test_a_click_chooses_what_is_trained(place: float, server: Server, visit: NewVisit) -> None:
    """From the click to a file beside the caption, and to the pixels that train."""
    page = visit().open("Images")
    title = f"halves {place}"
    upload(page, title, [payload("a.png", halves()), payload("a.txt", b"two halves")])
    choose(page, 0)
    shown = page.locator("#images-large img")
    box = shown.bounding_box()
    assert box is not None
    # It is shown as large as it is, in the middle.
    x = box["width"] / 2 + (place - 0.5) * 192
    shown.click(position={"x": x, "y": box["height"] / 2})
    page.get_by_role("button", name="Crop, turn, mask").click()
    across = page.get_by_label("Middle, from left (%)")
    expect(across).not_to_have_value("50")
    folder = next(server.datasets.glob(f"halves-{str(place).replace('.', '*')}*"))
    entry = scan_image_set(folder).entries[0]
    assert entry.focus is not None and abs(entry.focus[0] - place) < 0.03
    assert [path.suffix for path in sorted(folder.glob("0*"))] == [".focus", ".png", ".txt"]
    images = ImagesConfig.model_validate({"resolution": 64, "buckets": False})
    crop = fit_pictures(scan_image_set(folder), images, 32).fitted[0].crop
    whole = load_rgb(folder / entry.name).resize((crop.resize_width, crop.resize_height))
    trained = whole.crop((crop.left, crop.top, crop.left + 64, crop.top + 64))
    colour = np.asarray(trained).reshape(-1, 3).mean(0)
    assert (colour[2] > 190) == (place > 0.5) and (colour[0] > 190) == (place < 0.5)
    facts = page.locator("#images-facts")
    page.get_by_role("button", name="Turn right").click()
    expect(facts).to_contain_text("turned by 90°")
    focus = scan_image_set(folder).entries[0].focus
    assert focus is not None and focus.turns == 1 and abs(focus.down - place) < 0.03
    page.get_by_role("button", name="Turn left").click()
    expect(facts).not_to_contain_text("turned")
    page.get_by_role("button", name="Crop in the middle").click()
    expect(across).to_have_value("50")
    assert not list(folder.glob("*.focus"))


def test_pictures_are_shown_by_tag(visit: NewVisit) -> None:
    page = visit().open("Images")
    files = [payload(f"{name}.png", picture(seed)) for seed, name in enumerate("abcd", 20)]
    captions = {"a": "car, red", "b": "car, blue", "c": "red", "d": "dog"}
    files += [payload(f"{name}.txt", text.encode()) for name, text in captions.items()]
    upload(page, "by tag", files)
    gallery = page.locator("#images-gallery").get_by_role("button")
    expect(gallery).to_have_count(4)
    page.locator("#images-tag").get_by_role("combobox").click()
    page.get_by_role("option", name="red (2)").click()
    expect(gallery).to_have_count(2)
    choose(page, 1)
    expect(caption(page)).to_have_value("red")
    page.get_by_role("button", name="Next").click()
    expect(caption(page)).to_have_value("car, red")
    page.locator("#images-tag").get_by_role("combobox").click()
    page.get_by_role("option", name="every picture").click()
    expect(gallery).to_have_count(4)


def test_a_set_is_renamed_and_deleted(server: Server, visit: NewVisit) -> None:
    page = visit().open("Images")
    upload(page, "to be deleted", [payload("a.png", picture(4))])
    manage = page.locator("#images-manage")
    manage.get_by_role("button", name="Rename or delete").click()
    manage.get_by_label("Name").fill("renamed")
    manage.get_by_role("button", name="Rename", exact=True).click()
    expect(page.locator("#images-set").get_by_role("combobox")).to_have_value("renamed")
    manage.get_by_role("button", name="Delete this set …", exact=True).click()
    expect(page.locator("#images-asked")).to_contain_text("renamed: delete it")
    page.get_by_role("button", name="Delete it", exact=True).click()
    expect(page.locator("#images-desk")).to_be_hidden()
    expect(page.locator("#images-summary")).to_contain_text("Teach an image model")
    shown = page.locator("#images-summary img")
    expect(shown).to_have_count(4)
    shown.evaluate_all("all => Promise.all(all.map(one => one.decode()))")  # or it throws
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
