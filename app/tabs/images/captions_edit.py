"""One edit of many captions: what it would change, and doing it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from app.tabs.images.captionfiles import caption_paths, read_captions, saving, write_caption
from app.tabs.images.history import Entry, remember
from app.tabs.images.imagesets import SetFolder
from trainer.data.captions import clean_caption, contains_word, replace_word, without_word
from trainer.errors import UserError

EditKind = Literal["front", "end", "remove", "replace"]
KINDS: tuple[EditKind, ...] = get_args(EditKind)
MAX_TEXT = 500


@dataclass(frozen=True)
class Edit:
    """What is done to every caption.

    Attributes:
        text: what is added, removed, or looked for.
        other: what takes its place ("replace").
        whole_words: whether "car" leaves "scarf" alone.
    """

    kind: EditKind
    text: str
    other: str = ""
    whole_words: bool = True

    @property
    def sought(self) -> str:
        """The text, cleaned; what is added is without the commas that set it off."""
        text = clean_caption(self.text)
        return text.strip(", ") if self.kind in ("front", "end") else text

    def __str__(self) -> str:
        text, other = self.sought, self.other.strip()
        if self.kind == "front":
            return f"“{text}” at the front"
        if self.kind == "end":
            return f"“{text}” at the end"
        if self.kind == "remove":
            return f"“{text}” taken out"
        return f"“{text}” replaced by “{other}”"

    def apply(self, caption: str) -> str:
        """A caption after the edit, cleaned.

        What is added is set off by a comma, and not added to a caption that has it already. Upper
        and lower case make no difference in what is looked for.
        """
        text, other = self.sought, clean_caption(self.other)
        if self.kind in ("front", "end"):
            if contains_word(caption, text):
                return caption
            parts = [text, caption] if self.kind == "front" else [caption, text]
            return clean_caption(", ".join(part for part in parts if part))
        if self.kind == "remove" and self.whole_words:
            return clean_caption(without_word(caption, text))
        replacement = other if self.kind == "replace" else ""
        if self.whole_words:
            return replace_word(caption, text, replacement)
        found = re.compile(re.escape(text), re.IGNORECASE)
        return clean_caption(found.sub(lambda _: replacement, caption))


@dataclass(frozen=True)
class Change:
    """A caption before and after an edit."""

    picture: str
    before: str
    after: str


def preview(captions: Mapping[str, str], edit: Edit) -> list[Change]:
    """The captions that an edit changes.

    Raises:
        UserError: there is nothing to add or to look for.
    """
    if not edit.sought:
        what = "add" if edit.kind in ("front", "end") else "look for"
        raise UserError(f"There is no text to {what}.", "Type it into the first field.")
    if len(edit.text) > MAX_TEXT or len(edit.other) > MAX_TEXT:
        raise UserError(f"The text is longer than {MAX_TEXT} characters.", "Shorten it.")
    changed = [Change(name, before, edit.apply(before)) for name, before in captions.items()]
    return [change for change in changed if change.after != change.before]


def apply_edit(image_set: SetFolder, edit: Edit, seen: Mapping[str, str]) -> list[Change]:
    """Do an edit to the captions that were seen in the preview; it can be undone.

    Args:
        seen: captions by picture, as the preview was made from them.

    Raises:
        UserError: a caption has changed since (then nothing is done), or nothing can be saved.
    """
    with saving():
        now = read_captions(image_set)
        if any(now.get(picture) != caption for picture, caption in seen.items()):
            raise UserError(
                "Captions have changed since the preview, perhaps in another tab. Nothing was "
                "done.",
                "Look at the preview again.",
            )
        changes = preview(dict(seen), edit)
        if not changes:
            return []
        remember(image_set, Entry.of_captions(str(edit), _pairs(changes)))
        paths = caption_paths(image_set)
        for change in changes:
            write_caption(paths[change.picture], change.after)
    return changes


def _pairs(changes: list[Change]) -> dict[str, tuple[str, str]]:
    return {change.picture: (change.before, change.after) for change in changes}
