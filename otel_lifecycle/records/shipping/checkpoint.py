"""The position at which shipping resumes after a restart."""

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
    """A checkpoint that cannot be used; the text gives the reason."""


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    position: msgspec.Raw


class Checkpoint:
    """A file with the position up to which records were shipped; a context manager.

    It is replaced as a whole, once the new version is on disk. Only one process at a time can use
    it: `{path}.lock` is locked until `close`. Not thread-safe.

    Args:
        path: The file; it may be missing.

    Raises:
        CheckpointError: Another process uses it, or its folder is missing.
        OSError: The lock file cannot be created or locked.
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
            paths: The paths to ship.

        Raises:
            CheckpointError: The file is not a checkpoint, or covers files outside these paths.
            OSError: It cannot be read.
        """
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):  # reading a pipe would block
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
                    f"{self._path}: the checkpoint covers {name}, which is not among the paths"
                )
        return position

    def save(self, position: Position) -> None:
        """Replace the saved position.

        Raises:
            OSError: It cannot be written; the previous position stays saved.
        """
        content = _Content(_VERSION, msgspec.Raw(position.to_json()))
        new = f"{self._path}.tmp"
        # Left by a killed process, or a link planted to have another file overwritten.
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
