"""The live view on a terminal: frames, and the keys of the user."""

from __future__ import annotations

import select
import sys
import time

from prompt_toolkit.input.vt100 import Vt100Input
from rich.console import Console
from rich.text import Text

from otel_lifecycle.analysis.live.frame import draw
from otel_lifecycle.analysis.live.source import RecordSource
from otel_lifecycle.analysis.live.view import View

_READING_SECONDS = 0.1  # then the keys get their turn
_LONGEST_WAIT = 0.25  # for a key; then the terminal may have another size
_ESCAPE_SECONDS = 0.05  # the keys whose sequences begin like Escape arrive sooner


class Screen:
    """A full screen that leaves the terminal as it was.

    Args:
        console: A terminal, from which keys are read as well.
        every: Seconds between two frames.
    """

    def __init__(self, console: Console, every: float) -> None:
        self._console = console
        self._every = every
        self._keys = Vt100Input(sys.stdin)

    def run(self, source: RecordSource) -> None:
        """Show frames until the user quits or the terminal is gone.

        Args:
            source: What to show.
        """
        view, snapshot = View(), source.snapshot()
        size, next_at, keys = None, 0.0, list[str]()
        with self._console.screen(hide_cursor=True) as screen, self._keys.raw_mode():
            while not (view.quits or self._keys.closed):
                caught_up = source.read(_READING_SECONDS)
                is_due = time.monotonic() >= next_at
                if is_due:
                    next_at = time.monotonic() + self._every
                if (is_due or keys) and not view.is_paused:
                    snapshot = source.snapshot(view.filter)
                if is_due or keys or size != self._console.size:
                    size = self._console.size
                    lines = draw(snapshot, view, size.width, size.height)
                    screen.update(Text("\n", no_wrap=True, overflow="crop").join(lines))
                wait = min(max(0.0, next_at - time.monotonic()), _LONGEST_WAIT)
                keys = self._pressed(wait if caught_up else 0.0)
                for key in keys:
                    view.press(key, snapshot)

    def _pressed(self, seconds: float) -> list[str]:
        """Return the keys that are pressed within a time, at least one if there are any."""
        if not _is_readable(seconds):
            return []
        pressed = self._keys.read_keys()
        if not _is_readable(_ESCAPE_SECONDS):
            pressed += self._keys.flush_keys()
        return [str(getattr(one.key, "value", one.key)) for one in pressed]


def _is_readable(seconds: float) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])
