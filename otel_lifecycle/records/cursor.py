"""Reads a live file and its closed segments."""

from __future__ import annotations

import gzip
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Generic

from otel_lifecycle.records.line import (
    LONGEST_LINE,
    Parsed,
    Positioned,
    RecordError,
)
from otel_lifecycle.records.names import SegmentKey, closed_segments
from otel_lifecycle.records.opening import (
    SKIPPED_BYTES,
    Identity,
    Signature,
    buffered,
    count_lines,
    fingerprint,
    identity,
    is_being_written,
    is_compressed,
    is_line_end,
    open_if_there,
    read_fingerprint,
    signature,
)
from otel_lifecycle.records.position import FilePosition, LeftFile

_TRIES = 100
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
# When to close a deleted file without a successor, which frees its disk space.
_DELETED_SECONDS = 60.0


class ReadElsewhereError(Exception):
    """A file is still being read under another name."""


class Cursor(Generic[Parsed]):
    """Reads one live file and its closed segments, each line once. Not thread-safe.

    The live file stays open after it was read to its end. If it is renamed or deleted, the cursor
    keeps reading it until its writer has moved on to another file.

    Attributes:
        live: The live file.
        file: The digest of the current file; empty: it had no line yet.
        unfinished: The last line of the live file, if it had no end yet.

    Args:
        live: The live file.
        position: Where to resume.
        parse: Parses a line; its ValueError says why the line is invalid.
        find: Returns how far a file was read under another name, from its digest and identity.
        leave: Receives the digest and position of a file that this name no longer leads to.
        skip_unreadable: Skip a closed segment that cannot be read, instead of waiting for it.
    """

    def __init__(
        self,
        live: Path,
        position: FilePosition,
        parse: Callable[[bytes], Parsed],
        find: Callable[[Cursor[Parsed], str, Identity], LeftFile | None],
        leave: Callable[[str, LeftFile], None],
        *,
        skip_unreadable: bool,
    ) -> None:
        self.live = live
        self.file = position.file
        self.unfinished: RecordError | None = None
        self._parse = parse
        self._find = find
        self._leave = leave
        self._skip_unreadable = skip_unreadable
        self._closed = SegmentKey.parse(position.closed) if position.closed else None
        self._offset = position.offset
        self._line = position.line
        self._handle: BinaryIO | None = None
        self._path = live
        self._key: SegmentKey | None = None  # of the closed segment that is open
        self._opened: Signature | None = None
        self._seen: Signature | None = None  # of the live file when it was last read to its end
        self._complete = False  # whether `file` was read completely and no longer has a writer
        self._nameless_since: float | None = None
        self._failure = ""
        self._problems: deque[RecordError] = deque()  # not reported yet
        self._segments: deque[tuple[SegmentKey, str]] = deque()

    @property
    def position(self) -> FilePosition:
        """The position after the last line that was read."""
        closed = str(self._closed) if self._closed else ""
        return FilePosition(closed, self.file, self._offset, self._line)

    @property
    def is_open(self) -> bool:
        """Whether it has a file open."""
        return self._handle is not None

    def read(
        self, segments: deque[tuple[SegmentKey, str]]
    ) -> Iterator[Positioned[Parsed] | RecordError]:
        """Yield the entries not read yet, up to the current end of the files.

        It may be stopped anywhere: the next call continues after the last yielded entry.

        Args:
            segments: The closed segments of a listing, oldest first; those read are removed.
        """
        self._segments = segments
        yield from self._report()
        while self._has_more():
            try:
                handle = self._continue()
                yield from self._report()
                if handle is None:
                    return
                yield from self._read_lines(handle)
                yield from self._report()
            except ReadElsewhereError:
                self.close()
                return
            except _DAMAGED as error:
                reason = f"the compression is broken: {error}"
                broken = RecordError(self._path, self._line + 1, reason)
                self._finish()
                yield broken
            except OSError as error:
                self.close()
                unreadable = RecordError(self._path, None, error.strerror or str(error))
                if self._skip_unreadable and self._key is not None:
                    self._finish()
                    yield unreadable
                    continue
                if str(error) != self._failure:  # report it once, not at each attempt
                    self._failure = str(error)
                    yield unreadable
                return

    def place(self) -> Identity | None:
        """Return the identity of the current file, if its name still leads to it."""
        try:
            now = identity(os.stat(self.live))
            if self._handle is not None:
                known = now == identity(os.fstat(self._handle.fileno()))
            elif self._seen is not None:
                known = now == self._seen.identity
            else:
                handle = open_if_there(self.live)
                if handle is None:
                    return None
                with handle:
                    known = read_fingerprint(buffered(handle)) == self.file
        except (*_DAMAGED, OSError):
            return None
        return now if known else None

    def holds(self, file: Identity) -> bool:
        """Return whether the cursor has that file open."""
        return self._handle is not None and identity(os.fstat(self._handle.fileno())) == file

    def let_go(self, lost: str = "") -> LeftFile:
        """Forget the current file, but not the closed segments; return how far it was read."""
        left = LeftFile(str(self.live), self._offset, self._line, lost)
        self.close()
        self.file, self._offset, self._line = "", 0, 0
        self.unfinished = self._seen = None
        self._complete = False
        return left

    def vanish(self) -> Iterator[RecordError]:
        """Leave the file after its name and all closed segments have disappeared."""
        known = self._complete or self._seen is not None
        self._leave_file("" if known else self._lost("the file was deleted"))
        return self._report()

    def close(self) -> None:
        """Close the file; the next `read` continues at this position."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _report(self) -> Iterator[RecordError]:
        while self._problems:
            yield self._problems.popleft()

    def _has_more(self) -> bool:
        try:
            if self._handle is None:
                return signature(os.stat(self.live)) != self._seen
            if self._key is not None or is_compressed(self._path):
                return True  # reading stopped in the middle
            if signature(os.fstat(self._handle.fileno())) != self._seen:
                self._nameless_since = None
                return True
            return self._is_abandoned(self._handle)
        except FileNotFoundError:
            return self._next_segment() is not None
        except OSError:
            return True  # opening the file reports the reason

    def _is_abandoned(self, handle: BinaryIO) -> bool:
        """Return whether the open file has lost its name and will not be written any more."""
        status = os.fstat(handle.fileno())
        try:
            successor = os.stat(self.live)
        except (FileNotFoundError, NotADirectoryError):
            successor = None
        if successor is not None and identity(successor) == identity(status):
            self._nameless_since = None
            return False
        segment = self._next_segment()
        if segment is not None and _leads_to(self.live.with_name(segment[1]), identity(status)):
            return True  # a writer renames under the lock, as its last step
        gone_on = segment is not None or (successor is not None and successor.st_size > 0)
        if not gone_on:
            now = time.monotonic()
            if self._nameless_since is None:
                self._nameless_since = now
            gone_on = not status.st_nlink and now - self._nameless_since >= _DELETED_SECONDS
        # A writer that holds the lock has not noticed the renaming yet.
        return gone_on and not is_being_written(handle)

    def _next_segment(self) -> tuple[SegmentKey, str] | None:
        """Return the oldest segment of the listing that was not read."""
        while self._segments and self._closed and self._segments[0][0] <= self._closed:
            self._segments.popleft()
        return self._segments[0] if self._segments else None

    def _continue(self) -> BinaryIO | None:
        """Open the oldest file that is not read to its end, at the position reached."""
        handle = self._handle
        if handle is not None:
            if is_compressed(self._path):
                return handle
            # Read it once more: data may have been written before it was abandoned.
            if signature(os.fstat(handle.fileno())) != self._seen:
                return self._begin(handle)
            self.close()
            self._complete = True
            self._seen = None
        handle = self._open()
        return None if handle is None else self._begin(handle)

    def _open(self) -> BinaryIO | None:
        for _ in range(_TRIES):
            segment = self._next_segment()
            if segment is not None:
                self._key, name = segment
                self._path = self.live.with_name(name)
                self._handle = open_if_there(self._path)
                if self._handle is not None:
                    return self._handle
            # All were read, or this one was compressed or deleted after the listing. Open the live
            # file before listing anew, so that the list has all segments closed before it.
            self._path, self._key = self.live, None
            live, refusal = _try_to_open(self.live)
            try:
                self._segments.clear()
                self._segments.extend(closed_segments(self.live))
            except BaseException:
                _close(live)
                raise
            if self._next_segment() is None:
                if refusal is not None:
                    raise refusal
                self._handle = live
                return live
            _close(live)
        return None

    def _begin(self, handle: BinaryIO) -> BinaryIO:
        status = os.fstat(handle.fileno())
        self._opened = signature(status)
        handle = buffered(handle)
        file = read_fingerprint(handle)
        shorter = self._offset > status.st_size and not is_compressed(self._path)
        if file and file == self.file and shorter:
            # A writer removed a failed append, part of which was read here.
            self._offset, self._line = status.st_size, count_lines(handle)
        if not (self.file and file == self.file and is_line_end(handle, self._offset)):
            self._change_file(file, identity(status))
        self.unfinished = None
        handle.seek(self._offset)
        return handle

    def _change_file(self, file: str, found: Identity) -> None:
        """Leave the current file for another one."""
        if self._key is not None:
            gap = self._gap(self._key)
            if gap:
                self._problems.append(RecordError(self._path, None, gap))
            self._leave_file("")
        else:
            self._leave_file("" if self._complete else self._lost("the file was replaced"))
            known = self._find(self, file, found) if file else None
            if known is not None:
                self._offset, self._line = known.offset, known.line
        self.file = file

    def _leave_file(self, lost: str) -> None:
        file, torn = self.file, self.unfinished
        if self._complete and torn is not None:
            self._problems.append(RecordError(torn.path, torn.line, "the line has no end"))
        handle, self._handle = self._handle, None  # that of the next file
        left = self.let_go(lost)
        self._handle = handle
        if file:
            self._leave(file, left)

    def _gap(self, key: SegmentKey) -> str:
        """Describe what is missing between the last file that was read and a closed segment."""
        closed = self._closed.number if self._closed else 0
        missing = key.number - closed - 1
        known = self.file and self._complete
        if self.file and not known:
            what = f"{missing} closed segments before this one were deleted"
            if not self._closed or missing <= 0:
                what = "an unknown number of closed segments before this one were deleted"
            return self._lost(what)
        if known:
            missing -= 1  # do not count the file that was read to its end
        elif not self._closed:
            return ""
        if missing <= 0:
            return ""
        number = missing if self._closed else "an unknown number of"
        return f"{number} closed segments before this one were deleted before they were read"

    def _lost(self, what_happened: str) -> str:
        return f"{what_happened} before everything after line {self._line} was read"

    def _read_lines(self, handle: BinaryIO) -> Iterator[Positioned[Parsed] | RecordError]:
        while line := handle.readline(LONGEST_LINE):
            if not self.file:  # its first line was completed after it was opened
                self.file = fingerprint(line)
            size = len(line)
            if size == LONGEST_LINE:
                while line and not line.endswith(b"\n"):
                    line = handle.readline(SKIPPED_BYTES)
                    size += len(line)
            if not line.endswith(b"\n"):
                if self._key is None:
                    reason = "skipped, the line has no end yet"
                    self.unfinished = RecordError(self._path, self._line + 1, reason)
                else:
                    reason = "the line has no end"
                    self._problems.append(RecordError(self._path, self._line + 1, reason))
                break
            self._line += 1
            self._offset += size
            try:
                if size >= LONGEST_LINE:
                    raise ValueError(f"{LONGEST_LINE} bytes or longer")
                record = self._parse(line)
            except ValueError as error:
                yield RecordError(self._path, self._line, str(error))
            else:
                yield Positioned(record, self._path, self._line, size)
        self._finish()

    def _finish(self) -> None:
        self._failure = ""
        if self._key is None:
            self._seen = self._opened
            if is_compressed(self._path):
                self.close()
        else:
            self.let_go()
            self._closed = self._key


def _leads_to(path: Path, file: Identity) -> bool:
    try:
        return identity(os.stat(path)) == file
    except OSError:
        return False


def _try_to_open(path: Path) -> tuple[BinaryIO | None, OSError | None]:
    try:
        return open_if_there(path), None
    except OSError as error:
        return None, error


def _close(handle: BinaryIO | None) -> None:
    if handle is not None:
        handle.close()
