"""The file the writer appends to, with rotation if it is enabled."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from otel_lifecycle.config import PersistenceConfig
from otel_lifecycle.records.destination import Destination, Owner
from otel_lifecycle.records.housekeeping import Housekeeping
from otel_lifecycle.records.names import (
    NO_SEGMENT,
    live_path,
    newest_segment,
    segment_path,
)
from otel_lifecycle.records.segment import Segment

_RETRY_SECONDS = 60.0


def open_record_file(config: PersistenceConfig, owner: Owner) -> RecordFile:
    """Open the live file of this process, for a writer."""
    return RecordFile(config, owner.warn)


class RecordFile(Destination):
    """The live file of a process, and its rotation. Not thread-safe, like `Segment`.

    Args:
        config: Enabled settings.
        warn: Called with a description of each problem other than a failed write.
        live: The live file, if it is not that of this process.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The path is not valid for a file.
        RuntimeError: The path begins with `~` and there is no home folder.
    """

    def __init__(
        self, config: PersistenceConfig, warn: Callable[[str], None], live: Path | None = None
    ) -> None:
        self._config = config
        self._warn = warn
        self._interval = config.rotate_interval.total_seconds()
        self._syncs = config.fsync != "never"
        self._last = self._next = NO_SEGMENT
        self._failed_at = -_RETRY_SECONDS
        live = live or live_path(config.output_path)
        self._segment = Segment(live, sync=config.fsync == "flush")
        self._housekeeping = Housekeeping(config, self._segment.path, warn)
        self._housekeeping.begin()

    def append(self, lines: bytes) -> int:
        """Append lines, as many as fit into one segment; return the number of bytes.

        Raises:
            BlockingIOError: Another process holds the lock; no line was written.
            OSError: The lines could not be written; none of them is in the file.
        """
        self.attend()
        written = self._segment.append(lines, self._config.rotate_bytes)
        if written == 0:
            # If renaming fails, keep appending: that is better than losing records.
            limit = self._config.rotate_bytes if self._rotate() else 0
            written = self._segment.append(lines, limit)
        return written

    def due_in(self) -> float | None:
        """Return the seconds until the segment is too old; None: never."""
        age = self._segment.age
        if not self._interval or age is None:
            return None
        failed = self._failed_at + _RETRY_SECONDS - time.monotonic()
        return max(0.0, self._interval - age, failed)

    def attend(self) -> None:
        """Close the segment if it is older than the interval.

        Raises:
            BlockingIOError: Another process has the lock.
        """
        if self.due_in() == 0:
            self._rotate()

    def finish(self) -> None:
        """Complete the file: close the segment if rotation is on, else sync it.

        Raises:
            BlockingIOError: Another process has the lock.
        """
        if self._config.rotates:
            self._rotate()
        elif self._syncs:
            try:
                self._segment.sync()
            except OSError as error:
                self._warn(f"cannot be synced at the end: {error}")

    def close(self) -> None:
        """Close the file as it is; in a forked child, the parent's."""
        self._segment.close()

    def _rotate(self) -> bool:
        try:
            self._segment.finish(self._next_path, sync=self._syncs)
        except BlockingIOError:
            raise
        except OSError as error:
            self._failed_at = time.monotonic()
            self._warn(f"cannot be rotated, still appending to it: {error}")
            return False
        self._last = self._next
        self._housekeeping.begin()
        return True

    def _next_path(self) -> Path:
        live = self._segment.path
        # Consider our own last segment too: all segments may have been moved away.
        self._next = max(newest_segment(live), self._last).next()
        return segment_path(live, self._next)
