"""Finds where the latest records begin, without reading the earlier ones."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

import msgspec

from otel_lifecycle.model.timestamps import datetime_to_ns, parse_timestamp
from otel_lifecycle.records.line import LONGEST_LINE
from otel_lifecycle.records.names import SegmentKey, Segments, absolute, record_files
from otel_lifecycle.records.opening import (
    buffered,
    is_compressed,
    open_if_there,
    open_record_file,
    read_fingerprint,
)
from otel_lifecycle.records.position import FilePosition, Position

_CLOSE_BYTES = 256 << 10  # reading these takes less than looking further
_TAIL_BYTES = 1 << 20


class _Times(msgspec.Struct, rename="camel"):
    started_at: str
    completed_at: str | None = None


_times = msgspec.json.Decoder(_Times)


def recent_position(paths: Iterable[Path], length_ns: int, now_ns: int) -> Position:
    """Return a position before the requests that ended within a time up to now.

    If the newest one ended before now, the time ends with it. The position may be somewhat early:
    a file is written in the order in which requests ended, but not exactly. Its line numbers are
    those of the lines after it.

    Args:
        paths: As for `Follower`.
        length_ns: Length of the time, nanoseconds.
        now_ns: Unix nanoseconds.
    """
    files: dict[Path, Segments] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # the follower reports it
            files.update(record_files(absolute(path)))
    ends = (_newest_end(live, segments) for live, segments in files.items())
    newest_ns = max((end for end in ends if end is not None), default=now_ns)
    since_ns = min(newest_ns, now_ns) - length_ns
    return Position(
        {str(live): _position(live, segments, since_ns) for live, segments in files.items()}
    )


def _newest_end(live: Path, segments: Segments) -> int | None:
    for path in (live, *(live.with_name(name) for _, name in reversed(segments[-1:]))):
        with contextlib.suppress(OSError, EOFError), open_record_file(path) as handle:
            if is_compressed(path):
                lines = deque(handle, maxlen=1)
            else:
                handle.seek(max(0, os.fstat(handle.fileno()).st_size - _TAIL_BYTES))
                lines = handle.read().splitlines()
            for line in reversed(lines):
                end = _end(line)
                if end is not None:
                    return end
    return None


def _position(live: Path, segments: Segments, since_ns: int) -> FilePosition:
    """Return where to begin in one live file and its closed segments."""
    closed = ""
    for key, _ in segments:
        if _closed_ns(key) >= since_ns:
            return FilePosition(closed)
        closed = str(key)
    if is_compressed(live):
        return FilePosition(closed)
    with contextlib.suppress(OSError):
        handle = open_if_there(live)
        if handle is not None:
            with handle:
                reader = buffered(handle)
                file = read_fingerprint(reader)
                return FilePosition(closed, file, _offset(reader, since_ns) if file else 0)
    return FilePosition(closed)


def _offset(handle: BinaryIO, since_ns: int) -> int:
    """Return the beginning of a line before the first that ended since then."""
    low, high = 0, os.fstat(handle.fileno()).st_size
    while high - low > _CLOSE_BYTES:
        middle = (low + high) // 2
        handle.seek(middle)
        is_whole = handle.readline(LONGEST_LINE).endswith(b"\n")
        start = handle.tell()
        end = _end(handle.readline(LONGEST_LINE))
        if is_whole and start < high and end is not None and end < since_ns:
            low = start
        else:
            high = middle
    return low


def _end(line: bytes) -> int | None:
    try:
        times = _times.decode(line)
        return parse_timestamp(times.completed_at or times.started_at)
    except (ValueError, RecursionError):
        return None


def _closed_ns(key: SegmentKey) -> int:
    closed = datetime.strptime(key.closed, "%Y%m%dT%H%M%S.%fZ")
    return datetime_to_ns(closed.replace(tzinfo=timezone.utc))
