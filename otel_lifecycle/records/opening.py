"""Opens record files for reading, and identifies them independently of their names."""

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
_BUFFER_BYTES = 64 << 10  # some twenty lines; Python's default has two
FINGERPRINT_BYTES = 4096


class Identity(NamedTuple):
    """Identifies a file while it exists: later its inode number may be reused."""

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
        OSError: It does not exist, cannot be read, or is not a regular file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return cast("BinaryIO", gzip.open(path) if is_compressed(path) else _PlainFile(path))


class _PlainFile(io.FileIO):
    """Closes without a warning when the last reference disappears: few close their followers."""

    def __del__(self) -> None:
        self.close()


def buffered(handle: BinaryIO) -> BinaryIO:
    """Return a new buffer for reading a file that stays open.

    It is new for each reading, because a writer may remove the torn line in an old buffer.
    """
    if isinstance(handle, gzip.GzipFile):  # buffers itself, and its file does not change
        return handle
    return open(handle.fileno(), "rb", _BUFFER_BYTES, closefd=False)


def open_if_there(path: Path) -> BinaryIO | None:
    """Open a record file; return None if it does not exist.

    Raises:
        OSError: It cannot be read, or is not a regular file.
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
    return fingerprint(handle.readline(FINGERPRINT_BYTES))


def fingerprint(first_line: bytes) -> str:
    """Return the digest of a first line; empty: the line may be unfinished."""
    start = first_line[:FINGERPRINT_BYTES]
    if len(start) < FINGERPRINT_BYTES and not start.endswith(b"\n"):
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
