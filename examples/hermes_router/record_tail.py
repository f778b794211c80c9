"""Follows a growing file of JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast


class RecordTail:
    """Reads what was appended to a file since the last time.

    The file may not exist yet, may be replaced, and may end with half a line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the new records; skip lines that are not JSON objects."""
        for line in self._new_lines():
            try:
                record: object = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield cast("dict[str, Any]", record)

    def _new_lines(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb")
        except OSError:
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written: read it next time
                self._offset += len(line)
                yield line
