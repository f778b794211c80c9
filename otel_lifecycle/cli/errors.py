"""Warnings, and errors that end a command with one line."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from otel_lifecycle.analysis.formatting import printable

FAILED = 1
USAGE = 2
LONGEST = 2_000  # characters of a line that may contain text from other programs


def warn(problem: object) -> None:
    """Print a problem that does not stop the command, in one line on standard error."""
    line = printable(str(problem), LONGEST)
    print(f"otel-lifecycle: {line}", file=sys.stderr, flush=True)


class CommandError(Exception):
    """A command cannot continue; the text is for the user.

    Attributes:
        exit_code: 2 for wrong usage and bad input, 1 for a failure during the run.
    """

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def require(command: str, extra: str, *modules: str) -> None:
    """Raise an error that names the extra to install if a module of a command is missing."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise CommandError(
            f"{command} needs {', '.join(missing)}: pip install 'otel-lifecycle[{extra}]'"
        )
