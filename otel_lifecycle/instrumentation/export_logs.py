"""What the SDK's exporters log of a collector that does not take what they send.

They log each attempt and each batch, several lines every few seconds for as long as it lasts.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from otel_lifecycle.runtime.logs import escape_controls

INTERVAL_SECONDS = 60.0

# A filter sees what is logged by its own logger alone, not by those below it.
LOGGERS = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)

_filters: dict[str, RateLimit] = {}
_users: set[object] = set()


class RateLimit(logging.Filter):
    """Lets one warning a minute pass, which says how many were left out before it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it; may add to its message."""
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        with self._lock:
            if now < self._next_at:
                self._left_out += 1
                return False
            self._next_at = now + INTERVAL_SECONDS
            left_out, self._left_out = self._left_out, 0
        with suppress(Exception):
            escape_controls(record)
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more such lines since the last one)"
            record.args = None
        return True


def limit(user: object) -> None:
    """Limits what the exporters log, as long as somebody wants it.

    Args:
        user: Who wants it, until `unlimit`.
    """
    _users.add(user)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_filters.setdefault(name, RateLimit()))


def unlimit(user: object) -> None:
    """Takes back what `limit` did for the same user."""
    _users.discard(user)
    if not _users:
        for name, rate_limit in _filters.items():
            logging.getLogger(name).removeFilter(rate_limit)
        _filters.clear()
