"""The append-only file: whole lines, or nothing.

Several processes may append to one file. Each append holds an advisory lock, so that a line cut
short by a full disk, or by the death of its process, can be taken back before anybody writes
behind it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import msgspec

try:
    import fcntl
except ImportError:  # Windows: one process a file
    fcntl = None

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_TAIL_BYTES = 1 << 20


class Segment:
    """One open record file. Not thread-safe: the writer calls it under its own lock.

    Args:
        path: The file; it and its folders are made, readable by the owner only.

    Raises:
        OSError: The file cannot be opened for appending.
        ValueError: The path cannot be one of a file.
        RuntimeError: The path begins with `~` and there is no home folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self._fd = -1
        self._end = -1  # of our last append; when the file ends elsewhere others have written
        self._open()
        with self._locked():
            self._repair_tail()

    def append(self, lines: bytes) -> None:
        """Appends whole lines; on an error the file is as it was before.

        Args:
            lines: Each with its newline.

        Raises:
            OSError: They could not be written.
        """
        self._reopen_if_replaced()
        with self._locked():
            start = os.fstat(self._fd).st_size
            if start != self._end:
                start = self._repair_tail()
            written = 0
            try:
                while written < len(lines):
                    written += os.write(self._fd, lines[written:])
            except BaseException:  # Ctrl-C too, where it is the main thread that flushes
                if written:
                    os.ftruncate(self._fd, start)
                raise
            self._end = start + written

    def close(self) -> None:
        """Closes the file; calling it twice does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _open(self) -> None:
        _make_folders(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, _FILE_MODE)
        self._end = -1

    def _reopen_if_replaced(self) -> None:
        """Follows the path when somebody moved or deleted the file, as log rotation does."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                now, ours = os.stat(self.path), os.fstat(self._fd)
                if (now.st_ino, now.st_dev) == (ours.st_ino, ours.st_dev):
                    return
            self.close()
        self._open()

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
        if fcntl is None:
            yield
            return
        locked = False
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            locked = True
        try:
            yield
        finally:
            if locked:
                fcntl.flock(self._fd, fcntl.LOCK_UN)


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
