"""The position reached in record files, as it is saved between runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from otel_lifecycle.records.names import SegmentKey

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # the limit of a file's size


class FilePosition(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The position reached in one live file and its closed segments.

    Rotation and compression change the name and the inode of a file, but not its first line. The
    digest of that line identifies the file.

    Attributes:
        closed: The last segment that was read to its end; empty: none.
        file: The digest of the current file; empty: it had no line yet.
        offset: The bytes read from that file, before compression.
        line: The lines read from that file.
    """

    closed: str = ""
    file: str = ""
    offset: _Count = 0
    line: _Count = 0


class LeftFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The position in a file that its former name no longer leads to; another name may.

    Attributes:
        path: The former name.
        offset: The bytes read from it, before compression.
        line: The lines read from it.
        lost: The problem to report if no other name leads to the file; empty: none, or reported.
    """

    path: str
    offset: _Count
    line: _Count
    lost: str = ""


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The position reached in record files: save it to resume later.

    Attributes:
        files: The positions, by path of the live file.
        left: Files that their name no longer leads to, by the digest of their first line.
    """

    files: Mapping[str, FilePosition] = {}
    left: Mapping[str, LeftFile] = {}

    def to_json(self) -> bytes:
        """Return the position as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Position:
        """Read the output of `to_json`.

        Raises:
            ValueError: The text is not a position; the error gives the reason.
        """
        try:
            position = msgspec.json.decode(text, type=cls)
            for name, file in position.files.items():
                if file.closed:
                    SegmentKey.parse(file.closed)
                if file.offset and not file.file:
                    raise ValueError(f"the digest of {name} is missing")
        except (msgspec.DecodeError, ValueError) as error:
            raise ValueError(f"not a position: {error}") from error
        return position
