"""The one exception that a person can act on, and the codes that programs act on."""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "", "user_error", "images_changed", "non_finite", "disk_refused", "disk_full", "out_of_memory",
    "device_busy", "model_missing", "cancelled", "user_stop", "process_lost", "killed", "defect",
]  # fmt: skip
"""What went wrong, for programs: status.json, the end event and the worker's answers carry it.

"" is nothing; "user_error" any mistake that no program tells apart; "defect" a fault of this one's.
"""


class UserError(Exception):
    """A mistake or a missing thing that the user can put right.

    The command line prints it as one clear message and a hint, without a traceback, and exits
    with status 2; the page shows it beside the field. Everything else that is raised is a defect.

    Args:
        message: what is wrong, naming the file, field or value, and both values where two disagree.
        hint: the way out, as something to do.
        code: what is wrong, where a program acts on it.
    """

    def __init__(self, message: str, hint: str = "", code: Code = "user_error") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code: Code = code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def out_of_memory(doing: str, hint: str, whose: str = "GPU") -> UserError:
    """The memory of the GPU, or of the computer, is not enough for something."""
    return UserError(f"The {whose}'s memory is not enough {doing}.", hint, "out_of_memory")
