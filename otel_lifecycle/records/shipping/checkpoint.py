"""Where shipping goes on after a restart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import msgspec

from otel_lifecycle.records import Position
from otel_lifecycle.records.names import absolute

_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the text says why."""


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    position: msgspec.Raw


class Checkpoint:
    """A file that holds how far records have been shipped; a context manager.

    It is replaced as a whole, once the disk has the new one. One process at a time has it: a lock
    on a file beside it, `{path}.lock`, is held until `close`. Not thread-safe.

    Args:
        path: The file; it need not be there yet.

    Raises:
        CheckpointError: Another process has it, or it has no folder.
        OSError: The file beside it cannot be made, or not be locked.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = absolute(path)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(f"{self._path}.lock", flags, 0o600)
        except FileNotFoundError as error:
            folder = self._path.parent
            raise CheckpointError(f"{self._path}: there is no folder {folder}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise CheckpointError(f"{self._path}: another process ships with it") from error
        except OSError:
            os.close(self._lock)
            raise

    def load(self, paths: Iterable[str | os.PathLike[str]]) -> Position:
        """Return the saved position; the oldest record if nothing was saved.

        Args:
            paths: What is to be shipped.

        Raises:
            CheckpointError: The file is no checkpoint, or one of other files than these.
            OSError: It cannot be read.
        """
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):  # a pipe would be waited for
                raise CheckpointError(f"{self._path}: not a checkpoint: not a regular file")
            text = self._path.read_bytes()
        except FileNotFoundError:
            return Position()
        try:
            content = msgspec.json.decode(text, type=_Content)
            if content.version != _VERSION:
                raise ValueError(f"its version is {content.version}, not {_VERSION}")
            position = Position.from_json(bytes(content.position))
        except ValueError as error:
            raise CheckpointError(f"{self._path}: not a checkpoint: {error}") from error
        given = set(map(absolute, paths))
        for name in position.files:
            if Path(name) not in given and Path(name).parent not in given:
                raise CheckpointError(
                    f"{self._path}: the checkpoint is of {name}, which is not among the paths"
                )
        return position

    def save(self, position: Position) -> None:
        """Replace the saved position.

        Raises:
            OSError: It cannot be written; what was saved before stays.
        """
        content = _Content(_VERSION, msgspec.Raw(position.to_json()))
        new = f"{self._path}.tmp"
        # Of a process that was killed, or of somebody who wants another file overwritten.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(content) + b"\n")
            file.flush()
            os.fsync(descriptor)
        os.replace(new, self._path)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
