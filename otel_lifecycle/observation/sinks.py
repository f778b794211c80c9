"""Where the records of an observer go."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO

import msgspec

from otel_lifecycle.config import PersistenceConfig
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records import FilePosition, Follower, Position, RecordError
from otel_lifecycle.records.names import absolute, newest_segment
from otel_lifecycle.records.opening import open_if_there, read_fingerprint
from otel_lifecycle.records.record_file import RecordFile
from otel_lifecycle.runtime.text import printable

_SLICE_RECORDS = 50


class Sink(Protocol):
    """Takes finished records."""

    def put(self, record: LifecycleRecord) -> None:
        """Take one record; no I/O."""
        ...

    def flush(self) -> None:
        """Write the records taken since; may be repeated after an error.

        Raises:
            OSError: They could not be written. Those that were are not written again.
        """
        ...

    def caught_up(self) -> None:
        """Take note that everything there was has been read."""
        ...


class Printer:
    """Prints records as JSON Lines.

    Args:
        output: Where to.
    """

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._encoder = msgspec.json.Encoder()

    def put(self, record: LifecycleRecord) -> None:
        """Print one record."""
        self._output.write(printable(self._encoder.encode(record).decode()) + "\n")

    def flush(self) -> None:
        """Write what is buffered."""
        self._output.flush()

    def caught_up(self) -> None:
        """Do nothing."""


class Recorder:
    """Appends records to a file, each once also across a crash.

    Unlike a router's, it waits for a disk that is full: the log waits as well.

    Args:
        config: Enabled settings of the file.
        warn: Called with a description of each problem other than a failed write.
        written: The position that `position` returned when progress was saved last; None: never.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The path is not valid for a file.
    """

    def __init__(
        self,
        config: PersistenceConfig,
        warn: Callable[[str], None],
        written: FilePosition | None,
    ) -> None:
        self._path = absolute(config.output_path)
        self._catching_up = True
        self._already: set[str | None] = set()
        if written is not None:
            self._already = _span_ids(self._path, written)
        self._written = written
        self._file = RecordFile(config, warn)
        self._encoder = msgspec.json.Encoder()
        self._records: list[LifecycleRecord] = []
        self._lines = b""  # encoded, and not written yet
        self.repeated = 0  # records that were in the file already

    def put(self, record: LifecycleRecord) -> None:
        """Take one record, unless it was written before a crash."""
        if self._already and record.span_id in self._already:
            self._already.discard(record.span_id)
            self.repeated += 1
            return
        self._records.append(record)

    def flush(self) -> None:
        """Append the records taken since.

        Raises:
            OSError: The rest could not be written.
        """
        while self._lines or self._records:
            if not self._lines:
                # Few at a time: lines are written while the cache has them.
                self._lines = self._encoder.encode_lines(self._records[:_SLICE_RECORDS])
                del self._records[:_SLICE_RECORDS]
            self._lines = self._lines[self._file.append(self._lines) :]

    def caught_up(self) -> None:
        """Take note that all lines were read whose records were in the file at the start."""
        self._catching_up = False

    def position(self) -> FilePosition:
        """Return the end of the file, once it is on disk.

        While lines are read again it is the former end: after another crash, all records after
        that are to be known again.

        Raises:
            OSError: The file cannot be read or synced.
        """
        if self._written is not None and self._already and self._catching_up:
            return self._written
        handle = open_if_there(self._path)
        if handle is None:
            return FilePosition(str(newest_segment(self._path)) if self._closed() else "")
        with handle:
            os.fsync(handle.fileno())
            size = os.fstat(handle.fileno()).st_size
            closed = str(newest_segment(self._path)) if self._closed() else ""
            return FilePosition(closed, read_fingerprint(handle), size)

    def close(self) -> None:
        """Write what is left, and close the file."""
        try:
            self.flush()
            with suppress(BlockingIOError):
                self._file.finish()
        finally:
            self._file.close()

    def _closed(self) -> bool:
        return newest_segment(self._path).number > 0


def _span_ids(path: Path, written: FilePosition) -> set[str | None]:
    """Return the spans of the records after a position."""
    found: set[str | None] = set()
    position = Position({str(path): written})
    with Follower(path, position=position, skip_unreadable=True) as follower:
        for entry in follower.read():
            if not isinstance(entry, RecordError):
                found.add(entry.record.span_id)
    return found
