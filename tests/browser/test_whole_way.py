"""The whole way with the built-in model: pictures in, an adapter out, and it works elsewhere."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewVisit
from tests.browser.serving import Server
from trainer.data.images import read_texts
from trainer.places import PROJECT

PICTURES = PROJECT / "datasets" / "police-car"
STEPS = 8


@pytest.mark.timeout(1800)
def test_from_pictures_to_an_adapter(server: Server, visit: NewVisit, tmp_path: Path) -> None:
    window = visit()
    page = window.open("Images")
    trigger = upload_and_choose_a_trigger_word(page)
    name = train(page, trigger)
    assert server.run(name).adapter.is_file()
    draw(page, name, trigger, tmp_path)
    file = tmp_path / "mine.safetensors"
    window.go("Adapters")
    download(page, name, file)
    check_in_diffusers(file, trigger)


def upload_and_choose_a_trigger_word(page: Page) -> str:
    files = sorted(PICTURES.glob("*.png")) + sorted(PICTURES.glob("*.txt"))
    assert len(files) >= 8
    page.get_by_label("Name of the new image set").fill("my car")
    page.locator("#images-upload input[type=file]").set_input_files(files)
    expect(page.locator("#images-remarks")).to_contain_text("Stored")
    bright = re.compile(r"\bprimary\b")  # the next step, once there are words
    expect(page.locator("#images-use")).not_to_have_class(bright)
    page.locator("#images-class-word").get_by_role("textbox").fill("car")
    page.get_by_role("button", name="Suggest trigger words").click()
    first = page.locator("#images-suggestions").get_by_role("radio").first
    expect(first).to_be_visible()
    first.check()
    field = page.locator("#images-trigger").get_by_role("textbox")
    expect(field).not_to_have_value("")
    word = field.input_value()
    expect(page.locator("#images-verdict")).to_contain_text("Good")
    expect(page.locator("#images-use")).to_have_class(bright)
    page.get_by_role("button", name="Train on these").click()
    expect(page.locator("#train-start")).to_have_class(bright)
    return word


def train(page: Page, trigger: str) -> str:
    """Starts a short run from the form, watches its previews, and gives its name."""
    expect(page.locator("#train-captions-trigger").get_by_role("textbox")).to_have_value(trigger)
    # A set has one name, in the list and in what is said of it.
    expect(page.locator("#train-images-path").get_by_role("combobox")).to_have_value("my car")
    expect(page.locator("#train-summary")).to_contain_text("pictures of my car")
    page.get_by_role("radio", name="Quick").check()
    expect(page.locator("#train-summary")).to_contain_text("300 steps")
    page.locator("#train-more > button").click()
    for section, field, value in (
        ("training", "training-steps", STEPS),
        ("previews", "previews-every", STEPS // 2),
        ("previews", "previews-inference-steps", 4),
        ("preservation", "preservation-pictures", 2),
    ):
        number = page.locator(f"#train-{field}").get_by_role("spinbutton").first
        if not number.is_visible():
            page.locator(f"#train-section-{section} > button").click()
        number.fill(str(value))
        number.press("Tab")
    page.locator("#train-section-evaluation > button").click()
    page.get_by_label("Measure effect, leak and collateral").uncheck()  # others measure
    expect(page.locator("#train-summary")).to_contain_text(f"{STEPS} steps")
    page.get_by_role("button", name="Start training").click()
    head = page.locator("#runs-head")
    expect(head).to_contain_text(trigger)
    board = page.locator("#runs-board")
    expect(board.get_by_role("img").first).to_be_visible()  # the base model's, before training
    expect(head).to_contain_text("inished")
    expect(board).to_contain_text(str(STEPS))
    for picture in board.get_by_role("img").all():
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    return trigger


def draw(page: Page, name: str, trigger: str, folder: Path) -> None:
    """Draws with the adapter beside the base model, and gets the settings back from a picture."""
    page.locator("#runs-generate").click()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_have_value(trigger_in := _containing(trigger))
    wanted = prompt.input_value()
    assert trigger_in.search(wanted)
    page.locator("#generate-count").get_by_role("spinbutton").fill("2")
    page.locator("#generate-seed").get_by_role("spinbutton").fill("77")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#generate-status")).to_contain_text("Done")
    expect(page.locator("#generate-pictures").get_by_role("img")).to_have_count(2)
    expect(page.locator("#generate-slider").get_by_role("img").first).to_be_visible()
    picture = page.locator("#generate-pictures").get_by_role("img").first
    data = page.request.get(picture.evaluate("image => image.src")).body()
    file = folder / "drawn.png"
    file.write_bytes(data)
    assert f'"adapters": ["{name}:1"]' in read_texts(file)["rarebit"]

    prompt.fill("something else")
    page.get_by_role("button", name="New seed").click()
    page.get_by_text("More settings").click()
    page.locator("#generate-restore input[type=file]").set_input_files(file)
    expect(page.locator("#generate-status")).to_contain_text("settings of the picture")
    expect(prompt).to_have_value(wanted)
    expect(page.locator("#generate-seed").get_by_role("spinbutton")).to_have_value("77")


def download(page: Page, name: str, file: Path) -> None:
    """Downloads the adapter as a person would."""
    page.locator("#adapters-chosen").get_by_role("combobox").click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#adapters-facts")).to_contain_text(name)
    with page.expect_download() as download:
        page.locator("#adapters-download").click()
    packed = file.with_suffix(".zip")
    download.value.save_as(packed)
    with zipfile.ZipFile(packed) as archive:
        # What A1111 and others show beside the file comes with it.
        assert set(archive.namelist()) >= {f"{name}.safetensors", f"{name}.json"}
        file.write_bytes(archive.read(f"{name}.safetensors"))


def check_in_diffusers(file: Path, trigger: str) -> None:
    """diffusers alone, without any of our code, draws something else with the file."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        PROJECT / "models" / "tiny-emoji", safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)

    def pixels() -> np.ndarray:
        result = pipeline(
            f"{trigger} car",
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(1),
            output_type="pil",
        )
        picture: Image.Image = result.images[0]  # type: ignore[union-attr]
        return np.asarray(picture).astype(int)

    before = pixels()
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    assert np.abs(pixels() - before).max() > 2


def _containing(word: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(word)}\b")
