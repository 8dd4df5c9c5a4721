"""app/language.js says each text whole: by its own entry, and what several modules put together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route

from app.forms import field_names, form_values
from app.languages import LANGUAGES, catalogue
from app.render import render
from app.tabs.generate.grid import GridPlan
from app.tabs.images.layout import html
from app.tabs.train.outlook import describe_memory, look, summary
from app.theme import read_head
from trainer.config.file import with_values
from trainer.config.presets import PRESETS
from trainer.config.schema import TrainingConfig
from trainer.text import duration

ENGLISH = re.compile(
    r"(?i)\b(?:the|of|is|are|has|and|or|with|from|for|more|kept|given|expected|taken|about|seen|"
    r"steps|pictures?|each|this|that|it|by|no|not|to|at)\b"
)
SLOT = re.compile(r"\{(\d?)!?\}")
POLICE_CAR = {"images.path": "datasets/police-car", "captions.trigger": "ohwx"}


@pytest.fixture(scope="module", params=LANGUAGES)
def page(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[Page]:
    """An empty page that speaks a language; its `lang` says which."""

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path == "/":
            route.fulfill(body=f"<html><head>{read_head()}</head><body></body></html>",
                          content_type="text/html; charset=utf-8")  # fmt: skip
        else:
            route.fulfill(body=json.dumps(catalogue(request.param)))

    context = chromium.new_context(locale=request.param)
    page = context.new_page()
    page.route("**/*", answer)
    page.goto("http://rarebit.test/")
    page.wait_for_function("document.documentElement.lang !== ''")
    yield page
    context.close()


def bare(text: str) -> str:
    """Without spaces, and with the plain signs in place of those of a language."""
    signs = str.maketrans("，：；？！。（）", ",:;?!.()")
    return re.sub(r"\s", "", text).translate(signs)


def filled(text: str, slots: Sequence[str]) -> str:
    rest = iter(slots)
    return SLOT.sub(lambda match: slots[int(match[1]) - 1] if match[1] else next(rest), text)


@pytest.mark.parametrize("filling", ["{}", "q{} z"])
def test_each_text_is_said_by_its_own_entry(page: Page, filling: str) -> None:
    """Also where a shorter entry, or a part of the text, would fit as well."""
    asked: dict[str, str] = {}
    for key, text in catalogue(page.evaluate("document.documentElement.lang")).items():
        takes_numbers = re.fullmatch(r"[\s\d]*[^\W\d_]*[\s.]*", key.replace("{}", " "))
        if filling == "{}" or "{}" not in key or not takes_numbers:
            slots = [filling.format(41 + n) for n in range(key.count("{}"))]
            asked[filled(key, slots)] = filled(text, slots)
    said = page.evaluate("texts => texts.map(rarebitSay)", list(asked))
    pairs = zip(asked.items(), said, strict=True)
    wrong = [(text, one) for (text, expected), one in pairs if bare(one) != bare(expected)]
    assert wrong == []


def shown(page: Page, markup: Sequence[str]) -> list[str]:
    """What the page makes of some HTML, each without the names in it."""
    page.evaluate(
        """async texts => {
            document.body.innerHTML = texts.map(text => `<section>${text}</section>`).join('');
            await new Promise(requestAnimationFrame);
        }""",
        list(markup),
    )
    return page.evaluate(
        """() => [...document.querySelectorAll('section')].map(one => {
            const copy = one.cloneNode(true);
            for (const name of copy.querySelectorAll('mark, code, .whole b')) name.remove();
            return copy.textContent;
        })"""
    )


def trained(values: dict[str, Any]) -> str:
    return summary(with_values(TrainingConfig(), POLICE_CAR | values), {})


def wrong(name: str, value: object) -> str:
    shown: list[Any] = [*form_values(TrainingConfig())]
    shown[field_names().index(name)] = value
    return summary(*look(shown, complete=False))


def memory(fits: bool, source: str) -> str:
    found = {"peak_gib": 9.5, "vram_gib": 11.0, "vram_source": source, "fits": fits}
    return describe_memory(found | {"plan_fits": True, "plan": {"training.batch_size": 1}})


def judged(word: str, verdict: str, *reasons: str) -> str:
    about: dict[str, Any] = {"pieces": [{"text": "pe"}], "reads_like": ["bird"], "known_as": ""}
    return html("verdict", about | {"word": word, "verdict": verdict, "reasons": reasons})


PUT_TOGETHER: dict[str, Callable[[], str]] = {
    "training": lambda: trained({}),
    "on pictures kept out by nobody": lambda: trained({"evaluation.enabled": False}),
    "of the UNet": lambda: trained({"adapter.text_encoder": False, "training.steps": 12345}),
    "too few steps": lambda: wrong("training.steps", -3),
    "no rate": lambda: wrong("optimizer.learning_rate", None),
    "no number": lambda: wrong("adapter.rank", "many"),
    "memory": lambda: "".join(memory(fits, source) for fits in (True, False)
                              for source in ("", "the GPU of this machine")),
    "deleted set": lambda: html("delete_question", "q"),
    "deleted run": lambda: render("runs.html", "question", "q", "its log"),
    "grid": lambda: GridPlan((("a", "a"),), (0.5, 1.0), ("ohwx",)).arithmetic(),
    "good word": lambda: judged("ohwx", "good", "It is 2 pieces (oh | wx)."),
    "taken word": lambda: judged(
        "style", "taken", "It is a word, name or abbreviation in Serbo-Croatian texts, about 3 "
        "times in a million words.", "It is 5 pieces (a | b | c | d | e); up to 3 bind well to a "
        "subject.",
    ),
    "warning": lambda: "peacock: The trigger word 'peacock' is taken. It stands in 3 of 4 captions "
    "already. Images suggests others, and so does the command trigger.",
    "long list": lambda: "1.jpg, 2.jpg, 3.jpg and 8 more",
    "dropped text": lambda: "notes.txt: No picture beside it has its name, so it is not used. A "
    "caption must be named like its picture.",
    "tools": lambda: "It works in A1111, Forge; not in diffusers (refuses bundled embeddings).",
    "no tool": lambda: "It works in none of the usual tools; only in part in A1111 (the PEFT "
    "layout).",
    "longer": lambda: "adapter.rank changed from 8 to 16",
}  # fmt: skip


def test_nothing_english_is_left_of_what_is_put_together(page: Page) -> None:
    texts = {name: make() for name, make in PUT_TOGETHER.items()}
    texts |= {f"{name}: {one.reason}": f"{name}: {one.reason}" for name, one in PRESETS.items()}
    texts |= {f"{s} s": f"about {duration(s, rough=True)}" for s in (5, 48, 320, 7500, 90000)}
    said = shown(page, list(texts.values()))
    left = {name: text for name, text in zip(texts, said, strict=True) if ENGLISH.search(text)}
    assert left == {}


def test_a_sentence_with_names_in_it_is_said_as_one(page: Page) -> None:
    """The names stay as they are and move to where the language has them."""
    (said,) = shown(page, [trained({"captions.trigger": "of the"})])
    assert "of the" in page.locator(".whole b").all_inner_texts()
    assert not ENGLISH.search(said)
