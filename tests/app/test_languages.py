"""The catalogues of app/words/: whole, nothing left over, and what is filled in stays filled in."""

from __future__ import annotations

import re
from functools import cache

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.languages import LANGUAGES, catalogue, routes
from app.theme import read_head
from tests.app import page_words

_SLOT = re.compile(r"\{\d?!?\}")
words = cache(page_words.words)


def test_german_and_chinese_are_there() -> None:
    assert LANGUAGES == ("de", "zh")
    assert str(list(LANGUAGES)) in read_head()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_of_the_page_has_an_entry(language: str) -> None:
    """`python -m tests.app.page_words` prints those that lack one."""
    assert sorted(words() - {key for key, text in catalogue(language).items() if text}) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_entry_is_left_of_a_word_that_is_gone(language: str) -> None:
    assert sorted(set(catalogue(language)) - words()) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_is_filled_in_as_often_as_the_text(language: str) -> None:
    wrong = [
        key
        for key, text in catalogue(language).items()
        if len(_SLOT.findall(key)) != len(_SLOT.findall(text))
        or re.findall(r"\{[a-z|]+\}", key) != re.findall(r"\{[a-z|]+\}", text)
    ]
    assert wrong == []


def test_the_words_come_by_language_and_nothing_else_does() -> None:
    client = TestClient(Starlette(routes=routes()))
    assert client.get("/words/de.json").json()["Trigger word"] == "Auslösewort"
    for name in ("fr", "de.json%2f..", "..%2ftheme"):
        assert client.get(f"/words/{name}.json").status_code == 404


def test_what_is_cut_from_a_text_is_what_the_browser_cuts() -> None:
    cases = {"; 3 left out ": "3 left out", "Trigger word:": "Trigger word", "Remove …": "Remove …"}
    assert {text: page_words.shorn(text) for text in cases} == cases
