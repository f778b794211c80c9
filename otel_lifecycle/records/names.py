"""The names of record files, which show whether a file is complete.

A router writes to a live file, `records.jsonl`. At rotation that file is renamed atomically to a
closed segment, `records.20261125T025428.123Z.000017.jsonl`. The name has the time of closing and a
number, one more than that of the previous segment. Nothing writes to a closed segment any more. A
compressed segment ends in `.gz` and appears only when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import time
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

PID, INSTANCE = "{pid}", "{instance}"  # in an output path
COMPRESSED = ".gz"
UNFINISHED = f"{COMPRESSED}.tmp"

_CLOSED = re.compile(
    r"(?P<stem>.+)\.(?P<closed>\d{8}T\d{6}\.\d{3}Z)\.(?P<number>\d{6,})(?P<suffix>\.(?!gz$)[^.]+)?(\.gz)?"
)
_KEY = re.compile(r"(?P<closed>\d{8}T\d{6}\.\d{3}Z)\.(?P<number>\d{6,})")
_LONGEST_INSTANCE = 128  # bytes; a file name may have 255, and segments have longer names
_FOLDER_SUFFIXES = (".jsonl", f".jsonl{COMPRESSED}")


class SegmentKey(NamedTuple):
    """The sort key of a live file's closed segments.

    Attributes:
        closed: Time of closing in UTC; never before that of the previous segment.
        number: From 1, without gaps: a missing number is a deleted segment.
    """

    closed: str
    number: int

    def __str__(self) -> str:
        return f"{self.closed}.{self.number:06}"

    @classmethod
    def parse(cls, text: str) -> SegmentKey:
        """Parse the text that `str` returns.

        Raises:
            ValueError: The text is not a key.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} does not name a segment")
        return cls(match["closed"], int(match["number"]))

    def next(self) -> SegmentKey:
        """Return the key of the next segment, closed now; in order even if the clock goes back."""
        seconds, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
        now = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f".{milliseconds:03}Z"
        return SegmentKey(max(now, self.closed), self.number + 1)


NO_SEGMENT = SegmentKey("", 0)

# A folder may hold thousands of them, so their paths are built only when they are used.
Segments: TypeAlias = list[tuple[SegmentKey, str]]
"""The keys and file names of one live file's closed segments, oldest first."""


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path that readers use as its name: without `~`, `.` and `..`."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def live_path(output_path: str) -> Path:
    """Return the live file of this process.

    Args:
        output_path: As configured, with `{pid}` and `{instance}`.

    Raises:
        RuntimeError: The path begins with `~` and there is no home folder.
    """
    path = output_path.replace(INSTANCE, _instance()).replace(PID, str(os.getpid()))
    return Path(path).expanduser()


def is_sibling(path: Path, output_path: str) -> bool:
    """Return whether a file may be the live file of a process of this instance."""
    before, pid, behind = Path(output_path.replace(INSTANCE, _instance())).name.partition(PID)
    if not pid:
        return path.name == before
    middle = path.name[len(before) : len(path.name) - len(behind)]
    return path.name == f"{before}{middle}{behind}" and middle.isdecimal()


def _instance() -> str:
    """Return the `service.instance.id` of OpenTelemetry's variable, else the host name.

    It becomes one part of a path: characters that a file name cannot have are replaced, and so are
    leading dots, which mean a hidden file or another folder. A longer name ends with its digest.
    """
    name = socket.gethostname()
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == "service.instance.id" and value.strip():
            name = unquote(value.strip())
    part = re.sub(r"^\.+|[^\w.-]", "_", name) or "_"
    encoded = part.encode()
    if len(encoded) <= _LONGEST_INSTANCE:
        return part
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16]
    return f"{encoded[: _LONGEST_INSTANCE - 17].decode(errors='ignore')}-{digest}"


def segment_path(live: Path, key: SegmentKey) -> Path:
    """Return the path of a live file after it is closed."""
    return live.with_name(f"{live.stem}.{key}{live.suffix}")


def segment_of(path: Path) -> tuple[Path, SegmentKey] | None:
    """Return the former live file of a closed segment, and its key; None for other files."""
    segment = _parse(path.name)
    return None if segment is None else (path.with_name(segment[0]), segment[1])


def newest_segment(live: Path) -> SegmentKey:
    """Return the key of a live file's newest closed segment, `NO_SEGMENT` if there is none.

    Raises:
        OSError: The folder cannot be read.
    """
    newest = NO_SEGMENT
    start = len(live.stem) + 1
    for name in sorted(_names_of(live), reverse=True):
        if name[start : start + len(newest.closed)] < newest.closed:
            break
        segment = _parse(name)
        if segment is not None and segment[0] == live.name:
            newest = max(newest, segment[1])
    return newest


def closed_segments(live: Path) -> Segments:
    """Return the closed segments of a live file.

    Raises:
        OSError: The folder cannot be read.
    """
    return _grouped(_names_of(live)).get(live.name, [])


def record_files(path: Path) -> dict[Path, Segments]:
    """Return the live files that a path stands for, each with its closed segments.

    Args:
        path: A live file, existing or not; a closed segment, which stands for itself; or a folder,
            which stands for its files `*.jsonl` and `*.jsonl.gz`.

    Raises:
        OSError: The folder, or a folder above it, cannot be read.
    """
    if is_folder(path):
        return {
            live: segments
            for live, segments in files_in(path).items()
            if live.name.endswith(_FOLDER_SUFFIXES)
        }
    if segment_of(path) is not None:
        return {path: []}
    return {path: closed_segments(path)}


def is_folder(path: Path) -> bool:
    """Return whether a path leads to a folder; `Path.is_dir` raises in some Python versions.

    Raises:
        OSError: The path cannot be examined.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def files_in(folder: Path) -> dict[Path, Segments]:
    """Return all files of a folder as live files, existing or not, with their closed segments.

    Raises:
        OSError: The folder cannot be read.
    """
    files = _grouped(os.listdir(folder))
    return {folder / live: segments for live, segments in files.items()}


def _names_of(live: Path) -> list[str]:
    start = f"{live.stem}."
    return [name for name in os.listdir(live.parent) if name.startswith(start)]


def _grouped(names: list[str]) -> dict[str, Segments]:
    files: dict[str, dict[SegmentKey, str]] = {}
    for name in sorted(names):  # `x` sorts before `x.gz` and is preferred
        segment = _parse(name)
        if segment is None:
            files.setdefault(name, {})
        else:
            files.setdefault(segment[0], {}).setdefault(segment[1], name)
    return {live: sorted(segments.items()) for live, segments in files.items()}


def _parse(name: str) -> tuple[str, SegmentKey] | None:
    match = _CLOSED.fullmatch(name)
    if match is None:
        return None
    key = SegmentKey(match["closed"], int(match["number"]))
    return match["stem"] + (match["suffix"] or ""), key
