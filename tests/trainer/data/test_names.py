"""Names are shown so that nothing hides in them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.names import NAUGHTY
from trainer.data.names import display_name, list_names, matching_key


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.png", "cat.png"),
        ("Katze Ä 猫 ☃.png", "Katze Ä 猫 ☃.png"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("x\u202egnp.exe", "x\\u202egnp.exe"),
        ("a\\nb", "a\\\\nb"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_invisible_characters_are_made_visible(name: str, shown: str) -> None:
    assert display_name(name) == shown


@pytest.mark.parametrize("name", NAUGHTY)
def test_naughty_names_are_shown_on_one_line(name: str) -> None:
    shown = display_name(name)
    shown.encode("utf-8")
    assert len(shown.splitlines()) == 1
    assert not any(unicodedata.category(character) in ("Cc", "Cf") for character in shown)


@given(st.text(st.characters(), max_size=20), st.text(st.characters(), max_size=20))
def test_different_names_stay_different(first: str, second: str) -> None:
    assert (display_name(first) == display_name(second)) == (first == second)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Cat.PNG", "cat.png", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("CAF\u00c9", "cafe\u0301", True),
        ("cat", "cats", False),
    ],
)
def test_names_are_compared_as_macos_and_windows_do(first: str, second: str, same: bool) -> None:
    assert (matching_key(first) == matching_key(second)) == same


def test_long_lists_are_cut() -> None:
    assert list_names(["a", "b"]) == "a, b"
    assert list_names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
