"""How far record files have been read, as it is kept between two runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from otel_lifecycle.records.names import SegmentKey

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # what a file can hold


class FilePosition(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How far one live file and its closed segments have been read.

    Names and inodes change when a file is rotated and compressed, its first line does not: a
    digest of it tells whether a file is the one that was being read.

    Attributes:
        closed: The last segment that was read to its end; empty: none.
        file: The digest of the file that is being read; empty: it had no line yet.
        offset: The bytes of it that were read, before compression.
        line: The lines of it that were read.
    """

    closed: str = ""
    file: str = ""
    offset: _Count = 0
    line: _Count = 0


class LeftFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a file was read that its name leads to no longer; another name may.

    Attributes:
        path: The name it had.
        offset: The bytes of it that were read, before compression.
        line: The lines of it that were read.
        lost: What to say if no other name leads to it; empty: nothing was lost, or it was said.
    """

    path: str
    offset: _Count
    line: _Count
    lost: str = ""


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far record files have been read: what to keep, to go on there later.

    Attributes:
        files: By the path of the live file.
        left: Files that their name leads to no longer, by the digest of their first line.
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
            ValueError: It is not a position; the text says why.
        """
        try:
            position = msgspec.json.decode(text, type=cls)
            for name, file in position.files.items():
                if file.closed:
                    SegmentKey.parse(file.closed)
                if file.offset and not file.file:
                    raise ValueError(f"it does not say which file {name} was")
        except (msgspec.DecodeError, ValueError) as error:
            raise ValueError(f"not a position: {error}") from error
        return position
