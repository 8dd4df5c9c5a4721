"""The one exception about a picture."""

from __future__ import annotations


class ImageProblem(Exception):
    """A picture that cannot be used; the rest of its set can.

    Args:
        reason: one plain sentence without the picture's name.
        hint: the way out, as something to do.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason} {self.hint}".strip()
