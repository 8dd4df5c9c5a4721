"""The page as a whole: accessible by name and by keyboard, and always at the tab that was left."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from safetensors.numpy import save_file

from app.shared import TABS
from tests.browser.conftest import NewVisit
from tests.browser.serving import Server
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.runs.layout import RunFolder
from trainer.runs.status import Status, write_status

# Serious faults of gradio 6.31's own markup, by rule and a part of the element: an empty gallery.
GRADIOS_OWN = (("aria-prohibited-attr", 'aria-label="Empty value"'),)

# The main things of each screen; each has to be reached with the Tab key alone.
REACHED = {
    "Images": ("images-upload", "images-title", "images-set"),
    "Train": ("train-base-name", "train-images-path", "train-captions-trigger", "train-start"),
    "Runs": ("tabs",),
    "Generate": ("generate-prompt", "generate-adapter-1", "generate-seed", "generate-draw"),
    "Adapters": ("tabs",),
}


def open_everything(page: Page) -> None:
    """Opens what is folded, so that it is judged too."""
    for fold in page.locator(".tabitem:visible button.label-wrap:not(.open)").all():
        if fold.is_visible():
            fold.click()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(visit: NewVisit, dark: bool) -> None:
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    window = visit(dark=dark)
    page = window.open()
    page.evaluate(axe)
    found: list[str] = []
    for tab in TABS.values():
        window.go(tab)
        open_everything(page)
        report: Any = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        for violation in report["violations"]:
            if violation["impact"] not in ("serious", "critical"):
                continue
            for node in violation["nodes"]:
                fault = (violation["id"], node["html"])
                if not any(fault[0] == rule and part in fault[1] for rule, part in GRADIOS_OWN):
                    found.append(f"{tab}: {fault[0]}: {node['target']}: {fault[1][:200]}")
    assert found == []


@pytest.mark.parametrize("tab", TABS.values())
def test_everything_is_reached_by_keyboard(visit: NewVisit, tab: str) -> None:
    window = visit()
    page = window.open(tab)
    page.get_by_role("tab", name=tab, exact=True).focus()
    seen: set[str] = set()
    for _ in range(60):
        ids = page.evaluate(
            """() => {
                const ids = [];
                for (let at = document.activeElement; at; at = at.parentElement) {
                    if (at.id) ids.push(at.id);
                }
                return ids;
            }"""
        )
        seen |= set(ids)
        page.keyboard.press("Tab")
    assert set(REACHED[tab]) <= seen


def test_a_phone_shows_every_screen(visit: NewVisit) -> None:
    window = visit(width=390, height=800)
    page = window.open()
    expect(page.get_by_role("heading", name="Rarebit")).to_be_visible()
    too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"
    for tab in TABS.values():
        window.go(tab)
        assert not page.evaluate(too_wide), tab


# Loses what scripts click, as a page does that is not alive yet: for more than ten seconds, the
# time that a reload once had on a busy machine before it stayed at the first tab.
DROWSY = """let lost = 55;
document.addEventListener('click', event => {
    if (!event.isTrusted && lost-- > 0) event.stopImmediatePropagation();
}, true);"""


def test_a_reload_leads_back_to_the_tab(visit: NewVisit) -> None:
    window = visit()
    page = window.open("Runs")
    page.add_init_script(DROWSY)
    page.reload()
    expect(page.locator("#tab-runs")).to_be_visible()
    expect(page).to_have_url(f"{window.url}/#runs")


def test_what_is_chosen_survives_a_reload_and_is_told_as_it_is(visit: NewVisit) -> None:
    window = visit()
    page = window.open("Train")
    summary = page.locator("#train-summary")
    for length, steps in (("Quick", "300"), ("Thorough", "3,000"), ("Normal", "1,000"),
                          ("Quick", "300")):  # fmt: skip
        page.locator("#train-length label", has_text=length).click()
        expect(summary).to_contain_text(f"{steps} steps of 4")
    page.locator("#train-kind label", has_text="A style").click()
    page.locator("#train-hold label", has_text="Firmly").click()
    for set_by_it in ("Rank32", "Mirror half of the timeon", "Preservation weight8"):
        expect(summary).to_contain_text(set_by_it)
    page.locator("#train-captions-trigger input, #train-captions-trigger textarea").fill("ohwx")
    window.go("Generate")
    before = page.evaluate("() => localStorage['rarebit-generate']")
    page.locator("#generate-prompt textarea").fill("a photo of ohwx")
    page.wait_for_function(
        "([before]) => localStorage['rarebit-generate'] !== before", arg=[before]
    )
    page.reload()
    expect(page.locator("#generate-prompt textarea")).to_have_value("a photo of ohwx")
    window.go("Train")
    expect(summary).to_contain_text("300 steps of 4")
    for question, answer in (("length", "quick"), ("kind", "style"), ("hold", "firm")):
        expect(page.locator(f"#train-{question} input:checked")).to_have_value(answer)


def test_several_subjects_are_put_together(visit: NewVisit) -> None:
    """A set's line is added with its words; what was typed of one subject is there again after."""
    page = visit().open("Train")
    page.locator("#train-captions-trigger").get_by_role("textbox").fill("zkrv")
    page.locator("#train-kind label", has_text="Several of them").click()
    expect(page.locator("#train-one")).to_be_hidden()
    page.locator("#train-one-more").get_by_role("combobox").click()
    page.get_by_role("option", name="police-car", exact=True).click()
    page.get_by_role("button", name="Add it").click()
    lines = page.locator("#train-concepts textarea")
    expect(lines).to_have_value("police-car |  | ")
    expect(page.locator("#train-summary")).to_contain_text("ine 1, trigger: give a rare word")
    lines.fill("police-car | ohwx | car")
    expect(page.locator("#train-summary")).to_contain_text("learns ohwx car from the 12 pictures")
    page.locator("#train-kind label", has_text="A thing").click()
    expect(page.locator("#train-captions-trigger").get_by_role("textbox")).to_have_value("zkrv")


def test_a_setting_is_found_by_its_words(visit: NewVisit) -> None:
    window = visit()
    page = window.open()
    window.go("Train")
    page.locator("#train-more > button").click()
    page.locator("#train-find input, #train-find textarea").fill("second encoder RATE")
    expect(page.locator("#train-optimizer-text-encoder-2-learning-rate")).to_be_visible()
    expect(page.locator("#train-optimizer-weight-decay")).to_be_hidden()
    expect(page.locator("#train-section-output")).to_be_hidden()
    page.locator("#train-find input, #train-find textarea").fill("")
    expect(page.locator("#train-optimizer-weight-decay")).to_be_visible()
    expect(page.locator("#train-section-output")).to_be_visible()


def test_back_goes_to_the_tab_before(visit: NewVisit) -> None:
    window = visit()
    page = window.open("Images")
    window.go("Runs")
    expect(page).to_have_url(f"{window.url}/#runs")
    window.go("Train")
    page.go_back()
    expect(page.locator("#tab-runs")).to_be_visible()
    page.evaluate("() => { location.hash = '#generate'; }")
    expect(page.locator("#tab-generate")).to_be_visible()


def test_the_address_names_the_tab(visit: NewVisit) -> None:
    """Whoever chose it: a click, the page itself, or an address that somebody kept."""
    window = visit()
    page = window.open("Generate")
    expect(page).to_have_url(f"{window.url}/#generate")
    page.locator("#tab-train-button").evaluate("tab => tab.click()")
    expect(page).to_have_url(f"{window.url}/#train")
    page.goto("about:blank")  # else the open page would answer, with the tab that it shows
    page.goto(f"{window.url}/#nowhere")
    expect(page).to_have_url(f"{window.url}/#images")
    window.go("Adapters")
    expect(page).to_have_url(f"{window.url}/#adapters")


def test_the_next_step_is_one_press_away(server: Server, visit: NewVisit) -> None:
    """A verdict names an earlier checkpoint and a strength: Generate has them after a press."""
    run = RunFolder(server.runs / "mine")
    run.adapters.mkdir(parents=True)
    words = {"images.path": "datasets/police-car", "captions.trigger": "ohwx"}
    write_config(run.config, with_values(TrainingConfig(), words))
    write_status(run, Status("finished", 400, 400))
    save_file({"lora_unet_x.alpha": np.ones(1, np.float32)}, run.adapter_at(200))
    shutil.copy(run.adapter_at(200), run.adapter)
    values = {"checkpoint": "adapters/step-000200.safetensors", "strength": 0.6}
    step = {"code": "use", "says": "Use the one of step 200.", "values": values}
    run.evaluation.write_text(json.dumps({"verdict": {"says": "It works.", "next_step": step}}))
    page = visit().open("Runs")
    page.get_by_role("button", name="Use it at strength 0.6").click()
    expect(page.locator("#tab-generate")).to_be_visible()
    expect(page.locator("#generate-adapter-1").get_by_role("combobox")).to_have_value(
        "mine-step-200"
    )
    expect(page.locator("#generate-strength-1").get_by_role("spinbutton")).to_have_value("0.6")
