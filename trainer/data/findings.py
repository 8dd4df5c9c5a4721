"""What is wrong or doubtful in an image set, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.data.names import list_names

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The gravest first."""


class ImageProblem(Exception):
    """A picture that cannot be used; the rest of its set can.

    Args:
        reason: one plain sentence without the picture's name.
        hint: the way out, as something to do.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(f"{reason} {hint}".strip())
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class Finding:
    """One doubt about a picture, a caption, a folder or the whole set.

    Attributes:
        name: what it is about, fit for showing (see `trainer.data.names.display_name`).
        severity: "error": it cannot be used, and is left out; "warning": used, but probably not
            as meant; "note": worth knowing.
        message: one or two plain sentences without the name: what is the case, and the way out.
        pictures: all that it holds for, where `name` lists only the first of them.
    """

    name: str
    severity: Severity
    message: str
    pictures: tuple[str, ...] = ()

    @classmethod
    def of_several(cls, names: Sequence[str], severity: Severity, message: str) -> Finding:
        """One doubt about several pictures alike, said once."""
        return cls(list_names(names), severity, message, tuple(names))

    def as_dict(self) -> dict[str, object]:
        """As ``--json`` prints it."""
        return {"name": self.name, "severity": self.severity, "message": self.message}

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"
