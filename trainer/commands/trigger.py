"""``trigger``: judges words as trigger words, or suggests some."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from trainer.data.sets import read_captions
from trainer.errors import UserError
from trainer.places import shown
from trainer.triggers.judgement import Judgement, cleaned
from trainer.triggers.lab import open_lab

MOST_WORDS = 100
SUGGESTIONS = 5
MOST_SUGGESTIONS = 20
PICTURES = 4
PICTURE_SEED = 1


def trigger(
    words: Sequence[str],
    *,
    base_name: str,
    class_word: str,
    images: Path | None,
    count: int,
    pictures: Path | None,
    as_json: bool,
) -> int:
    """Print a verdict on each word, and suggestions.

    Raises:
        UserError: the base model or the images can't be read, or a number is out of range.
    """
    judged = judge_words(words, base_name, class_word, images)
    good = [one.word for one in judged if one.verdict == "good"]
    suggested = suggest_words(count, base_name, class_word, images, used=good)
    files = draw_words(words, base_name, pictures) if pictures else []
    if as_json:
        print(json.dumps(as_dict(judged, suggested), indent=1))
        return 0
    print("\n".join(lines(judged, suggested)))
    if files:
        where = shown(files[0].parent)
        print(f"{len(files)} pictures of what {base_name} draws for the words alone: {where}")
    return 0


def judge_words(
    words: Sequence[str], base_name: str, class_word: str = "", images: Path | None = None
) -> list[Judgement]:
    """A verdict on each word.

    Args:
        images: an image set, whose captions count; its pictures are not decoded.

    Raises:
        UserError: the base model or the images can't be read, or there are too many words.
    """
    if len(words) > MOST_WORDS:
        raise UserError(f"{len(words)} words are too many.", f"Give {MOST_WORDS} at most.")
    captions = read_captions(images) if images else []
    return open_lab(base_name).judge(words, class_word, captions)


def suggest_words(
    count: int,
    base_name: str,
    class_word: str = "",
    images: Path | None = None,
    used: Sequence[str] = (),
) -> list[Judgement]:
    """Rare words that mean little to the base model, far from each other and from those used.

    Raises:
        UserError: the base model or the images can't be read, or `count` is out of range.
    """
    if not 1 <= count <= MOST_SUGGESTIONS:
        raise UserError(f"--count {count} is not between 1 and {MOST_SUGGESTIONS}.")
    captions = read_captions(images) if images else []
    return open_lab(base_name).suggest(count, class_word, captions, used)


def as_dict(judged: Sequence[Judgement], suggested: Sequence[Judgement]) -> dict[str, object]:
    """What ``--json`` prints."""
    return {
        "words": [one.as_dict() for one in judged],
        "suggestions": [one.as_dict() for one in suggested],
    }


def lines(judged: Sequence[Judgement], suggested: Sequence[Judgement]) -> list[str]:
    """The answer for people."""
    text: list[str] = []
    for one in judged:
        text += _block(one)
    if suggested:
        head = "Use instead" if any(one.verdict != "good" for one in judged) else "Suggestions"
        text.append(f"{head}, from the rarest words of this base model's vocabulary:")
        names = [f"  {one.word}  ({_pieces(one)})" for one in suggested]
        text += names
    return text


def _block(one: Judgement) -> list[str]:
    head = f"{_printable(one.word)!r}" if one.word != one.word.strip() or not one.word else one.word
    text = [f"{_printable(head)}: {one.verdict}"]
    for label, value in (("pieces", _pieces(one)), ("reads like", ", ".join(one.reads_like))):
        if value:
            text += textwrap.wrap(
                f"{label}: {value}", 96, initial_indent="  ", subsequent_indent="    "
            )
    for reason in one.reasons:
        text += textwrap.wrap(
            _printable(reason), 96, initial_indent="  - ", subsequent_indent="    "
        )
    return [*text, ""]


def _pieces(one: Judgement) -> str:
    more = " …" if len(one.pieces) > 12 else ""
    return " ".join(f"{p.text.removesuffix('</w>')} {p.id}" for p in one.pieces[:12]) + more


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def draw_words(words: Sequence[str], base_name: str, folder: Path) -> list[Path]:
    """What the base model draws for each word alone, with the same seeds, as PNG files.

    Raises:
        UserError: there is no word.
    """
    from trainer.generation.sampling import Drawing, Painter, save_picture
    from trainer.memory.devices import choose_device
    from trainer.models.load import load_base

    if not words:
        raise UserError("--pictures needs a word to draw.", "Name one: trigger ohwx --pictures DIR")
    device = choose_device("auto")
    base = load_base(base_name, dtype=device.dtype)
    device.put(base.unet, *base.text_encoders)
    painter = Painter(base, device)
    side = base.default_resolution
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for number, word in enumerate(words, 1):
        seeds = range(PICTURE_SEED, PICTURE_SEED + PICTURES)
        drawings = [Drawing(cleaned(word), "", seed, side, side, 25, 5.0) for seed in seeds]
        name = re.sub(r"[^a-z0-9]+", "-", cleaned(word).lower()).strip("-")[:40] or "word"
        for drawing, picture in zip(drawings, painter.draw(drawings), strict=True):
            path = folder / f"{number:02d}-{name}-{drawing.seed:06d}.png"
            save_picture(picture, path, drawing, model=base.name, adapters=[])
            files.append(path)
    return files
