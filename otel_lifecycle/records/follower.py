"""Follows record files while they are written, rotated, compressed and deleted."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records.cursor import Cursor, ReadElsewhereError
from otel_lifecycle.records.line import (
    Parsed,
    Positioned,
    PositionedRecord,
    RecordError,
    parse_line,
)
from otel_lifecycle.records.names import (
    SegmentKey,
    absolute,
    is_folder,
    record_files,
    segment_of,
)
from otel_lifecycle.records.opening import Identity
from otel_lifecycle.records.position import FilePosition, LeftFile, Position

_Listing: TypeAlias = dict[Path, deque[tuple[SegmentKey, str]]]

_BATCH_BYTES = 8 << 20
_OPEN_FILES = 256
_LEFT_FILES = 64

_Self = TypeVar("_Self", bound="LineFollower[Any]")


class Batch(msgspec.Struct, frozen=True):
    """The result of one `Follower.poll`.

    Attributes:
        records: The records; those of one process are in the order it wrote them.
        problems: Skipped lines that are not records, files that cannot be read, and segments that
            were deleted before they were read.
        position: The position after all of these.
        caught_up: Whether everything written so far has been read.
    """

    records: list[PositionedRecord]
    problems: list[RecordError]
    position: Position
    caught_up: bool


class LineFollower(Generic[Parsed]):
    """Reads each line of some record files once, with a parser of its own. Not thread-safe.

    `Follower` says how files are followed.

    Args:
        parse: Parses a line with its end; its ValueError says why the line is invalid.
        *paths: As for `Follower`.
        position: As for `Follower`.
        skip_unreadable: As for `Follower`.
    """

    def __init__(
        self,
        parse: Callable[[bytes], Parsed],
        *paths: str | os.PathLike[str],
        position: Position | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        self._parse = parse
        self._skip_unreadable = skip_unreadable
        given = [absolute(path) for path in paths]
        # A shell's `records*` also names the segments that the live file already stands for.
        self._paths = [path for path in given if not _is_covered(path, given)]
        self._cursors: dict[Path, Cursor[Parsed]] = {}
        self._files: _Listing | None = None  # not all of which was read
        self._current: Path | None = None
        self._failures: dict[Path, str] = {}
        self._open: dict[Path, None] = {}  # the file written last comes last
        position = position or Position()
        self._left = dict(position.left)
        for name, start in position.files.items():
            live = Path(name)
            if live in self._paths or live.parent in self._paths:
                self._cursors[live] = self._new_cursor(live, start)
        self._folders = {live.parent for live in self._cursors if live.parent in self._paths}

    @property
    def position(self) -> Position:
        """The position after the last record that was read."""
        files = {str(live): cursor.position for live, cursor in self._cursors.items()}
        return Position(files, dict(self._left))

    @property
    def unfinished(self) -> list[RecordError]:
        """Last lines that had no end when they were read: their writers may complete them."""
        return [cursor.unfinished for cursor in self._cursors.values() if cursor.unfinished]

    def read(self) -> Generator[Positioned[Parsed] | RecordError]:
        """Yield records and problems in the order of the files, up to their current end.

        It may be stopped anywhere: the next call continues after the last yielded entry.
        """
        is_new = False
        while not is_new:  # the listing of an earlier call may be out of date
            files = self._files
            if files is None:
                files = self._files = yield from self._list()
                is_new = True
            for live in self._in_order(files):
                self._current = live
                yield from self._read_file(live, files[live])
            self._files = None
        yield from self._report_lost()

    def close(self) -> None:
        """Close the open files."""
        for cursor in self._cursors.values():
            cursor.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _in_order(self, files: _Listing) -> list[Path]:
        """Return the files, beginning with the one where reading stopped."""
        order = list(files)
        if self._current not in files:
            return order
        start = order.index(self._current)
        return order[start:] + order[:start]

    def _read_file(
        self, live: Path, segments: deque[tuple[SegmentKey, str]]
    ) -> Iterator[Positioned[Parsed] | RecordError]:
        cursor = self._cursors.get(live)
        if cursor is None:
            cursor = self._cursors[live] = self._new_cursor(live, FilePosition())
        for entry in cursor.read(segments):
            self._open.pop(live, None)
            yield entry
        self._limit_open(cursor)

    def _new_cursor(self, live: Path, position: FilePosition) -> Cursor[Parsed]:
        return Cursor(
            live,
            position,
            self._parse,
            self._find,
            self._leave,
            skip_unreadable=self._skip_unreadable,
        )

    def _limit_open(self, cursor: Cursor[Parsed]) -> None:
        if not cursor.is_open:
            self._open.pop(cursor.live, None)
            return
        self._open.setdefault(cursor.live)
        if len(self._open) > _OPEN_FILES:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self._cursors[oldest].close()

    def _find(self, asking: Cursor[Parsed], file: str, found: Identity) -> LeftFile | None:
        """Return how far a file was read under another name.

        Raises:
            ReadElsewhereError: The file is still being read under the other name.
        """
        for other in self._cursors.values():
            if other is asking or other.file != file:
                continue
            place = other.place()
            if place == found:  # a link
                raise ReadElsewhereError
            if place is not None:  # a copy
                continue
            if other.is_open and not other.holds(found):  # compressed before it was read completely
                raise ReadElsewhereError
            return other.let_go()
        return self._left.pop(file, None)

    def _leave(self, file: str, left: LeftFile) -> None:
        self._left.pop(file, None)
        self._left[file] = left
        if len(self._left) > _LEFT_FILES:
            del self._left[next(iter(self._left))]

    def _report_lost(self) -> Iterator[RecordError]:
        """Report files that no other name has led to, after all names were checked."""
        for file, left in list(self._left.items()):
            if left.lost:
                self._left[file] = msgspec.structs.replace(left, lost="")
                yield RecordError(Path(left.path), None, left.lost)

    def _list(self) -> Generator[RecordError, None, _Listing]:
        files: _Listing = {}
        complete = True
        for path in self._paths:
            try:
                if is_folder(path):
                    self._folders.add(path)
                elif path in self._folders:  # it may come back
                    complete = False
                    continue
                for live, segments in record_files(path).items():
                    files[live] = deque(segments)
                self._failures.pop(path, None)
            except FileNotFoundError:
                complete = False
            except OSError as error:
                complete = False
                if str(error) != self._failures.get(path):  # report it once, not at each attempt
                    self._failures[path] = str(error)
                    yield RecordError(path, None, error.strerror or str(error))
        if complete:
            for live in self._cursors.keys() - files.keys():
                if not self._cursors[live].is_open:
                    self._open.pop(live, None)
                    yield from self._cursors.pop(live).vanish()
        for live, cursor in self._cursors.items():
            if cursor.is_open:
                files.setdefault(live, deque())
        return files


class Follower(LineFollower[LifecycleRecord]):
    """Reads each record of some files once, and continues with records written later.

    It follows a file through rotation and reads closed segments, compressed or not. A file is
    identified by its inode and its first line, so a file renamed within the followed paths is read
    once. The 256 live files written last stay open. If one is renamed or deleted, it is read to its
    end, until its writer has moved on to another file. Records deleted before they were read are
    reported where this can be detected: by numbers missing between segments, or by a first line
    that has disappeared. One batch is in memory. Not thread-safe.

    Args:
        *paths: Record files, including the closed segments rotated from them; single closed
            segments; folders, for their files `*.jsonl` and `*.jsonl.gz`. They may be created
            later.
        position: Where to resume. Default: at the oldest record.
        skip_unreadable: Skip a closed segment that cannot be read. Default: the position stays
            before it, and later segments wait until it can be read or is deleted.
    """

    def __init__(
        self,
        *paths: str | os.PathLike[str],
        position: Position | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(parse_line, *paths, position=position, skip_unreadable=skip_unreadable)

    def poll(self, limit: int = 1_000) -> Batch:
        """Return at most `limit` new records and problems; never waits."""
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
                if isinstance(entry, Positioned):
                    records.append(entry)
                    size += entry.size
                else:
                    problems.append(entry)
        return Batch(records, problems, self.position, caught_up)


def _is_covered(path: Path, given: Collection[Path]) -> bool:
    """Return whether a closed segment belongs to a live file that is given as well."""
    segment = segment_of(path)
    return segment is not None and segment[0] in given
