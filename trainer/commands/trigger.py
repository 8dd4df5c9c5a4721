"""``trigger``: judges words as trigger words, or suggests some."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.answers import Answer
from trainer.commands.command import Base, command, option
from trainer.config.fields import field_help
from trainer.config.mistakes import on_one_line
from trainer.data.sets import read_captions
from trainer.errors import UserError
from trainer.places import shown

if TYPE_CHECKING:
    from trainer.triggers.judgement import Judgement

MOST_WORDS = 100
SUGGESTIONS = 5
MOST_SUGGESTIONS = 20
PICTURES = 4
PICTURE_SEED = 1


@dataclass(frozen=True)
class TriggerAnswer(Answer):
    """Verdicts and suggestions."""

    unsaid = ("base", "pictures")

    base: str  # the base model's name
    words: list["Judgement"]
    suggestions: list["Judgement"]
    pictures: list[Path]  # what it draws for each of the words, where that was asked for

    def lines(self) -> Iterator[str]:
        for one in self.words:
            yield from _block(one)
        if self.suggestions:
            doubtful = any(one.verdict != "good" for one in self.words)
            head = "Use instead" if doubtful else "Suggestions"
            yield f"{head}, from the rarest words of this base model's vocabulary:"
            yield from (f"  {one.word}  ({_pieces(one)})" for one in self.suggestions)
        if self.pictures:
            where = shown(self.pictures[0].parent)
            count = len(self.pictures)
            yield f"{count} pictures of what {self.base} draws for the words alone: {where}"


@command("trigger", "judge trigger words, or suggest rare ones")
def trigger(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="Words to judge.")
    ] = None,
    *,
    base: Base = "tiny-emoji",
    class_word: Annotated[str, option("WORD", field_help("captions.class_word"))] = "",
    images: Annotated[
        Path | None, option("DIR", "An image set: a word of its captions is not rare.")
    ] = None,
    count: Annotated[int, option("N", "How many suggestions (5).")] = SUGGESTIONS,
    pictures: Annotated[
        Path | None, option("DIR", "Draw each word alone, with the same seeds.")
    ] = None,
) -> TriggerAnswer:
    """Verdicts on the words, and suggestions that are far from the good ones among them.

    Raises:
        UserError: the base model or the images can't be read, or a number is out of range.
    """
    judged = judge_words(words or [], base, class_word, images)
    good = [one.word for one in judged if one.verdict == "good"]
    suggested = suggest_words(base, class_word, images, count, used=good)
    drawn = draw_words(words or [], base, pictures) if pictures else []
    return TriggerAnswer(base, judged, suggested, drawn)


def judge_words(
    words: Sequence[str], base: str, class_word: str = "", images: Path | None = None
) -> list["Judgement"]:
    """A verdict on each word.

    Args:
        images: an image set, whose captions count; its pictures are not decoded.

    Raises:
        UserError: the base model or the images can't be read, or there are too many words.
    """
    if len(words) > MOST_WORDS:
        raise UserError(f"{len(words)} words are too many.", f"Give {MOST_WORDS} at most.")
    from trainer.triggers.lab import open_lab

    captions = read_captions(images) if images else []
    return open_lab(base).judge(words, class_word, captions)


def suggest_words(
    base: str,
    class_word: str = "",
    images: Path | None = None,
    count: int = SUGGESTIONS,
    used: Sequence[str] = (),
) -> list["Judgement"]:
    """Rare words that mean little to the base model, far from each other and from those used.

    Raises:
        UserError: the base model or the images can't be read, or `count` is out of range.
    """
    if not 1 <= count <= MOST_SUGGESTIONS:
        raise UserError(f"--count {count} is not between 1 and {MOST_SUGGESTIONS}.")
    from trainer.triggers.lab import open_lab

    captions = read_captions(images) if images else []
    return open_lab(base).suggest(count, class_word, captions, used)


def _block(one: "Judgement") -> list[str]:
    word = on_one_line(one.word)
    text = [f"{word if one.word and one.word == one.word.strip() else repr(word)}: {one.verdict}"]
    facts = (("pieces", _pieces(one)), ("reads like", ", ".join(one.reads_like)))
    lines = [("  ", f"{label}: {value}") for label, value in facts if value]
    lines += [("  - ", on_one_line(reason)) for reason in one.reasons]
    for start, line in lines:
        text += textwrap.wrap(line, 96, initial_indent=start, subsequent_indent="    ")
    return [*text, ""]


def _pieces(one: "Judgement") -> str:
    more = " …" if len(one.pieces) > 12 else ""
    return " ".join(f"{p.shown} {p.id}" for p in one.pieces[:12]) + more


def draw_words(words: Sequence[str], base_name: str, folder: Path) -> list[Path]:
    """What the base model draws for each word alone, with the same seeds, as PNG files.

    Raises:
        UserError: there is no word.
    """
    from trainer.commands.adapter_files import BaseOnDevice
    from trainer.config.sections import BaseModelConfig
    from trainer.generation.sampling import Drawing, Painter, save_picture
    from trainer.triggers.judgement import cleaned

    if not words:
        raise UserError("--pictures needs a word to draw.", "Name one: trigger ohwx --pictures DIR")
    on = BaseOnDevice.load(base_name)
    painter, side = Painter(on.base, on.device), on.base.default_resolution
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for number, word in enumerate(words, 1):
        seeds = range(PICTURE_SEED, PICTURE_SEED + PICTURES)
        drawings = [Drawing(cleaned(word), "", seed, side, side, 25, 5.0) for seed in seeds]
        name = re.sub(r"[^a-z0-9]+", "-", cleaned(word).lower()).strip("-")[:40] or "word"
        for drawing, picture in zip(drawings, painter.draw(drawings), strict=True):
            path = folder / f"{number:02d}-{name}-{drawing.seed:06d}.png"
            save_picture(picture, path, drawing, BaseModelConfig(name=on.base.name))
            files.append(path)
    return files
