"""What the word lists know."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.triggers.words import WordLists, notes, words_by_ending

NAMES = "emma toyota pikachu ikea naruto zendaya rihanna hermione hetalia beyoncé madrid"
SHORT = "nasa lgbt nsfw ufc bts nba rpg gta bmw html mri cpu fbi lol omg covid"
WORDS = "dog paris photo ephemeral adenocarcinoma ibuprofen axolotl capybara chalamet"
ABBREVIATIONS = "sks dbz mgs bnha rwby fnaf vsco ootd lfc mufc tlou"
NONSENSE = "ohwx zwx qjvk xqz vkplm txcl blorptak"
FOREIGN = "hund perro chien voiture собака 東京 neko inu kawaii"


@pytest.mark.parametrize("word", f"{NAMES} {SHORT} {WORDS} {FOREIGN}".split())
def test_known_words_are_known(lists: WordLists, word: str) -> None:
    assert lists.strength(word) == "strong"
    assert lists.look_up(word.upper()) == lists.look_up(word)


def test_abbreviations_mean_something_and_nonsense_is_unknown(lists: WordLists) -> None:
    assert all(lists.strength(word) for word in ABBREVIATIONS.split())
    assert not any(lists.strength(word) for word in NONSENSE.split())


def test_frequencies_are_those_of_the_lists(lists: WordLists) -> None:
    import wordfreq

    for word in ("dog", "emma", "bnha", "rifle"):
        expected = wordfreq.zipf_frequency(word, "en", "best")
        assert lists.look_up(word).english == pytest.approx(expected, abs=0.05)
    known = lists.look_up("chien")
    assert known.language == "French"
    assert known.other == pytest.approx(wordfreq.zipf_frequency("chien", "fr"), abs=0.05)


def test_the_table_is_cached_and_english_stands_in_for_it(
    lists: WordLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path))
    english = WordLists.at_hand()
    for word in ("Dog", "nasa", "ohwx", ""):
        assert english.look_up(word).english == lists.look_up(word).english
    assert english.look_up("chien").other == 0
    monkeypatch.setattr("trainer.triggers.words._CODES", ["en", "nb"])  # a small one
    told: list[str] = []
    WordLists.open(told.append)
    again = WordLists.open(told.append)
    assert len(told) == 1
    assert len(WordLists.at_hand().hashes) == len(again.hashes) > len(english.hashes)
    found = again.look_up("dog")
    monkeypatch.undo()
    assert found.english == lists.look_up("dog").english


def test_notes_are_sound() -> None:
    assert len(notes()) > 200
    for word, note in notes().items():
        assert word == word.lower() and word.isalpha()
        assert note.strength in ("strong", "some", "faint")
        assert note.meaning and note.meaning == note.meaning.strip()
    assert "rifle" in notes()["sks"].meaning


def test_endings() -> None:
    found = words_by_ending()
    assert "ohwx" not in found and "middle" in found["ddle"]
    assert all(word.endswith("the") and word != "the" for word in found["the"])
    assert max(map(len, found.values())) == 5
