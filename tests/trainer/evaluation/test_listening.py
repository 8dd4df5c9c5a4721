"""Which words change what is drawn: a painter that obeys, one that is deaf, one that swallows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from trainer.evaluation import listening
from trainer.evaluation.listening import (
    Heard,
    Listening,
    caption_words,
    listening_findings,
    measure_listening,
)
from trainer.evaluation.meters import MeasuredConcept
from trainer.generation.sampling import Drawing
from trainer.models.base import BaseModel
from trainer.scenes import SCENES, THINGS, in_scene, scenes_for

CAPTIONS = ("ohwx, a cat, blue background", "ohwx, a cat, red background")
COLOURS = {"blue": (0, 0, 220), "red": (220, 0, 0), "snow": (90, 200, 240), "bicycle": (0, 150, 60)}
Painter = Callable[[str, int], Image.Image]


def paint(prompt: str, seed: int, *, subject: tuple[int, int, int] = (200, 150, 90)) -> Image.Image:
    """A thing on the background that the prompt names, or on white."""
    background = next((c for word, c in COLOURS.items() if word in prompt), (255, 255, 255))
    if "night" in prompt:
        background = (10, 10, 40)
    pixels = np.full((64, 64, 3), background, np.uint8)
    pixels[16 + seed % 3 : 44, 20:44] = subject
    return Image.fromarray(pixels)


def obeys(prompt: str, seed: int) -> Image.Image:
    return paint(prompt, seed, subject=(240, 60, 200))


def deaf(prompt: str, seed: int) -> Image.Image:
    return paint("", seed, subject=(240, 60, 200))


def swallows_blue(prompt: str, seed: int) -> Image.Image:
    """Blue unless another background is asked for."""
    named = any(word in prompt for word in (*COLOURS, "night"))
    return obeys(prompt if named else "blue", seed)


def heard_by(painter: Painter, monkeypatch: pytest.MonkeyPatch) -> Listening:
    def draw(_: Any, drawings: Sequence[Drawing], __: Any) -> list[Image.Image]:
        return [
            (painter if "ohwx" in one.prompt else paint)(one.prompt, one.seed) for one in drawings
        ]

    monkeypatch.setattr(listening, "draw", draw)
    monkeypatch.setattr(listening, "disabled", lambda _: nullcontext())
    pictures = tuple((cast(Any, None), caption) for caption in CAPTIONS)
    concept = MeasuredConcept("ohwx", "cat", pictures)
    return measure_listening(cast(BaseModel, None), concept, cast(Any, None), 64)


@pytest.mark.parametrize(
    ("painter", "low", "high", "swallowed", "codes"),
    [
        (obeys, 0.8, 1.1, (), ["listens"]),
        (deaf, -0.1, 0.1, (), ["deaf"]),
        (swallows_blue, 0.6, 1.2, ("blue background",), ["listens", "swallowed"]),
    ],
)
def test_what_is_heard(
    painter: Painter,
    low: float,
    high: float,
    swallowed: tuple[str, ...],
    codes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = heard_by(painter, monkeypatch)
    assert [one.words for one in found.scenes] == list(SCENES[:3])
    assert [one.words for one in found.captions] == ["blue background", "red background"]
    assert found.listens is not None
    assert low < found.listens < high
    assert found.swallowed == swallowed
    # The class word is drawn as ever, whatever the trigger word does.
    assert all(one.without == pytest.approx(1.0) for one in (*found.scenes, *found.captions)
               if one.weight > 0.01)  # fmt: skip
    said = list(listening_findings(found))
    assert [one.code for one in said] == codes
    assert all("“" in one.says for one in said)


@pytest.mark.parametrize(
    ("captions", "class_word", "words"),
    [
        (CAPTIONS, "cat", ["blue background", "red background"]),
        (["ohwx cat sitting on a red sofa"], "cat", ["sitting on a red sofa"]),
        (["ohwx, 1girl, hat, outdoors", "ohwx, 1girl, hat"], "1girl", ["hat", "outdoors"]),
        (["ohwx cat", "ohwx, a cat"], "cat", []),
        (["a fox. ohwx style"], "", ["a fox", "style"]),
        ([], "cat", []),
        (["ohwx cat, red"] * 4 + ["ohwx cat, blue"], "cat", ["red"]),
    ],
)
def test_words_of_captions(captions: list[str], class_word: str, words: list[str]) -> None:
    assert caption_words(captions, "ohwx", class_word) == words


def test_scenes_are_new_to_the_captions() -> None:
    assert scenes_for("cat", ["a cat in the SNOW", "a cat, bicycle"], 2) == [
        "at night", "beside a tree",
    ]  # fmt: skip
    assert scenes_for("", ["a castle"], 2) == ["a bicycle", "an elephant"]
    assert in_scene("ohwx cat", "cat", "at night") == "ohwx cat at night"
    assert in_scene("ohwx", "", THINGS[0]) == "ohwx, a bicycle"
    assert in_scene("", "", THINGS[0]) == "a bicycle"


@pytest.mark.parametrize(
    ("heard", "already", "swallowed"),
    [(0.43, 1.02, True), (0.31, 0.93, True), (0.2, 0.94, True), (0.78, 0.73, False),
     (1.0, 1.45, False), (0.5, 0.57, False)],
)  # fmt: skip
def test_words_that_real_adapters_have_swallowed(
    heard: float, already: float, swallowed: bool
) -> None:
    """As measured, and by eye: docs/notes/measuring.md."""
    word = Heard("red background", heard, 1.0, already, 5.0)
    assert bool(listening._told([], [word]).swallowed) == swallowed
