"""Queues finished records and writes them from a thread of its own."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque

import msgspec

from otel_lifecycle.config import PersistenceConfig
from otel_lifecycle.persistence.segment import Segment
from otel_lifecycle.record import LifecycleRecord

_logger = logging.getLogger(__name__)

_BATCH_RECORDS = 512
_RETRY_SECONDS = 1.0
_LOG_INTERVAL_SECONDS = 60.0
_writers: weakref.WeakSet[RecordWriter] = weakref.WeakSet()


class RecordWriter:
    """Writes records to a file when enough are queued, when time is up, or when asked to.

    `put` only queues. A record that cannot be written stays queued, and is tried again, until
    `max_queue` is reached: then the oldest is dropped and counted. Thread-safe; a forked child
    starts with an empty queue (the parent writes what was in it) and opens the file anew.

    Args:
        config: Enabled settings.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, config: PersistenceConfig) -> None:
        self._config = config
        self._interval = config.flush_interval.total_seconds()
        # With neither threshold nor interval every record is due at once.
        self._threshold = config.flush_threshold or (0 if self._interval else 1)
        self._encoder = msgspec.json.Encoder()
        self._queue: deque[LifecycleRecord] = deque()
        self._flushes: deque[_Flush] = deque()
        self._write_lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._failing = False
        self._logged_at = -_LOG_INTERVAL_SECONDS
        self._segment: Segment | None = Segment(config.output_path)
        self._pid = 0
        self._thread: threading.Thread | None = None
        self.written = 0
        self.dropped = 0
        _writers.add(self)
        self._start_thread()

    @property
    def queued(self) -> int:
        """How many records wait to be written."""
        return len(self._queue)

    def put(self, record: LifecycleRecord) -> None:
        """Queues a record; no I/O, never raises, never waits for the disk."""
        if self._closed:
            self._count_drop("the writer is closed")
            return
        if self._pid != os.getpid():
            self._start_thread()
        queue = self._queue
        queue.append(record)
        if len(queue) > self._config.max_queue:
            self._drop_oldest("the queue is full")
        if (
            self._threshold
            and len(queue) >= self._threshold
            and not self._failing
            and not self._wake.is_set()
        ):
            self._wake.set()

    def flush(self, timeout: float | None = None) -> bool:
        """Has everything written that is queued now.

        Args:
            timeout: Seconds to wait at most, so that a hanging disk does not hang the caller.

        Returns:
            Whether it is in the file.
        """
        if self._thread is None or not self._thread.is_alive():
            return self._write_queued()
        flush = _Flush()
        self._flushes.append(flush)
        self._wake.set()
        return flush.done.wait(timeout) and flush.succeeded

    def close(self, timeout: float | None = 5.0) -> None:
        """Writes what is queued and takes no more; idempotent, bounded by `timeout` seconds.

        Records that still cannot be written are dropped, and counted.
        """
        if self._closed:
            return
        self._closed = True
        if not self.flush(timeout):
            while self._queue:
                self._drop_oldest("they could not be written before the end")
        self._wake.set()

    def work(self) -> float | None:
        """What the thread does each time it is woken; returns how long it may sleep at most."""
        waiting = [self._flushes.popleft() for _ in range(len(self._flushes))]
        succeeded = self._write_queued()
        for flush in waiting:
            flush.succeeded = succeeded
            flush.done.set()
        if self._failing:
            return _RETRY_SECONDS
        return self._interval or None

    @property
    def is_done(self) -> bool:
        """Whether the thread has nothing left to do, ever."""
        return self._closed and not self._flushes

    def close_file(self) -> None:
        """Closes the file, for the thread and for a forked child."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def after_fork_in_child(self) -> None:
        """Leaves what is queued to the parent, and opens the file anew: locks go with the fd."""
        self._queue = deque()
        self._flushes = deque()
        self._write_lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None
        self._failing = False
        self.written = self.dropped = 0
        self.close_file()

    def __del__(self) -> None:
        self._wake.set()

    def _write_queued(self) -> bool:
        with self._write_lock:
            while self._queue:
                count = min(_BATCH_RECORDS, len(self._queue))
                batch: list[LifecycleRecord] = []
                for _ in range(count):
                    try:
                        batch.append(self._queue.popleft())
                    except IndexError:  # `put` dropped it
                        break
                if not self._write(batch):
                    self._queue.extendleft(reversed(batch))
                    return False
            return True

    def _write(self, batch: list[LifecycleRecord]) -> bool:
        lines: list[bytes] = []
        for record in batch:
            try:
                lines.append(self._encoder.encode(record))
            except Exception as error:
                self._count_drop(f"a record cannot be encoded: {error}")
        lines.append(b"")
        try:
            if self._segment is None:
                self._segment = Segment(self._config.output_path)
            self._segment.append(b"\n".join(lines))
        except OSError as error:
            self._failing = True
            self._log(f"cannot write {len(batch)} records, keeping them queued: {error}")
            return False
        self._failing = False
        self.written += len(lines) - 1
        return True

    def _drop_oldest(self, reason: str) -> None:
        try:
            self._queue.popleft()
        except IndexError:  # the thread was faster
            return
        self._count_drop(reason)

    def _count_drop(self, reason: str) -> None:
        self.dropped += 1
        self._log(f"{self.dropped} records dropped so far: {reason}")

    def _log(self, message: str) -> None:
        """At most once a minute: a full disk must not fill it with log lines."""
        now = time.monotonic()
        if now - self._logged_at >= _LOG_INTERVAL_SECONDS:
            self._logged_at = now
            _logger.error("%s: %s", self._config.output_path, message)

    def _start_thread(self) -> None:
        self._pid = os.getpid()
        thread = threading.Thread(
            target=_run,
            args=(weakref.ref(self), self._wake, self._interval or None),
            name="otel-lifecycle-writer",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down: `close` writes
            return
        self._thread = thread


class _Flush:
    """Somebody waiting for a flush."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.succeeded = False


def _run(writer: weakref.ref[RecordWriter], wake: threading.Event, wait: float | None) -> None:
    """Holds the writer only while it works, so that an unused one can be collected."""
    while True:
        wake.wait(wait)
        wake.clear()
        current = writer()
        if current is None:
            return
        try:
            wait = current.work()
        except Exception:
            _logger.exception("the record writer failed")
            wait = _RETRY_SECONDS
        if current.is_done:
            current.close_file()
            return
        del current


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer.after_fork_in_child()


def _close_all() -> None:
    for writer in list(_writers):
        writer.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
