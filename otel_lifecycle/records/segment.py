"""The append-only file: whole lines, or nothing.

Several processes may append to one file. Each append holds an advisory lock. If a full disk, or the
death of a process, cuts a line short, the next append removes it first. Nothing here waits for the
lock: the writer's thread retries.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

from otel_lifecycle.records.ownership import (
    ForeignFile,
    find_ending,
    keep_private,
    open_carefully,
    open_new,
)

try:
    import fcntl
except ImportError:  # Windows: one process per file
    fcntl = None

_FOLDER_MODE = 0o700


class Segment:
    """One open record file. Not thread-safe: the writer calls it under its own lock.

    Attributes:
        path: The file.

    Args:
        path: The file; it and its folders are created, readable by the owner only.
        sync: Force appended data to disk before `append` returns.

    Raises:
        ForeignFile: It is a link, not a regular file, or contains something other than records.
        OSError: The file cannot be opened for appending.
        ValueError: The path is not valid for a file.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self.path = path
        self._opened_at = 0.0
        self._sync = sync
        self._fd = -1
        self._end = -1  # the end of our last append; if the file's end differs, others have written
        self._is_known = False  # whether it is known to be a record file
        try:
            try:
                with self._locked():
                    self._repair_tail()
            except BlockingIOError:  # repaired before the first append
                find_ending(self._fd, path)
        except BaseException:
            self.close()
            raise

    @property
    def age(self) -> float | None:
        """Seconds since the file was opened; None when it is closed."""
        return None if self._fd < 0 else time.monotonic() - self._opened_at

    def append(self, lines: bytes, limit: int = 0) -> int:
        """Append whole lines; on an error the file is restored.

        Args:
            lines: Lines, each with its newline.
            limit: Maximum size of the file in bytes; 0: no limit. An empty file takes at least one
                line.

        Returns:
            The number of bytes written: the lines that fit.

        Raises:
            BlockingIOError: Another process holds the lock.
            OSError: The lines could not be written.
        """
        with self._locked():
            start = os.fstat(self._fd).st_size
            if start != self._end:
                start = self._repair_tail()
            if limit and start + len(lines) > limit:
                fitting = lines.rfind(b"\n", 0, max(0, limit - start)) + 1
                if not fitting and not start:
                    fitting = lines.index(b"\n") + 1
                lines = lines[:fitting]
            written = 0
            try:
                while written < len(lines):
                    written += os.write(self._fd, lines[written:] if written else lines)
                if self._sync and written:
                    _fdatasync(self._fd)
            except BaseException:  # including Control-C, if the main thread flushes
                if written:
                    os.ftruncate(self._fd, start)
                raise
            self._end = start + written
            return written

    def finish(self, rename: Callable[[], Path], *, sync: bool) -> None:
        """Close the file for good under another name; delete it if it is empty.

        Other processes that have it open start a new file at their next append.

        Args:
            rename: Returns the new name; called while nothing can write.
            sync: Force the file and its new name to disk.

        Raises:
            BlockingIOError: Another process holds the lock.
            OSError: It could not be renamed; appending continues.
        """
        with self._locked():
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
        """Force the file to disk.

        Raises:
            OSError: The disk reports a failure.
        """
        if self._fd >= 0:
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; idempotent. `append` opens it again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _open(self) -> None:
        _make_folders(self.path.parent)
        flags = os.O_RDWR | os.O_APPEND
        while self._fd < 0:
            try:
                self._fd = open_new(self.path, flags)
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):  # another process has just rotated it
                    self._fd = open_carefully(self.path, flags)
        self._end = -1
        self._is_known = False
        self._opened_at = time.monotonic()

    def _is_current(self) -> bool:
        """Return whether the path still leads to the open file: others may rename or delete it."""
        try:
            now, ours = os.lstat(self.path), os.fstat(self._fd)
        except OSError:
            return False
        return (now.st_ino, now.st_dev) == (ours.st_ino, ours.st_dev)

    def _repair_tail(self) -> int:
        """Repair the last line of a process that died while writing it.

        Returns:
            The size of the file.

        Raises:
            ForeignFile: The file is not ours; it is not changed.
        """
        size = os.fstat(self._fd).st_size
        if self._is_known and (size == 0 or os.pread(self._fd, 1, size - 1) == b"\n"):
            return size
        ending = find_ending(self._fd, self.path)
        keep_private(self._fd, self.path)
        self._is_known = True
        if ending.size < size:
            os.ftruncate(self._fd, ending.size)
        elif ending.lacks_newline:
            os.write(self._fd, b"\n")
        return os.fstat(self._fd).st_size

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the lock of the file at the path, opening it if needed."""
        while True:
            if self._fd < 0:
                self._open()
            locked = lock(self._fd)
            if self._is_current():
                break
            self.close()  # releases its lock too
        try:
            yield
        except ForeignFile:
            self.close()
            raise
        finally:
            if locked and self._fd >= 0:
                unlock(self._fd)


def lock(fd: int) -> bool:
    """Take the advisory lock of a file, without waiting for it.

    Returns:
        Whether the file has a lock: some network file systems have none.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "another process holds the lock of the file") from None
    except OSError:
        return False
    return True


def unlock(fd: int) -> None:
    """Release the lock."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


# macOS has no fdatasync.
_fdatasync = getattr(os, "fdatasync", os.fsync)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_folders(folder: Path) -> None:
    """Create missing folders privately; `Path.mkdir(parents=True)` makes parents readable."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(_FOLDER_MODE, exist_ok=True)
