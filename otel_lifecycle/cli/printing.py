"""Prints lines to standard output, plain or styled."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from typing import Protocol

PLAIN_WIDTH = 100


class PrintLine(Protocol):
    """Prints one line."""

    def __call__(self, line: str = "", *, style: str = "") -> None:
        """Print the line; plain text has no styles."""
        ...


def width() -> int:
    """Return the columns of the terminal, or a fixed number for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH


def open_printer() -> PrintLine:
    """Open standard output for lines, which are styled if the extra `cli` is installed."""
    if find_spec("rich") is None:
        return _print_plain
    from otel_lifecycle.cli.terminal import open_console

    console = open_console()

    def print_styled(line: str = "", *, style: str = "") -> None:
        console.print(line, style=style or None, soft_wrap=True)

    return print_styled


def _print_plain(line: str = "", *, style: str = "") -> None:
    print(line)
