"""Reads files that a user names, without blocking on pipes and devices."""

from __future__ import annotations

import os
import stat


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
