"""The terminal output of `demo`, `report` and `top`."""

from __future__ import annotations

from rich.console import Console

from otel_lifecycle.cli.printing import width


def open_console() -> Console:
    """Open standard output: as wide as the terminal, or a fixed width for a file or pipe."""
    return _Console(width=width(), highlight=False, markup=False, emoji=False)


def open_screen() -> Console:
    """Open standard output for a full screen, whose size may change."""
    return _Console(highlight=False, markup=False, emoji=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise; Rich would end the process with 1."""
        raise BrokenPipeError
