"""Opens record files to read them, and tells one file from another whatever its name."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import stat
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from otel_lifecycle.records.names import COMPRESSED
from otel_lifecycle.records.segment import lock, unlock

SKIPPED_BYTES = 1 << 16
_FINGERPRINT_BYTES = 4096


class Identity(NamedTuple):
    """Which file it is, as long as it exists: its number may be given to a later one."""

    device: int
    inode: int


class Signature(NamedTuple):
    """Changes when a file is written to."""

    identity: Identity
    size: int
    modified_ns: int


def identity(status: os.stat_result) -> Identity:
    """Return the identity of a file."""
    return Identity(status.st_dev, status.st_ino)


def signature(status: os.stat_result) -> Signature:
    """Return the signature of a file."""
    return Signature(identity(status), status.st_size, status.st_mtime_ns)


def open_record_file(path: Path) -> BinaryIO:
    """Open a record file for reading, compressed or not; never waits for a writer.

    Raises:
        OSError: It is not there, cannot be read, or is no regular file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return cast("BinaryIO", gzip.open(path) if is_compressed(path) else _PlainFile(path))


class _PlainFile(io.FileIO):
    """Closed with the last reference to it, without a warning: few close their followers."""

    def __del__(self) -> None:
        self.close()


def buffered(handle: BinaryIO) -> BinaryIO:
    """Return a new buffer for reading a file that stays open.

    One of its own each time: the end of a torn line, which it holds, may be taken back.
    """
    if isinstance(handle, gzip.GzipFile):  # has one, and does not change
        return handle
    return open(handle.fileno(), "rb", closefd=False)


def open_if_there(path: Path) -> BinaryIO | None:
    """Open a record file; return None if it does not exist.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    try:
        return open_record_file(path)
    except FileNotFoundError:
        return None


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed, according to its name."""
    return path.name.endswith(COMPRESSED)


def is_being_written(handle: BinaryIO) -> bool:
    """Return whether a writer holds the lock of a file, as it does for each append."""
    try:
        locked = lock(handle.fileno())
    except BlockingIOError:
        return True
    if locked:
        unlock(handle.fileno())
    return False


def read_fingerprint(handle: BinaryIO) -> str:
    """Return the digest of a file's first line; empty: it has no line yet."""
    handle.seek(0)
    return fingerprint(handle.readline(_FINGERPRINT_BYTES))


def fingerprint(first_line: bytes) -> str:
    """Return the digest of a first line; empty: the line may be unfinished."""
    start = first_line[:_FINGERPRINT_BYTES]
    if len(start) < _FINGERPRINT_BYTES and not start.endswith(b"\n"):
        return ""
    return hashlib.blake2b(start, digest_size=16).hexdigest()


def count_lines(handle: BinaryIO) -> int:
    """Return the number of whole lines."""
    handle.seek(0)
    return sum(chunk.count(b"\n") for chunk in iter(partial(handle.read, SKIPPED_BYTES), b""))


def is_line_end(handle: BinaryIO, offset: int) -> bool:
    """Return whether a line ends, or the file begins, at an offset."""
    if offset == 0:
        return True
    handle.seek(offset - 1)
    return handle.read(1) == b"\n"
