"""Compresses and deletes closed segments, off the writer's thread."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from otel_lifecycle.config import PersistenceConfig
from otel_lifecycle.records.names import (
    COMPRESSED,
    PID,
    UNFINISHED,
    files_in,
    is_sibling,
    newest_segment,
    segment_of,
    segment_path,
)
from otel_lifecycle.records.ownership import (
    GZIP_WBITS,
    ForeignFile,
    holds_records,
    open_carefully,
    open_new,
)
from otel_lifecycle.records.segment import Segment, lock

# By then the file's process has ended, or starts a new file at its next record: both are fine.
_LEFT_BEHIND = 3600.0  # seconds
_CHUNK_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
_PAUSE_SECONDS = 0.5  # avoids a new listing for each of many small segments


class Housekeeping:
    """Manages the closed segments of an output path, including those of other processes.

    Any number of processes may do so at once. Work that one of them leaves unfinished is done by
    the next. A file is ours according to its name and its content; all other files are left alone.

    Args:
        config: Enabled settings; without rotation there is nothing to do.
        live: The live file of this process.
        warn: Called with a description of each problem.
    """

    def __init__(self, config: PersistenceConfig, live: Path, warn: Callable[[str], None]) -> None:
        self._config = config
        self._live = live
        self._warn = warn
        self._syncs = config.fsync != "never"
        self._needed = config.rotates and (
            config.compression != "none"
            or config.retain_segments > 0
            or config.retain_bytes > 0
            or PID in config.output_path
        )
        self._lock = threading.Lock()
        self._running = False
        self._again = False

    def begin(self) -> None:
        """Start housekeeping on a separate thread; returns at once."""
        if not self._needed:
            return
        with self._lock:
            self._again = True
            if self._running:
                return
            thread = threading.Thread(
                target=self._run, name="otel-lifecycle-housekeeping", daemon=True
            )
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                thread.start()
                self._running = True

    def _run(self) -> None:
        # At normal priority: if this thread waits for a processor while it holds the interpreter's
        # lock, the whole router waits.
        while True:
            with self._lock:
                if not self._again:
                    self._running = False
                    return
                self._again = False
            try:
                self.tidy()
            except OSError as error:
                self._warn(f"closed segments cannot be compressed or deleted: {error}")
            time.sleep(_PAUSE_SECONDS)

    def tidy(self) -> None:
        """Compress and delete closed segments now.

        Raises:
            OSError: Something could not be read, written or deleted.
        """
        self._close_left_behind()
        segments = self._closed_segments()
        if self._config.compression == "gzip":
            self._delete_unfinished()
            segments = [
                name
                if name.endswith(COMPRESSED)
                else self._compress(self._live.with_name(name)).name
                for name in segments
            ]
        self._delete_oldest(segments)

    def _close_left_behind(self) -> None:
        """Close the live files of processes that have ended."""
        for live in files_in(self._live.parent):
            if live != self._live and self._is_ours(live) and _unchanged_for(live) > _LEFT_BEHIND:
                path = segment_path(live, newest_segment(live).next())
                try:
                    with contextlib.closing(Segment(live)) as segment:
                        segment.finish(lambda path=path: path, sync=self._syncs)
                except BlockingIOError:  # its process is writing after all
                    continue
                except OSError as error:  # continue with retention
                    self._warn(f"{live} cannot be closed: {error}")

    def _delete_unfinished(self) -> None:
        for path in self._live.parent.glob(f"*{UNFINISHED}"):
            whole = path.with_name(path.name.removesuffix(UNFINISHED))
            segment = segment_of(whole)
            if segment is not None and self._is_ours(segment[0]) and not whole.exists():
                try:
                    _delete_half_compressed(path)
                except OSError as error:
                    self._warn(f"{path} cannot be deleted: {error}")

    def _compress(self, path: Path) -> Path:
        """Compress a segment; return its current path."""
        compressed = path.with_name(path.name + COMPRESSED)
        try:
            with open(open_carefully(path, os.O_RDONLY), "rb") as plain:
                lock(plain.fileno())
                if not path.exists():  # another process has just done it
                    return compressed
                for file in (path, compressed):
                    if file.exists() and not holds_records(file):
                        raise ForeignFile(file, "does not begin with a record")
                self._replace(plain, path, compressed)
        except BlockingIOError:  # another process is compressing it
            return path
        except FileNotFoundError:
            return compressed
        except OSError as error:  # continue with retention
            self._warn(f"{path} cannot be compressed: {error}")
            return path
        return compressed

    def _replace(self, plain: BinaryIO, path: Path, compressed: Path) -> None:
        unfinished = path.with_name(path.name + UNFINISHED)
        _delete_half_compressed(unfinished)
        with open(open_new(unfinished, os.O_WRONLY), "wb") as file:
            try:
                self._write_compressed(plain, file)
                unfinished.replace(compressed)
            except OSError:
                unfinished.unlink(missing_ok=True)
                raise
        path.unlink()

    def _write_compressed(self, plain: BinaryIO, file: BinaryIO) -> None:
        # Not GzipFile: its finalizer runs in the garbage collector, on any thread of the router.
        # Python swallows an exception that a signal handler raises in a finalizer.
        compressor = zlib.compressobj(wbits=GZIP_WBITS)
        while chunk := plain.read(_CHUNK_BYTES):
            file.write(compressor.compress(chunk))
        file.write(compressor.flush())
        file.flush()
        if self._syncs:
            os.fsync(file.fileno())

    def _delete_oldest(self, segments: list[str]) -> None:
        """Delete the oldest segments, never the newest: it has the number to continue from."""
        most, most_bytes = self._config.retain_segments, self._config.retain_bytes
        if not most and not most_bytes:
            return
        kept = 0
        for count, name in enumerate(reversed(segments)):
            path = self._live.with_name(name)
            try:
                kept += path.stat().st_size
                if count and ((most and count >= most) or (most_bytes and kept > most_bytes)):
                    if not holds_records(path):
                        raise ForeignFile(path, "does not begin with a record")
                    path.unlink()
            except FileNotFoundError:  # another process was faster
                continue
            except OSError as error:
                self._warn(f"{path} cannot be deleted: {error}")

    def _closed_segments(self) -> list[str]:
        """Return the names of the closed segments of all processes, oldest first."""
        segments = [
            segment
            for live, segments in files_in(self._live.parent).items()
            if self._is_ours(live)
            for segment in segments
        ]
        return [name for _, name in sorted(segments)]

    def _is_ours(self, live: Path) -> bool:
        return is_sibling(live, self._config.output_path)


def _delete_half_compressed(path: Path) -> None:
    """Delete a partly compressed segment that a dead process left behind."""
    try:
        fd = open_carefully(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        begin = os.pread(fd, len(_GZIP_MAGIC), 0)
    finally:
        os.close(fd)
    if not _GZIP_MAGIC.startswith(begin.rstrip(b"\0")):  # zeros are left when power fails
        raise ForeignFile(path, "is not a partly compressed segment")
    path.unlink(missing_ok=True)


def _unchanged_for(path: Path) -> float:
    """Return the seconds since a file was written; 0 for a missing file."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
