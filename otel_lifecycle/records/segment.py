"""The append-only file: whole lines, or nothing.

Several processes may append to one file. Each append holds an advisory lock, so that a line cut
short by a full disk, or by the death of its process, can be taken back before anybody writes
behind it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Generator, Sequence
from itertools import accumulate
from pathlib import Path

import msgspec

try:
    import fcntl
except ImportError:  # Windows: one process a file
    fcntl = None

FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_TAIL_BYTES = 1 << 20


class Segment:
    """One open record file. Not thread-safe: the writer calls it under its own lock.

    Attributes:
        path: The file.

    Args:
        path: The file; it and its folders are made, readable by the owner only.
        sync: Have the disk keep what is appended before `append` returns.

    Raises:
        OSError: The file cannot be opened for appending.
        ValueError: The path cannot be one of a file.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self.path = path
        self._opened_at = 0.0
        self._sync = sync
        self._fd = -1
        self._end = -1  # of our last append; when the file ends elsewhere others have written
        try:
            with self._locked():
                self._repair_tail()
        except BaseException:
            self.close()
            raise

    @property
    def age(self) -> float | None:
        """Seconds since the file was opened; None when it is closed."""
        return None if self._fd < 0 else time.monotonic() - self._opened_at

    def append(self, lines: Sequence[bytes], limit: int = 0) -> int:
        """Appends whole lines; on an error the file is as it was before.

        Args:
            lines: Each with its newline.
            limit: How many bytes the file may have, 0 being any number. Into an empty file goes one
                line at least.

        Returns:
            How many lines were written: those that fit.

        Raises:
            OSError: They could not be written.
        """
        with self._locked():
            start = os.fstat(self._fd).st_size
            if start != self._end:
                start = self._repair_tail()
            count = len(lines)
            data = b"".join(lines)
            if limit and start + len(data) > limit:
                count = max(_fitting(lines, limit - start), 0 if start else 1)
                data = b"".join(lines[:count])
            written = 0
            try:
                while written < len(data):
                    written += os.write(self._fd, data[written:])
                if self._sync and written:
                    _fdatasync(self._fd)
            except BaseException:  # Ctrl-C too, where it is the main thread that flushes
                if written:
                    os.ftruncate(self._fd, start)
                raise
            self._end = start + written
            return count

    def finish(self, rename: Callable[[], Path], *, sync: bool) -> None:
        """Closes the file for good, under another name; an empty one is deleted.

        Whoever else has it open begins a new file at its next append.

        Args:
            rename: Tells the name, while nobody can write.
            sync: Have the disk keep the file and its new name.

        Raises:
            OSError: It could not be renamed, or is no regular file; it goes on being written.
        """
        with self._locked():
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise OSError(errno.EINVAL, "no regular file", str(self.path))
            if self._repair_tail() == 0:
                self.path.unlink()
            else:
                if sync:
                    os.fsync(self._fd)
                self.path.rename(rename())
            if sync:
                _sync_folder(self.path.parent)
        self.close()

    def sync(self) -> None:
        """Has the disk keep the file.

        Raises:
            OSError: The disk cannot.
        """
        if self._fd >= 0:
            os.fsync(self._fd)

    def close(self) -> None:
        """Closes the file; calling it twice does nothing, and `append` opens it again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _open(self) -> None:
        _make_folders(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, FILE_MODE)
        self._end = -1
        self._opened_at = time.monotonic()

    def _is_current(self) -> bool:
        """Whether the path still leads to the open file, which others rotate, move and delete."""
        try:
            now, ours = os.stat(self.path), os.fstat(self._fd)
        except OSError:
            return False
        return (now.st_ino, now.st_dev) == (ours.st_ino, ours.st_dev)

    def _repair_tail(self) -> int:
        """Deals with the last line of a process that died while writing it.

        Returns:
            The size of the file.
        """
        size = os.fstat(self._fd).st_size
        if size == 0 or os.pread(self._fd, 1, size - 1) == b"\n":
            return size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(self._fd, size - start, start)
        newline = tail.rfind(b"\n")
        # Longer than any record: whatever it is, the next record starts on a line of its own.
        if (newline >= 0 or start == 0) and not _is_json(tail[newline + 1 :]):
            os.ftruncate(self._fd, start + newline + 1)
        else:
            os.write(self._fd, b"\n")
        return os.fstat(self._fd).st_size

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Holds the lock of the file that the path leads to, which is opened if need be."""
        while True:
            if self._fd < 0:
                self._open()
            locked = lock(self._fd)
            if self._is_current():
                break
            self.close()  # and its lock with it
        try:
            yield
        finally:
            if locked:
                unlock(self._fd)


def lock(fd: int, *, wait: bool = True) -> bool:
    """Takes the advisory lock of a file.

    Returns:
        Whether there is one: some network file systems have none.

    Raises:
        BlockingIOError: Another process has it, and `wait` is False.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def unlock(fd: int) -> None:
    """Gives the lock back."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _fitting(lines: Sequence[bytes], room: int) -> int:
    return sum(1 for size in accumulate(map(len, lines)) if size <= room)


# macOS has no fdatasync.
_fdatasync = getattr(os, "fdatasync", os.fsync)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_folders(folder: Path) -> None:
    """`Path.mkdir(parents=True)` would let everybody read the parents."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(_FOLDER_MODE, exist_ok=True)


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
