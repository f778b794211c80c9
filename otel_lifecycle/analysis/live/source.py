"""Reads the records of a live view into its window."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.live.gauges import Gauges
from otel_lifecycle.analysis.live.recent import recent_position
from otel_lifecycle.analysis.live.snapshot import Snapshot, take_snapshot
from otel_lifecycle.analysis.live.window import LiveWindow
from otel_lifecycle.records import Follower, RecordError
from otel_lifecycle.records.names import absolute, record_files

_ENTRIES_BETWEEN_CLOCKS = 100

ReadGauges: TypeAlias = Callable[[], Gauges | None]


class RecordSource:
    """Record files, metrics pages and the window they fill. A context manager; not thread-safe.

    Args:
        paths: As for `Follower`. Records that ended before the window are not read.
        window: Length of the window, seconds.
        gauges: Returns the state of endpoints from metrics; None if there are none.
    """

    def __init__(self, paths: Sequence[Path], window: float, gauges: ReadGauges) -> None:
        window_ns = round(window * 1e9)
        self._paths = paths
        self._gauges = gauges
        self._window = LiveWindow(window_ns)
        position = recent_position(paths, window_ns, time.time_ns())
        self._follower = Follower(*paths, position=position, skip_unreadable=True)
        self._invalid_lines = 0
        self._problem = ""

    def __enter__(self) -> RecordSource:
        return self

    def __exit__(self, *error: object) -> None:
        self._follower.close()

    def read(self, seconds: float) -> bool:
        """Read what was written since the last call; return whether that was all.

        Args:
            seconds: How long to read at most.
        """
        end = time.monotonic() + seconds
        with contextlib.closing(self._follower.read()) as entries:
            while time.monotonic() < end:
                now_ns = time.time_ns()
                batch = list(islice(entries, _ENTRIES_BETWEEN_CLOCKS))
                for entry in batch:
                    if not isinstance(entry, RecordError):
                        self._window.add(entry.record, now_ns)
                    elif entry.line is not None:
                        self._invalid_lines += 1
                    else:
                        self._problem = str(entry)
                if len(batch) < _ENTRIES_BETWEEN_CLOCKS:
                    return True
        return False

    def read_all(self) -> None:
        """Read all that was written since the last call."""
        while not self.read(math.inf):
            pass

    def snapshot(self, text: str = "") -> Snapshot:
        """Return what to show now.

        Args:
            text: The filter.
        """
        now_ns = time.time_ns()
        self._window.advance(now_ns)
        return take_snapshot(
            self._window,
            self._gauges(),
            source=", ".join(map(str, self._paths)),
            now_ns=now_ns,
            problems=list(self._problems()),
            text=text,
        )

    def _problems(self) -> Iterator[str]:
        if self._invalid_lines:
            yield f"{plural(self._invalid_lines, 'invalid line')} left out"
        if self._problem:
            yield self._problem
        for path in self._paths:
            if not _exists(path):
                yield f"{path} is no longer there: waiting for it"


def _exists(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.exists(absolute(path)) or any(record_files(absolute(path)).values())
    return False
