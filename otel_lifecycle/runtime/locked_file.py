"""A small file of ours that is replaced as a whole, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import TypeVar

_CAREFULLY = os.O_NOFOLLOW | os.O_CLOEXEC
_Self = TypeVar("_Self", bound="LockedFile")


class LockedFile:
    """A context manager: `{path}.lock` is locked for this process until `close`. Not thread-safe.

    Args:
        path: The file; it may be missing.

    Attributes:
        path: As given.

    Raises:
        BlockingIOError: Another process has locked it.
        FileNotFoundError: There is no folder; the error names `path`, which a user knows.
        OSError: The lock file cannot be created or locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock_beside(path)

    def replace(self, content: bytes) -> None:
        """Replace the file as a whole, once the new version is on disk.

        Raises:
            OSError: It cannot be written; the previous version stays.
        """
        new = f"{self.path}.tmp"
        # Left by a killed process, or a link planted to have another file overwritten.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, self.path)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _lock_beside(path: Path) -> int:
    """Return the descriptor of the lock file, whose closing unlocks it."""
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | _CAREFULLY, 0o600)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno, f"there is no folder {path.parent}", str(path)
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
