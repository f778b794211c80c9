"""Sends the spans of records as they come."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from otel_lifecycle.records.follower import Batch
from otel_lifecycle.records.line import Positioned, PositionedRecord, RecordError, parse_line
from otel_lifecycle.records.position import Position
from otel_lifecycle.records.process.orders import Export
from otel_lifecycle.records.shipping.sender import Sender, quiet_exporters
from otel_lifecycle.records.shipping.shipper import Shipper

_MOST_WAITING = 10_000
_LINGER_SECONDS = 1.0
_GRACE_SECONDS = 1.0


class Spans:
    """Records whose spans wait to be sent, on a thread of its own.

    While the collector takes none they wait, and beyond a limit the oldest are dropped: the record
    file still has them.

    Args:
        export: How they are sent.
        path: The record file, to name in messages.
        tell: Called with each line for the user.

    Attributes:
        position: Always the same: what was sent once is not sent again.

    Raises:
        ValueError: A variable is invalid.
    """

    position = Position()

    def __init__(self, export: Export, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._waiting: deque[bytes] = deque()
        self._dropped = 0  # counted by the thread that puts
        self._told = 0  # how many of these the other thread has told of
        self._wake = threading.Semaphore(0)
        self._ending = threading.Event()
        quiet_exporters()
        self._sender = Sender()
        self._shipper = Shipper(
            self,
            None,
            self._sender,
            tell,
            details=export.details,
            resource=export.resource,
        )
        self._thread = threading.Thread(target=self._run, name="otel-lifecycle-spans", daemon=True)
        self._thread.start()

    def put(self, records: list[bytes]) -> None:
        """Queue the spans of records."""
        self._waiting.extend(records)
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._wake.release()

    def poll(self, limit: int) -> Batch:
        """Return the records that wait, as many as are sent at once."""
        records: list[PositionedRecord] = []
        problems: list[RecordError] = []
        dropped = self._dropped - self._told
        if dropped:
            self._told += dropped
            reason = f"{dropped:,} spans were dropped: the collector does not take them in time"
            problems.append(RecordError(self._path, None, reason))
        for _ in range(min(limit, len(self._waiting))):
            line = self._waiting.popleft()
            try:
                records.append(Positioned(parse_line(line), self._path, 0, len(line)))
            except ValueError as error:
                problems.append(RecordError(self._path, None, str(error)))
        return Batch(records, problems, self.position, caught_up=not self._waiting)

    def close(self, seconds: float) -> None:
        """Send what waits, for at most so many seconds."""
        self._ending.set()
        self._wake.release()
        self._thread.join(seconds)
        self._shipper.stop()
        if self._thread.is_alive():
            self._sender.close()
            self._thread.join(_GRACE_SECONDS)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.acquire()
            self._ending.wait(_LINGER_SECONDS)  # a request for many spans costs less
            self._shipper.run(follow=False)
        self._shipper.run(follow=False)  # what has come in the meantime
