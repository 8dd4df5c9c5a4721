"""Captions and masks by models in the browser: looked at, written, undone, and stopped.

One page and one worker serve them all.
"""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import NewVisit
from tests.browser.serving import Server
from tests.browser.test_image_sets import captions_there, choose, payload, picture, upload
from tests.trainer.captioning.fake_server import Fake, serving
from tests.trainer.captioning.test_models import make_blip
from tests.trainer.captioning.test_onnx_models import remover
from tests.trainer.captioning.test_segmenters import MADE

WORKER = 240_000.0
"""Milliseconds until the worker has started."""


def pick(page: Page, field: str, label: str) -> None:
    page.locator(f"#images-{field}").get_by_role("combobox").click()
    page.get_by_role("option", name=label).click()


def propose(page: Page) -> Locator:
    """Asks for captions; gives where the answer will be."""
    page.get_by_role("button", name="Propose captions").click()
    return page.locator("#images-caption-progress")


def write_and_undo(page: Page, server: Server, count: int) -> None:
    """What was proposed is written by one click, and gone by another."""
    before = captions_there(server)
    page.get_by_role("button", name=f"Write {count} caption").click()
    expect(page.locator("#images-undo")).to_contain_text("captions by")
    assert len(captions_there(server) - before) >= 1
    page.locator("#images-undo").click()
    expect(page.locator("#images-undo")).to_be_hidden()
    assert captions_there(server) == before


def test_captions_from_a_server(server: Server, visit: NewVisit) -> None:
    """One that is slow, hangs, is wrong or answers with markup; nothing is written unseen."""
    with serving(Fake("markup")) as fake:
        servers = server.root / "servers"
        servers.write_text(f"[home]\naddress = '{fake.address}'\ntimeout = 600.0\n")
        page = visit().open("Images")
        files = [payload(f"{n}.png", picture(n)) for n in range(3)]
        upload(page, "by a server", [*files, payload("0.txt", b"mine")])
        page.get_by_role("button", name="Captions by a model").click()
        pick(page, "captioner", "Server home")
        progress, proposals = propose(page), page.locator("#images-proposals")
        expect(proposals).to_contain_text("A dog, on a sofa", timeout=WORKER)
        expect(progress).to_contain_text("Nothing is written yet")
        assert captions_there(server) >= {"mine"} and "A dog, on a sofa" not in captions_there(
            server
        )
        write_and_undo(page, server, 2)
        fake.mode, fake.text = "slow", "a slow dog"
        expect(propose(page)).to_contain_text("Captioning")
        fake.gate.set()
        expect(proposals).to_contain_text("a slow dog")
        fake.gate.clear()
        fake.mode = "hang"
        propose(page)
        stop = page.get_by_role("button", name="Stop", exact=True)
        expect(stop).to_be_visible()
        expect(progress).to_contain_text("Captioning")
        stop.click()
        expect(progress).to_contain_text("Stopped")
        servers.write_text(f"[home]\naddress = '{fake.address}'\ntimeout = 1.0\n")
        for mode, words in (
            ("hang", "gave no answer within 1 second"),
            ("html", "answered with a web page"),
            ("empty", "answered without a caption"),
            ("error401", "wants a key"),
        ):
            fake.mode = mode
            expect(propose(page)).to_contain_text(words)
            expect(proposals).not_to_contain_text("dog")


def test_captions_from_a_model_of_this_machine(server: Server, visit: NewVisit) -> None:
    """A tiny random captioner, and the base model on a set that nobody has seen."""
    torch.manual_seed(0)
    make_blip(server.root / "captioners" / "blip")
    page = visit().open("Images")
    upload(page, "by a model", [payload("a.png", picture(7))])
    page.get_by_role("button", name="Captions by a model").click()
    pick(page, "captioner", "Model blip (about 0.0 GiB)")
    expect(propose(page)).to_contain_text("1 caption proposed by blip", timeout=WORKER)
    write_and_undo(page, server, 1)
    pick(page, "captioner", "The base model itself")
    page.locator("#images-class-word textarea").fill("teapot")  # and no wait
    expect(propose(page)).to_contain_text("1 caption proposed by the base model", timeout=WORKER)
    expect(page.locator("#images-proposals")).to_contain_text("a teapot")
    expect(page.locator("#images-proposals img")).to_have_js_property("naturalWidth", 96)
    write_and_undo(page, server, 1)


@pytest.mark.parametrize("kind", ["clipseg", "sam", "u2net.onnx"])
def test_a_subject_is_found(kind: str, server: Server, visit: NewVisit) -> None:
    """By a model of each kind: its memory told, the mask shown, saved, counted, and undone."""
    place = server.root / "maskers" / kind
    torch.manual_seed(2)
    if kind.endswith(".onnx"):
        remover(place)
    else:
        make, size = MADE[kind]
        model = make(place)
        if kind == "clipseg":  # random weights are sure of nothing
            with torch.no_grad():
                model.decoder.transposed_convolution.weight.mul_(3000)
        model.save_pretrained(place)
        (place / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    image = Image.effect_noise((96, 96), 60).convert("RGB")
    image.paste((230, 20, 20), (30, 20, 70, 80))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    page = visit().open("Images")
    upload(page, f"find {kind}", [payload("a.png", stream.getvalue())])
    choose(page, 0)
    page.get_by_role("button", name="Crop, turn, mask").click()
    page.get_by_role("button", name="Paint its mask").click()
    expect(page.locator("#images-mask-editor canvas").first).to_be_visible()
    memory = "2.0" if kind.endswith(".onnx") else "0.0"
    pick(page, "mask-finder", f"Model {kind} (about {memory} GiB)")
    page.get_by_label("What to find").fill("dog")
    page.get_by_role("button", name="Find the subject").click()
    status = page.locator("#images-mask-status")
    expect(status).to_contain_text("of the picture would count", timeout=WORKER)
    page.get_by_role("button", name="Save (S)").click()
    expect(status).to_contain_text("of 0001-a.png counts")
    (file,) = server.datasets.glob(f"find-{kind.partition('.')[0]}*/0001-a.mask.png")
    mask = np.asarray(Image.open(file))
    assert mask.shape == (96, 96) and 0.05 < mask.mean() / 255 < 0.95
    assert kind != "u2net.onnx" or (mask[22:78, 32:68] > 150).all()
    expect(page.locator("#images-summary")).to_contain_text("masks 1 of 1")
    expect(page.locator("#images-facts")).to_contain_text("what its mask leaves out is dark")
    page.locator("#images-undo").click()
    expect(page.locator("#images-summary")).not_to_contain_text("masks 1 of 1")
    assert not file.exists()
