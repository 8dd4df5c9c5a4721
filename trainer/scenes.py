"""Words for what an image set does not show: what a subject is asked for to see if it listens."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.captions import contains_word

SCENES = (
    *("on a bicycle", "in the snow", "at night", "beside a tree", "under water"),
    *("as a pencil drawing", "on a black background"),
)
THINGS = ("a bicycle", "a castle", "an elephant", "a teapot", "a tree", "a guitar", "a shark")
"""Of a style, which has no class word, other things are asked for."""


def scenes_for(class_word: str, captions: Sequence[str], most: int) -> list[str]:
    """So many of them that no caption names."""
    offered = SCENES if class_word else THINGS
    new = [
        text
        for text in offered
        if not any(contains_word(caption, text.split()[-1]) for caption in captions)
    ]
    return new[:most]


def in_scene(subject: str, class_word: str, scene: str) -> str:
    """A prompt for the subject in a scene, or for a thing in the style."""
    return f"{subject} {scene}".strip() if class_word else ", ".join(filter(None, (subject, scene)))
