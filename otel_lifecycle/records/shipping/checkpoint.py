"""The position at which shipping resumes after a restart."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from otel_lifecycle.records import Position
from otel_lifecycle.records.names import absolute
from otel_lifecycle.runtime.locked_file import LockedFile

_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the text gives the reason."""


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    position: msgspec.Raw


class Checkpoint(LockedFile):
    """A file with the position up to which records were shipped; a context manager.

    It is replaced as a whole, once the new version is on disk. Only one process at a time can use
    it: `{path}.lock` is locked until `close`. Not thread-safe.

    Args:
        path: The file; it may be missing.

    Raises:
        CheckpointError: Another process uses it.
        OSError: The lock file cannot be created or locked.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            super().__init__(absolute(path))
        except BlockingIOError as error:
            raise CheckpointError(f"{self.path}: another process ships with it") from error

    def load(self, paths: Iterable[str | os.PathLike[str]]) -> Position:
        """Return the saved position; the oldest record if nothing was saved.

        Args:
            paths: The paths to ship.

        Raises:
            CheckpointError: The file is not a checkpoint, or covers files outside these paths.
            OSError: It cannot be read.
        """
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # reading a pipe would block
                raise CheckpointError(f"{self.path}: not a checkpoint: not a regular file")
            text = self.path.read_bytes()
        except FileNotFoundError:
            return Position()
        try:
            content = msgspec.json.decode(text, type=_Content)
            if content.version != _VERSION:
                raise ValueError(f"its version is {content.version}, not {_VERSION}")
            position = Position.from_json(bytes(content.position))
        except ValueError as error:
            raise CheckpointError(f"{self.path}: not a checkpoint: {error}") from error
        given = set(map(absolute, paths))
        for name in position.files:
            if Path(name) not in given and Path(name).parent not in given:
                raise CheckpointError(
                    f"{self.path}: the checkpoint covers {name}, which is not among the paths"
                )
        return position

    def save(self, position: Position) -> None:
        """Replace the saved position.

        Raises:
            OSError: It cannot be written; the previous position stays saved.
        """
        content = _Content(_VERSION, msgspec.Raw(position.to_json()))
        self.replace(msgspec.json.encode(content) + b"\n")
