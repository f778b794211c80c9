"""Limits what the SDK's exporters log about a collector that does not accept their data.

They log each attempt and each batch: several lines every few seconds for as long as it lasts.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from otel_lifecycle.runtime.logs import escape_controls

INTERVAL_SECONDS = 60.0

# A filter applies only to its own logger, not to the loggers below it.
LOGGERS = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)

_filters: dict[str, RateLimit] = {}
_users: set[object] = set()


class RateLimit(logging.Filter):
    """Lets one warning per minute pass, and adds how many were suppressed before it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._suppressed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; may append to its message."""
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        with self._lock:
            if now < self._next_at:
                self._suppressed += 1
                return False
            self._next_at = now + INTERVAL_SECONDS
            suppressed, self._suppressed = self._suppressed, 0
        with suppress(Exception):
            escape_controls(record)
        if suppressed:
            record.msg = f"{record.getMessage()} ({suppressed} more such lines since the last one)"
            record.args = None
        return True


def limit(user: object) -> None:
    """Limit the exporters' log until every user has called `unlimit`.

    Args:
        user: Identifies the caller.
    """
    _users.add(user)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_filters.setdefault(name, RateLimit()))


def unlimit(user: object) -> None:
    """Undo `limit` for the same user."""
    _users.discard(user)
    if not _users:
        for name, rate_limit in _filters.items():
            logging.getLogger(name).removeFilter(rate_limit)
        _filters.clear()
