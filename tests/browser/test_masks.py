"""Masks painted in the browser: by mouse, touch and keys; read from their files, and undone."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewVisit
from tests.browser.serving import Server
from tests.browser.test_image_sets import choose, payload, upload
from trainer.config.schema import ImagesConfig
from trainer.data.masks import latent_mask
from trainer.data.report import fit_pictures
from trainer.data.sets import scan_image_set


def plain(size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(size, 40).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


Place = tuple[float, float]


def places_of(page: Page, wide: float, *shares: Place) -> list[Place]:
    """Where shares of a picture `wide` times as wide as high lie in the window."""
    canvas = page.locator("#images-mask-editor canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    height = min(box["height"], box["width"] / wide) * 0.9
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    return [
        (middle[0] + (across - 0.5) * height * wide, middle[1] + (down - 0.5) * height)
        for across, down in shares
    ]


def stroke(page: Page, start: Place, end: Place, wide: float) -> None:
    """A line with the brush, between shares of a picture."""
    start, end = places_of(page, wide, start, end)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=6)
    page.mouse.up()


def touch(page: Page, start: Place, end: Place) -> None:
    """A finger goes from one place of the window to another."""
    phone = page.context.new_cdp_session(page)
    way = [
        {
            "x": start[0] + (end[0] - start[0]) * step / 6,
            "y": start[1] + (end[1] - start[1]) * step / 6,
        }
        for step in range(7)
    ]
    for number, point in enumerate(way):
        kind = "touchMove" if number else "touchStart"
        phone.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    phone.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_paints(server: Server, visit: NewVisit) -> None:
    """The page moves under a finger beside the picture, and stands still under one that paints."""
    page = visit(width=420, height=800, touch=True).open("Images")
    upload(page, "by finger", [payload("a.png", plain((192, 128)))])
    choose(page, 0)
    page.get_by_role("button", name="Crop, turn, mask").click()
    page.get_by_role("button", name="Paint its mask").click()
    editor, status = page.locator("#images-mask-editor"), page.locator("#images-mask-status")
    expect(editor.locator("canvas").first).to_be_visible()
    editor.scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    for _ in range(10):  # until the picture is there to be painted on
        touch(page, *places_of(page, 1.5, (0.3, 0.3), (0.7, 0.7)))
        assert page.evaluate("scrollY") == before
        page.get_by_role("button", name="Save (S)").tap()
        page.wait_for_timeout(1000)
        if "counts" in status.inner_text():
            break
        editor.scroll_into_view_if_needed()
        before = page.evaluate("scrollY")
    expect(status).to_contain_text("of 0001-a.png counts")
    (file,) = (server.datasets / "by-finger").glob("*.mask.png")
    mask = np.asarray(Image.open(file)).astype(float)
    rows, columns = (
        mask.sum(axis=axis) @ np.arange(n) / mask.sum() for axis, n in ((1, 128), (0, 192))
    )
    assert abs(rows - 64) < 8 and abs(columns - 96) < 12  # where the finger was
    assert mask[64, 96] > 200 and mask[110, 20] == mask[20, 170] == 0
    before = page.evaluate("scrollY")
    touch(page, (5, 300), (5, 700))
    page.wait_for_function(f"scrollY < {before}")


def test_a_mask_is_painted_saved_and_trained(server: Server, visit: NewVisit) -> None:
    page = visit().open("Images")
    upload(
        page, "to paint", [payload("a.png", plain((192, 128))), payload("b.png", plain((96, 96)))]
    )
    folder = server.datasets / "to-paint"
    choose(page, 0)
    page.get_by_role("button", name="Crop, turn, mask").click()
    page.get_by_role("button", name="Paint its mask").click()
    expect(page.locator("#images-mask-editor canvas").first).to_be_visible()
    expect(page.locator("#images-mask")).to_contain_text("Mask of 0001-a.png")
    status = page.locator("#images-mask-status")
    page.keyboard.press("s")
    expect(page.get_by_text("keep hardly anything")).to_be_visible()
    assert not list(folder.glob("*.mask.png"))
    stroke(page, (0.3, 0.3), (0.7, 0.7), 1.5)
    page.get_by_role("button", name="Rectangle").click()
    expect(status).to_contain_text("of the picture would count")
    page.get_by_role("button", name="Save (S)").click()
    expect(status).to_contain_text("of 0001-a.png counts")
    mask = np.asarray(Image.open(folder / "0001-a.mask.png"))
    assert mask.shape == (128, 192) and mask.dtype == np.uint8
    assert (
        mask[64, 96] == mask[45, 60] == mask[82, 130] == 255 and mask[4, 4] == mask[124, 188] == 0
    )
    rows, columns = (np.flatnonzero((mask > 128).any(axis=axis)) for axis in (1, 0))
    whole = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    assert (mask > 128).sum() == whole
    expect(page.locator("#images-summary")).to_contain_text("masks 1 of 2")
    images = ImagesConfig.model_validate({"resolution": 64, "masks": "files"})
    entry = scan_image_set(folder).entries[0]
    crop = fit_pictures(scan_image_set(folder), images, 32).fitted[0].crop
    trained = latent_mask(entry, images, crop, False, 8)
    assert trained is not None and trained[trained.shape[0] // 2, trained.shape[1] // 2] == 1
    page.keyboard.press("i")
    expect(status).to_contain_text("of the picture would count")
    page.get_by_role("button", name="Next").click()
    expect(status).to_contain_text("0001-a.png is saved as well")
    inverted = np.asarray(Image.open(folder / "0001-a.mask.png"))
    assert inverted[64, 96] == 0 and inverted[4, 4] == 255
    expect(page.locator("#images-mask")).to_contain_text("Mask of 0002-b.png")
    page.locator("#images-undo").click()
    expect(page.get_by_text("Undone: mask of")).to_be_visible()
    assert np.array_equal(np.asarray(Image.open(folder / "0001-a.mask.png")), mask)
