"""The page as a whole: accessible by name and by keyboard, and always at the tab that was left."""

from __future__ import annotations

import json
import re
import shutil
import threading
from importlib import resources
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from safetensors.numpy import save_file

from app.languages import LANGUAGES, catalogue
from app.shared import TABS
from benchmarks.page import first_load
from tests.browser.conftest import NewVisit, new_server
from tests.browser.serving import Server
from tests.browser.visiting import Visit
from tests.trainer.commands.test_publish import Hub
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.evaluation.verdicts import findings
from trainer.events import Meters
from trainer.runs.layout import RunFolder
from trainer.runs.report import write_report
from trainer.runs.status import Status, write_status

server = pytest.fixture(scope="module")(new_server)

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(window: Visit, scheme: Literal["light", "dark"]) -> None:
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    page = window.page
    page.emulate_media(color_scheme=scheme)
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


def test_everything_is_reached_by_keyboard(visit: NewVisit) -> None:
    window = visit()
    page = window.open()
    for tab in TABS.values():
        window.go(tab)
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
            if set(REACHED[tab]) <= seen:
                break
            page.keyboard.press("Tab")
        assert set(REACHED[tab]) <= seen, tab


def test_a_phone_shows_every_screen(window: Visit) -> None:
    page = window.page
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.get_by_role("heading", name="Rarebit")).to_be_visible()
    too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"
    window.go("Images")
    page.locator("#images-set").get_by_role("combobox").click()
    page.get_by_role("option", name="police-car").click()
    expect(page.locator("#images-gallery img")).to_have_count(12)
    for tab in TABS.values():
        window.go(tab)
        assert not page.evaluate(too_wide), tab
        assert page.evaluate(OVERFLOWS, ".grid-container, .checkbox-container, .head") == []
        expect(page.get_by_role("tab")).to_have_count(len(TABS))  # none hides in a menu
    page.set_viewport_size({"width": 1280, "height": 800})


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_speaks_the_browsers_language(visit: NewVisit, language: str) -> None:
    """What is there at first and what the server says later; what is typed stays as it is."""
    words = catalogue(language)
    window = visit(width=390, language=language)
    page = window.page
    page.goto(window.url)
    expect(page.locator("#tab-images-button")).to_have_text(words["Images"])
    expect(page.locator("#images-try")).to_have_text(words["Try it with the police car"])
    expect(page.locator("html")).to_have_attribute("lang", language)
    assert "." not in page.evaluate("() => rarebitSay('For')")  # a label, and no sentence
    alone = "a.txt: No picture beside it has its name, so it is not used. A caption must be named"
    for text in (f"{alone} like its picture.", "1 doubtful, 2 worth knowing: see below"):
        said = page.evaluate(
            "(text) => rarebitSay(text)", text
        )  # together, in the language's signs
        assert not re.search(r"caption|below|[\u4e00-\u9fff] *[,:;.]", said), said
    meters = Meters(0.1, 0.01, 0.01, 0.03, likeness=0.5, likeness_without=0.1, held_out=3)
    for found in findings(meters):  # whole sentences, with what is filled in
        said = page.evaluate("(text) => rarebitSay(text)", found.says)
        assert not re.search(r"\b(it|the|than|draws?|shows|changed)\b", said), said
    title = page.locator("#images-title").get_by_role("textbox")
    title.fill("Images")
    page.locator("#tab-train-button").click()
    expect(page.locator("#train-summary h2")).to_have_text(words["What will be trained"])
    expect(page.locator("#train-length")).to_contain_text(words["Quick · 300 steps"])
    steps = {"de": "1.000 Schritte", "zh": "1,000 步，"}[language]
    expect(page.locator("#train-summary")).to_contain_text(steps)
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"
    assert not page.evaluate(wide)
    page.locator("#tab-images-button").click()
    expect(title).to_have_value("Images")


def test_the_first_load_is_light(server: Server, chromium: Browser) -> None:
    """It was 365 kB in 65 requests, and a busy machine asks a little more before it is at rest; a
    library more that loads at first would be noticed."""
    found = first_load(chromium, server.url)
    assert found["kB"] <= 400
    assert found["requests"] <= 80


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
    page.locator("#train-more button").first.click()
    page.locator("#train-find").get_by_role("textbox").fill("steps")
    page.locator("#train-training-steps input").fill("20")
    expect(page.locator("#train-length input:checked")).to_have_count(0)
    page.locator("#train-training-steps input").fill("1000")
    expect(page.locator("#train-length input:checked")).to_have_value("normal")


def test_several_subjects_are_put_together(visit: NewVisit) -> None:
    """A set's line is added with its words; what was typed of one subject is there again after."""
    page = visit().open("Train")
    page.locator("#train-captions-trigger").get_by_role("textbox").fill("zkrv")
    page.locator("#train-kind label", has_text="Several things").click()
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


def test_a_setting_is_found_by_its_words(window: Visit) -> None:
    page = window.page
    window.go("Train")
    more = page.locator("#train-more > button")
    if "open" not in (more.get_attribute("class") or ""):
        more.click()
    page.locator("#train-find input, #train-find textarea").fill("second encoder RATE")
    expect(page.locator("#train-optimizer-text-encoder-2-learning-rate")).to_be_visible()
    expect(page.locator("#train-optimizer-weight-decay")).to_be_hidden()
    expect(page.locator("#train-section-output")).to_be_hidden()
    page.locator("#train-find input, #train-find textarea").fill("")
    expect(page.locator("#train-optimizer-weight-decay")).to_be_visible()
    expect(page.locator("#train-section-output")).to_be_visible()


def test_the_address_names_the_tab(window: Visit) -> None:
    """Whoever chose it: a click, the page itself, Back, or an address that somebody kept."""
    page = window.page
    window.go("Generate")
    expect(page).to_have_url(f"{window.url}/#generate")
    page.locator("#tab-train-button").evaluate("tab => tab.click()")
    expect(page).to_have_url(f"{window.url}/#train")
    page.go_back()
    expect(page.locator("#tab-generate")).to_be_visible()
    page.evaluate("() => { location.hash = '#runs'; }")
    expect(page.locator("#tab-runs")).to_be_visible()
    page.goto("about:blank")  # else the open page would answer, with the tab that it shows
    page.goto(f"{window.url}/#nowhere")
    expect(page).to_have_url(f"{window.url}/#images")
    window.go("Adapters")
    expect(page).to_have_url(f"{window.url}/#adapters")


def finished_run(server: Server, name: str) -> RunFolder:
    """A run as if it had been trained, with previews of two steps."""
    run = RunFolder(server.runs / name)
    run.adapters.mkdir(parents=True)
    words = {"images.path": "datasets/police-car", "captions.trigger": "ohwx"}
    write_config(run.config, with_values(TrainingConfig(), words))
    write_status(run, Status("finished", 400, 400))
    save_file({"lora_unet_x.alpha": np.ones(1, np.float32)}, run.adapter_at(200))
    shutil.copy(run.adapter_at(200), run.adapter)
    for step in (0, 400):
        run.preview(step).mkdir(parents=True)
        Image.new("RGB", (64, 64), (step // 2, 0, 0)).save(run.preview(step) / "00.png")
        record = {"file": "00.png", "prompt": "ohwx car", "seed": 1}
        (run.preview(step) / "prompts.json").write_text(json.dumps([record]))
    return run


def test_the_next_step_is_one_press_away(server: Server, visit: NewVisit) -> None:
    """A verdict names an earlier checkpoint and a strength: Generate has them after a press."""
    run = finished_run(server, "mine")
    values = {"checkpoint": "adapters/step-000200.safetensors", "strength": 0.6}
    step = {"code": "use", "says": "Use the one of step 200.", "values": values}
    run.evaluation.write_text(json.dumps({"verdict": {"says": "It works.", "next_step": step}}))
    page = visit().open("Runs")
    page.get_by_role("button", name="Generate with it at strength 0.6").click()
    expect(page.locator("#tab-generate")).to_be_visible()
    expect(page.locator("#generate-adapter-1").get_by_role("combobox")).to_have_value(
        "mine-step-200"
    )
    expect(page.locator("#generate-strength-1").get_by_role("spinbutton")).to_have_value("0.6")


def test_publishing_goes_on_after_a_wrong_token(server: Server, visit: NewVisit) -> None:
    """What will be public still stands there beside the refusal; no token stays in the page."""
    finished_run(server, "to publish")
    hub = Hub(server.hub_port, token="hf_right")
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    page = visit().open("Runs")
    page.get_by_role("radio", name="to publish").check()
    expect(page.locator("#runs-head h2")).to_have_text("to publish")
    page.locator("#runs-publish").click()
    contents = page.locator("#runs-contents")
    expect(contents).to_contain_text("Not: the pictures and captions of your image set.")
    page.get_by_label("Name on the Hugging Face hub").fill("me/cat")
    token = page.locator("#runs-token input")
    for given, said in (("hf_wrong", "The hub did not take it"), ("hf_right", "Uploaded")):
        token.fill(given)
        page.locator("#runs-publish-yes").click()
        expect(contents).to_contain_text(said)
        expect(contents).to_contain_text("Not: the pictures and captions of your image set.")
        expect(token).to_have_value("")
    assert {"README.md", "images/1.png"} < set(hub.files)
    assert "hf_" not in page.content() + server.log()
    hub.shutdown()
    hub.server_close()


def test_a_prompt_becomes_a_preview_prompt(window: Visit) -> None:
    page = window.page
    window.go("Generate")
    page.locator("#generate-prompt textarea").fill("ohwx on the moon")
    page.locator("#generate-use-prompt").click()
    expect(page.get_by_text("Previews draw this prompt alone")).to_be_visible()


# What holds the focus, from inside to outside, and whether one sees that it does: by its look or
# that of what is around it. A list that opens with the focus is seen anyway.
FOCUS = """() => {
    const one = document.activeElement, chain = [];
    for (let at = one; at; at = at.parentElement) chain.push(at);
    const look = () => chain.slice(0, 4).map(at => {
        const style = getComputedStyle(at);
        return [style.outline, style.boxShadow, style.borderColor, style.backgroundColor];
    }).flat().join();
    const ids = chain.map(at => at.id).filter(Boolean);
    if (one === document.body || one.getAttribute('role') === 'combobox') return [ids, true];
    const there = look();
    one.blur();
    const away = look();
    one.focus();
    return [ids, there !== away];
}"""


def reach(page: Page, thing: str) -> None:
    """Presses Tab until something within an element has the focus; each stop is seen."""
    for _ in range(120):
        page.keyboard.press("Tab")
        ids, is_seen = page.evaluate(FOCUS)
        assert is_seen, ids
        if thing in ids:
            return
    raise AssertionError(f"{thing} is not reached")


def test_a_walk_by_keyboard_alone(server: Server, visit: NewVisit) -> None:
    """Images, Train, Runs, Generate and Adapters; lists, tabs, pictures and questions by arrows."""
    for name in ("walked", "walked-2"):
        finished_run(server, name)
    page = visit().open()
    press = page.keyboard.press
    reach(page, "images-try")
    press("Enter")
    expect(page.locator("#train-captions-trigger").get_by_role("textbox")).to_have_value("ohwx")
    reach(page, "train-kind")
    press("ArrowDown")
    expect(page.locator("#train-kind input:checked")).to_have_value("subject")
    reach(page, "train-more")
    press("Enter")
    reach(page, "train-find")
    page.keyboard.type("weight decay")
    expect(page.locator("#train-optimizer-weight-decay")).to_be_visible()

    reach(page, "tab-train-button")
    press("ArrowRight")
    reach(page, "runs-list")
    press("ArrowDown")
    chosen = page.locator("#runs-list input:checked")
    expect(page.locator("#runs-head h2")).to_have_text(chosen.input_value())
    reach(page, "runs-delete")
    press("Enter")
    expect(page.locator("#runs-delete-yes")).to_be_visible()
    press("Escape")
    expect(page.locator("#runs-delete-yes")).to_be_hidden()
    assert "runs-delete" in page.evaluate(FOCUS)[0]
    reach(page, "runs-board")
    press("Tab")
    press("Enter")
    caption = page.locator("dialog figcaption")
    expect(caption).to_contain_text("base model")
    press("ArrowRight")
    expect(caption).to_contain_text("step 400")
    press("Escape")
    expect(page.locator("dialog")).to_be_hidden()

    reach(page, "tab-runs-button")
    press("ArrowRight")
    reach(page, "generate-prompt")
    page.keyboard.type("ohwx car")
    adapter = page.locator("#generate-adapter-1").get_by_role("combobox")
    choose_by_arrows(page, "generate-adapter-1")
    expect(adapter).not_to_have_value("no adapter")
    reach(page, "generate-draw")

    reach(page, "tab-generate-button")
    press("End")
    expect(page.locator("#tab-adapters")).to_be_visible()
    choose_by_arrows(page, "adapters-chosen")
    # It was looked at: what stands in for an adapter here has layers that no base model has.
    expect(page.locator("#adapters-made")).to_contain_text("lora_unet_x")

    reach(page, "tab-adapters-button")
    press("Home")
    reach(page, "images-gallery")
    press("End")
    press("ArrowLeft")
    press("Enter")
    expect(page.locator("#images-caption textarea")).to_be_editable()
    expect(page.locator("#images-caption")).to_contain_text("11 of 12")


def choose_by_arrows(page: Page, thing: str) -> None:
    """Opens a list and takes the option below the first."""
    reach(page, thing)
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option").nth(1)).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")


OVERFLOWS = """parts => [...document.querySelectorAll(parts)]
    .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.outerHTML.slice(0, 80))"""


def test_a_report_fits_a_phone_and_prints_uncut(server: Server, chromium: Browser) -> None:
    run = finished_run(server, "reported-" + "W" * 40)
    record = json.loads((run.preview(0) / "prompts.json").read_text())
    for step in range(50, 400, 50):
        shutil.copytree(run.preview(0), run.preview(step))
    text = json.dumps([{**record[0], "prompt": "ohwx car " + "w" * 120}])
    for step in run.preview_steps():
        (run.preview(step) / "prompts.json").write_text(text)
    rows = [
        {"adapter": f"adapters/step-{n:06}.safetensors", "step": n, "likeness": 0.5}
        for n in (200, 400)
    ]
    run.evaluation.write_text(json.dumps({"checkpoints": rows, "verdict": {"says": "It works."}}))
    report = write_report(run)
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    page.goto(report.as_uri())
    assert page.evaluate(OVERFLOWS, "html") == []
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})
    assert page.evaluate(OVERFLOWS, "html, .board, pre, .wide") == []
    page.close()
