"""Trigger words judged and suggested by the service, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app import client as service
from app.shared import escape
from trainer.errors import UserError

_SECONDS = 120.0
_MOST = 8
_END = "</w>"  # of a piece that ends a word
_SIGNS = {"good": ("Good", "good"), "weak": ("Weak", "warm"), "taken": ("Taken", "bad")}


@dataclass(frozen=True)
class Judged:
    """What is known of a word.

    Attributes:
        verdict: "good", "weak" or "taken".
        pieces: what the tokenizer makes of it.
        reads_like: words that the base model takes it for.
    """

    word: str
    verdict: str
    pieces: tuple[str, ...]
    reads_like: tuple[str, ...]
    reasons: tuple[str, ...]


def judge(word: str, base: str, class_word: str, images: str | None) -> list[Judged]:
    """The verdict on a word.

    Args:
        images: the image set's folder; captions in it count.

    Raises:
        UserError: the service cannot do it.
    """
    return _ask("trigger.judge", words=[word], base=base, class_word=class_word, images=images)


def suggest(base: str, class_word: str, images: str | None) -> list[Judged]:
    """Rare words, far from what the captions say already.

    Raises:
        UserError: the service cannot do it.
    """
    return _ask("trigger.suggest", base=base, class_word=class_word, images=images)


def _ask(verb: str, **arguments: object) -> list[Judged]:
    return _judged(service.call(verb, arguments, _SECONDS))


def _judged(value: object) -> list[Judged]:
    rows = value if isinstance(value, list) else []
    return [_one(row) for row in rows if isinstance(row, dict)]


def _one(row: Mapping[str, object]) -> Judged:
    pieces = row.get("pieces")
    texts = [
        str(piece.get("text", "")) if isinstance(piece, dict) else str(piece)
        for piece in (pieces if isinstance(pieces, list) else [])
    ]
    return Judged(
        str(row.get("word", "")),
        str(row.get("verdict", "")),
        tuple(texts),
        _texts(row.get("reads_like")),
        _texts(row.get("reasons")),
    )


def _texts(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else []
    return tuple(
        str(item.get("word", "")) if isinstance(item, dict) else str(item) for item in items
    )


def verdict(judged: Judged) -> str:
    """A word's verdict with its reasons, as HTML."""
    sign, colour = _SIGNS.get(judged.verdict, (judged.verdict, "quiet"))
    pieces = " + ".join(
        f"<code>{escape(piece.removesuffix(_END))}</code>" for piece in judged.pieces[:_MOST]
    )
    parts = [f"The base model reads {pieces}."] if pieces else []
    if judged.reads_like:
        like = ", ".join(escape(word) for word in judged.reads_like[:_MOST])
        parts.append(f"Nearest to: {like}.")
    reasons = "".join(f"<li>{escape(reason[:200])}</li>" for reason in judged.reasons[:_MOST])
    return (
        f'<p><span class="tag {colour}">{escape(sign)}</span> <b>{escape(judged.word)}</b> '
        f'<span class="quiet">{" ".join(parts)}</span></p>'
        + (f"<ul class='findings'>{reasons}</ul>" if reasons else "")
    )


def waiting(word: str) -> str:
    """What stands there until the verdict is known."""
    return f'<p class="quiet" role="status">Looking at “{escape(word)}” …</p>'


def no_verdict(error: UserError) -> str:
    """The quiet note where nobody can say."""
    return f'<p class="quiet">No verdict: {escape(error.message)}</p>'
