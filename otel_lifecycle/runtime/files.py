"""Reads files that a user names, without blocking on pipes and devices, and replaces our own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

_CAREFULLY = os.O_NOFOLLOW | os.O_CLOEXEC


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a whole regular file; `~` is expanded.

    Raises:
        OSError: It cannot be read, or is a pipe, a device or a socket, which could block the reader
            for ever.
    """
    path = os.path.expanduser(path)
    # A plain `open` would block on a pipe without a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise as `read_file` does, for a library that opens the file itself.

    Raises:
        OSError: It does not exist, or is not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{os.fspath(path)} is not a regular file")


def lock_beside(path: str | os.PathLike[str]) -> int:
    """Lock `{path}.lock` for this process; return its descriptor, whose closing unlocks it.

    Raises:
        BlockingIOError: Another process has locked it.
        FileNotFoundError: There is no folder; the error names `path`, which a user knows.
        OSError: It cannot be created or locked.
    """
    path = os.fspath(path)
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | _CAREFULLY, 0o600)
    except FileNotFoundError as error:
        reason = f"there is no folder {os.path.dirname(path)}"
        raise FileNotFoundError(error.errno, reason, path) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file as a whole, once the new version is on disk.

    Raises:
        OSError: It cannot be written; the previous version stays.
    """
    new = f"{os.fspath(path)}.tmp"
    # Left by a killed process, or a link planted to have another file overwritten.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.replace(new, path)
