"""The package's loggers: text from requests, engines and files cannot forge log lines."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Final

from otel_lifecycle.runtime.text import printable

_INTERVAL_SECONDS: Final = 60.0
_FORMATTER: Final = logging.Formatter()


class _Printable(logging.Filter):
    """Escapes control characters in message and traceback; one instance serves all loggers."""

    def filter(self, record: logging.LogRecord) -> bool:
        # If formatting fails, the handlers report it, and never raise.
        with suppress(Exception):
            escape_controls(record)
        return True


def escape_controls(record: logging.LogRecord) -> None:
    """Make message and traceback printable; the traceback keeps its lines."""
    message = record.getMessage()
    if not message.isprintable():
        record.msg, record.args = printable(message), None
    if record.exc_info and not record.exc_text:
        lines = _FORMATTER.formatException(record.exc_info).split("\n")
        if not all(map(str.isprintable, lines)):
            record.exc_text = "\n".join(map(printable, lines))


_PRINTABLE: Final = _Printable()


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; use this instead of `logging.getLogger`."""
    logger = logging.getLogger(name)
    logger.addFilter(_PRINTABLE)
    return logger


class SeldomLog:
    """Logs errors, at most one line a minute of each kind: a full disk must not fill up with them.

    Args:
        logger: Logs them.
        subject: What they are about.
    """

    def __init__(self, logger: logging.Logger, subject: object) -> None:
        self._logger = logger
        self._subject = subject
        self._logged_at: dict[str, float] = {}

    def error(self, kind: str, message: str) -> None:
        """Log a line, unless there was one of its kind in the last minute."""
        now = time.monotonic()
        if now - self._logged_at.get(kind, -_INTERVAL_SECONDS) >= _INTERVAL_SECONDS:
            self._logged_at[kind] = now
            self._logger.error("%s: %s", self._subject, message)
