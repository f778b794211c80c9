"""Queues finished records and writes them from a separate thread."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from otel_lifecycle.config import PersistenceConfig
from otel_lifecycle.records.destination import Destination, Owner, patiently
from otel_lifecycle.records.encoding import LineEncoder
from otel_lifecycle.records.record_file import open_record_file
from otel_lifecycle.runtime.clock import Deadline, waitable
from otel_lifecycle.runtime.forks import repair_in_forked_child
from otel_lifecycle.runtime.logs import SeldomLog, get_logger
from otel_lifecycle.runtime.process_exit import run_at_exit
from otel_lifecycle.runtime.turns import Turn
from otel_lifecycle.telemetry.told import Entry

_logger = get_logger(__name__)

_BATCH_RECORDS = 512
_SLICE_RECORDS = 12  # made and encoded in at most a turn
_WRITE_RECORDS = 4 * _SLICE_RECORDS  # whole slices; 100 to 200 kB, which a cache holds
_SHORTEST_INTERVAL_SECONDS = 0.001
_RETRY_SECONDS = 1.0
_GRACE_SECONDS = 0.1

_T = TypeVar("_T")

_writers: weakref.WeakSet[RecordWriter] = weakref.WeakSet()


class RecordWriter:
    """Writes records to a file when enough are queued, when time is up, or when asked to.

    `put` only queues. A record that cannot be written stays queued and is retried. Beyond
    `max_queue` the oldest record is dropped and counted. Thread-safe, also in signal handlers. A
    forked child starts with an empty queue (the parent writes its records) and opens the file
    again. The writer's thread keeps it alive until it is closed.

    Args:
        config: Enabled settings.
        open_file: Opens what lines are appended to.
        content: Returns what stands for an entry that is not yet a record in its line.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The path is not valid for a file.
        RuntimeError: The path begins with `~` and there is no home folder.
    """

    def __init__(
        self,
        config: PersistenceConfig,
        open_file: Callable[[PersistenceConfig, Owner], Destination] = open_record_file,
        content: Callable[[Any], object] = attrgetter("record"),
    ) -> None:
        self._config = config
        self._open_file = open_file
        self._path = config.output_path
        self._max_queue = config.max_queue
        self._backlog = min(_BATCH_RECORDS, config.max_queue // 2)
        interval = config.flush_interval.total_seconds()
        self._interval = max(waitable(interval), _SHORTEST_INTERVAL_SECONDS) if interval else None
        # With neither threshold nor interval every record is due at once.
        self._threshold = config.flush_threshold or (0 if interval else 1)
        self._encoder = LineEncoder(content, self.count_drop)
        self._queue: deque[Entry] = deque()
        self._flushes: deque[_Flush] = deque()
        self._write_lock = threading.Lock()
        # SimpleQueue.put is reentrant, which Event.set is not: a signal handler may interrupt it.
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._closed = False
        self._finished = False
        self._given_up = False  # no time is left to wait for a lock
        self._turn = Turn()
        self._failing = False
        self._locked_out = False  # it fails because another process holds the lock
        self._failure = ""  # why the last write failed
        self._log = SeldomLog(_logger, self._path)
        self._appended = 0  # less those that are lost
        self.dropped = 0
        self._file: Destination | None = self._open_file(config, self)
        self._pid = 0
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.Lock()
        _writers.add(self)
        repair_in_forked_child(self, RecordWriter._after_fork_in_child)
        self._start_thread()

    @property
    def queued(self) -> int:
        """Number of records that wait to be written."""
        return len(self._queue) + self._unconfirmed

    @property
    def written(self) -> int:
        """Number of records in the file."""
        return self._appended - self._unconfirmed

    @property
    def closed(self) -> bool:
        """Whether it accepts no more records."""
        return self._closed

    def put(self, record: Entry) -> None:
        """Queue a record; no I/O, never raises, never waits for the disk."""
        self.put_from(iter((record,)))

    def put_from(self, records: Iterator[Entry]) -> None:
        """Queue the remaining records of an iterator.

        It may be called again with the same built-in iterator if a signal handler raised during the
        first call: taking and queueing a record is one step.
        """
        if self._closed:
            for _ in records:
                self.count_drop("the writer is closed")
            return
        if self._pid != os.getpid():
            self._start_thread()
        queue = self._queue
        queue.extend(records)
        if len(queue) > self._max_queue:
            self._shorten_queue(self._max_queue, "the queue is full")
        if (
            self._threshold
            and len(queue) >= self._threshold
            and not self._failing
            and self._wake.empty()
        ):
            self._wake.put(True)
        if self._finished:  # closed during this call: nothing reads the queue any more
            self._shorten_queue(0, "the writer is closed")

    def count_drop(self, reason: str, count: int = 1) -> None:
        """Count lost records."""
        self.dropped += count
        self._log.error("drop", f"{self.dropped} records dropped so far: {reason}")

    def lose(self, count: int, reason: str) -> None:
        """Count appended records that never reach the file."""
        self._appended -= count
        self.count_drop(reason, count)

    def warn(self, message: str, kind: str = "segments") -> None:
        """Log a problem other than a failed write; of one kind, once a minute."""
        self._log.error(kind, message)

    def flush(self, timeout: float | None = None) -> bool:
        """Write everything that is queued now.

        Args:
            timeout: Seconds to wait at most, so that a hanging disk does not block the caller.

        Returns:
            Whether everything is in the file.
        """
        deadline = Deadline(waitable(timeout))
        thread = self._thread
        flush = _Flush()
        if thread is not None and thread.is_alive():
            self._flushes.append(flush)
            self._wake.put(True)
        if thread is None or not thread.is_alive() or self._finished:
            flush.succeeded = self._write_queued(timeout)
        else:
            flush.done.wait(deadline.seconds_left)
        file = self._file
        return flush.succeeded and (file is None or file.confirm(deadline.seconds_left))

    def close(self, timeout: float | None = 5.0) -> None:
        """Write the queued records and accept no more; idempotent, within `timeout` seconds.

        Records that still cannot be written are dropped, and counted.
        """
        self._closed = True
        thread = self._thread
        if thread is not None:
            self._wake.put(True)
            seconds = waitable(timeout)
            grace = min(_GRACE_SECONDS, seconds / 10)
            thread.join(seconds - grace)
            self._given_up = True
            thread.join(grace)  # records that wait for a lock return to the queue
            if thread.is_alive():
                self._thread = None
                self._finished = True
                self._drop_rest()
        elif not self._finished:
            self._finish(timeout)

    def close_soon(self) -> None:
        """Start closing without waiting; safe to call in a finalizer."""
        self._closed = True
        self._wake.put(True)

    @property
    def _unconfirmed(self) -> int:
        file = self._file
        return 0 if file is None else file.unconfirmed

    def _after_fork_in_child(self) -> None:
        """Leave the queue to the parent and reopen the file: the lock belongs to the descriptor."""
        self._queue = deque()
        self._flushes = deque()
        self._write_lock = threading.Lock()
        self._wake = SimpleQueue()
        self._pid, self._thread = 0, None
        self._thread_lock = threading.Lock()
        self._finished = self._closed
        self._failing = self._locked_out = False
        self._appended = self.dropped = 0
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _run(self) -> None:
        while not self._closed:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=self._rest())
            while not self._wake.empty():
                self._wake.get()
            self._work(None)
        self._work(None)
        while self._locked_out and not self._given_up:  # the lock may be released in time
            self._work(None)
        self._finish(None)

    def _rest(self) -> float | None:
        """Return how long the thread may sleep; None: until it is woken."""
        if self._failing:
            return _RETRY_SECONDS
        due_in = self._file.due_in() if self._file is not None else None
        if due_in is None:
            return self._interval
        return waitable(due_in if self._interval is None else min(due_in, self._interval))

    def _work(self, timeout: float | None) -> None:
        waiting: list[_Flush] = []
        with contextlib.suppress(IndexError):
            while True:
                waiting.append(self._flushes.popleft())
        succeeded = False
        try:
            succeeded = self._write_queued(timeout)
        finally:
            for flush in waiting:
                flush.succeeded = succeeded
                flush.done.set()

    def _finish(self, timeout: float | None) -> None:
        """Write what was queued before `_finished` was set; later callers see the flag."""
        self._finished = True
        self._work(timeout)
        self._drop_rest()

    def _write_queued(self, timeout: float | None) -> bool:
        if not self._write_lock.acquire(timeout=waitable(timeout)):
            return False
        patience = math.inf if timeout is None else timeout
        try:
            while self._queue:
                batch: list[Entry] = []
                with contextlib.suppress(IndexError):  # `put` dropped the rest
                    for _ in range(_BATCH_RECORDS):
                        batch.append(self._queue.popleft())
                try:
                    self._write(batch, patience)
                finally:
                    if batch:
                        self._queue.extendleft(reversed(batch))
                        self._shorten_queue(self._max_queue, "the queue is full")
                if self._failing:
                    return False
            self._locked_out = False
            if self._file is not None:
                with contextlib.suppress(BlockingIOError):  # the next attempt comes soon
                    self._patiently(self._file, self._file.attend, patience)
            return True
        finally:
            if self._finished:
                self._close_file(patience)
            self._write_lock.release()

    def _write(self, batch: list[Entry], patience: float) -> None:
        """Write a batch and remove the written records from it."""
        try:
            file = self._file
            if file is None:
                file = self._file = self._open_file(self._config, self)
            self._patiently(file, file.prepare, patience)
            self._turn.begin()
            while batch:
                self._write_slice(batch, file, patience)
        except Exception as error:
            self._failing = True
            self._locked_out = isinstance(error, BlockingIOError)
            self._failure = str(error)
            self._log.error(
                "failure", f"cannot write {len(batch)} records, keeping them queued: {error}"
            )
        else:
            self._failing = self._locked_out = False

    def _write_slice(self, batch: list[Entry], file: Destination, patience: float) -> None:
        # Lines go to the file while the cache has them: joining those of a batch costs as much as
        # encoding them. Only if each write is forced to disk, one write of all is cheaper.
        size = len(batch) if self._config.fsync == "flush" else _WRITE_RECORDS
        lines, left = self._encode(batch, size)
        while lines:
            written = self._patiently(file, partial(file.append, lines), patience)
            # To count the lines costs as much as to write them.
            count = left if written == len(lines) else lines.count(b"\n", 0, written)
            left -= count
            del batch[:count]
            lines = lines[written:]
            self._appended += count
        if batch:
            self._pause()

    def _patiently(self, file: Destination, call: Callable[[], _T], seconds: float) -> _T:
        """Repeat a call that raises BlockingIOError, unless no time is left."""
        return patiently(call, min(seconds, file.patience), lambda: self._given_up)

    def _encode(self, batch: list[Entry], size: int) -> tuple[bytes, int]:
        """Return the lines of the first `size` records of a batch, and their number.

        Records that cannot be encoded are removed from the batch.
        """
        encoded: list[Entry] = []
        lines: list[bytes] = []
        for start in range(0, min(size, len(batch)), _SLICE_RECORDS):
            if start:
                self._pause()
            encoded_lines, records = self._encoder.encode(batch[start : start + _SLICE_RECORDS])
            lines.append(encoded_lines)
            encoded += records
        batch[:size] = encoded
        return b"".join(lines), len(encoded)

    def _pause(self) -> None:
        """Do not block an event loop for a whole batch, unless records pile up."""
        if self._turn.is_over and len(self._queue) < self._backlog:
            self._turn.give_way()

    def _close_file(self, patience: float) -> None:
        file = self._file
        if file is None:
            return
        try:
            self._patiently(file, file.finish, patience)
        except BlockingIOError as error:
            self.warn(f"is not closed at the end: {error}")
        finally:
            file.close()
            self._appended -= file.unconfirmed
            self._file = None

    def _drop_rest(self) -> None:
        lost = self._shorten_queue(0, "they could not be written before the end")
        if lost:  # always logged, even if lines were logged this minute
            reason = self._failure if self._failing else "there was no time to write them"
            _logger.error("%s: %d records lost at the end: %s", self._path, lost, reason)

    def _shorten_queue(self, length: int, reason: str) -> int:
        """Drop the oldest records until only `length` are left; return how many it dropped."""
        dropped = 0
        while len(self._queue) > length:
            try:
                self._queue.popleft()
            except IndexError:  # the other thread was faster
                break
            self.count_drop(reason)
            dropped += 1
        return dropped

    def _start_thread(self) -> None:
        if not self._thread_lock.acquire(blocking=False):
            return  # another thread is starting it
        try:
            if self._pid == os.getpid():
                return  # another thread was faster
            thread = threading.Thread(target=self._run, name="otel-lifecycle-writer", daemon=True)
            thread.start()
            self._thread = thread
            self._pid = os.getpid()
        except RuntimeError:
            # No more threads, or the interpreter is shutting down: the next `put` retries, and
            # `flush` and `close` write on the caller's thread.
            pass
        finally:
            self._thread_lock.release()


class _Flush:
    """A caller waiting for a flush."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.succeeded = False


def _close_all() -> None:
    for writer in list(_writers):
        writer.close()


run_at_exit(_close_all)
