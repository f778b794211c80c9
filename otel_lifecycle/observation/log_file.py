"""Reads the lines of a log that another program writes and rotates.

A log is renamed, copied and cut, compressed and deleted, under names that nobody told us. So files
are told apart by their first lines, as record files are: those of Envoy begin with a request's id
and its time in microseconds.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from otel_lifecycle.records import FilePosition
from otel_lifecycle.records.names import COMPRESSED, absolute
from otel_lifecycle.records.opening import (
    FINGERPRINT_BYTES,
    fingerprint,
    identity,
    is_compressed,
    is_line_end,
    open_if_there,
    read_fingerprint,
)

LONGEST_LINE = 1 << 20
_CHUNK_BYTES = 1 << 18
_UNREADABLE = (EOFError, OSError, zlib.error)
_MARK = r"[.-](?:\d[\dTZ:_.+-]*|old|bak)"  # what rotation adds to a name


@dataclass
class Lines:
    """What one `LogFile.poll` has read.

    Attributes:
        path: The file, with the name it had when it was opened.
        first: Number of the first line, from 1.
        lines: The lines without their ends; None for one that is too long.
        problems: What was lost, or cannot be read.
        caught_up: Whether everything written so far has been read.
    """

    path: Path
    first: int
    lines: list[bytes | None] = field(default_factory=list[bytes | None])
    problems: list[str] = field(default_factory=list[str])
    caught_up: bool = False


class LogFile:
    """Follows a log through rotation, by rename or copy, to names that begin with its own.

    If several files were closed while nobody followed, they are read in the order of their last
    change. Not thread-safe.

    Args:
        path: The log; it may be created later.
        position: Where to resume. Default: at the begin of the log.
        since_ns: When that position was saved, Unix nanoseconds; None: never. If the log had no
            line then, files that were closed later are read too.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        position: FilePosition | None = None,
        since_ns: int | None = None,
    ) -> None:
        self.path = absolute(path)
        self._since_ns = since_ns
        self.position = position or FilePosition()  # after the last whole line
        self._handle: BinaryIO | None = None
        self._name = self.path
        stem, suffix = re.escape(self.path.stem), re.escape(self.path.suffix)
        self._rotated = re.compile(
            rf"{stem}(?:{_MARK}{suffix}|{suffix}{_MARK})(?:{re.escape(COMPRESSED)})?"
        )
        self._read_to = 0
        self._rest = b""  # of a line without its end
        self._skipping = False  # inside a line that is too long
        self._failure = ""

    @property
    def unfinished(self) -> str:
        """The place of a last line without its end; empty: there is none."""
        is_torn = self._rest or self._skipping
        return f"{self._name}:{self.position.line + 1}" if is_torn else ""

    def poll(self) -> Lines:
        """Return new lines, a quarter of a megabyte at most; never waits."""
        read = Lines(self._name, self.position.line + 1)
        try:
            read.caught_up = not self._advance(read)
            self._failure = ""
        except _UNREADABLE as error:
            self.close()
            read.caught_up = True
            reason = getattr(error, "strerror", None) or str(error)
            if reason != self._failure:  # report it once, not at each attempt
                read.problems.append(f"{self._name}: {reason}")
            self._failure = reason
        return read

    def close(self) -> None:
        """Close the file; the next `poll` continues at this position."""
        if self._handle is not None:
            self._handle.close()
        self._handle, self._rest, self._skipping = None, b"", False

    def _advance(self, read: Lines) -> bool:
        """Read some lines, or open another file; return whether there may be more."""
        if self._handle is None and not self._find(read):
            return False
        if self._is_cut():
            self.close()
            return self._find(read)
        if self._read(read):
            return True
        following = self._following()
        if following is None:
            return False
        if self._read(read):  # it grew before its successor was there
            return True
        if self.unfinished:
            read.problems.append(f"{self.unfinished}: the line has no end")
        return self._begin(following)

    def _find(self, read: Lines) -> bool:
        """Open the file of the position; if it is gone, the log."""
        if self.position.file:
            for path in (self.path, *reversed(self._siblings(self.path.stem))):
                handle = _open(path)
                if handle is None:
                    continue
                if self._is_mine(handle):
                    self._take(path, handle, self.position.offset)
                    return True
                handle.close()
            if not _fingerprint(self.path):
                return False
            read.problems.append(
                f"{self.path}: the log was replaced before everything after line "
                f"{self.position.line} was read"
            )
        elif self._since_ns is not None:
            since_ns, self._since_ns = self._since_ns, None
            for path in filter(self._is_rotated, self._siblings(self.path.stem)):
                if os.stat(path).st_mtime_ns >= since_ns and _fingerprint(path):
                    return self._begin(path)
        return self._begin(self.path)

    def _begin(self, path: Path) -> bool:
        handle = open_if_there(path)
        if handle is None:
            return False
        # Its digest at once: it may be renamed before a line of it was read.
        self.position = FilePosition("", _digest(handle))
        self._take(path, handle, 0)
        return True

    def _take(self, path: Path, handle: BinaryIO, offset: int) -> None:
        self.close()
        handle.seek(offset)
        self._handle, self._name, self._read_to = handle, path, offset

    def _is_mine(self, handle: BinaryIO) -> bool:
        """Return whether a file is the one of the position, and as long."""
        same = _digest(handle) == self.position.file
        return same and is_line_end(handle, self.position.offset)

    def _is_cut(self) -> bool:
        """Return whether the open file was emptied, and perhaps written to since."""
        assert self._handle is not None
        if is_compressed(self._name) or not self.position.file:
            return False
        if os.fstat(self._handle.fileno()).st_size < self._read_to:
            return True
        return _digest(self._handle) != self.position.file

    def _read(self, read: Lines) -> bool:
        """Read a chunk; return whether there was one."""
        assert self._handle is not None
        chunk = self._handle.read(_CHUNK_BYTES)
        if not chunk:
            return False
        read.path, read.first = self._name, self.position.line + 1
        self._read_to += len(chunk)
        *whole, rest = (self._rest + chunk).split(b"\n")
        read.lines += whole
        if whole:
            # A chunk is shorter than the longest line: the others cannot be too long.
            if self._skipping or len(whole[0]) > LONGEST_LINE:
                read.lines[0] = None
            self._skipping = False
            file = self.position.file or self._own_fingerprint()
            line = self.position.line + len(whole)
            self.position = FilePosition("", file, self._read_to - len(rest), line)
        if len(rest) > LONGEST_LINE:
            self._skipping, rest = True, b""
        self._rest = rest
        return True

    def _own_fingerprint(self) -> str:
        assert self._handle is not None
        file = _digest(self._handle)
        self._handle.seek(self._read_to)
        return file

    def _following(self) -> Path | None:
        """Return the file to read after the open one; None while that may still grow."""
        assert self._handle is not None
        mine = os.fstat(self._handle.fileno())
        with contextlib.suppress(FileNotFoundError):
            if identity(os.stat(self.path)) == identity(mine):
                return None
        for path in filter(self._is_rotated, self._siblings(self.path.stem)):
            status = os.stat(path)
            if status.st_mtime_ns > mine.st_mtime_ns and identity(status) != identity(mine):
                found = _fingerprint(path)
                if found and found != self.position.file:
                    return path
        # The new log may be created empty, while the former is still written to.
        return self.path if _fingerprint(self.path) else None

    def _is_rotated(self, path: Path) -> bool:
        """Return whether a file has a name that rotation gives."""
        return self._rotated.fullmatch(path.name) is not None

    def _siblings(self, start: str) -> list[Path]:
        """Return the files of the folder whose names begin so, the oldest first."""
        found: list[tuple[int, Path]] = []
        with os.scandir(self.path.parent) as entries:
            for entry in entries:
                if entry.name.startswith(start):
                    with contextlib.suppress(FileNotFoundError):
                        if entry.is_file():
                            found.append((entry.stat().st_mtime_ns, Path(entry.path)))
        return [path for _, path in sorted(found)]


def _digest(handle: BinaryIO) -> str:
    """Return the digest of a file's first line; empty: it has none yet."""
    if isinstance(handle, gzip.GzipFile):
        return read_fingerprint(handle)
    # Not by `readline`: without a buffer it reads byte by byte.
    start = os.pread(handle.fileno(), FINGERPRINT_BYTES, 0)
    return fingerprint(start[: start.find(b"\n") + 1] or start)


def _open(path: Path) -> BinaryIO | None:
    """Open a file; None if that is not possible."""
    try:
        return open_if_there(path)
    except _UNREADABLE:
        return None


def _fingerprint(path: Path) -> str:
    """Return the digest of a file's first line; empty: it has none, or cannot be read."""
    handle = _open(path)
    if handle is None:
        return ""
    with handle:
        try:
            return _digest(handle)
        except _UNREADABLE:
            return ""
