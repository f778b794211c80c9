"""What ends a command with one line."""

from __future__ import annotations

FAILED = 1
USAGE = 2


class CommandError(Exception):
    """A command cannot go on; the text is for the user.

    Attributes:
        exit_code: 2 for wrong usage and bad input, 1 for what went wrong on the way.
    """

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
