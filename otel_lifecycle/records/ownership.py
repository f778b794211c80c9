"""Decides which files are ours: regular files whose lines are records.

An output path may lead to another program's file, by mistake or through a planted link. Such a file
is never truncated, appended to, compressed or deleted.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from otel_lifecycle.records.line import LONGEST_LINE
from otel_lifecycle.records.names import COMPRESSED

FILE_MODE = 0o600
GZIP_WBITS = 31  # zlib's largest window, with the header and trailer of gzip

_ANYBODY_ELSE = 0o077
# Do not follow a link, and do not wait for the other end of a pipe. Windows has neither flag.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC
_VERSION = b'{"schemaVersion":'
_VERSION_AND_NUMBER = re.compile(rb'\{"schemaVersion":\d+')
_REQUEST_ID = b',"requestId":"'
_FIRST_BYTES = 512
_FIRST_READ = 1 << 16


class ForeignFile(OSError):  # noqa: N818  # as FileExistsError
    """A file that we must not write, rename or delete.

    Attributes:
        reason: Why not, as a predicate of the file.

    Args:
        path: The file.
        reason: Why not, as a predicate of the file.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.reason = reason


class Ending(NamedTuple):
    """The end of a record file.

    Attributes:
        size: The end of the last whole record, in bytes.
        lacks_newline: Whether that record has no line end.
    """

    size: int
    lacks_newline: bool


class _Record(msgspec.Struct, rename="camel"):
    """The fields of every version of a record."""

    schema_version: int
    request_id: str


_decoder = msgspec.json.Decoder(_Record)


def open_carefully(path: Path, flags: int) -> int:
    """Open a regular file without following a link and without waiting.

    Returns:
        Its descriptor.

    Raises:
        ForeignFile: It is a link, or not a regular file.
        OSError: It cannot be opened.
    """
    try:
        fd = os.open(path, flags | _CAREFULLY, FILE_MODE)
    except OSError as error:
        if path.is_symlink():
            raise ForeignFile(path, "is a symbolic link") from None
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise ForeignFile(path, "is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ForeignFile(path, "is not a regular file")
    return fd


def open_new(path: Path, flags: int) -> int:
    """Create a file that does not exist yet, readable by its owner only.

    Raises:
        FileExistsError: There is a file or a link.
        OSError: The file cannot be created.
    """
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | _CAREFULLY, FILE_MODE)


def keep_private(fd: int, path: Path) -> None:
    """Remove the permissions of other users on a record file.

    Raises:
        ForeignFile: It belongs to another user, and others can read it.
        OSError: Its permissions cannot be changed.
    """
    if _is_shared(fd, path):
        os.fchmod(fd, FILE_MODE)


def check(path: Path) -> None:
    """Check whether an existing file would be accepted, without changing it.

    Raises:
        ForeignFile: It is not ours.
        OSError: It cannot be read.
    """
    fd = open_carefully(path, os.O_RDONLY)
    try:
        find_ending(fd, path)
        _is_shared(fd, path)
    finally:
        os.close(fd)


def find_ending(fd: int, path: Path) -> Ending:
    """Return where the last whole record of a file ends.

    After it a crash may have left the beginning of a record, and zeros, which a disk leaves after a
    power failure.

    Raises:
        ForeignFile: The file ends with something else.
    """
    size = os.fstat(fd).st_size
    if size == 0:
        return Ending(0, lacks_newline=False)
    start, line = _last_line(fd, path, size)
    if _is_record(line):
        return Ending(size, lacks_newline=not line.endswith(b"\n"))
    torn = line.rstrip(b"\0")
    if not line.endswith(b"\n") and is_beginning(torn):
        if start and _is_record(_last_line(fd, path, start)[1]):
            return Ending(start, lacks_newline=False)
        if not start and torn:
            return Ending(0, lacks_newline=False)
    raise ForeignFile(path, "is not a record file: its last line is not a record")


def holds_records(path: Path) -> bool:
    """Return whether a closed segment, compressed or not, begins with a record.

    Raises:
        OSError: It cannot be read.
    """
    try:
        fd = open_carefully(path, os.O_RDONLY)
    except ForeignFile:
        return False
    try:
        begin = os.pread(fd, _FIRST_BYTES, 0)
        if path.name.endswith(COMPRESSED):
            begin = zlib.decompressobj(GZIP_WBITS).decompress(begin, _FIRST_BYTES)
    except zlib.error:
        return False
    finally:
        os.close(fd)
    return begin != b"" and is_beginning(begin)


def is_beginning(line: bytes) -> bool:
    """Return whether a line, however short, may be the beginning of a record."""
    match = _VERSION_AND_NUMBER.match(line)
    if match is None:
        return _VERSION.startswith(line)
    rest = line[match.end() :]
    return rest.startswith(_REQUEST_ID) or _REQUEST_ID.startswith(rest)


def _is_shared(fd: int, path: Path) -> bool:
    """Return whether other users have permissions on a file of ours."""
    status = os.fstat(fd)
    if os.name != "posix" or not status.st_mode & _ANYBODY_ELSE:
        return False
    if status.st_uid != os.geteuid():
        raise ForeignFile(path, "belongs to another user, and others can read it")
    return True


def _is_record(line: bytes) -> bool:
    try:
        _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _last_line(fd: int, path: Path, end: int) -> tuple[int, bytes]:
    """Return where the last line before a position begins, and the line."""
    length = _FIRST_READ
    while True:
        start = max(0, end - length)
        data = os.pread(fd, end - start, start)
        newline = data.rfind(b"\n", 0, max(len(data) - 1, 0))
        if newline >= 0 or start == 0:
            return start + newline + 1, data[newline + 1 :]
        if length >= LONGEST_LINE:
            raise ForeignFile(path, "is not a record file: its last line has no end")
        length *= 4
