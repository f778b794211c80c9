"""Follows the debug log of a picker."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable

import msgspec

from otel_lifecycle.observation.log_file import LONGEST_LINE, Lines, LogFile
from otel_lifecycle.observation.picker.held import Held
from otel_lifecycle.observation.picker.log_lines import BEGIN, Line, Reading, parse_line
from otel_lifecycle.observation.picker.told import Told
from otel_lifecycle.records import FilePosition
from otel_lifecycle.records.names import absolute

_MOST_VALUES = 1_000_000  # about 100 MB
_MOST_ALIKE = 16
_LONGEST_ID = 1_024
_RECENT_SECONDS = 60.0
# How Kubernetes keeps what a container prints: lines in parts of at most 16 KiB.
_KEPT = re.compile(rb"\d{4}-\S{10,40} (?:stdout|stderr) ([FP])\S* ")


class SavedTold(msgspec.Struct):
    """What is known of the requests of one id."""

    request_id: str
    told: list[Told]


class SavedLog(msgspec.Struct):
    """How far the log of a picker was read, and what it told of requests that have not ended."""

    log: str
    position: FilePosition = FilePosition()
    told: list[SavedTold] = []


class PickerLog:
    """Reads what a picker says, and holds it until it is asked for. Not thread-safe.

    Args:
        path: The log, or the file in which Kubernetes keeps what the picker's container prints.
        saved: Where to resume, if it was this log. Default: at its begin.
        hold_for: Seconds after which what nobody asked for is forgotten.
        monotonic: Seconds, for ages.

    Attributes:
        newest_ns: The time of the newest line of use, Unix nanoseconds; 0: none had a time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        saved: SavedLog | None = None,
        *,
        hold_for: float = 3600.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.newest_ns = 0
        self._path = absolute(path)
        self._held: Held[list[Reading]] = Held(_MOST_VALUES, hold_for, monotonic)
        self._completed: list[str] = []
        self._part = b""
        if saved is None or saved.log != str(self._path):
            saved = SavedLog(str(self._path))
        self._file = LogFile(path, saved.position)
        for each in saved.told:
            self._held.add(each.request_id, [Reading(told) for told in each.told])

    def poll(self) -> Lines:
        """Read new lines, a quarter of a megabyte at most; never waits.

        Returns:
            What was read, without its lines.
        """
        read = self._file.poll()
        for line in read.lines:
            if line is not None:
                self._take_kept(line)
        read.lines = []
        return read

    def completed(self) -> list[str]:
        """Return the ids of requests that the picker has finished with since the last call."""
        completed, self._completed = self._completed, []
        return completed

    def told(self, request_id: str) -> list[Told]:
        """Return what is known of the requests of an id."""
        return [reading.told for reading in self._held.get(request_id) or ()]

    def forget(self, request_id: str, told: Told) -> None:
        """Forget what is not needed any more."""
        alike = self._held.get(request_id)
        if alike is not None:
            alike[:] = [reading for reading in alike if reading.told is not told]
            if not alike:
                self._held.drop(request_id)

    def saved(self, in_flight: Iterable[str]) -> SavedLog:
        """Return what is needed to continue after a restart.

        Args:
            in_flight: The ids of requests that have not ended.
        """
        wanted = dict.fromkeys([*in_flight, *self._held.younger(_RECENT_SECONDS)])
        found = [SavedTold(request_id, self.told(request_id)) for request_id in wanted]
        told = [each for each in found if each.told]
        return SavedLog(str(self._path), self._file.position, told)

    def close(self) -> None:
        """Close the log."""
        self._file.close()

    def _take_kept(self, line: bytes) -> None:
        """Take a line, or a part of one as Kubernetes keeps it."""
        kept = _KEPT.match(line)
        if kept is not None:
            line = self._part + line[kept.end() :]
            self._part = b""
            if kept[1] == b"P":
                self._part = line if len(line) <= LONGEST_LINE else b""
                return
        parsed = parse_line(line)
        if parsed is not None and parsed.request_id and len(parsed.request_id) <= _LONGEST_ID:
            self._take(parsed)

    def _take(self, line: Line) -> None:
        at_ns = line.at_ns
        self.newest_ns = max(self.newest_ns, at_ns)
        alike = self._held.get(line.request_id)
        if alike is None:
            alike = [Reading(Told(at_ns))]
            self._held.add(line.request_id, alike)
        elif line.message == BEGIN and len(alike) < _MOST_ALIKE:
            former = alike[-1].told
            told = Told(at_ns, is_mixed=not former.is_complete or former.is_mixed)
            former.is_mixed = former.is_mixed or told.is_mixed
            alike.append(Reading(told))
        told = alike[-1].told
        self._held.grow(line.request_id, alike[-1].take(line))
        if told.is_complete:
            self._completed.append(line.request_id)
