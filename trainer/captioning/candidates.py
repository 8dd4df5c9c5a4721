"""Words that a base model may know: what the classifier tries on a picture.

Class words come from the tables of things that the house has already, and from `MORE`. Which of
them a base model understands is measured (`trainer.triggers.meaning`), not listed.
"""

from __future__ import annotations

from trainer.evaluation.things import KINDS
from trainer.preservation.prompts import OTHER_SUBJECTS
from trainer.triggers.reference import EVERYDAY, READABLE

NEUTRAL = "thing"
"""Stands where the class word is not known yet."""

MORE: tuple[str, ...] = (
    "accordion", "alarm clock", "birthday cake", "bone", "boxing glove", "cap", "cherry blossom",
    "christmas tree", "clover", "compass", "croissant", "cupcake", "eggplant", "feather", "gloves",
    "green apple", "red apple", "heart", "hot dog", "ice cream", "jellyfish", "kiwi", "lollipop",
    "magnet", "maple leaf", "melon", "microscope", "package", "parachute", "pine tree", "popcorn",
    "pretzel", "running shoe", "hiking boot", "snowflake", "socks", "telescope", "tooth", "top hat",
    "waffle", "wine glass", "potted plant", "smiling face", "paintbrush", "teddy bear",
    "police car", "sports car", "old man", "young woman", "bell pepper", "blueberries",
)  # fmt: skip

# Words of the tables that are no class of thing: places, events, colours, materials.
_NO_CLASS_FROM = "red"
_NO_CLASSES = ("places", "pictures")

STYLES: dict[str, str] = {
    style: f"{style} of {{}}"
    for style in (
        "photo", "close-up photo", "black and white photo", "painting", "oil painting",
        "watercolor", "drawing", "pencil sketch", "line art", "cartoon", "anime", "comic",
        "pixel art", "3d render", "3d emoji", "flat emoji", "emoji", "icon", "logo", "sticker",
        "poster", "sculpture", "engraving", "mosaic",
    )
}  # fmt: skip

COLOURS = (
    *("white", "black", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink"),
    "brown",
)
PLACES = (
    *("in a room", "in a kitchen", "on a table", "on a street", "in a city", "in a garden"),
    *("on grass", "in a forest", "on a beach", "in the water", "in the snow", "under a blue sky"),
    *("in the mountains", "at night"),
)
BACKGROUNDS: dict[str, str] = {
    **{f"{colour} background": f"{{}}, {colour} background" for colour in COLOURS},
    **{place: f"{{}} {place}" for place in PLACES},
}
"""What is said of a background, and how a caption has it."""


def class_candidates() -> list[str]:
    """All words that may be a class word, each once."""
    kinds = (
        word
        for kind, (words, things) in KINDS.items()
        if kind not in _NO_CLASSES
        for word in (*words, *things)
    )
    readable = list(READABLE)
    end = readable.index(_NO_CLASS_FROM)
    return list(dict.fromkeys([*EVERYDAY, *readable[:end], *OTHER_SUBJECTS, *kinds, *MORE]))
