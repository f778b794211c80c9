"""What an observer keeps while it is not running."""

from __future__ import annotations

import os

import msgspec

from otel_lifecycle.observation.envoy.requests import SavedRequest
from otel_lifecycle.observation.picker.log import SavedLog
from otel_lifecycle.observation.picker.spans import SavedTrace
from otel_lifecycle.records import FilePosition
from otel_lifecycle.records.names import absolute
from otel_lifecycle.runtime.files import read_file
from otel_lifecycle.runtime.locked_file import LockedFile

_VERSION = 1


class ProgressError(ValueError):
    """Progress that cannot be used; the text gives the reason."""


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """How far a log was read, and what has become of that.

    Attributes:
        log: The log.
        position: The position in it.
        written: The position in the record file. Records after it were written before a crash, of
            lines that will be read again.
        open: The requests in flight at that position.
        saved_ns: When this was saved, Unix nanoseconds; None: never.
        picker: How far the picker's log was read; None: none was.
        spans: What the picker's spans told of requests in flight.
    """

    log: str
    position: FilePosition = FilePosition()
    written: FilePosition = FilePosition()
    open: list[SavedRequest] = []
    saved_ns: int | None = None
    picker: SavedLog | None = None
    spans: list[SavedTrace] = []


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    progress: Progress


class ProgressFile(LockedFile):
    """The file that `Progress` is kept in; a context manager. Not thread-safe.

    It is replaced as a whole, once the new version is on disk. Only one process at a time can use
    it: `{path}.lock` is locked until `close`.

    Args:
        path: The file; it may be missing.

    Raises:
        ProgressError: Another process uses it.
        OSError: The lock file cannot be created or locked.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            super().__init__(absolute(path))
        except BlockingIOError as error:
            raise ProgressError(f"{self.path}: another process observes with it") from error

    def load(self, log: str) -> Progress:
        """Return what was saved of a log; the begin of the log if nothing was saved.

        Raises:
            ProgressError: The file is no progress, or that of another log.
            OSError: It cannot be read.
        """
        try:
            text = read_file(self.path)
        except FileNotFoundError:
            return Progress(log)
        try:
            content = msgspec.json.decode(text, type=_Content)
            if content.version != _VERSION:
                raise ValueError(f"its version is {content.version}, not {_VERSION}")
        except ValueError as error:
            raise ProgressError(f"{self.path}: not a checkpoint of observe: {error}") from error
        if content.progress.log != log:
            raise ProgressError(
                f"{self.path}: the checkpoint covers {content.progress.log}, not {log}"
            )
        return content.progress

    def save(self, progress: Progress) -> None:
        """Replace what was saved.

        Raises:
            OSError: It cannot be written; the former progress stays saved.
        """
        self.replace(msgspec.json.encode(_Content(_VERSION, progress)) + b"\n")
