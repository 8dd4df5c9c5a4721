"""The base model as a classifier: what the built-in one sees in pictures of the bundled sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from trainer.captioning import base as base_captions
from trainer.captioning.base import BaseCaptioner
from trainer.captioning.candidates import class_candidates
from trainer.captioning.classifier import FILL, BaseClassifier, Seen, subject_of, sure_of
from trainer.captioning.sets import caption_set
from trainer.captioning.wording import Wording
from trainer.errors import UserError
from trainer.places import PROJECT


@pytest.fixture(scope="module")
def captioner() -> BaseCaptioner:
    """The built-in base, with few words to try."""
    patch = pytest.MonkeyPatch()
    patch.setattr(base_captions, "class_candidates", lambda: ["star", "fish", "xqzt"])
    made = BaseCaptioner("tiny-emoji", ["house"])
    patch.undo()
    return made


def test_unknown_words_are_not_tried_but_the_users_own_are(captioner: BaseCaptioner) -> None:
    assert captioner.classifier.things == ("house", "star", "fish")
    assert "flat emoji" in captioner.classifier.styles
    assert "photo" not in captioner.classifier.styles


def test_candidates_are_things() -> None:
    words = class_candidates()
    assert len(words) == len(set(words)) and {"dog", "man", "chair"} <= set(words)
    assert not {"style", "background", "red", "love", "london"} & set(words)


def test_a_star_on_yellow(captioner: BaseCaptioner) -> None:
    seen = captioner.classifier.look(
        Image.open(PROJECT / "datasets/flat-paper/27.png").convert("RGB")
    )
    assert (seen.class_word, seen.background) == ("star", "yellow background")


def test_with_a_class_word_backgrounds_differ(captioner: BaseCaptioner, tmp_path: Path) -> None:
    """As the set's class word is given, each caption says its own background."""
    for number in ("02", "04", "09"):
        picture = (PROJECT / "datasets/police-car" / f"{number}.png").read_bytes()
        (tmp_path / f"{number}.png").write_bytes(picture)
    wording = Wording(class_word="car", trigger="ohwx", leave_out=("3d",))
    found = caption_set(tmp_path, lambda: captioner, wording)
    said = [one.after for one in found.proposals]
    assert all("car" in text and "3d" not in text for text in said)
    assert [text.split(", ")[-1] for text in said] == [
        f"{colour} background" for colour in ("blue", "green", "red")
    ]


def test_the_base_is_ended_between_two_passes(captioner: BaseCaptioner) -> None:
    def check() -> None:
        raise UserError("busy")

    made = captioner.classifier
    ended = BaseClassifier(made.base, made.device, ["star"], [], check)
    with pytest.raises(UserError, match="busy"):
        ended.look(Image.new("RGB", (64, 64), "red"))


def test_words_that_lower_the_error_win(
    captioner: BaseCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round asks fewer words, and the best one of all is first."""
    asked: list[int] = []

    def errors(_: object, prompts: list[str], level: int, masks: object = None) -> torch.Tensor:
        asked.append(len(prompts) - 1)
        return torch.tensor([1.0, *(1 - int(prompt) / 100 for prompt in prompts[1:])])

    monkeypatch.setattr(captioner.classifier, "errors", errors)
    words = {f"word {number}": str(number) for number in range(20)}
    gains = captioner.classifier.race(torch.zeros(4, 8, 8), words, "", ((1, 5), (3, 2)))
    assert list(gains) == ["word 19", "word 18"] and asked == [20, 5, 5]
    assert gains["word 19"] == pytest.approx(0.19)


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ({"star": 0.2, "fish": 0.1}, "star"),
        ({"star": 0.2, "fish": 0.19}, ""),
        ({"star": 0.08, "fish": 0.01}, ""),
        ({"star": 0.2}, "star"),
        ({}, ""),
    ],
)
def test_a_class_word_is_said_where_the_base_is_sure(gains: dict[str, float], word: str) -> None:
    assert sure_of(gains) == word


@pytest.mark.parametrize(
    ("seen", "purpose", "class_word", "caption"),
    [
        (Seen("dog", "red background", "photo", {}), "thing", "", "photo of a dog, red background"),
        (Seen("dog", "on grass", "photo", {}), "style", "", "a dog on grass"),
        (Seen("dog", "", "", {}), "thing", "cat", "a cat"),
        (Seen("dog", "", "", {}), "style", "painting", "a dog"),
        (Seen("", "red background", "", {}), "thing", "", "red background"),
        (Seen("", "", "photo", {}), "thing", "", "photo"),
        (Seen("", "", "", {}), "thing", "", ""),
    ],
)
def test_captions(seen: Seen, purpose: str, class_word: str, caption: str) -> None:
    assert seen.caption(purpose, class_word) == caption


def test_settling_on_one_class_word(captioner: BaseCaptioner) -> None:
    title = captioner.title
    captioner._seen = {
        "a": Seen("star", "red background", "", {"star": 0.2, "fish": 0.09}),
        "b": Seen("fish", "", "flat emoji", {"fish": 0.2}),
        "c": Seen("fish", "", "flat emoji", {"fish": 0.2, "star": -1.0}),
        "d": Seen("", "blue background", "flat emoji", {"star": 0.09, "fish": 0.01}),
    }
    names = dict.fromkeys("abc", "")
    assert captioner.settle(names, Wording()) == {
        "a": "a fish, red background",
        "b": "a fish",
        "c": "a fish",
    }
    assert "takes the subject for “fish”" in captioner.title
    captioner.title = title
    assert captioner.settle(dict.fromkeys("ad", ""), Wording())["d"] == "a star, blue background"
    captioner._seen["c"] = captioner._seen["d"]
    unsure = captioner.settle(dict.fromkeys("acd", ""), Wording())
    assert unsure == {
        "a": "red background", "c": "blue background", "d": "blue background",
    }  # fmt: skip
    assert "not sure what the pictures show (nearest: star, fish)" in captioner.title
    captioner.title = title
    style = {"a": "x"}
    assert captioner.settle(style, Wording("style")) == style


def test_a_subject_is_cut_out_of_a_plain_background() -> None:
    picture = Image.new("RGB", (200, 200), (10, 200, 30))
    ImageDraw.Draw(picture).rectangle((20, 100, 59, 119), fill="white")
    cut = np.asarray(subject_of(picture))
    white = (cut > 250).all(axis=2)
    assert white.sum() == 40 * 20 and cut.shape[0] == round(40 / FILL)
    columns = np.flatnonzero(white.any(axis=0))
    assert abs(columns[0] - (cut.shape[1] - 1 - columns[-1])) <= 1
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8))
    assert subject_of(noisy) is noisy
    assert subject_of(Image.new("RGB", (9, 9), "red")).size == (9, 9)
