"""Subjects and styles that the built-in base model never saw, made from emoji.

The base model learned 252 things from Fluent 3D and Noto pictures. These sets show whole shapes
that differ from what the class word draws: an animal's body where the base draws a face, a thing
with other parts; they are combined and recoloured, so that no word of the base describes them. Half
of them may be looked at while settings are chosen; the other half is only reported.

Needs the builder's packages (``python -m models.build --only fetch``) and ``pip install resvg_py``.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from models.build import pictures
from models.build.captions import BACKGROUNDS, with_article
from models.build.example_sets import PLACEMENTS, Placement, placed, write_pairs
from models.build.packages import TWEMOJI
from models.build.subjects import SUBJECTS as KNOWN

Half = Literal["chosen", "untouched"]
EMOJI = 160
"""Pixels of an emoji's side before it is placed."""
PICTURES = 10
REFERENCES = (
    Placement("", 0.88, 0, (0.0, 0.0)),
    Placement("", 0.74, 0, (0.0, 0.0)),
    Placement("", 0.62, 0, (0.0, 0.0)),
    Placement("", 0.8, 12, (0.0, 0.0)),
    Placement("", 0.8, -12, (0.0, 0.0)),
)
"""How a drawing may place the subject and still be like it."""


@dataclass(frozen=True)
class Subject:
    """One thing to learn.

    Attributes:
        label: of the emoji.
        source: "3d" (Fluent) or "flat" (Twemoji).
        turn: of its hues, in degrees.
        worn: another emoji put on it, with its centre and size as shares of the side.
    """

    name: str
    class_word: str
    label: str
    source: Literal["3d", "flat"]
    half: Half
    turn: float = 0
    worn: tuple[str, float, float, float] | None = None


SUBJECTS = (
    Subject("fish", "fish", "tropical fish", "flat", "chosen", 140),
    Subject("cat", "cat", "cat", "3d", "chosen", 230, ("top hat", 0.25, 0.16, 0.34)),
    Subject("skate", "running shoe", "roller skate", "3d", "chosen", 210),
    Subject("house", "house", "hut", "flat", "chosen", 60),
    Subject("dog", "dog", "poodle", "flat", "untouched", 70, ("crown", 0.24, 0.1, 0.3)),
    Subject("guitar", "guitar", "banjo", "flat", "untouched", 150),
    Subject("bird", "bird", "dodo", "3d", "untouched", 150),
    Subject("chair", "chair", "motorized wheelchair", "3d", "untouched", 160),
)

STYLE_NAMES: dict[str, Half] = {"line": "chosen", "pixel": "untouched", "duotone": "untouched"}
DUOTONE = (np.array([70, 30, 130], np.uint8), np.array([255, 235, 150], np.uint8))
DUOTONE_BOUND = 140
STYLE_TRAINED = (
    *("fox", "cat", "frog", "panda", "pig", "fish", "bee", "turtle", "red apple", "banana"),
    *("strawberry", "carrot", "hamburger", "cactus", "sunflower", "car", "star", "balloon"),
    *("tree", "umbrella"),
)
STYLE_UNSEEN = ("dog", "rabbit", "key", "house", "mushroom", "pizza", "butterfly", "guitar")


@cache
def _file(work: Path, label: str, source: str) -> Path:
    codes = {name: code for code, (name, _) in pictures.emoji_names(work).items()}
    folder = (
        pictures.picture_folder(work, "3d")
        if source == "3d"
        else work / "packages" / TWEMOJI.folder
    )
    files = {pictures.plain_code(path.stem): path for path in sorted(folder.iterdir())}
    return files[codes[label]]


def emoji(work: Path, label: str, source: str) -> Image.Image:
    """An emoji, RGBA, `EMOJI` pixels wide."""
    path = _file(work, label, source)
    if path.suffix == ".svg":
        import resvg_py  # wanted here only

        data = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=EMOJI, height=EMOJI))
        return Image.open(io.BytesIO(data)).convert("RGBA")
    return Image.open(path).convert("RGBA").resize((EMOJI, EMOJI), Image.Resampling.LANCZOS)


@cache
def look(work: Path, subject: Subject) -> Image.Image:
    """The subject without a background."""
    shown = turned(emoji(work, subject.label, subject.source), subject.turn)
    if subject.worn:
        label, x, y, size = subject.worn
        hat = emoji(work, label, subject.source)
        side = round(size * EMOJI)
        canvas = Image.new("RGBA", (EMOJI, EMOJI))
        small = shown.resize((round(EMOJI * 0.86),) * 2, Image.Resampling.LANCZOS)
        canvas.alpha_composite(small, (round(EMOJI * 0.07), round(EMOJI * 0.14)))
        hat = hat.resize((side, side), Image.Resampling.LANCZOS)
        canvas.alpha_composite(
            hat, (max(0, round(x * EMOJI - side / 2)), max(0, round(y * EMOJI - side / 2)))
        )
        return canvas
    return shown


def turned(image: Image.Image, degrees: float) -> Image.Image:
    """With its hues turned."""
    if not degrees:
        return image
    data = np.asarray(image).astype(np.float64) / 255
    shape = data[..., :3].reshape(-1, 3)
    colours = [colorsys.rgb_to_hsv(*pixel) for pixel in shape]
    shape = np.array([colorsys.hsv_to_rgb((h + degrees / 360) % 1, s, v) for h, s, v in colours])
    data[..., :3] = shape.reshape(data[..., :3].shape)
    return Image.fromarray((data * 255).round().astype(np.uint8), "RGBA")


def style_word(subject: Subject) -> str:
    """What captions call the kind of picture."""
    return "3d emoji" if subject.source == "3d" else "flat emoji"


def caption(subject: Subject, background: str) -> str:
    """A caption without a trigger."""
    noun = with_article(subject.class_word)
    return f"{style_word(subject)} of {noun}, {background} background"


def write_set(work: Path, target: Path, name: str) -> None:
    """The image set of a subject or a style."""
    if name in STYLE_NAMES:
        backgrounds = list(BACKGROUNDS)
        pairs = []
        for number, thing in enumerate(STYLE_TRAINED):
            background = backgrounds[number % len(backgrounds)]
            pairs.append((styled(work, name, thing, background), _style_caption(thing, background)))
    else:
        subject = by_name(name)
        image = look(work, subject)
        pairs = [
            (placed(image, place), caption(subject, place.background))
            for place in PLACEMENTS[:PICTURES]
        ]
    write_pairs(target, pairs)


def _style_caption(thing: str, background: str) -> str:
    return f"emoji of {with_article(thing)}, {background} background"


def styled(work: Path, style: str, thing: str, background: str) -> Image.Image:
    """A known thing in a style, 256 pixels wide."""
    shown, place = emoji(work, KNOWN[thing], "flat"), Placement(background, 0.86, 0, (0.0, 0.0))
    if style == "duotone":
        data = np.asarray(shown).copy()
        dark = np.asarray(shown.convert("L")) < DUOTONE_BOUND
        data[..., :3] = np.where(dark[..., None], *DUOTONE)
        return placed(Image.fromarray(data, "RGBA"), place)
    plain = placed(shown, place)
    if style == "pixel":
        few = plain.resize((16, 16), Image.Resampling.BOX).quantize(8).convert("RGB")
        return few.resize(plain.size, Image.Resampling.NEAREST)
    soft = np.asarray(plain.filter(ImageFilter.GaussianBlur(2.0))).astype(np.float64)
    edge = sum(np.hypot(*np.gradient(soft[..., channel])) for channel in range(3))
    ink = np.clip((edge - 14) / 22, 0, 1)[..., None]
    paper = np.array(BACKGROUNDS[background], float)
    pen = np.array([255.0, 255, 255]) if paper.mean() < 110 else np.array([15.0, 15, 30])
    return Image.fromarray((paper * (1 - ink) + pen * ink).round().astype(np.uint8), "RGB")


def by_name(name: str) -> Subject:
    """A subject of the table."""
    return next(subject for subject in SUBJECTS if subject.name == name)


def references(work: Path, subject: Subject, background: str) -> list[Image.Image]:
    """The subject on a background, at several places and both ways round."""
    image = look(work, subject)
    shown: Sequence[Image.Image] = [
        placed(image, Placement(background, place.size, place.tilt, place.shift))
        for place in REFERENCES
    ]
    return [*shown, *(one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in shown)]
