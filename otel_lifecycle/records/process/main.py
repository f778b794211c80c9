"""The process that writes a router's records, and sends their spans."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from otel_lifecycle.config import PersistenceConfig
from otel_lifecycle.records.destination import Owner
from otel_lifecycle.records.process.orders import Export, Orders, answer, records_in
from otel_lifecycle.records.record_file import RecordFile
from otel_lifecycle.records.writer import RecordWriter
from otel_lifecycle.runtime.garbage import collect_rarely
from otel_lifecycle.runtime.logs import get_logger

if TYPE_CHECKING:
    from otel_lifecycle.records.process.spans import Spans

_logger = get_logger("otel_lifecycle.writer")

_STDIN = 0
_NICENESS = 10  # the router comes first
_READ_BYTES = 1 << 20
_RETRY_SECONDS = 1.0
_END_SECONDS = 5.0


def main() -> None:
    """Write what comes, until the router has closed the connection or died."""
    # A service manager tells all processes of a service to end: the router may still have records.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    collect_rarely()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    with socket.socket(fileno=_STDIN) as connection:
        router = _Router(connection)
        lines = iter(router)
        first = next(lines, None)
        if first is not None:  # alone: records come once the router has been answered
            _serve(router, lines, Orders.from_line(first[0]))


def _serve(router: _Router, lines: Iterator[list[bytes]], orders: Orders) -> None:
    # Each batch is written as it comes: the router has waited for threshold and interval.
    at_once = {"flush_threshold": 1, "max_queue": _READ_BYTES}
    settings: dict[str, Any] = {**orders.persistence, **at_once}
    path = Path(orders.path)

    def open_file(config: PersistenceConfig, owner: Owner) -> RecordFile:
        return RecordFile(config, owner.warn, path)

    writer = RecordWriter(PersistenceConfig(**settings), open_file)
    spans = _open_spans(orders.export, path)
    router.tell(writer)
    for batch in lines:
        records, with_span = records_in(batch)
        writer.put_from(map(msgspec.Raw, records))
        # While the disk is full, records wait in the connection, and then in the router's queue.
        while not writer.flush(_RETRY_SECONDS) and not router.is_gone():
            router.tell(writer)
        router.tell(writer)
        if spans is not None and with_span:
            spans.put(with_span)
    writer.close(_END_SECONDS)
    router.tell(writer)
    if spans is not None:
        spans.close(_END_SECONDS)
    os._exit(0)  # nothing is left to do, and gRPC's threads may hang


def _open_spans(export: Export | None, path: Path) -> Spans | None:
    if export is None:
        return None
    # Imported where it is needed: gRPC takes megabytes.
    from otel_lifecycle.records.process.spans import Spans

    try:
        return Spans(export, path, _logger.error)
    except ValueError as error:
        _logger.error("spans are not sent: %s", error)
        return None


class _Router:
    """The router, at the other end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)
        self._parent = os.getppid()
        self._told = b""
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def __iter__(self) -> Iterator[list[bytes]]:
        """Yield whole lines as they come; half a line of a router that has died is left out."""
        parts: list[bytes] = []
        while True:
            if not self._poll.poll(_RETRY_SECONDS * 1000):
                # A process forked from the router may have the connection open for ever.
                if os.getppid() != self._parent:
                    return
                continue
            try:
                data = self._connection.recv(_READ_BYTES)
            except OSError:
                return
            if not data:
                return
            whole, newline, rest = data.rpartition(b"\n")
            if newline:
                lines = b"".join([*parts, whole]).split(b"\n")
                parts = [rest]
                yield lines
            else:
                parts.append(rest)

    def is_gone(self) -> bool:
        """Return whether the router has closed the connection, or died."""
        hung_up = select.POLLHUP | select.POLLRDHUP
        self._poll.modify(self._connection, hung_up)
        try:
            return bool(self._poll.poll(0)) or os.getppid() != self._parent
        finally:
            self._poll.modify(self._connection, select.POLLIN)

    def tell(self, writer: RecordWriter) -> None:
        """Say how many records are in the file, and how many are lost."""
        with contextlib.suppress(OSError):  # it has died, or does not listen: told with the next
            self._connection.send(answer(writer.written, writer.dropped))
