"""What is wrong or doubtful in an image set, one sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One doubt about a picture, a caption, a folder or the whole set.

    Attributes:
        name: what it is about, fit for showing (see `trainer.data.names.display_name`).
        severity: "error": it cannot be used, and is left out; "warning": used, but probably not
            as meant; "note": worth knowing.
        message: one or two plain sentences without the name: what is the case, and the way out.
    """

    name: str
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"
