"""Follows record files while they are written, rotated, compressed and deleted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from types import TracebackType

import msgspec

from otel_lifecycle.records.cursor import Cursor, FilePosition, PositionedRecord
from otel_lifecycle.records.line import RecordError
from otel_lifecycle.records.names import (
    SegmentKey,
    absolute,
    is_folder,
    record_files,
    segment_of,
)

_BATCH_BYTES = 8 << 20


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far record files have been read: what to keep, to go on there later.

    Attributes:
        files: By the path of the live file.
    """

    files: Mapping[str, FilePosition] = {}

    def to_json(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Position:
        """The opposite of `to_json`.

        Raises:
            ValueError: It is no position; the text says why.
        """
        try:
            position = msgspec.json.decode(text, type=cls)
            for name, file in position.files.items():
                if file.closed:
                    SegmentKey.parse(file.closed)
                if file.offset and not file.file:
                    raise ValueError(f"it does not say which file {name} was")
        except (msgspec.DecodeError, ValueError) as error:
            raise ValueError(f"not a position: {error}") from error
        return position


class Batch(msgspec.Struct, frozen=True):
    """What a `Follower` found at once.

    Attributes:
        records: Those of one process in the order it wrote them.
        problems: Lines that are no records and were passed over, files that cannot be read, and
            segments that were deleted before they were read.
        position: Behind all of these.
        caught_up: Whether that was all there is now.
    """

    records: list[PositionedRecord]
    problems: list[RecordError]
    position: Position
    caught_up: bool


class Follower:
    """Reads each record of some files once, also those that are written later.

    It follows a file through rotation, and reads a closed segment under whatever name, compressed
    or not. A file that was deleted before all of it was read is reported as far as it can be known:
    numbers that are missing between segments, a first line that is no longer there. It holds one
    file open and one batch in memory. Not thread-safe.

    Args:
        *paths: Record files, with the closed segments that were rotated from them; single closed
            segments; folders, for their files `*.jsonl` and `*.jsonl.gz`. None of them has to be
            there yet.
        position: Where to go on. Default: at the oldest record.
        skip_unreadable: Pass over a closed segment that cannot be read. Default: those behind it
            wait until it can be, or is deleted, and the position stays before it.
    """

    def __init__(
        self,
        *paths: str | os.PathLike[str],
        position: Position | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        self._skip_unreadable = skip_unreadable
        given = [absolute(path) for path in paths]
        # A shell's `records*` names segments beside the live file, which stands for them already.
        self._paths = [path for path in given if not _is_covered(path, given)]
        self._cursors: dict[Path, Cursor] = {}
        self._current: Path | None = None
        self._failures: dict[Path, str] = {}
        for name, start in (position or Position()).files.items():
            live = Path(name)
            if live in self._paths or live.parent in self._paths:
                self._cursors[live] = self._new_cursor(live, start)
        self._folders = {live.parent for live in self._cursors if live.parent in self._paths}

    @property
    def position(self) -> Position:
        """Behind the last record that was read."""
        return Position({str(live): cursor.position for live, cursor in self._cursors.items()})

    @property
    def unfinished(self) -> list[RecordError]:
        """Last lines that had no end when they were read: they may still be written."""
        return [cursor.unfinished for cursor in self._cursors.values() if cursor.unfinished]

    def poll(self, limit: int = 1_000) -> Batch:
        """What has come since the last call, at most `limit` records and problems; never waits."""
        records: list[PositionedRecord] = []
        problems: list[RecordError] = []
        size = 0
        caught_up = False
        with contextlib.closing(self.read()) as entries:
            while len(records) + len(problems) < limit and size < _BATCH_BYTES:
                entry = next(entries, None)
                if entry is None:
                    caught_up = True
                    break
                if isinstance(entry, PositionedRecord):
                    records.append(entry)
                    size += entry.size
                else:
                    problems.append(entry)
        return Batch(records, problems, self.position, caught_up)

    def read(self) -> Generator[PositionedRecord | RecordError]:
        """Yields records and problems as they stand in the files, up to what is there now.

        It may be left off anywhere: the next call, or `poll`, goes on behind what was yielded.
        """
        files = yield from self._list()
        order = list(files)
        if self._current in files:  # the one that was left off comes first, then those behind it
            start = order.index(self._current)
            order = order[start:] + order[:start]
        for live in order:
            self._current = live
            cursor = self._cursors.get(live)
            if cursor is None:
                cursor = self._cursors[live] = self._new_cursor(live, FilePosition())
            yield from cursor.read(files[live])

    def close(self) -> None:
        """Closes the open file."""
        for cursor in self._cursors.values():
            cursor.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _new_cursor(self, live: Path, position: FilePosition) -> Cursor:
        return Cursor(live, position, skip_unreadable=self._skip_unreadable)

    def _list(self) -> Generator[RecordError, None, dict[Path, dict[SegmentKey, Path]]]:
        files: dict[Path, dict[SegmentKey, Path]] = {}
        complete = True
        for path in self._paths:
            try:
                if is_folder(path):
                    self._folders.add(path)
                elif path in self._folders:  # it may come back
                    complete = False
                    continue
                files.update(record_files(path))
                self._failures.pop(path, None)
            except FileNotFoundError:
                complete = False
            except OSError as error:
                complete = False
                if str(error) != self._failures.get(path):  # once, however often it is tried
                    self._failures[path] = str(error)
                    yield RecordError(path, None, error.strerror or str(error))
        if complete:
            for live in self._cursors.keys() - files.keys():
                cursor = self._cursors.pop(live)
                cursor.close()
                lost = cursor.vanished()
                if lost is not None:
                    yield lost
        return files


def _is_covered(path: Path, given: Collection[Path]) -> bool:
    """Whether a closed segment belongs to a live file that is given as well."""
    segment = segment_of(path)
    return segment is not None and segment[0] in given
