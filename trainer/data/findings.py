"""What is wrong or doubtful in an image set, one sentence each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.answers import Answer
from trainer.data.names import list_names

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the gravest first


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
class Finding(Answer):
    """One doubt about a picture, a caption, a folder or the whole set."""

    name: str  # what it is about, fit for showing (see `trainer.data.names.display_name`)
    # "error": it cannot be used, and is left out; "warning": used, but probably not as meant;
    # "note": worth knowing.
    severity: Severity
    message: str  # one or two plain sentences without the name: what is the case, and the way out
    # All that it holds for, where `name` lists only the first of them.
    pictures: tuple[str, ...] = ()

    @classmethod
    def of_several(cls, names: Sequence[str], severity: Severity, message: str) -> Finding:
        """One doubt about several pictures alike, said once."""
        return cls(list_names(names), severity, message, tuple(names))

    def as_dict(self) -> dict[str, object]:
        """``pictures`` are all names."""
        return {**super().as_dict(), "pictures": list(self.pictures or (self.name,))}

    def in_words(self, limit: int = 3) -> str:
        """Name and message, with at most so many names."""
        name = list_names(self.pictures, limit) if self.pictures else self.name
        return f"{name}: {self.message}"

    def __str__(self) -> str:
        return self.in_words()


def merge_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first; those that say the same become one that names all it is about."""
    alike: dict[tuple[Severity, str], list[Finding]] = defaultdict(list)
    for finding in dict.fromkeys(findings):
        alike[finding.severity, finding.message].append(finding)
    merged = [
        same[0]
        if len(same) == 1
        else Finding.of_several(
            [name for one in same for name in one.pictures or (one.name,)], *key
        )
        for key, same in alike.items()
    ]
    return sorted(merged, key=lambda finding: SEVERITIES.index(finding.severity))
