"""The one exception that a person can act on."""

from __future__ import annotations


class UserError(Exception):
    """A mistake or a missing thing that the user can put right.

    The command line prints it as one clear message and a hint, without a traceback, and exits
    with status 2; the page shows it beside the field. Everything else that is raised is a defect.

    Args:
        message: what is wrong, naming the file, field or value, and both values where two disagree.
        hint: the way out, as something to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message
