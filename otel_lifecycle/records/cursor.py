"""How far a live file and its closed segments have been read."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple, cast

import msgspec

from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records.line import LONGEST_LINE, RecordError, parse_line
from otel_lifecycle.records.names import COMPRESSED, SegmentKey, closed_segments

_FINGERPRINT_BYTES = 4096
_SKIPPED_BYTES = 1 << 16
_TRIES = 100
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


class PositionedRecord(msgspec.Struct, frozen=True):
    """A record, and where it was found.

    Attributes:
        record: The record.
        path: The file, under the name it had when it was opened.
        line: The number of its line, from 1.
        size: The bytes of its line, before compression.
    """

    record: LifecycleRecord
    path: Path
    line: int
    size: int


_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # what a file can hold


class FilePosition(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How far one live file and its closed segments have been read.

    Names and inodes change when a file is rotated and compressed, its first line does not: a
    digest of it tells whether a file is the one that was being read.

    Attributes:
        closed: The last segment that was read to its end; empty: none.
        file: The digest of the file that is being read; empty: it had no line yet.
        offset: The bytes of it that were read, before compression.
        line: The lines of it that were read.
    """

    closed: str = ""
    file: str = ""
    offset: _Count = 0
    line: _Count = 0


class Cursor:
    """Reads one live file and its closed segments, each line once. Not thread-safe.

    Attributes:
        live: The live file.
        reading: Whether it holds a file open.
        unfinished: The last line of the live file, if it had no end yet.

    Args:
        live: The live file.
        position: Where to go on.
        skip_unreadable: Pass over a closed segment that cannot be read, instead of waiting for it.
    """

    def __init__(
        self, live: Path, position: FilePosition, *, skip_unreadable: bool = False
    ) -> None:
        self.live = live
        self._skip_unreadable = skip_unreadable
        self.unfinished: RecordError | None = None
        self._closed = SegmentKey.parse(position.closed) if position.closed else None
        self._file = position.file
        self._offset = position.offset
        self._line = position.line
        self._handle: BinaryIO | None = None
        self._path = live
        self._key: SegmentKey | None = None  # of the closed segment that is open
        self._opened: _Signature | None = None
        self._seen: _Signature | None = None  # of the live file when it was last read to its end
        self._failure = ""

    @property
    def position(self) -> FilePosition:
        """Behind the last line that was read."""
        closed = str(self._closed) if self._closed else ""
        return FilePosition(closed, self._file, self._offset, self._line)

    @property
    def reading(self) -> bool:
        """Whether a file is open, because the last reader left off in the middle of it."""
        return self._handle is not None

    def read(self, segments: Mapping[SegmentKey, Path]) -> Iterator[PositionedRecord | RecordError]:
        """Yields what has not been read yet, up to what is there now.

        It may be left off anywhere: the next call goes on behind what was yielded.

        Args:
            segments: The closed segments, as they were listed a moment ago.
        """
        while self._handle is not None or self._has_more(segments):
            try:
                if self._handle is None:
                    lost = self._open()
                    if lost is not None:
                        yield lost
                if self._handle is None:
                    return
                yield from self._read_lines(self._handle)
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
                if str(error) != self._failure:  # once, however often it is tried
                    self._failure = str(error)
                    yield unreadable
                return

    def vanished(self) -> RecordError | None:
        """What is lost when neither the live file nor a closed segment is there any more."""
        if self._file and self._seen is None:
            return self._lost(self.live, "the file was deleted")
        return None

    def close(self) -> None:
        """Closes the file; the next `read` goes on where this one was."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _has_more(self, segments: Mapping[SegmentKey, Path]) -> bool:
        try:
            return _signature(os.stat(self.live)) != self._seen
        except FileNotFoundError:
            return any(map(self._is_unread, segments))
        except OSError:
            return True  # opening it tells why

    def _is_unread(self, key: SegmentKey) -> bool:
        return self._closed is None or key > self._closed

    def _open(self) -> RecordError | None:
        """Opens the oldest file that is not read to its end, where it was left."""
        for _ in range(_TRIES):
            # Before the segments are listed: what was closed before it is among them.
            self._path, self._key = self.live, None
            live, refusal = _try_to_open(self.live)
            try:
                segments = closed_segments(self.live)
            except BaseException:
                _close(live)
                raise
            key = next(filter(self._is_unread, segments), None)
            if key is None:
                if refusal is not None:
                    raise refusal
                return None if live is None else self._begin(live)
            _close(live)
            self._path, self._key = segments[key], key
            handle = _open_if_there(self._path)
            if handle is not None:
                return self._begin(handle)
            # Compressed or deleted since it was listed.
        return None

    def _begin(self, handle: BinaryIO) -> RecordError | None:
        path, key = self._path, self._key
        self._handle = handle
        self._opened = _signature(os.fstat(handle.fileno()))
        self.unfinished = None
        lost = None
        file = _fingerprint(handle.readline(_FINGERPRINT_BYTES))
        size = self._opened.size
        if file and file == self._file and self._offset > size and not _is_compressed(path):
            # A writer takes an append back that failed: what was read of it is gone again.
            self._offset, self._line = size, _count_lines(handle)
        if self._file and not (file == self._file and _is_line_end(handle, self._offset)):
            lost = self._lost(path, self._what_happened(key))
            self._offset = self._line = 0
        elif not self._file and key and self._closed and key.number != self._closed.number + 1:
            lost = RecordError(path, None, f"{self._what_happened(key)} before they were read")
        self._file = file
        handle.seek(self._offset)
        return lost

    def _what_happened(self, key: SegmentKey | None) -> str:
        if key is None:
            return "the file was replaced"
        missing = key.number - self._closed.number - 1 if self._closed else 0
        if missing > 0:
            return f"{missing} closed segments before this one were deleted"
        return "closed segments before this one were deleted, nobody knows how many,"

    def _lost(self, path: Path, what_happened: str) -> RecordError:
        return RecordError(
            path,
            None,
            f"{what_happened} before all was read that may have followed line {self._line}",
        )

    def _read_lines(self, handle: BinaryIO) -> Iterator[PositionedRecord | RecordError]:
        while line := handle.readline(LONGEST_LINE):
            if not self._file:  # its first line has come to its end since it was opened
                self._file = _fingerprint(line)
            size = len(line)
            if size == LONGEST_LINE:
                while line and not line.endswith(b"\n"):
                    line = handle.readline(_SKIPPED_BYTES)
                    size += len(line)
            if not line.endswith(b"\n"):
                if self._key is None:
                    reason = "left out, the line has no end yet"
                    self.unfinished = RecordError(self._path, self._line + 1, reason)
                else:
                    yield RecordError(self._path, self._line + 1, "the line has no end")
                break
            self._line += 1
            self._offset += size
            try:
                if size >= LONGEST_LINE:
                    raise ValueError(f"{LONGEST_LINE} bytes or longer")
                record = parse_line(line)
            except ValueError as error:
                yield RecordError(self._path, self._line, str(error))
            else:
                yield PositionedRecord(record, self._path, self._line, size)
        self._finish()

    def _finish(self) -> None:
        self.close()
        self._failure = ""
        if self._key is None:
            self._seen = self._opened
        else:
            self._closed, self._file, self._offset, self._line = self._key, "", 0, 0
            self._seen = None


class _Signature(NamedTuple):
    device: int
    inode: int
    size: int
    modified_ns: int


def _signature(status: os.stat_result) -> _Signature:
    return _Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def open_record_file(path: Path) -> BinaryIO:
    """Opens a record file to read what is in it, compressed or not; never waits for a writer.

    Raises:
        OSError: It is not there, cannot be read, or is no regular file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return cast("BinaryIO", gzip.open(path)) if _is_compressed(path) else path.open("rb")


def _open_if_there(path: Path) -> BinaryIO | None:
    try:
        return open_record_file(path)
    except FileNotFoundError:
        return None


def _try_to_open(path: Path) -> tuple[BinaryIO | None, OSError | None]:
    try:
        return _open_if_there(path), None
    except OSError as error:
        return None, error


def _is_compressed(path: Path) -> bool:
    return path.name.endswith(COMPRESSED)


def _close(handle: BinaryIO | None) -> None:
    if handle is not None:
        handle.close()


def _fingerprint(first_line: bytes) -> str:
    start = first_line[:_FINGERPRINT_BYTES]
    if len(start) < _FINGERPRINT_BYTES and not start.endswith(b"\n"):
        return ""  # it may still be written
    return hashlib.blake2b(start, digest_size=16).hexdigest()


def _count_lines(handle: BinaryIO) -> int:
    handle.seek(0)
    return sum(chunk.count(b"\n") for chunk in iter(partial(handle.read, _SKIPPED_BYTES), b""))


def _is_line_end(handle: BinaryIO, offset: int) -> bool:
    if offset == 0:
        return True
    handle.seek(offset - 1)
    return handle.read(1) == b"\n"
